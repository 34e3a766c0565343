"""The convolution operators: for each, side by side, its shape, its derivatives, its vmap rule, autocast and FLOPs.

With L(g, x, w) = <g, x * w>, ``conv_fprop`` is dL/dg, ``conv_dgrad`` dL/dx and ``conv_wgrad`` dL/dw. Each is bilinear
and its derivatives are the other two, so gradients of every order come from these three. ``conf`` below is always
(stride, padding, dilation, groups, padding_mode) as the operators take them: a (before, after) pair of padding an axis.

The derivatives of fprop use *exact* padding, from which the remainder that no window reaches is cut off. With it
fprop and dgrad determine each other's sizes, so the same ``conf`` serves all further derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils.flop_counter import register_flop_formula

from ._autograd import LIBRARY, autocast, differentiable

_FPROP = torch.ops.convext.conv_fprop.default
_DGRAD = torch.ops.convext.conv_dgrad.default
_WGRAD = torch.ops.convext.conv_wgrad.default

Conf = tuple[Sequence[int], Sequence[int], Sequence[int], int, int]


# --- sizes -----------------------------------------------------------------------------------------------------------


def output_size(size: int, kernel: int, stride: int, lo: int, hi: int, dilation: int) -> int:
    """Size of fprop's output along one axis: ``floor((size + lo + hi - dilation*(kernel-1) - 1) / stride) + 1``."""
    return (size + lo + hi - dilation * (kernel - 1) - 1) // stride + 1


def transposed_size(size: int, kernel: int, stride: int, lo: int, hi: int, dilation: int) -> int:
    """Size of dgrad's result along one axis: ``(size-1)*stride + dilation*(kernel-1) + 1 - lo - hi``."""
    return (size - 1) * stride + dilation * (kernel - 1) + 1 - lo - hi


def exact_padding(size: Sequence[int], kernel: Sequence[int], conf: Conf) -> list[int]:
    """``conf``'s padding without what follows the last window, so that ``transposed_size`` gives back ``size``."""
    stride, padding, dilation = conf[:3]
    exact = list(padding)
    for i, n in enumerate(size):
        lo, hi = padding[2 * i], padding[2 * i + 1]
        exact[2 * i + 1] = hi - (n + lo + hi - dilation[i] * (kernel[i] - 1) - 1) % stride[i]
    return exact


def _spatial(size: Any, tensor: Tensor, kernel: Sequence[int], conf: Conf) -> list[int]:
    stride, padding, dilation = conf[:3]
    return [
        size(tensor.shape[2 + i], kernel[i], stride[i], padding[2 * i], padding[2 * i + 1], dilation[i])
        for i in range(len(stride))
    ]


_NEVER_CHANNELS_LAST_3D = {
    torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64
}  # fmt: skip


def _empty_result(a: Tensor, b: Tensor, size: Sequence[int]) -> Tensor:
    """A result in the memory format that torch gives it; csrc/contract.cpp states the same rule."""
    for operand in (a, b):
        memory_format = suggest_memory_format(operand)
        if memory_format is torch.contiguous_format:
            continue
        if a.dim() == 5 and a.dtype in _NEVER_CHANNELS_LAST_3D:
            continue
        return torch.empty(size, dtype=a.dtype, device=a.device, memory_format=memory_format)
    return torch.empty(size, dtype=a.dtype, device=a.device)


# --- fake functions --------------------------------------------------------------------------------------------------


@torch.library.register_fake("convext::conv_fprop", lib=LIBRARY)
def _(input: Tensor, weight: Tensor, bias: Tensor | None, *conf: Any) -> Tensor:
    size = _spatial(output_size, input, weight.shape[2:], conf)
    return _empty_result(input, weight, (input.shape[0], weight.shape[0], *size))


@torch.library.register_fake("convext::conv_dgrad", lib=LIBRARY)
def _(grad: Tensor, weight: Tensor, bias: Tensor | None, *conf: Any) -> Tensor:
    size = _spatial(transposed_size, grad, weight.shape[2:], conf)
    return _empty_result(grad, weight, (grad.shape[0], weight.shape[1] * conf[3], *size))


@torch.library.register_fake("convext::conv_wgrad", lib=LIBRARY)
def _(grad: Tensor, input: Tensor, kernel_size: Sequence[int], *conf: Any) -> Tensor:
    return _empty_result(grad, input, (grad.shape[1], input.shape[1] // conf[3], *kernel_size))


# --- derivatives -----------------------------------------------------------------------------------------------------


def _conj(t: Tensor) -> Tensor:
    return t.conj() if t.is_complex() else t


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _bias_gradient(grad: Tensor) -> Tensor:
    return grad.sum([0, *range(2, grad.dim())])


def _bias_tangent(bias: Tensor, batch: int, size: Sequence[int]) -> Tensor:
    return bias.reshape(1, -1, *[1] * len(size)).expand(batch, bias.shape[0], *size).clone()


def _fprop_setup(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *conf: Any) -> None:
    ctx.conf = conf
    ctx.save_for_backward(input, weight)
    ctx.save_for_forward(input, weight)


def _fprop_backward(ctx: Any, needs: tuple[bool, ...], grad: Tensor) -> tuple[Any, ...]:
    input, weight = ctx.saved_tensors
    stride, _, *rest = conf = ctx.conf
    padding = exact_padding(input.shape[2:], weight.shape[2:], conf)
    return (
        dgrad(grad, _conj(weight), None, stride, padding, *rest) if needs[0] else None,
        wgrad(grad, _conj(input), weight.shape[2:], stride, padding, *rest) if needs[1] else None,
        _bias_gradient(grad) if needs[2] else None,
        *[None] * len(conf),
    )


def _fprop_jvp(ctx: Any, input_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: Any) -> Any:
    input, weight = ctx.saved_tensors
    conf = ctx.conf
    by_input = fprop(input_t, weight, bias_t, *conf) if input_t is not None else None
    by_weight = fprop(input, weight_t, bias_t if input_t is None else None, *conf) if weight_t is not None else None
    tangent = _add(by_input, by_weight)
    if tangent is None and bias_t is not None:
        return _bias_tangent(bias_t, input.shape[0], _spatial(output_size, input, weight.shape[2:], conf))
    return tangent


def _dgrad_setup(ctx: Any, grad: Tensor, weight: Tensor, bias: Tensor | None, *conf: Any) -> None:
    ctx.conf = conf
    ctx.save_for_backward(grad, weight)
    ctx.save_for_forward(grad, weight)


def _dgrad_backward(ctx: Any, needs: tuple[bool, ...], grad: Tensor) -> tuple[Any, ...]:
    source, weight = ctx.saved_tensors
    conf = ctx.conf
    return (
        fprop(grad, _conj(weight), None, *conf) if needs[0] else None,
        # <grad, dgrad(source, w)> = <w, wgrad(source, grad)>: the conjugate falls on what is not differentiated.
        wgrad(_conj(source), grad, weight.shape[2:], *conf) if needs[1] else None,
        _bias_gradient(grad) if needs[2] else None,
        *[None] * len(conf),
    )


def _dgrad_jvp(ctx: Any, grad_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: Any) -> Any:
    source, weight = ctx.saved_tensors
    conf = ctx.conf
    by_grad = dgrad(grad_t, weight, bias_t, *conf) if grad_t is not None else None
    by_weight = dgrad(source, weight_t, bias_t if grad_t is None else None, *conf) if weight_t is not None else None
    tangent = _add(by_grad, by_weight)
    if tangent is None and bias_t is not None:
        return _bias_tangent(bias_t, source.shape[0], _spatial(transposed_size, source, weight.shape[2:], conf))
    return tangent


def _wgrad_setup(ctx: Any, grad: Tensor, input: Tensor, kernel_size: Sequence[int], *conf: Any) -> None:
    ctx.kernel_size, ctx.conf = kernel_size, conf
    ctx.save_for_backward(grad, input)
    ctx.save_for_forward(grad, input)


def _wgrad_backward(ctx: Any, needs: tuple[bool, ...], weight_grad: Tensor) -> tuple[Any, ...]:
    source, input = ctx.saved_tensors
    stride, _, *rest = conf = ctx.conf
    padding = exact_padding(input.shape[2:], ctx.kernel_size, conf)
    return (
        fprop(_conj(input), weight_grad, None, *conf) if needs[0] else None,
        dgrad(_conj(source), weight_grad, None, stride, padding, *rest) if needs[1] else None,
        None,
        *[None] * len(conf),
    )


def _wgrad_jvp(ctx: Any, grad_t: Tensor | None, input_t: Tensor | None, *_: Any) -> Any:
    source, input = ctx.saved_tensors
    by_grad = wgrad(grad_t, input, ctx.kernel_size, *ctx.conf) if grad_t is not None else None
    return _add(by_grad, wgrad(source, input_t, ctx.kernel_size, *ctx.conf) if input_t is not None else None)


fprop = differentiable(_FPROP, setup=_fprop_setup, backward=_fprop_backward, jvp=_fprop_jvp)
dgrad = differentiable(_DGRAD, setup=_dgrad_setup, backward=_dgrad_backward, jvp=_dgrad_jvp)
wgrad = differentiable(_WGRAD, setup=_wgrad_setup, backward=_wgrad_backward, jvp=_wgrad_jvp)


# --- vmap: a batch of images folds into the batch, a batch of weights into the groups --------------------------------


def _batched(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _into_channels(t: Tensor) -> Tensor:
    """(B, N, C, ...) -> (N, B*C, ...)"""
    return t.movedim(0, 1).flatten(1, 2)


def _from_channels(t: Tensor, size: int) -> Tensor:
    """(N, B*C, ...) -> (N, B, C, ...), whose batch dimension is 1."""
    return t.unflatten(1, (size, t.shape[1] // size))


def _image_weight_vmap(op: Any) -> Any:
    """The rule of fprop and dgrad, which both take (image, weight, bias) and return an image."""

    def rule(info: Any, dims: Any, image: Tensor, weight: Tensor, bias: Tensor | None, *conf: Any) -> Any:
        size = info.batch_size
        image_dim, weight_dim, bias_dim = dims[:3]
        *geometry, groups, mode = conf
        if weight_dim is not None:
            image, weight = _into_channels(_batched(image, image_dim, size)), _batched(weight, weight_dim, size)
            if bias is not None:
                bias = _batched(bias, bias_dim, size).flatten()
            result = op(image, weight.flatten(0, 1), bias, *geometry, groups * size, mode)
            return _from_channels(result, size), 1
        image = _batched(image, image_dim, size)
        if bias is None or bias_dim is None:
            result = op(image.flatten(0, 1), weight, bias, *conf)
            return result.unflatten(0, (size, image.shape[1])), 0
        result = op(image.flatten(0, 1), weight, None, *conf).unflatten(0, (size, image.shape[1]))
        bias = bias.movedim(bias_dim, 0)
        return result + bias.reshape(size, 1, -1, *[1] * (result.dim() - 3)), 0

    return rule


def _wgrad_vmap(info: Any, dims: Any, grad: Tensor, input: Tensor, kernel_size: Any, *conf: Any) -> Any:
    size = info.batch_size
    *geometry, groups, mode = conf
    grad, input = (_into_channels(_batched(t, d, size)) for t, d in zip((grad, input), dims[:2], strict=True))
    result = wgrad(grad, input, kernel_size, *geometry, groups * size, mode)
    return result.unflatten(0, (size, result.shape[0] // size)), 0


torch.library.register_vmap("convext::conv_fprop", _image_weight_vmap(fprop), lib=LIBRARY)
torch.library.register_vmap("convext::conv_dgrad", _image_weight_vmap(dgrad), lib=LIBRARY)
torch.library.register_vmap("convext::conv_wgrad", _wgrad_vmap, lib=LIBRARY)

for _op in (_FPROP, _DGRAD, _WGRAD):
    for _device in ("cpu", "cuda"):
        autocast(_op, _device)


# --- FLOPs, two a multiply-add as torch counts them ------------------------------------------------------------------


@register_flop_formula(torch.ops.convext.conv_fprop)
def _fprop_flops(input: Any, weight: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


@register_flop_formula(torch.ops.convext.conv_dgrad)
def _dgrad_flops(grad: Any, weight: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * math.prod(grad) * math.prod(weight[1:])


@register_flop_formula(torch.ops.convext.conv_wgrad)
def _wgrad_flops(grad: Any, input: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    return 2 * math.prod(grad) * math.prod(out_shape[1:])
