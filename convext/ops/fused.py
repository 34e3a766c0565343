"""A convolution and what follows it in one pass: activation(x * w + bias + residual), and its composition.

The operator has no derivative of its own: where one is asked for, the convolution, the addition and the activation are
run one after the other. Arguments are those of the convolution (convext/ops/conv.py) with the residual, a tensor of the
result's size and type, after the bias, and then `activation` (an index into ACTIVATIONS), `slope` (of leaky_relu below
zero) and `transposed` (dgrad, not fprop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.ops import _autograd, conv

__all__ = ["ACTIVATIONS", "DTYPES", "activate", "conv_fused"]

_FUSED = torch.ops.convext.conv_fused.default

# csrc/epilogue.h numbers them the same way.
ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish", "gelu_tanh")

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})

_FUNCTIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda y, slope: y,
    lambda y, slope: torch.relu(y),
    lambda y, slope: F.relu6(y),
    F.leaky_relu,
    lambda y, slope: F.silu(y),
    lambda y, slope: torch.sigmoid(y),
    lambda y, slope: F.hardswish(y),
    lambda y, slope: F.gelu(y, approximate="tanh"),
)


def activate(y: Tensor, residual: Tensor | None, activation: int, slope: float) -> Tensor:
    """activation(y + residual) by torch."""
    return _FUNCTIONS[activation](y if residual is None else y + residual, slope)


def _composition(x: Tensor, w: Tensor, b: Tensor | None, residual: Tensor | None, *rest: Any) -> Tensor:
    *conf, activation, slope, transposed = rest
    operator: Any = conv.dgrad if transposed else conv.fprop
    return activate(operator(x, w, b, *conf), residual, activation, slope)


@torch.library.register_fake("convext::conv_fused")  # type: ignore[untyped-decorator]
def _fused_shape(x: Tensor, w: Tensor, b: Tensor | None, residual: Tensor | None, *rest: Any) -> Tensor:
    *conf, _, _, transposed = rest
    shape: Any = conv.dgrad_shape if transposed else conv.fprop_shape
    y: Tensor = shape(x, w, b, *conf)
    return y


def _fused_vmap(info: Any, in_dims: Any, x: Any, w: Any, b: Any, residual: Any, *rest: Any) -> Any:
    *conf, activation, slope, transposed = rest
    operator: Any = conv.dgrad if transposed else conv.fprop
    if all(dim is None for dim in in_dims[:3]):
        y = operator(x, w, b, *conf).unsqueeze(0)
    else:
        y, _ = conv._image_vmap(operator, info, in_dims[:3], x, w, b, *conf)
    if residual is not None:
        residual = conv._mapped_first(residual, in_dims[3], info.batch_size)
    return activate(y, residual, activation, slope), 0


def _fused_flops(x: Any, w: Any, b: Any, residual: Any, *rest: Any, out_shape: Sequence[int]) -> tuple[int, ...]:
    return (*x, *w[1:]) if rest[-1] else (*out_shape, *w[1:])


conv_fused = _autograd.composed(_FUSED, _composition)

_autograd.register_vmap(_FUSED, _fused_vmap)
_autograd.register_autocast(_FUSED)
_autograd.register_flops(_FUSED, _fused_flops)
