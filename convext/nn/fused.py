"""Convolution layers with what follows them in one pass: activation(convolution + residual). For inference.

:func:`convext.fuse` makes them. They are convext's layers with the same parameters, of which the gradient is not asked
for at first; where one is, they run the unfused operators and are differentiable like these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from convext import functional
from convext.functional.fused import activation_index
from convext.nn import conv

__all__ = [
    "FusedConv1d",
    "FusedConv2d",
    "FusedConv3d",
    "FusedConvTranspose1d",
    "FusedConvTranspose2d",
    "FusedConvTranspose3d",
]


class _Fused(torch.nn.Module):
    """What the fused layers have in common, in front of the convolution layer that they are.

    Keyword arguments beyond the convolution layer's:
        activation: as :func:`convext.functional.fused_conv2d`'s.
        negative_slope: of "leaky_relu" below zero.
        add: whether `forward` takes a residual, which is added before the activation.
    """

    _function: ClassVar[Callable[..., Tensor]]
    activation: str
    negative_slope: float
    add: bool

    def __init__(
        self,
        *arguments: Any,
        activation: str = "none",
        negative_slope: float = 0.01,
        add: bool = False,
        **keywords: Any,
    ) -> None:
        activation_index(type(self).__name__, activation)
        super().__init__(*arguments, **keywords)
        self.activation, self.negative_slope, self.add = activation, negative_slope, add
        self.requires_grad_(False)

    def _epilogue(self, residual: Tensor | None) -> dict[str, Any]:
        if (residual is not None) != self.add:
            expected = "a residual, for add=True" if self.add else "no residual, for add=False"
            raise TypeError(f"{type(self).__name__}: expected {expected}")
        return {"residual": residual, "activation": self.activation, "negative_slope": self.negative_slope}

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, activation={self.activation}"
        if self.activation == "leaky_relu":
            text += f", negative_slope={self.negative_slope}"
        return text + (", add=True" if self.add else "")


class _FusedConv(_Fused):
    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(convolution(input) + residual).

        Raises:
            TypeError: a residual without ``add=True``, or none with it.
        """
        layer: Any = self
        padding = conv._padding_in_forward(layer)
        conf = (layer.stride, padding, layer.dilation, layer.groups, layer.padding_mode)
        return type(self)._function(input, layer.weight, layer.bias, *conf, **self._epilogue(residual))


class _FusedConvTranspose(_Fused):
    def forward(
        self, input: Tensor, output_size: Sequence[int] | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """activation(transposed convolution(input) + residual); `output_size` as the unfused layer takes it.

        Raises:
            TypeError: a residual without ``add=True``, or none with it.
            ValueError: an `output_size` that is out of reach.
        """
        epilogue = self._epilogue(residual)

        def function(*arguments: Any) -> Tensor:
            return type(self)._function(*arguments, **epilogue)

        return conv._transposed(self, function, input, output_size)


class FusedConv1d(_FusedConv, conv.Conv1d):
    """:class:`convext.nn.Conv1d`, an addition and an activation, by :func:`convext.functional.fused_conv1d`."""

    _function = staticmethod(functional.fused_conv1d)


class FusedConv2d(_FusedConv, conv.Conv2d):
    """:class:`convext.nn.Conv2d`, an addition and an activation, by :func:`convext.functional.fused_conv2d`."""

    _function = staticmethod(functional.fused_conv2d)


class FusedConv3d(_FusedConv, conv.Conv3d):
    """:class:`convext.nn.Conv3d`, an addition and an activation, by :func:`convext.functional.fused_conv3d`."""

    _function = staticmethod(functional.fused_conv3d)


class FusedConvTranspose1d(_FusedConvTranspose, conv.ConvTranspose1d):
    """:class:`convext.nn.ConvTranspose1d`, an addition and an activation, in one pass over the result."""

    _function = staticmethod(functional.fused_conv_transpose1d)


class FusedConvTranspose2d(_FusedConvTranspose, conv.ConvTranspose2d):
    """:class:`convext.nn.ConvTranspose2d`, an addition and an activation, in one pass over the result."""

    _function = staticmethod(functional.fused_conv_transpose2d)


class FusedConvTranspose3d(_FusedConvTranspose, conv.ConvTranspose3d):
    """:class:`convext.nn.ConvTranspose3d`, an addition and an activation, in one pass over the result."""

    _function = staticmethod(functional.fused_conv_transpose3d)
