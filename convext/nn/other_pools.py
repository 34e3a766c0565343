"""Lp, stochastic, fractional and un-pooling layers, and Maxout, on convext's operators.

Where torch has the layer it is a subclass, with the same constructor, attributes and text. A layer holds what it was
given; the arithmetic and the checks are convext.functional's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import functional
from convext.nn.pool import Ints, Padding, Values, WindowPool

__all__ = [
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Maxout",
    "StochasticPool1d",
    "StochasticPool2d",
    "StochasticPool3d",
]


def _beyond(text: str, **settings: tuple[Any, Any]) -> str:
    """torch's text, and the settings that torch lacks where they differ from what torch does."""
    return ", ".join([text, *[f"{name}={value}" for name, (value, default) in settings.items() if value != default]])


class MaxUnpool1d(torch.nn.MaxUnpool1d):
    """:class:`torch.nn.MaxUnpool1d`, computed by :func:`convext.functional.max_unpool1d`."""

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        arguments: Any = (self.kernel_size, self.stride, self.padding, output_size)
        return functional.max_unpool1d(input, indices, *arguments)


class MaxUnpool2d(torch.nn.MaxUnpool2d):
    """:class:`torch.nn.MaxUnpool2d`, computed by :func:`convext.functional.max_unpool2d`."""

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        arguments: Any = (self.kernel_size, self.stride, self.padding, output_size)
        return functional.max_unpool2d(input, indices, *arguments)


class MaxUnpool3d(torch.nn.MaxUnpool3d):
    """:class:`torch.nn.MaxUnpool3d`, computed by :func:`convext.functional.max_unpool3d`."""

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        arguments: Any = (self.kernel_size, self.stride, self.padding, output_size)
        return functional.max_unpool3d(input, indices, *arguments)


class FractionalMaxPool2d(torch.nn.FractionalMaxPool2d):
    """:class:`torch.nn.FractionalMaxPool2d`, computed by :func:`convext.functional.fractional_max_pool2d`."""

    def forward(self, input: Tensor) -> Values:
        window: Any = (self.kernel_size, self.output_size, self.output_ratio)
        arguments: Any = (*window, self.return_indices, self._random_samples)
        return functional.fractional_max_pool2d(input, *arguments)


class FractionalMaxPool3d(torch.nn.FractionalMaxPool3d):
    """:class:`torch.nn.FractionalMaxPool3d`, computed by :func:`convext.functional.fractional_max_pool3d`."""

    def forward(self, input: Tensor) -> Values:
        window: Any = (self.kernel_size, self.output_size, self.output_ratio)
        arguments: Any = (*window, self.return_indices, self._random_samples)
        return functional.fractional_max_pool3d(input, *arguments)


class LPPool1d(torch.nn.LPPool1d):
    """:class:`torch.nn.LPPool1d`, computed by :func:`convext.functional.lp_pool1d`, with its three keywords more."""

    padding: Padding = 0  # these three also of a layer that convext.convert made from torch\'s
    dilation: Ints = 1
    abs: bool = False

    def __init__(
        self,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
        padding: Padding = 0,
        dilation: Ints = 1,
        abs: bool = False,
    ) -> None:
        arguments: Any = (norm_type, kernel_size, stride, ceil_mode)
        super().__init__(*arguments)
        self.padding, self.dilation, self.abs = padding, dilation, abs

    def extra_repr(self) -> str:
        return _beyond(
            super().extra_repr(), padding=(self.padding, 0), dilation=(self.dilation, 1), abs=(self.abs, False)
        )

    def forward(self, input: Tensor) -> Tensor:
        window: Any = (self.kernel_size, self.stride, self.ceil_mode, self.padding, self.dilation)
        arguments: Any = (float(self.norm_type), *window, self.abs)
        return functional.lp_pool1d(input, *arguments)


class LPPool2d(torch.nn.LPPool2d):
    """:class:`torch.nn.LPPool2d`, computed by :func:`convext.functional.lp_pool2d`, with its three keywords more."""

    padding: Padding = 0  # these three also of a layer that convext.convert made from torch\'s
    dilation: Ints = 1
    abs: bool = False

    def __init__(
        self,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
        padding: Padding = 0,
        dilation: Ints = 1,
        abs: bool = False,
    ) -> None:
        arguments: Any = (norm_type, kernel_size, stride, ceil_mode)
        super().__init__(*arguments)
        self.padding, self.dilation, self.abs = padding, dilation, abs

    def extra_repr(self) -> str:
        return _beyond(
            super().extra_repr(), padding=(self.padding, 0), dilation=(self.dilation, 1), abs=(self.abs, False)
        )

    def forward(self, input: Tensor) -> Tensor:
        window: Any = (self.kernel_size, self.stride, self.ceil_mode, self.padding, self.dilation)
        arguments: Any = (float(self.norm_type), *window, self.abs)
        return functional.lp_pool2d(input, *arguments)


class LPPool3d(torch.nn.LPPool3d):
    """:class:`torch.nn.LPPool3d`, computed by :func:`convext.functional.lp_pool3d`, with its three keywords more."""

    padding: Padding = 0  # these three also of a layer that convext.convert made from torch\'s
    dilation: Ints = 1
    abs: bool = False

    def __init__(
        self,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
        padding: Padding = 0,
        dilation: Ints = 1,
        abs: bool = False,
    ) -> None:
        arguments: Any = (norm_type, kernel_size, stride, ceil_mode)
        super().__init__(*arguments)
        self.padding, self.dilation, self.abs = padding, dilation, abs

    def extra_repr(self) -> str:
        return _beyond(
            super().extra_repr(), padding=(self.padding, 0), dilation=(self.dilation, 1), abs=(self.abs, False)
        )

    def forward(self, input: Tensor) -> Tensor:
        window: Any = (self.kernel_size, self.stride, self.ceil_mode, self.padding, self.dilation)
        arguments: Any = (float(self.norm_type), *window, self.abs)
        return functional.lp_pool3d(input, *arguments)


class _StochasticPool(WindowPool):
    """What the stochastic poolings of every rank share: draws in training, the mean under the same odds in eval."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)

    def _arguments(self) -> Any:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.training


class StochasticPool1d(_StochasticPool):
    """Stochastic pooling (Zeiler & Fergus 2013), computed by :func:`convext.functional.stochastic_pool1d`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.stochastic_pool1d(input, *self._arguments())


class StochasticPool2d(_StochasticPool):
    """Stochastic pooling (Zeiler & Fergus 2013), computed by :func:`convext.functional.stochastic_pool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.stochastic_pool2d(input, *self._arguments())


class StochasticPool3d(_StochasticPool):
    """Stochastic pooling (Zeiler & Fergus 2013), computed by :func:`convext.functional.stochastic_pool3d`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.stochastic_pool3d(input, *self._arguments())


class Maxout(torch.nn.Module):
    """Maxout (Goodfellow et al. 2013), or max pooling across channels: the largest of each `pieces` along `dim`.

    Shape: (N, C, *) to (N, C / pieces, *). See :func:`convext.functional.maxout`.
    """

    def __init__(self, pieces: int, dim: int = 1) -> None:
        super().__init__()
        self.pieces = pieces
        self.dim = dim

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}, dim={self.dim}"

    def forward(self, input: Tensor) -> Tensor:
        return functional.maxout(input, self.pieces, self.dim)
