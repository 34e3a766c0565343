"""torch.nn's convolution layers on convext's operators: subclasses, with the same constructors, parameters and text.

Beyond torch every layer takes the whole padding language (docs/padding.md), and the transposed layers take every
`padding_mode`. A layer holds what it was given; the arithmetic and the checks are convext.functional's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convext import _padding, _sizes, functional

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]


def _is_torchs(padding: Any, stride: Any, transposed: bool = False) -> bool:
    """Whether torch's constructor takes this padding, or says itself what is wrong with it."""
    if isinstance(padding, str):
        if transposed or padding not in _padding.WORDS:
            return False
        unit = all(s == 1 for s in stride) if isinstance(stride, (list, tuple)) else stride == 1
        return padding == "valid" or (padding == "same" and unit)
    return not (isinstance(padding, (list, tuple)) and any(isinstance(p, (str, list, tuple)) for p in padding))


def _check_groups(layer: Any, in_channels: Any, out_channels: Any, groups: Any) -> None:
    """Raises torch's ValueError, with the numbers; what is no positive int is torch's constructor's to tell."""
    if not all(type(number) is int for number in (in_channels, out_channels, groups)) or groups < 1:
        return
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{type(layer).__name__}: expected groups to divide in_channels={in_channels} and "
            f"out_channels={out_channels}, got {groups}; the largest that does is {math.gcd(in_channels, out_channels)}"
        )


def _keep_padding(layer: Any, padding: Any) -> None:
    """Puts a padding beyond torch's into a layer that was made without one.

    Raises:
        ValueError: a word that the language does not have.
        TypeError, RuntimeError: entries of a wrong type or number.
    """
    rank = len(layer.kernel_size)
    entries = _padding.parse(type(layer).__name__, padding, rank, unknown_word=ValueError)
    geometry = (layer.kernel_size, layer.stride, layer.dilation)
    layer.padding = padding if isinstance(padding, str) else entries
    if layer.transposed:
        _padding.transposed_pairs(type(layer).__name__, entries, *geometry)
        return
    if any(e in ("same", "same_lower") and s != 1 for e, s in zip(entries, layer.stride, strict=True)):
        del layer._reversed_padding_repeated_twice  # depends on the image: there is no such list
        return
    pairs = _padding.conv_pairs(type(layer).__name__, entries, (0,) * rank, *geometry)
    layer._reversed_padding_repeated_twice = [side for pair in reversed(pairs) for side in pair]


def _padding_in_forward(layer: Any) -> Any:
    """What a convolution layer pads by. With a padding_mode it is the list that the constructor made, as torch's."""
    if layer.padding_mode == "zeros" or not _is_torchs(layer.padding, layer.stride):
        return layer.padding
    sides = layer._reversed_padding_repeated_twice
    return tuple([(sides[i], sides[i + 1]) for i in range(len(sides) - 2, -1, -2)])


def _keep_mode(layer: Any, padding_mode: str) -> None:
    """Puts a padding_mode into a transposed layer, whose constructor in torch takes zeros alone.

    Raises:
        ValueError: not a padding mode.
    """
    _padding.mode_index(type(layer).__name__, padding_mode)
    layer.padding_mode = padding_mode


def _output_padding(layer: Any, input: Tensor, output_size: Sequence[int]) -> list[int]:
    """The output_padding with which a transposed layer's result has `output_size`, (*spatial) or with the leading axes.

    Raises:
        ValueError: a size of another length, or out of reach.
    """
    rank = len(layer.kernel_size)
    leading = input.dim() - rank
    wanted = list(output_size)[leading:] if len(output_size) == leading + rank else list(output_size)
    name = type(layer).__name__
    if len(wanted) != rank:
        raise ValueError(f"{name}: expected output_size of {rank} or {leading + rank} elements, got {len(output_size)}")
    geometry = (layer.kernel_size, layer.stride, layer.dilation)
    entries = _padding.parse(name, layer.padding, rank)
    pairs = _padding.transposed_pairs(name, entries, *geometry)
    least = [
        _sizes.transposed_size(size, k, s, lo, hi, d)
        for size, k, s, d, (lo, hi) in zip(input.shape[leading:], *geometry, pairs, strict=True)
    ]
    most = [size + s - 1 for size, s in zip(least, layer.stride, strict=True)]
    if any(size < lo or size > hi for size, lo, hi in zip(wanted, least, most, strict=True)):
        raise ValueError(f"{name}: expected output_size from {least} to {most}, got {wanted}")
    return [size - lo for size, lo in zip(wanted, least, strict=True)]


def _transposed(
    layer: Any, function: Callable[..., Tensor], input: Tensor, output_size: Sequence[int] | None
) -> Tensor:
    return function(
        input,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.output_padding if output_size is None else _output_padding(layer, input, output_size),
        layer.groups,
        layer.dilation,
        layer.padding_mode,
    )


class Conv1d(torch.nn.Conv1d):
    """:class:`torch.nn.Conv1d`, computed by :func:`convext.functional.conv1d`, with the larger padding language."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        known: Any = padding if _is_torchs(padding, stride) else 0
        arguments: Any = (kernel_size, stride, known, dilation, groups, bias, padding_mode, device, dtype)
        _check_groups(self, in_channels, out_channels, groups)
        super().__init__(in_channels, out_channels, *arguments)
        if known is not padding:
            _keep_padding(self, padding)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv1d(
            input,
            weight,
            bias,
            self.stride,
            _padding_in_forward(self),
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class Conv2d(torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d`, computed by :func:`convext.functional.conv2d`, with the larger padding language."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        known: Any = padding if _is_torchs(padding, stride) else 0
        arguments: Any = (kernel_size, stride, known, dilation, groups, bias, padding_mode, device, dtype)
        _check_groups(self, in_channels, out_channels, groups)
        super().__init__(in_channels, out_channels, *arguments)
        if known is not padding:
            _keep_padding(self, padding)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(
            input,
            weight,
            bias,
            self.stride,
            _padding_in_forward(self),
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class Conv3d(torch.nn.Conv3d):
    """:class:`torch.nn.Conv3d`, computed by :func:`convext.functional.conv3d`, with the larger padding language."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        known: Any = padding if _is_torchs(padding, stride) else 0
        arguments: Any = (kernel_size, stride, known, dilation, groups, bias, padding_mode, device, dtype)
        _check_groups(self, in_channels, out_channels, groups)
        super().__init__(in_channels, out_channels, *arguments)
        if known is not padding:
            _keep_padding(self, padding)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv3d(
            input,
            weight,
            bias,
            self.stride,
            _padding_in_forward(self),
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class ConvTranspose1d(torch.nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d`, by :func:`convext.functional.conv_transpose1d`, with every padding mode."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        known: Any = padding if _is_torchs(padding, stride, transposed=True) else 0
        arguments: Any = (kernel_size, stride, known, output_padding, groups, bias, dilation, "zeros", device, dtype)
        _check_groups(self, in_channels, out_channels, groups)
        super().__init__(in_channels, out_channels, *arguments)
        _keep_mode(self, padding_mode)
        if known is not padding:
            _keep_padding(self, padding)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`, where given, is the result's (*spatial) or whole size; ValueError where it is out of reach."""
        return _transposed(self, functional.conv_transpose1d, input, output_size)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`, by :func:`convext.functional.conv_transpose2d`, with every padding mode."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        known: Any = padding if _is_torchs(padding, stride, transposed=True) else 0
        arguments: Any = (kernel_size, stride, known, output_padding, groups, bias, dilation, "zeros", device, dtype)
        _check_groups(self, in_channels, out_channels, groups)
        super().__init__(in_channels, out_channels, *arguments)
        _keep_mode(self, padding_mode)
        if known is not padding:
            _keep_padding(self, padding)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`, where given, is the result's (*spatial) or whole size; ValueError where it is out of reach."""
        return _transposed(self, functional.conv_transpose2d, input, output_size)


class ConvTranspose3d(torch.nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d`, by :func:`convext.functional.conv_transpose3d`, with every padding mode."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        known: Any = padding if _is_torchs(padding, stride, transposed=True) else 0
        arguments: Any = (kernel_size, stride, known, output_padding, groups, bias, dilation, "zeros", device, dtype)
        _check_groups(self, in_channels, out_channels, groups)
        super().__init__(in_channels, out_channels, *arguments)
        _keep_mode(self, padding_mode)
        if known is not padding:
            _keep_padding(self, padding)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`, where given, is the result's (*spatial) or whole size; ValueError where it is out of reach."""
        return _transposed(self, functional.conv_transpose3d, input, output_size)


class LazyConv1d(torch.nn.LazyConv1d, Conv1d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv1d`; its first input makes it a :class:`Conv1d`."""

    cls_to_become = Conv1d


class LazyConv2d(torch.nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv2d`; its first input makes it a :class:`Conv2d`."""

    cls_to_become = Conv2d


class LazyConv3d(torch.nn.LazyConv3d, Conv3d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConv3d`; its first input makes it a :class:`Conv3d`."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(torch.nn.LazyConvTranspose1d, ConvTranspose1d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose1d`; its first input makes it a :class:`ConvTranspose1d`."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(torch.nn.LazyConvTranspose2d, ConvTranspose2d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose2d`; its first input makes it a :class:`ConvTranspose2d`."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(torch.nn.LazyConvTranspose3d, ConvTranspose3d):  # type: ignore[misc]
    """:class:`torch.nn.LazyConvTranspose3d`; its first input makes it a :class:`ConvTranspose3d`."""

    cls_to_become = ConvTranspose3d
