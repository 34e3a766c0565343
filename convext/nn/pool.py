"""torch.nn's pooling layers on convext's operators: subclasses, with the same constructors, attributes and text.

Beyond torch the layers take the whole padding language (docs/padding.md), average pooling takes a dilation, and there
is min pooling. A layer holds what it was given; the arithmetic and the checks are convext.functional's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import functional

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MinPool1d",
    "MinPool2d",
    "MinPool3d",
]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]
Values = Tensor | tuple[Tensor, Tensor]


def _max_arguments(layer: Any) -> tuple[Any, ...]:
    return layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode, layer.return_indices


def _average_text(layer: Any, text: str) -> str:
    """torch's text, with the dilation where there is one."""
    return text if layer.dilation == 1 else f"{text}, dilation={layer.dilation}"


class MaxPool1d(torch.nn.MaxPool1d):
    """:class:`torch.nn.MaxPool1d`, computed by :func:`convext.functional.max_pool1d`, with its padding language."""

    def forward(self, input: Tensor) -> Values:
        return functional.max_pool1d(input, *_max_arguments(self))


class MaxPool2d(torch.nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d`, computed by :func:`convext.functional.max_pool2d`, with its padding language."""

    def forward(self, input: Tensor) -> Values:
        return functional.max_pool2d(input, *_max_arguments(self))


class MaxPool3d(torch.nn.MaxPool3d):
    """:class:`torch.nn.MaxPool3d`, computed by :func:`convext.functional.max_pool3d`, with its padding language."""

    def forward(self, input: Tensor) -> Values:
        return functional.max_pool3d(input, *_max_arguments(self))


class WindowPool(torch.nn.Module):
    """What the poolings that torch lacks hold: the attributes of its max pooling, and their text."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MinPool1d(WindowPool):
    """The smallest element of each window; all else as :class:`MaxPool1d`."""

    def forward(self, input: Tensor) -> Values:
        return functional.min_pool1d(input, *_max_arguments(self))


class MinPool2d(WindowPool):
    """The smallest element of each window; all else as :class:`MaxPool2d`."""

    def forward(self, input: Tensor) -> Values:
        return functional.min_pool2d(input, *_max_arguments(self))


class MinPool3d(WindowPool):
    """The smallest element of each window; all else as :class:`MaxPool3d`."""

    def forward(self, input: Tensor) -> Values:
        return functional.min_pool3d(input, *_max_arguments(self))


class AvgPool1d(torch.nn.AvgPool1d):
    """:class:`torch.nn.AvgPool1d`, computed by :func:`convext.functional.avg_pool1d`, with its dilation and padding."""

    dilation: Ints = 1  # also of a layer that convext.convert made from torch\'s

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        dilation: Ints = 1,
    ) -> None:
        word = isinstance(padding, str)
        super().__init__(kernel_size, stride, 0 if word else padding, ceil_mode, count_include_pad)  # type: ignore[arg-type]
        if word:  # torch's constructor would take it letter by letter
            self.padding = padding  # type: ignore[assignment]
        self.dilation = dilation

    def extra_repr(self) -> str:
        return _average_text(self, super().extra_repr())

    def forward(self, input: Tensor) -> Tensor:
        window: Any = (self.kernel_size, self.stride, self.padding)
        arguments: Any = (*window, self.ceil_mode, self.count_include_pad, self.dilation)
        return functional.avg_pool1d(input, *arguments)


class AvgPool2d(torch.nn.AvgPool2d):
    """:class:`torch.nn.AvgPool2d`, computed by :func:`convext.functional.avg_pool2d`, with its dilation and padding."""

    dilation: Ints = 1  # also of a layer that convext.convert made from torch\'s

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        dilation: Ints = 1,
    ) -> None:
        arguments: Any = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        super().__init__(*arguments)
        self.dilation = dilation

    def extra_repr(self) -> str:
        return _average_text(self, super().extra_repr())

    def forward(self, input: Tensor) -> Tensor:
        window: Any = (self.kernel_size, self.stride, self.padding)
        arguments: Any = (*window, self.ceil_mode, self.count_include_pad, self.divisor_override, self.dilation)
        return functional.avg_pool2d(input, *arguments)


class AvgPool3d(torch.nn.AvgPool3d):
    """:class:`torch.nn.AvgPool3d`, computed by :func:`convext.functional.avg_pool3d`, with its dilation and padding."""

    dilation: Ints = 1  # also of a layer that convext.convert made from torch\'s

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        dilation: Ints = 1,
    ) -> None:
        arguments: Any = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        super().__init__(*arguments)
        self.dilation = dilation

    def extra_repr(self) -> str:
        return _average_text(self, super().extra_repr())

    def forward(self, input: Tensor) -> Tensor:
        window: Any = (self.kernel_size, self.stride, self.padding)
        arguments: Any = (*window, self.ceil_mode, self.count_include_pad, self.divisor_override, self.dilation)
        return functional.avg_pool3d(input, *arguments)


class AdaptiveMaxPool1d(torch.nn.AdaptiveMaxPool1d):
    """:class:`torch.nn.AdaptiveMaxPool1d`, computed by :func:`convext.functional.adaptive_max_pool1d`."""

    def forward(self, input: Tensor) -> Values:
        return functional.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    """:class:`torch.nn.AdaptiveMaxPool2d`, computed by :func:`convext.functional.adaptive_max_pool2d`."""

    def forward(self, input: Tensor) -> Values:
        return functional.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(torch.nn.AdaptiveMaxPool3d):
    """:class:`torch.nn.AdaptiveMaxPool3d`, computed by :func:`convext.functional.adaptive_max_pool3d`."""

    def forward(self, input: Tensor) -> Values:
        return functional.adaptive_max_pool3d(input, self.output_size, self.return_indices)


class AdaptiveAvgPool1d(torch.nn.AdaptiveAvgPool1d):
    """:class:`torch.nn.AdaptiveAvgPool1d`, computed by :func:`convext.functional.adaptive_avg_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """:class:`torch.nn.AdaptiveAvgPool2d`, computed by :func:`convext.functional.adaptive_avg_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(torch.nn.AdaptiveAvgPool3d):
    """:class:`torch.nn.AdaptiveAvgPool3d`, computed by :func:`convext.functional.adaptive_avg_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.adaptive_avg_pool3d(input, self.output_size)
