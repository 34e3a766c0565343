"""The size formulas of a convolution, for one spatial axis: input size, kernel, stride, padding (lo, hi), dilation.

csrc/problem.h has the same formulas in C++; opcheck keeps the two in step. Sizes may be symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["blocks", "exact_padding", "output_size", "pooled_size", "remainder", "transposed_size"]


def remainder(size: int, kernel: int, stride: int, lo: int, hi: int, dilation: int) -> int:
    """The padded pixels at the end of the axis that no window of the convolution reaches."""
    return (size + lo + hi - dilation * (kernel - 1) - 1) % stride


def output_size(size: int, kernel: int, stride: int, lo: int, hi: int, dilation: int) -> int:
    """The size of the convolution's result."""
    return (size + lo + hi - dilation * (kernel - 1) - 1) // stride + 1


def pooled_size(size: int, kernel: int, stride: int, lo: int, hi: int, dilation: int, ceil_mode: bool) -> int:
    """The size of the result on one axis; with ceil_mode the last window begins in the input or before it."""
    if not ceil_mode:
        return output_size(size, kernel, stride, lo, hi, dilation)
    output = output_size(size + stride - 1, kernel, stride, lo, hi, dilation)
    return output - 1 if (output - 1) * stride >= size + lo else output


def transposed_size(size: int, kernel: int, stride: int, lo: int, hi: int, dilation: int) -> int:
    """The size of the transposed convolution's result."""
    return (size - 1) * stride + dilation * (kernel - 1) + 1 - lo - hi


def blocks(
    sizes: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> list[int]:
    """How many blocks unfold finds on each axis; the arguments in its order."""
    return [
        output_size(size, k, stride[i], padding[2 * i], padding[2 * i + 1], dilation[i])
        for i, (size, k) in enumerate(zip(sizes, kernel, strict=True))
    ]


def exact_padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """The flat padding (lo0, hi0, lo1, ...) less what no window reaches: ``transposed_size`` gives back ``sizes``."""
    if max(stride) == 1:  # every window is reached
        return tuple(padding)
    exact: list[int] = []
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, stride, dilation, strict=True)):
        lo, hi = padding[2 * i], padding[2 * i + 1]
        exact += (lo, hi if s == 1 else hi - remainder(size, k, s, lo, hi, d))
    return tuple(exact)
