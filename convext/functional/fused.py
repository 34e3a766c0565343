"""Convolutions with what follows them in a network, in one pass: activation(convolution + residual).

torch has no such functions. Where a gradient is asked for, and for types and residuals that the kernels do not take,
the convolution, the addition and the activation run one after the other, with the same result up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from convext import _checks, _sizes, ops
from convext.functional import conv, conv_call
from convext.functional.conv import Ints, Padding

__all__ = [
    "fused_conv1d",
    "fused_conv2d",
    "fused_conv3d",
    "fused_conv_transpose1d",
    "fused_conv_transpose2d",
    "fused_conv_transpose3d",
]

_FLOATS = ops.fused.DTYPES


def activation_index(name: str, activation: Any) -> int:
    """The operators' number of an activation.

    Raises:
        ValueError: no activation of that name.
    """
    if activation not in ops.ACTIVATIONS:
        raise ValueError(f"{name}: expected activation to be one of {', '.join(ops.ACTIVATIONS)}, got {activation!r}")
    return ops.ACTIVATIONS.index(activation)


def _adds_in_place(residual: Tensor, input: Tensor, weight: Tensor, conf: Any, transposed: bool) -> bool:
    """Whether the kernel adds this residual: of the result's size and type. Any other is torch's to broadcast."""
    if residual.dtype is not input.dtype or residual.device != input.device or residual.layout is not torch.strided:
        return False
    if torch.is_autocast_enabled(input.device.type):  # the convolution's type is not known here
        return False
    stride, padding, dilation, groups, _ = conf
    rank = weight.dim() - 2
    formula = _sizes.transposed_size if transposed else _sizes.output_size
    spatial = [
        formula(size, k, stride[i], padding[2 * i], padding[2 * i + 1], dilation[i])
        for i, (size, k) in enumerate(zip(input.shape[-rank:], weight.shape[2:], strict=True))
    ]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return residual.shape == (*input.shape[: -rank - 1], channels, *spatial)


def _call(
    form: Any,
    function: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    *arguments: Any,
) -> Tensor:
    tensors = (input, weight, bias, residual)
    if has_torch_function_variadic(*tensors):
        epilogue = {"residual": residual, "activation": activation, "negative_slope": negative_slope}
        overridden: Tensor = handle_torch_function(function, tensors, *tensors[:3], *arguments, **epilogue)
        return overridden
    name = function.__name__
    index, slope = activation_index(name, activation), float(negative_slope)
    if residual is not None and not isinstance(residual, Tensor):
        raise TypeError(f"{name}: expected residual to be a Tensor or None, got {type(residual).__name__}")
    if not conv_call.operands_agree(input, weight, bias):
        _checks.check_operands(name, input, weight, bias)
    sizes = (input.shape, weight.shape, None if bias is None else bias.shape)
    conf = conv_call.checked_configuration(form, name, rank, *sizes, *arguments)
    transposed = form is conv_call.TRANSPOSED
    fits = residual is None or _adds_in_place(residual, input, weight, conf, transposed)
    if input.dtype not in _FLOATS or conv_call.is_empty(input) or not fits:
        return ops.activate(plain(input, weight, bias, *arguments), residual, index, slope)
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()
    if input.dim() == rank + 2:
        return ops.conv_fused(input, weight, bias, residual, *conf, index, slope, transposed)
    z = None if residual is None else residual.unsqueeze(0)
    return ops.conv_fused(input.unsqueeze(0), weight, bias, z, *conf, index, slope, transposed).squeeze(0)


def fused_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """activation(conv1d(input, weight, bias, ...) + residual), in one pass over the result.

    Args:
        input, weight, bias and all up to padding_mode: as of :func:`convext.functional.conv1d`.
        residual: of the result's size, or broadcastable with it; None adds nothing.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish" or "gelu_tanh", which is
            torch's gelu with approximate="tanh".
        negative_slope: of "leaky_relu" below zero.

    Returns:
        As :func:`convext.functional.conv1d`. float16 and bfloat16 are rounded once, after the activation.

    Raises:
        ValueError: an unknown activation; TypeError: a residual that is no tensor; else as
            :func:`convext.functional.conv1d`.
    """
    conf = (stride, padding, dilation, groups, padding_mode)
    functions = (conv_call.CONV, fused_conv1d, conv.conv1d)
    return _call(*functions, 1, input, weight, bias, residual, activation, negative_slope, *conf)


def fused_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """activation(conv2d(input, weight, bias, ...) + residual), in one pass over the result.

    Args:
        input, weight, bias and all up to padding_mode: as of :func:`convext.functional.conv2d`.
        residual: of the result's size, or broadcastable with it; None adds nothing.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish" or "gelu_tanh", which is
            torch's gelu with approximate="tanh".
        negative_slope: of "leaky_relu" below zero.

    Returns:
        As :func:`convext.functional.conv2d`. float16 and bfloat16 are rounded once, after the activation.

    Raises:
        ValueError: an unknown activation; TypeError: a residual that is no tensor; else as
            :func:`convext.functional.conv2d`.
    """
    conf = (stride, padding, dilation, groups, padding_mode)
    functions = (conv_call.CONV, fused_conv2d, conv.conv2d)
    return _call(*functions, 2, input, weight, bias, residual, activation, negative_slope, *conf)


def fused_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """activation(conv3d(input, weight, bias, ...) + residual), in one pass over the result.

    Args:
        input, weight, bias and all up to padding_mode: as of :func:`convext.functional.conv3d`.
        residual: of the result's size, or broadcastable with it; None adds nothing.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish" or "gelu_tanh", which is
            torch's gelu with approximate="tanh".
        negative_slope: of "leaky_relu" below zero.

    Returns:
        As :func:`convext.functional.conv3d`. float16 and bfloat16 are rounded once, after the activation.

    Raises:
        ValueError: an unknown activation; TypeError: a residual that is no tensor; else as
            :func:`convext.functional.conv3d`.
    """
    conf = (stride, padding, dilation, groups, padding_mode)
    functions = (conv_call.CONV, fused_conv3d, conv.conv3d)
    return _call(*functions, 3, input, weight, bias, residual, activation, negative_slope, *conf)


def fused_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """activation(conv_transpose1d(input, weight, bias, ...) + residual), in one pass over the result.

    Args:
        input, weight, bias and all up to padding_mode: as of :func:`convext.functional.conv_transpose1d`.
        residual: of the result's size, or broadcastable with it; None adds nothing.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish" or "gelu_tanh", which is
            torch's gelu with approximate="tanh".
        negative_slope: of "leaky_relu" below zero.

    Returns:
        As :func:`convext.functional.conv_transpose1d`. float16 and bfloat16 are rounded once, after the activation.

    Raises:
        ValueError: an unknown activation; TypeError: a residual that is no tensor; else as
            :func:`convext.functional.conv_transpose1d`.
    """
    conf = (stride, padding, output_padding, groups, dilation, padding_mode)
    functions = (conv_call.TRANSPOSED, fused_conv_transpose1d, conv.conv_transpose1d)
    return _call(*functions, 1, input, weight, bias, residual, activation, negative_slope, *conf)


def fused_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """activation(conv_transpose2d(input, weight, bias, ...) + residual), in one pass over the result.

    Args:
        input, weight, bias and all up to padding_mode: as of :func:`convext.functional.conv_transpose2d`.
        residual: of the result's size, or broadcastable with it; None adds nothing.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish" or "gelu_tanh", which is
            torch's gelu with approximate="tanh".
        negative_slope: of "leaky_relu" below zero.

    Returns:
        As :func:`convext.functional.conv_transpose2d`. float16 and bfloat16 are rounded once, after the activation.

    Raises:
        ValueError: an unknown activation; TypeError: a residual that is no tensor; else as
            :func:`convext.functional.conv_transpose2d`.
    """
    conf = (stride, padding, output_padding, groups, dilation, padding_mode)
    functions = (conv_call.TRANSPOSED, fused_conv_transpose2d, conv.conv_transpose2d)
    return _call(*functions, 2, input, weight, bias, residual, activation, negative_slope, *conf)


def fused_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
    *,
    residual: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """activation(conv_transpose3d(input, weight, bias, ...) + residual), in one pass over the result.

    Args:
        input, weight, bias and all up to padding_mode: as of :func:`convext.functional.conv_transpose3d`.
        residual: of the result's size, or broadcastable with it; None adds nothing.
        activation: "none", "relu", "relu6", "leaky_relu", "silu", "sigmoid", "hardswish" or "gelu_tanh", which is
            torch's gelu with approximate="tanh".
        negative_slope: of "leaky_relu" below zero.

    Returns:
        As :func:`convext.functional.conv_transpose3d`. float16 and bfloat16 are rounded once, after the activation.

    Raises:
        ValueError: an unknown activation; TypeError: a residual that is no tensor; else as
            :func:`convext.functional.conv_transpose3d`.
    """
    conf = (stride, padding, output_padding, groups, dilation, padding_mode)
    functions = (conv_call.TRANSPOSED, fused_conv_transpose3d, conv.conv_transpose3d)
    return _call(*functions, 3, input, weight, bias, residual, activation, negative_slope, *conf)
