"""The convolution operators: for each, side by side, its shape, its derivatives, its vmap rule, autocast and FLOPs.

With L(g, x, w) = <g, x * w>, fprop is dL/dg, dgrad dL/dx and wgrad dL/dw. Each is bilinear and its derivatives are the
other two, so gradients of every order come from these three. Tensors are batched: images (N, C, *spatial), weights
(K, C / groups, *kernel), one to three spatial axes. `conf` is always what the operators take at the end:

    stride, padding (lo0, hi0, lo1, ...), dilation, groups, padding_mode (an index into convext._padding.MODES).

The derivatives of fprop use *exact* padding, from which the remainder that no window reaches is cut off. With it fprop
and dgrad determine each other's sizes, so the same `conf` serves all further derivatives.

The operators do not conjugate. torch's complex gradients conjugate the other factor; tangents do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from convext import _sizes
from convext.ops import _autograd

__all__ = ["dgrad", "dgrad_shape", "fprop", "fprop_shape", "wgrad", "wgrad_shape"]

_FPROP = torch.ops.convext.conv_fprop.default
_DGRAD = torch.ops.convext.conv_dgrad.default
_WGRAD = torch.ops.convext.conv_wgrad.default


# --- shapes ----------------------------------------------------------------------------------------------------------


# torch's 3-D kernels of these types know no channels_last.
_CONTIGUOUS_IN_3D = (torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def empty_result(a: Tensor, b: Tensor, size: Sequence[int]) -> Tensor:
    """A result in the memory format that torch gives it; csrc/contract.cpp states the same rule."""
    torch._check(  # type: ignore[no-untyped-call]
        a.device == b.device, lambda: f"convext: expected operands on one device, got {a.device}, {b.device}"
    )
    memory_format = torch.contiguous_format
    if not (a.dim() == 5 and a.dtype in _CONTIGUOUS_IN_3D):
        for operand in (b, a):
            suggested = suggest_memory_format(operand)
            memory_format = memory_format if suggested is torch.contiguous_format else suggested
    return torch.empty(size, dtype=a.dtype, device=a.device, memory_format=memory_format)


def _spatial(formula: Any, sizes: Sequence[int], kernel: Sequence[int], conf: Any) -> list[int]:
    """A size formula on every axis."""
    stride, padding, dilation = conf[:3]
    return [
        formula(size, k, stride[i], padding[2 * i], padding[2 * i + 1], dilation[i])
        for i, (size, k) in enumerate(zip(sizes, kernel, strict=True))
    ]


@torch.library.register_fake("convext::conv_fprop")  # type: ignore[untyped-decorator]
def fprop_shape(x: Tensor, w: Tensor, b: Tensor | None, *conf: Any) -> Tensor:
    return empty_result(x, w, (x.shape[0], w.shape[0], *_spatial(_sizes.output_size, x.shape[2:], w.shape[2:], conf)))


@torch.library.register_fake("convext::conv_dgrad")  # type: ignore[untyped-decorator]
def dgrad_shape(g: Tensor, w: Tensor, b: Tensor | None, *conf: Any) -> Tensor:
    spatial = _spatial(_sizes.transposed_size, g.shape[2:], w.shape[2:], conf)
    return empty_result(g, w, (g.shape[0], w.shape[1] * conf[3], *spatial))


@torch.library.register_fake("convext::conv_wgrad")  # type: ignore[untyped-decorator]
def wgrad_shape(g: Tensor, x: Tensor, kernel_size: Sequence[int], *conf: Any) -> Tensor:
    return empty_result(g, x, (g.shape[1], x.shape[1] // conf[3], *kernel_size))


# --- derivatives -----------------------------------------------------------------------------------------------------


def _conj(t: Tensor) -> Tensor:
    return t.conj() if t.is_complex() else t


# Sums of fewer elements torch leaves to one thread (at::internal::GRAIN_SIZE).
_SUMMED_BY_ONE_THREAD = 1 << 15
_ALL_BUT_CHANNELS = (0, 2, 3, 4)


def sum_to_bias(grad: Tensor) -> Tensor:
    elements = grad.numel()
    if grad.shape[1] != 1 or (type(elements) is int and elements < _SUMMED_BY_ONE_THREAD):
        return grad.sum(_ALL_BUT_CHANNELS[: grad.dim() - 1])
    # torch cuts a sum to a single number among its threads, which then enter its bits: correlate with ones instead.
    rank = grad.dim() - 2
    ones = grad.new_ones(()).expand(grad.shape)
    return wgrad(grad, ones, (1,) * rank, (1,) * rank, (0,) * (2 * rank), (1,) * rank, 1, 0).reshape(1)


def _spread_bias(b: Tensor, batch: int, spatial: Sequence[int]) -> Tensor:
    return b.reshape(-1, *[1] * len(spatial)).expand(batch, -1, *spatial).clone()


def _add(a: Tensor | None, b: Tensor | None) -> Tensor:
    if a is None or b is None:
        return cast(Tensor, b if a is None else a)
    return a + b


def _save(ctx: Any, a: Tensor, b: Tensor) -> None:
    """Both factors for a tangent; for the gradient each only where the other one's is asked for.

    Under a frozen layer the image is then not kept alive.
    """
    need = ctx.needs_input_grad
    ctx.save_for_backward(a if need[1] else None, b if need[0] else None)
    ctx.save_for_forward(a, b)


class FpropRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, *conf: Any) -> None:
        ctx.conf, ctx.sizes, ctx.kernel = conf, x.shape, w.shape[2:]
        _save(ctx, x, w)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        return FpropRule.gradients(ctx, ctx.conf, need, grad)

    @staticmethod
    def gradients(ctx: Any, conf: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        stride, padding, dilation, groups, mode = conf
        padding = _sizes.exact_padding(ctx.sizes[2:], ctx.kernel, stride, padding, dilation)
        conf = (stride, padding, dilation, groups, mode)
        return (
            dgrad(grad, _conj(w), None, *conf) if need[0] else None,
            wgrad(grad, _conj(x), ctx.kernel, *conf) if need[1] else None,
            sum_to_bias(grad) if need[2] else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x, w = ctx.saved_tensors
        tx, tw, tb = tangents
        tb = tb.contiguous() if tb is not None else None
        by_x = fprop(tx, w, tb, *ctx.conf) if tx is not None else None
        by_w = fprop(x, tw, tb if tx is None else None, *ctx.conf) if tw is not None else None
        if tx is None and tw is None and tb is not None:
            return _spread_bias(tb, x.shape[0], _spatial(_sizes.output_size, x.shape[2:], ctx.kernel, ctx.conf))
        return _add(by_x, by_w)


class DgradRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, g: Tensor, w: Tensor, b: Tensor | None, *conf: Any) -> None:
        ctx.conf, ctx.kernel = conf, w.shape[2:]
        _save(ctx, g, w)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        return DgradRule.gradients(ctx, ctx.conf, need, grad)

    @staticmethod
    def gradients(ctx: Any, conf: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        return (
            fprop(grad, _conj(w), None, *conf) if need[0] else None,
            wgrad(_conj(g), grad, ctx.kernel, *conf) if need[1] else None,
            sum_to_bias(grad) if need[2] else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        g, w = ctx.saved_tensors
        tg, tw, tb = tangents
        tb = tb.contiguous() if tb is not None else None
        by_g = dgrad(tg, w, tb, *ctx.conf) if tg is not None else None
        by_w = dgrad(g, tw, tb if tg is None else None, *ctx.conf) if tw is not None else None
        if tg is None and tw is None and tb is not None:
            return _spread_bias(tb, g.shape[0], _spatial(_sizes.transposed_size, g.shape[2:], ctx.kernel, ctx.conf))
        return _add(by_g, by_w)


class _WgradRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, g: Tensor, x: Tensor, kernel_size: Sequence[int], *conf: Any) -> None:
        ctx.conf, ctx.sizes, ctx.kernel = conf, x.shape, kernel_size
        _save(ctx, g, x)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        stride, padding, dilation, groups, mode = ctx.conf
        exact = _sizes.exact_padding(ctx.sizes[2:], ctx.kernel, stride, padding, dilation)
        return (
            fprop(_conj(x), grad, None, *ctx.conf) if need[0] else None,
            dgrad(_conj(g), grad, None, stride, exact, dilation, groups, mode) if need[1] else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        g, x = ctx.saved_tensors
        tg, tx = tangents
        return _add(
            wgrad(tg, x, ctx.kernel, *ctx.conf) if tg is not None else None,
            wgrad(g, tx, ctx.kernel, *ctx.conf) if tx is not None else None,
        )


# --- vmap: under a shared weight the mapped axis joins the batch; mapped weights make groups --------------------------


def _mapped_first(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _into_channels(t: Tensor) -> Tensor:
    """(B, N, C, ...) -> (N, B * C, ...)"""
    return t.movedim(0, 1).flatten(1, 2)


def _image_vmap(entry: Any, info: Any, in_dims: Any, image: Tensor, w: Tensor, b: Tensor | None, *conf: Any) -> Any:
    """The rule of fprop and dgrad, which both take (image, weight, bias) to an image."""
    size = info.batch_size
    image_dim, w_dim, b_dim = in_dims[:3]
    *geometry, groups, mode = conf
    image = _mapped_first(image, image_dim, size)
    if w_dim is not None:
        w = _mapped_first(w, w_dim, size).flatten(0, 1)
        bias = None if b is None else _mapped_first(b, b_dim, size).flatten()
        y = entry(_into_channels(image), w, bias, *geometry, groups * size, mode)
        return y.unflatten(1, (size, y.shape[1] // size)), 1
    shared = b if b_dim is None else None
    y = entry(image.flatten(0, 1), w, shared, *conf).unflatten(0, (size, image.shape[1]))
    if b is not None and b_dim is not None:
        y = y + b.movedim(b_dim, 0).reshape(size, 1, -1, *[1] * (y.dim() - 3))
    return y, 0


def _fprop_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    return _image_vmap(fprop, info, in_dims, *args)


def _dgrad_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    return _image_vmap(dgrad, info, in_dims, *args)


def _wgrad_vmap(info: Any, in_dims: Any, g: Tensor, x: Tensor, kernel_size: Any, *conf: Any) -> Any:
    size = info.batch_size
    stride, padding, dilation, groups, mode = conf
    g, x = (_into_channels(_mapped_first(t, dim, size)) for t, dim in zip((g, x), in_dims[:2], strict=True))
    y: Any = wgrad(g, x, kernel_size, stride, padding, dilation, groups * size, mode)
    return y.unflatten(0, (size, y.shape[0] // size)), 0


# --- multiply-adds: every pixel and channel of the convolution's output meets one window of one group -----------------


def _fprop_flops(x: Any, w: Any, *_: Any, out_shape: Sequence[int]) -> tuple[int, ...]:
    return (*out_shape, *w[1:])


def _dgrad_flops(g: Any, w: Any, *_: Any, out_shape: Sequence[int]) -> tuple[int, ...]:
    return (*g, *w[1:])


def _wgrad_flops(g: Any, x: Any, *_: Any, out_shape: Sequence[int]) -> tuple[int, ...]:
    return (*g, *out_shape[1:])


# --- entries ---------------------------------------------------------------------------------------------------------


class _ImageOperator(Protocol):
    def __call__(
        self,
        image: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding_mode: int,
        /,
    ) -> Tensor: ...


class _WeightOperator(Protocol):
    def __call__(
        self,
        grad_output: Tensor,
        input: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding_mode: int,
        /,
    ) -> Tensor: ...


fprop = cast(_ImageOperator, _autograd.differentiable(_FPROP, FpropRule, tensors=3))
dgrad = cast(_ImageOperator, _autograd.differentiable(_DGRAD, DgradRule, tensors=3))
wgrad = cast(_WeightOperator, _autograd.differentiable(_WGRAD, _WgradRule, tensors=2))

for _op, _vmap, _flops in (
    (_FPROP, _fprop_vmap, _fprop_flops),
    (_DGRAD, _dgrad_vmap, _dgrad_flops),
    (_WGRAD, _wgrad_vmap, _wgrad_flops),
):
    _autograd.register_vmap(_op, _vmap)
    _autograd.register_autocast(_op)
    _autograd.register_flops(_op, _flops)
