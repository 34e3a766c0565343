"""Normalisation layers and the locally connected ones, on convext's operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import _padding, _sizes, functional

__all__ = [
    "LocalContrastNorm",
    "LocalResponseNorm",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnected3d",
]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]


class LocalResponseNorm(torch.nn.LocalResponseNorm):
    """:class:`torch.nn.LocalResponseNorm`, computed by :func:`convext.functional.local_response_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) normalised over the channels."""
        return functional.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class LocalContrastNorm(torch.nn.Module):
    """Subtractive, then divisive normalisation (Jarrett et al. 2009): :func:`convext.functional.local_contrast_norm`.

    Args:
        kernel_size: of the Gaussian window, odd, in pixels; an int means two spatial axes.
        sigma: of the Gaussian, in pixels; None for a quarter of the largest kernel size.
        eps: the least number that is divided by.
    """

    __constants__ = ("eps", "kernel_size", "sigma")

    def __init__(self, kernel_size: Ints = 9, sigma: float | None = None, eps: float = 1e-4) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *spatial) normalised over channels and neighbouring pixels."""
        return functional.local_contrast_norm(input, self.kernel_size, self.sigma, self.eps)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, sigma={self.sigma}, eps={self.eps}"


class _LocallyConnected(torch.nn.Module):
    """The three layers, but for their number of axes."""

    __constants__ = ("dilation", "in_channels", "input_size", "kernel_size", "out_channels", "padding", "stride")
    _rank: int
    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Ints,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__

        def on_axes(argument: str, value: Any) -> tuple[int, ...]:
            values = _padding.on_each_axis(name, argument, _padding.int_or_ints(name, argument, value), self._rank)
            if any(v < 1 for v in values):
                raise ValueError(f"{name}: expected {argument} to be 1 or more, got {list(values)}")
            return values

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.input_size = on_axes("input_size", input_size)
        self.kernel_size = on_axes("kernel_size", kernel_size)
        self.stride = on_axes("stride", stride)
        self.dilation = on_axes("dilation", dilation)
        self.padding = padding
        geometry = (self.kernel_size, self.stride, self.dilation)
        pairs = _padding.conv_pairs(name, _padding.parse(name, padding, self._rank), self.input_size, *geometry)
        flat = [side for pair in pairs for side in pair]
        self.output_size = tuple(_sizes.blocks(self.input_size, self.kernel_size, self.dilation, flat, self.stride))
        if any(n < 1 for n in self.output_size):
            raise ValueError(
                f"{name}: expected input_size with its padding to hold kernel_size {list(self.kernel_size)}, "
                f"got input_size {list(self.input_size)}, whose output would have size {list(self.output_size)}"
            )
        factory = {"device": device, "dtype": dtype}
        shape = (out_channels, in_channels, *self.kernel_size, *self.output_size)
        self.weight = torch.nn.Parameter(torch.empty(shape, **factory))
        bias_shape = (out_channels, *self.output_size)
        self.register_parameter("bias", torch.nn.Parameter(torch.empty(bias_shape, **factory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(fan in), as torch's convolutions: the fan in is that of one output pixel."""
        fan_in = self.in_channels * math.prod(self.kernel_size)
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
        torch.nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            torch.nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """(N, K, *output_size) of (N, C, *input_size); either without N."""
        # what stands in for a tensor, as a tracer's proxy, need not know its size
        if isinstance(input, Tensor) and tuple(input.shape[-self._rank :]) != self.input_size:
            raise RuntimeError(
                f"{type(self).__name__}: expected input of spatial size {list(self.input_size)}, "
                f"got one of size {list(input.shape)}"
            )
        return functional.locally_connected(input, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != 0:
            text += f", padding={self.padding!r}"
        if any(d != 1 for d in self.dilation):
            text += f", dilation={self.dilation}"
        return text if self.bias is not None else text + ", bias=False"


class LocallyConnected1d(_LocallyConnected):
    """A 1-D convolution with a kernel of its own for every output pixel: no weight is shared.

    Args:
        in_channels, out_channels: C and K.
        input_size: L, in pixels; the weight belongs to an image of this size.
        kernel_size, stride, dilation: in pixels.
        padding: an int, a word or a pair (before, after); see docs/padding.md.
        bias: whether there is one, for every output channel and pixel.

    The weight is (K, C, kL, oL), the bias (K, oL); see :func:`convext.functional.locally_connected`.

    Raises:
        TypeError, RuntimeError, ValueError: an argument of a wrong type, number or value.
    """

    _rank = 1


class LocallyConnected2d(_LocallyConnected):
    """A 2-D convolution with a kernel of its own for every output pixel; arguments as :class:`LocallyConnected1d`.

    The weight is (K, C, kH, kW, oH, oW), the bias (K, oH, oW).
    """

    _rank = 2


class LocallyConnected3d(_LocallyConnected):
    """A 3-D convolution with a kernel of its own for every output pixel; arguments as :class:`LocallyConnected1d`.

    The weight is (K, C, kD, kH, kW, oD, oH, oW), the bias (K, oD, oH, oW).
    """

    _rank = 3
