"""The one place where the arguments of a pooling are checked, with torch's types of exception.

A configuration is what the operators take: (kernel_size, stride, padding, dilation) and the sizes of the result, see
convext/ops/pool.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import _padding, _sizes

__all__ = [
    "FLOATS",
    "INTEGERS",
    "Configuration",
    "adaptive_sizes",
    "check_flag",
    "check_image",
    "configuration",
    "divisor_of",
    "pool_configuration",
]

Ints = tuple[int, ...]
Configuration = tuple[Ints, Ints, Ints, Ints, Ints]

FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def check_image(name: str, input: Any, rank: int, dtypes: frozenset[torch.dtype], empty_channels: bool = False) -> None:
    """Type, rank, layout, element type and sizes of the image: (N, C, *spatial) or (C, *spatial), of which N may be 0.

    Raises:
        TypeError: not a tensor.
        RuntimeError: another rank, or an axis beside the batch (with `empty_channels` also C) without elements.
        NotImplementedError: not strided, or an element type that no kernel takes.
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: expected input to be a Tensor, got {type(input).__name__}")
    if input.layout is not torch.strided:
        raise NotImplementedError(f"{name}: expected input of layout torch.strided, got {input.layout}")
    if input.dim() not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"{name}: expected input of {rank + 1} (unbatched) or {rank + 2} dimensions, "
            f"got one of size {list(input.shape)}"
        )
    if 0 in input.shape[-rank if empty_channels else -rank - 1 :]:
        raise RuntimeError(
            f"{name}: expected input of 1 or more elements on each axis but the batch, "
            f"got one of size {list(input.shape)}"
        )
    if input.dtype not in dtypes:
        known = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise NotImplementedError(f"{name}: expected one of {known}, got {input.dtype}")


def check_flag(name: str, argument: str, value: Any) -> bool:
    """A bool.

    Raises:
        TypeError: something else.
    """
    if not isinstance(value, (bool, torch.SymBool)):
        raise TypeError(f"{name}: expected {argument} to be a bool, got {value!r}")
    return value  # type: ignore[return-value]


def divisor_of(name: str, divisor_override: Any) -> int:
    """The operators' divisor, 0 for None.

    Raises:
        TypeError: not an int.
        RuntimeError: 0.
    """
    if divisor_override is None:
        return 0
    divisor = _padding.plain_int(f"{name}: divisor_override", divisor_override)
    if divisor == 0:
        raise RuntimeError(f"{name}: expected divisor_override to be None or an int other than 0, got 0")
    return divisor


def _at_least(name: str, argument: str, values: Ints, least: int) -> Ints:
    if any(v < least for v in values):
        raise RuntimeError(f"{name}: expected {argument} to be {least} or more, got {list(values)}")
    return values


def _pairs(
    name: str, entries: Sequence[_padding.Entry], sizes: Sequence[int], kernel: Ints, stride: Ints, dilation: Ints
) -> tuple[_padding.Pair, ...]:
    """The padding of each axis; ints keep torch's rule, pairs and words reach as far as the window."""
    pairs = _padding.conv_pairs(name, entries, sizes, kernel, stride, dilation)
    for entry, (lo, hi), k, d in zip(entries, pairs, kernel, dilation, strict=True):
        most = d * (k - 1) if isinstance(entry, (tuple, str)) else k // 2
        if lo > most or hi > most:
            rule = "the window less one" if isinstance(entry, (tuple, str)) else "half of kernel_size"
            raise RuntimeError(f"{name}: expected padding of at most {rule}, {most}, got {(lo, hi)} of {list(entries)}")
    return pairs


def pool_configuration(
    name: str,
    sizes: Sequence[int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
) -> Configuration:
    """The configuration of a pooling of images of these spatial sizes.

    Raises:
        TypeError: an argument of a wrong type.
        RuntimeError: sizes or values that do not fit together.
        ValueError: an int beyond 64 bits.
    """
    rank = len(sizes)
    ceil_mode = check_flag(name, "ceil_mode", ceil_mode)
    if stride is None or (isinstance(stride, (list, tuple)) and len(stride) == 0):
        stride = kernel_size
    values = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    typed = {key: _padding.int_or_ints(name, key, value) for key, value in values.items()}
    entries = _padding.parse(name, padding, rank)
    kernel, stride, dilation = (
        _at_least(name, key, _padding.on_each_axis(name, key, value, rank), 1) for key, value in typed.items()
    )
    pairs = _pairs(name, entries, sizes, kernel, stride, dilation)
    output = tuple(
        [
            _sizes.pooled_size(size, k, s, lo, hi, d, ceil_mode and entry not in ("same", "same_lower"))
            for size, k, s, (lo, hi), d, entry in zip(sizes, kernel, stride, pairs, dilation, entries, strict=True)
        ]
    )
    if any(size < 1 for size in output):
        raise RuntimeError(
            f"{name}: expected input with its padding to hold the window {list(kernel)}, got input of size "
            f"{list(sizes)} with padding {list(entries)}, whose result would have size {list(output)}"
        )
    return kernel, stride, tuple([side for pair in pairs for side in pair]), dilation, output


# A network asks for the same few configurations at every step.
_remembered = functools.lru_cache(4096)(pool_configuration)


def _is_plain(value: Any) -> bool:
    """Whether equal values mean the same: 1, True and 1.0 are equal, and a traced size is a tensor."""
    if type(value) is tuple:
        return all(type(v) is int or type(v) is str or (type(v) is tuple and _is_plain(v)) for v in value)
    return type(value) is int or type(value) is str or value is None


def pixels_of(image: Tensor, rank: int) -> Sequence[int]:
    """The spatial sizes; plain ints also for torch.jit.trace, whose sizes are tensors and no operator's argument."""
    sizes = image.shape[-rank:]
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tuple([int(size) for size in sizes]) if traced else sizes


def configuration(name: str, sizes: Sequence[int], *arguments: Any) -> Configuration:
    """`pool_configuration` of the same arguments, remembered where it may be."""
    *window, ceil_mode = arguments
    if (
        type(ceil_mode) is bool
        and not torch.compiler.is_compiling()
        and all(type(size) is int for size in sizes)
        and all(map(_is_plain, window))
    ):
        return _remembered(name, tuple(sizes), *arguments)
    return pool_configuration(name, sizes, *arguments)


def adaptive_sizes(name: str, sizes: Sequence[int], output_size: Any) -> Ints:
    """The sizes of an adaptive pooling's result: one int for all axes, or one for each. Of two or three, None is
    the input's own.

    Raises:
        TypeError: an entry of another type.
        RuntimeError: another number of entries, or a negative one.
    """
    rank = len(sizes)
    entries = output_size if isinstance(output_size, (list, tuple)) else (output_size,) * rank
    if len(entries) != rank:
        raise RuntimeError(f"{name}: expected output_size of {rank} elements, one for each axis, got {output_size!r}")
    own = rank > 1 and isinstance(output_size, (list, tuple))  # where torch takes None
    output = tuple(
        [
            size if own and entry is None else _padding.plain_int(f"{name}: output_size", entry)
            for size, entry in zip(sizes, entries, strict=True)
        ]
    )
    return _at_least(name, "output_size", output, 0)
