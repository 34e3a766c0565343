"""torch.nn.functional's unfold and fold (im2col and col2im) for one to three spatial axes, on convext's operators.

The number of axes is the length of kernel_size; an int means two axes, as torch. Beyond torch both take integers of
every width and the padding language of docs/padding.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convext import _checks, _padding, _sizes, ops

__all__ = ["fold", "unfold"]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]

_DTYPES = _checks.DTYPES | {torch.bool}


def _check_tensor(name: str, input: Any) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: expected input to be a Tensor, got {type(input).__name__}")
    if input.layout is not torch.strided:
        raise NotImplementedError(f"{name}: expected input of layout torch.strided, got {input.layout}")
    if input.dtype not in _DTYPES:
        raise NotImplementedError(f"{name}: expected a bool, integer, float or complex type, got {input.dtype}")


def _on_axes(name: str, least: int, rank: int, **arguments: Any) -> list[tuple[int, ...]]:
    """One int for each axis of each argument. Unlike a convolution's, a tuple of one stands for one axis alone."""
    axes = []
    for key, value in arguments.items():
        value = _padding.int_or_ints(name, key, value)
        values = value if isinstance(value, tuple) else (value,) * rank
        if len(values) != rank:
            raise RuntimeError(f"{name}: expected {key} to be one int or {rank}, one for each axis, got {list(values)}")
        if any(v < least for v in values):
            raise RuntimeError(f"{name}: expected {key} to be {least} or more, got {list(values)}")
        axes.append(values)
    return axes


def _rank(name: str, kernel_size: Any) -> int:
    rank = len(kernel_size) if isinstance(kernel_size, (list, tuple)) else 2
    if rank not in (1, 2, 3):
        raise RuntimeError(f"{name}: expected kernel_size of one int or 1 to 3, one for each axis, got {kernel_size}")
    return rank


def _entries(name: str, padding: Any, rank: int) -> tuple[_padding.Entry, ...]:
    entries = _padding.parse(name, padding, rank, unknown_word=TypeError)
    if isinstance(padding, (list, tuple)) and len(padding) != rank:
        raise RuntimeError(f"{name}: expected padding for {rank} axes, got {list(padding)}")
    return entries


def _geometry(
    name: str,
    rank: int,
    sizes: Sequence[int],
    entries: tuple[_padding.Entry, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    stride: tuple[int, ...],
) -> tuple[tuple[int, ...], list[int]]:
    """The flat padding, and the number of blocks on each axis of an image of these sizes.

    Raises:
        RuntimeError: no block fits on one of them.
    """
    pairs = _padding.conv_pairs(name, entries, sizes, kernel, stride, dilation)
    padding = tuple([side for pair in pairs for side in pair])
    blocks = _sizes.blocks(sizes, kernel, dilation, padding, stride)
    if any(b < 1 for b in blocks):
        extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        padded = [size + lo + hi for size, (lo, hi) in zip(sizes, pairs, strict=True)]
        raise RuntimeError(f"{name}: expected an image that with its padding holds the kernel {extent}, got {padded}")
    return padding, blocks


def unfold(input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Padding = 0, stride: Ints = 1) -> Tensor:
    """:func:`torch.nn.functional.unfold` (im2col) for one to three spatial axes: every block becomes a column.

    Args:
        input: (N, C, *spatial) or (C, *spatial), with as many spatial axes as kernel_size has elements; of a bool,
            integer, float or complex type.
        kernel_size: of a block, one int for each axis, in pixels. An int means two axes.
        dilation, stride: in pixels, one int or one for each axis.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; in pixels, filled with
            zeros; see docs/padding.md.

    Returns:
        (N, C * taps, blocks) or (C * taps, blocks), contiguous: taps is the product of kernel_size, and blocks that of
        (size + before + after - dilation * (kernel - 1) - 1) // stride + 1. Rows are ordered by channel, then tap.

    Raises:
        TypeError: an argument of a wrong type.
        IndexError: an input of too few dimensions.
        RuntimeError: sizes or values that do not fit together, or an empty axis other than the batch.
        NotImplementedError: an element type or layout that no kernel takes.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(
            unfold, (input,), input, kernel_size, dilation=dilation, padding=padding, stride=stride
        )
        return overridden
    rank = _rank("unfold", kernel_size)
    kernel, dilations, strides = _on_axes("unfold", 1, rank, kernel_size=kernel_size, dilation=dilation, stride=stride)
    entries = _entries("unfold", padding, rank)
    _check_tensor("unfold", input)
    size = input.shape
    wanted = f"unfold: expected input of {rank + 1} (unbatched) or {rank + 2} dimensions for kernel {list(kernel)}"
    if len(size) <= rank:
        raise IndexError(f"{wanted}, got one of size {list(size)}")
    if len(size) > rank + 2:
        raise RuntimeError(f"{wanted}, got one of size {list(size)}")
    if any(n == 0 for n in size[-rank - 1 :]):
        raise RuntimeError(f"unfold: expected input with no empty axis but the batch, got size {list(size)}")
    flat, _ = _geometry("unfold", rank, size[-rank:], entries, kernel, dilations, strides)
    if len(size) == rank + 1:
        return ops.unfold(input.unsqueeze(0), kernel, dilations, flat, strides).squeeze(0)
    return ops.unfold(input, kernel, dilations, flat, strides)


def fold(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Padding = 0,
    stride: Ints = 1,
) -> Tensor:
    """:func:`torch.nn.functional.fold` (col2im) for one to three spatial axes: the sum of overlapping blocks.

    The adjoint of :func:`unfold`. Every pixel gathers its terms in the order of the taps: the sum has the same bits for
    any number of threads. Integers wrap around; a bool is whether any term is true; bfloat16 and float16 are summed in
    float32.

    Args:
        input: (N, C * taps, blocks) or (C * taps, blocks); of a bool, integer, float or complex type.
        output_size: of the image, one int or one for each axis, in pixels.
        kernel_size, dilation, padding, stride: of the :func:`unfold` that this is the adjoint of; its words of padding
            are resolved from output_size.

    Returns:
        (N, C, *output_size) or (C, *output_size), contiguous.

    Raises:
        TypeError: an argument of a wrong type.
        RuntimeError: sizes or values that do not fit together, or an empty axis other than the batch.
        NotImplementedError: an element type or layout that no kernel takes.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(
            fold, (input,), input, output_size, kernel_size, dilation=dilation, padding=padding, stride=stride
        )
        return overridden
    rank = _rank("fold", kernel_size)
    kernel, dilations, strides = _on_axes("fold", 1, rank, kernel_size=kernel_size, dilation=dilation, stride=stride)
    (sizes,) = _on_axes("fold", 1, rank, output_size=output_size)
    entries = _entries("fold", padding, rank)
    _check_tensor("fold", input)
    columns = input.shape
    if len(columns) not in (2, 3):
        raise RuntimeError(f"fold: expected input of 2 (unbatched) or 3 dimensions, got one of size {list(columns)}")
    if any(n == 0 for n in columns[-2:]):
        raise RuntimeError(f"fold: expected input with no empty axis but the batch, got size {list(columns)}")
    taps = math.prod(kernel)
    if columns[-2] % taps != 0:
        raise RuntimeError(
            f"fold: expected input of a multiple of {taps} rows for kernel {list(kernel)}, got {columns[-2]}"
        )
    flat, blocks = _geometry("fold", rank, sizes, entries, kernel, dilations, strides)
    if columns[-1] != math.prod(blocks):
        raise RuntimeError(
            f"fold: expected input of {' x '.join(map(str, blocks))} = {math.prod(blocks)} columns for output_size "
            f"{list(sizes)}, got {columns[-1]}"
        )
    if len(columns) == 2:
        return ops.fold(input.unsqueeze(0), sizes, kernel, dilations, flat, strides).squeeze(0)
    return ops.fold(input, sizes, kernel, dilations, flat, strides)
