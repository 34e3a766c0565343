"""The one place where the arguments of a convolution are checked, with torch's types of exception.

A configuration is what the operators take: (stride, padding, dilation, groups, padding_mode), see convext/ops/conv.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import _padding, _sizes

__all__ = ["DTYPES", "Configuration", "check_operands", "conv_configuration", "transposed_configuration"]

Ints = tuple[int, ...]
Configuration = tuple[Ints, Ints, Ints, int, int]

DTYPES = frozenset(
    {
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.complex128,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)


def check_operands(name: str, input: Any, weight: Any, bias: Any) -> None:
    """Type, device, layout and element type of the tensors.

    Raises:
        TypeError: not a tensor.
        RuntimeError: on different devices, of different types (autocast settles those later), or not strided.
        NotImplementedError: a type that no kernel takes.
    """
    operands = [("input", input), ("weight", weight)] + ([("bias", bias)] if bias is not None else [])
    for argument, t in operands:
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected {argument} to be a Tensor, got {type(t).__name__}")
    for argument, t in operands:
        if t.device != input.device:
            raise RuntimeError(
                f"{name}: expected {argument} on {input.device}, as input, got one on {t.device}; move one of them, "
                f"e.g. the layer by .to({str(input.device)!r})"
            )
        if t.layout is not torch.strided:
            raise RuntimeError(f"{name}: expected {argument} of layout torch.strided, got {t.layout}")
    if not torch.is_autocast_enabled(input.device.type):
        for argument, t in operands:
            if t.dtype is not input.dtype:
                raise RuntimeError(
                    f"{name}: expected {argument} of type {input.dtype}, as input, got {t.dtype}; convert one of them, "
                    f"e.g. the layer by .to({input.dtype})"
                )


def _typed(name: str, groups: Any, **axes: Any) -> tuple[int, dict[str, int | Ints]]:
    """groups and the arguments of ints, their types checked."""
    typed = {key: _padding.int_or_ints(name, key, value) for key, value in axes.items()}
    return _padding.plain_int(f"{name}: groups", groups), typed


def _on_axes(
    name: str, rank: int, input: Sequence[int], weight: Sequence[int], groups: int, typed: dict[str, int | Ints]
) -> dict[str, Ints]:
    """One int for each axis of each argument, their values checked, and the ranks of the tensors."""
    axes = {key: _padding.on_each_axis(name, key, value, rank) for key, value in typed.items()}
    if len(weight) != rank + 2:
        raise RuntimeError(f"{name}: expected weight of {rank + 2} dimensions, got one of size {list(weight)}")
    if len(input) not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"{name}: expected input of {rank + 1} (unbatched) or {rank + 2} dimensions, got one of size {list(input)}"
            + ("; add the axis of the channels: input[None]" if len(input) == rank else "")
        )
    if groups <= 0:
        raise RuntimeError(f"{name}: expected groups to be 1 or more, got {groups}")
    for key, least in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
        if any(v < least for v in axes.get(key, ())):
            raise RuntimeError(f"{name}: expected {key} to be {least} or more, got {list(axes[key])}")
    if weight[0] < groups or weight[0] % groups != 0:
        raise RuntimeError(
            f"{name}: expected the first size of weight to be a positive multiple of groups={groups}, "
            f"got weight of size {list(weight)}"
        )
    if any(k <= 0 for k in weight[2:]):
        raise RuntimeError(f"{name}: expected a kernel of 1 or more on each axis, got weight of size {list(weight)}")
    return axes


def _channels_elsewhere(rank: int, input: Sequence[int], into: int) -> str:
    """What to do with a grey or coloured image whose channels come last, as other libraries have them."""
    if len(input) != rank + 2 or input[-1] != into or into not in (1, 3, 4):
        return ""
    return f"; if its channels are the last axis, permute it: input.permute{(0, rank + 1, *range(1, rank + 1))}"


def _check_channels(
    name: str,
    rank: int,
    input: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    groups: int,
    into: int,
    out_of: int,
) -> None:
    channels = input[-rank - 1]
    if channels != into:
        raise RuntimeError(
            f"{name}: expected input of {into} channels for weight of size {list(weight)} and groups={groups}, "
            f"got {channels} channels in input of size {list(input)}{_channels_elsewhere(rank, input, into)}"
        )
    if bias is not None and (len(bias) != 1 or bias[0] != out_of):
        raise RuntimeError(f"{name}: expected bias of size [{out_of}], one for each output channel, got {list(bias)}")


def _check_empty_axes(name: str, rank: int, input: Sequence[int]) -> None:
    """An image without pixels is taken where nothing else is in it either, as torch does."""
    elsewhere = input[:-rank]
    if any(size == 0 for size in input[-rank:]) and not any(size == 0 for size in elsewhere):
        raise RuntimeError(f"{name}: expected input of 1 or more pixels on each axis, got input of size {list(input)}")


def _has_no_batch(rank: int, input: Sequence[int]) -> bool:
    """A batch of nothing, of which torch checks less. Asked last: the batch may be a symbolic size."""
    return len(input) == rank + 2 and input[0] == 0


def _check_mode(name: str, mode: int, sizes: Sequence[int], pairs: Sequence[_padding.Pair]) -> None:
    """reflect reaches up to the far edge's neighbour, circular once around."""
    if mode == 0:
        return
    for size, (lo, hi) in zip(sizes, pairs, strict=True):
        least = {"reflect": max(lo, hi) + 1, "circular": max(lo, hi)}.get(_padding.MODES[mode], 1)
        if size < least or size < 1:
            raise RuntimeError(
                f"{name}: expected axes of size {max(least, 1)} or more for padding ({lo}, {hi}) of mode "
                f"{_padding.MODES[mode]}, got {list(sizes)}"
            )


def conv_configuration(
    name: str,
    rank: int,
    input: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
) -> Configuration:
    """The configuration of a convolution of tensors of these sizes; input may lack the batch axis.

    Raises:
        TypeError: an argument of a wrong type.
        RuntimeError: sizes or values that do not fit together.
        ValueError: an unknown padding_mode, or an int beyond 64 bits.
    """
    groups, typed = _typed(name, groups, stride=stride, dilation=dilation)
    entries = _padding.parse(name, padding, rank)
    mode = _padding.mode_index(name, padding_mode)
    axes = _on_axes(name, rank, input, weight, groups, typed)
    stride, dilation = axes["stride"], axes["dilation"]
    _check_channels(name, rank, input, weight, bias, groups, into=weight[1] * groups, out_of=weight[0])
    sizes, kernel = input[-rank:], weight[2:]
    pairs = _padding.conv_pairs(name, entries, sizes, kernel, stride, dilation)
    _check_empty_axes(name, rank, input)
    _check_mode(name, mode, sizes, pairs)
    for size, k, d, (lo, hi) in zip(sizes, kernel, dilation, pairs, strict=True):
        if size + lo + hi < d * (k - 1) + 1:
            padded = [n + sum(p) for n, p in zip(sizes, pairs, strict=True)]
            extent = [n * (m - 1) + 1 for n, m in zip(dilation, kernel, strict=True)]
            raise RuntimeError(
                f"{name}: expected input with its padding to hold the kernel {extent}, got {padded}; "
                "pad more, or take a smaller kernel or dilation"
            )
    return stride, tuple([side for pair in pairs for side in pair]), dilation, groups, mode


def transposed_configuration(
    name: str,
    rank: int,
    input: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    padding_mode: Any,
) -> Configuration:
    """The configuration of a transposed convolution: its padding is exact, with output_padding in it.

    Raises:
        TypeError, RuntimeError, ValueError: as `conv_configuration`; an unknown word of padding is a TypeError, for
            torch takes no string here.
    """
    groups, typed = _typed(name, groups, stride=stride, output_padding=output_padding, dilation=dilation)
    entries = _padding.parse(name, padding, rank, unknown_word=TypeError)
    mode = _padding.mode_index(name, padding_mode)
    axes = _on_axes(name, rank, input, weight, groups, typed)
    stride, extra, dilation = axes["stride"], axes["output_padding"], axes["dilation"]
    _check_channels(name, rank, input, weight, bias, groups, into=weight[0], out_of=weight[1] * groups)
    if weight[1] <= 0:
        raise RuntimeError(f"{name}: expected one output channel or more, got weight of size {list(weight)}")
    for op, s, d in zip(extra, stride, dilation, strict=True):
        if op >= s and op >= d and not _has_no_batch(rank, input):
            raise RuntimeError(
                f"{name}: expected output_padding to be smaller than stride {list(stride)} or "
                f"dilation {list(dilation)}, got {list(extra)}"
            )
    _check_empty_axes(name, rank, input)
    sizes, kernel = input[-rank:], weight[2:]
    pairs = _padding.transposed_pairs(name, entries, kernel, stride, dilation)
    exact = tuple([(lo, hi - op) for (lo, hi), op in zip(pairs, extra, strict=True)])
    result = [
        _sizes.transposed_size(size, k, s, lo, hi, d)
        for size, k, s, d, (lo, hi) in zip(sizes, kernel, stride, dilation, exact, strict=True)
    ]
    if any(size < 0 or (size == 0 and not _has_no_batch(rank, input)) for size in result):
        raise RuntimeError(f"{name}: expected padding to leave 1 or more of each axis of the result, got {result}")
    _check_mode(name, mode, result, exact)
    return stride, tuple([side for pair in exact for side in pair]), dilation, groups, mode
