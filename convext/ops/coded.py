"""Plain calls, in eager mode of plain CPU tensors: operators whose geometry is coded in integers, and their gradients.

csrc/geometry_code.h says what the integers are, and why: a list costs more to pass than a small problem to compute.
convext.functional takes this way where nothing but autograd has a say in a call (not `is_observed`). Whatever else
there is, from a transform to a mistake, takes the operators of conv.py and pool.py, to which the gradients lead back as
soon as they are to be derived again. The kernels are the same, and so is every bit of the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import _sizes
from convext.ops import _autograd, conv, pool
from convext.ops._autograd import is_observed, plain_call

__all__ = ["avg_pool", "dgrad", "fprop", "is_observed", "max_pool"]

_FPROP = torch.ops.convext.conv_fprop.coded
_DGRAD = torch.ops.convext.conv_dgrad.coded
_WGRAD = torch.ops.convext.conv_wgrad.coded
_FPROP_BACKWARD = torch.ops.convext.conv_fprop_backward.default
_DGRAD_BACKWARD = torch.ops.convext.conv_dgrad_backward.default
_MAX = torch.ops.convext.max_pool.coded
_MAX_WITH_OFFSETS = torch.ops.convext.max_pool_with_offsets.coded
_SCATTER = torch.ops.convext.max_pool_scatter.coded
_AVG = torch.ops.convext.avg_pool.coded
_AVG_ADJOINT = torch.ops.convext.avg_pool_adjoint.coded

_wgrad, _max_with_offsets, _scatter = plain_call(_WGRAD), plain_call(_MAX_WITH_OFFSETS), plain_call(_SCATTER)
_avg, _avg_adjoint = plain_call(_AVG), plain_call(_AVG_ADJOINT)


# --- codes -----------------------------------------------------------------------------------------------------------

_FIELD = 10  # bits


def _fields(code: int, rank: int) -> list[tuple[int, int]]:
    """The pair of fields of each of the last `rank` axes."""
    shifts = [2 * _FIELD * axis for axis in reversed(range(rank))]
    mask = (1 << _FIELD) - 1
    return [(code >> shift & mask, code >> shift + _FIELD & mask) for shift in shifts]


def _steps(window: int, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stride and dilation."""
    fields = _fields(window, rank)
    return tuple([stride + 1 for stride, _ in fields]), tuple([dilation + 1 for _, dilation in fields])


def _sides(padding: int, rank: int) -> tuple[int, ...]:
    """(lo0, hi0, lo1, ...), which have a sign."""
    return tuple([side - (side >> _FIELD - 1 << _FIELD) for pair in _fields(padding, rank) for side in pair])


def _kernel(kernel_size: int, rank: int) -> tuple[int, ...]:
    return tuple([size + 1 for size, _ in _fields(kernel_size, rank)])


def _kernel_code(kernel: Sequence[int]) -> int:
    code = 0
    for size in kernel:
        code = code << 2 * _FIELD | size - 1
    return code


def _conv_conf(rank: int, window: int, padding: int, groups: int) -> tuple[Any, ...]:
    """The `conf` of conv.py."""
    stride, dilation = _steps(window, rank)
    return stride, _sides(padding, rank), dilation, groups, window >> 6 * _FIELD


def _pool_geometry(rank: int, kernel_size: int, window: int, padding: int) -> tuple[Any, ...]:
    """The `geometry` of pool.py."""
    stride, dilation = _steps(window, rank)
    return _kernel(kernel_size, rank), stride, _sides(padding, rank), dilation


# --- shapes ----------------------------------------------------------------------------------------------------------


@torch.library.register_fake("convext::conv_fprop.coded")  # type: ignore[untyped-decorator]
def _fprop_shape(x: Tensor, w: Tensor, b: Tensor | None, *code: int) -> Tensor:
    y: Tensor = conv.fprop_shape(x, w, b, *_conv_conf(x.dim() - 2, *code))
    return y


@torch.library.register_fake("convext::conv_dgrad.coded")  # type: ignore[untyped-decorator]
def _dgrad_shape(g: Tensor, w: Tensor, b: Tensor | None, *code: int) -> Tensor:
    y: Tensor = conv.dgrad_shape(g, w, b, *_conv_conf(g.dim() - 2, *code))
    return y


@torch.library.register_fake("convext::conv_wgrad.coded")  # type: ignore[untyped-decorator]
def _wgrad_shape(g: Tensor, x: Tensor, kernel_size: int, *code: int) -> Tensor:
    rank = x.dim() - 2
    y: Tensor = conv.wgrad_shape(g, x, _kernel(kernel_size, rank), *_conv_conf(rank, *code))
    return y


@torch.library.register_fake("convext::conv_fprop_backward")  # type: ignore[untyped-decorator]
def _fprop_backward_shape(grad: Tensor, x: Tensor, w: Tensor, *code: int) -> Any:
    return conv.empty_result(grad, w, x.shape), conv.empty_result(grad, x, w.shape)


@torch.library.register_fake("convext::conv_dgrad_backward")  # type: ignore[untyped-decorator]
def _dgrad_backward_shape(grad: Tensor, g: Tensor, w: Tensor, *code: int) -> Any:
    return conv.empty_result(grad, w, g.shape), conv.empty_result(g, grad, w.shape)


def _pooled(x: Tensor, kernel_size: int, window: int, padding: int, ceil_mode: bool) -> tuple[Any, list[int]]:
    """Kernel and sizes of the result."""
    kernel, stride, sides, dilation = _pool_geometry(x.dim() - 2, kernel_size, window, padding)
    return kernel, [
        _sizes.pooled_size(size, k, stride[i], sides[2 * i], sides[2 * i + 1], dilation[i], ceil_mode)
        for i, (size, k) in enumerate(zip(x.shape[2:], kernel, strict=True))
    ]


@torch.library.register_fake("convext::max_pool.coded")  # type: ignore[untyped-decorator]
def _max_shape(x: Tensor, k: int, window: int, padding: int, ceil_mode: bool, minimum: bool) -> Tensor:
    kernel, output = _pooled(x, k, window, padding, ceil_mode)
    return pool.empty_image(x, output, kernel)


@torch.library.register_fake("convext::max_pool_with_offsets.coded")  # type: ignore[untyped-decorator]
def _max_with_offsets_shape(x: Tensor, k: int, window: int, padding: int, ceil_mode: bool, minimum: bool) -> Any:
    kernel, output = _pooled(x, k, window, padding, ceil_mode)
    return pool.empty_image(x, output, kernel), pool.empty_image(x, output, kernel, pool.offset_type(kernel))


@torch.library.register_fake("convext::max_pool_scatter.coded")  # type: ignore[untyped-decorator]
def _scatter_shape(g: Tensor, offsets: Tensor, k: int, window: int, padding: int, *size: int) -> Tensor:
    rank = g.dim() - 2
    return pool.empty_image(offsets, size[3 - rank :], _kernel(k, rank), g.dtype)


@torch.library.register_fake("convext::avg_pool.coded")  # type: ignore[untyped-decorator]
def _avg_shape(x: Tensor, k: int, window: int, padding: int, ceil_mode: bool, include_pad: bool, d: int) -> Tensor:
    kernel, output = _pooled(x, k, window, padding, ceil_mode)
    return pool.empty_image(x, output, kernel, average=True)


@torch.library.register_fake("convext::avg_pool_adjoint.coded")  # type: ignore[untyped-decorator]
def _avg_adjoint_shape(g: Tensor, k: int, window: int, padding: int, include_pad: bool, d: int, *size: int) -> Tensor:
    rank = g.dim() - 2
    return pool.empty_image(g, size[3 - rank :], _kernel(k, rank), average=True)


# --- convolutions ----------------------------------------------------------------------------------------------------


def _conv_rule(forward_op: Any, backward_op: Any, rule: Any, transposed: bool) -> type[_autograd.PlainRule]:
    """fprop's or dgrad's: gradients from `backward_op` where both factors' are asked for, or by `rule`."""

    run, run_backward = plain_call(forward_op), plain_call(backward_op)

    class Rule(_autograd.PlainRule):
        @staticmethod
        def forward(ctx: Any, a: Tensor, w: Tensor, b: Tensor | None, *code: int) -> Tensor:
            y: Tensor = run(a, w, b, *code)
            ctx.code, ctx.sizes, ctx.kernel = code, a.shape, w.shape[2:]
            ctx.set_materialize_grads(False)
            need = ctx.needs_input_grad
            ctx.save_for_backward(a if need[1] else None, w if need[0] else None)
            return y

        @staticmethod
        def backward(ctx: Any, need: Sequence[bool], grad: Tensor, is_plain: bool) -> tuple[Tensor | None, ...]:
            if is_plain and need[1] and not grad.is_complex():
                if need[0]:
                    a, w = ctx.saved_tensors
                    by_image, by_weight = run_backward(grad, a, w, *ctx.code)
                    return by_image, by_weight, conv.sum_to_bias(grad) if need[2] else None
                if max(ctx.kernel) <= 1 << _FIELD:
                    a, _ = ctx.saved_tensors
                    output, image = (a, grad) if transposed else (grad, a)
                    by_weight = _wgrad(output, image, _kernel_code(ctx.kernel), *ctx.code)
                    return None, by_weight, conv.sum_to_bias(grad) if need[2] else None
            conf = _conv_conf(len(ctx.kernel), *ctx.code)
            gradients: tuple[Tensor | None, ...] = rule.gradients(ctx, conf, need, grad)
            return gradients

    return Rule


# --- poolings --------------------------------------------------------------------------------------------------------


def _three(sizes: Sequence[int]) -> tuple[int, ...]:
    """(depth, height, width)."""
    return (1, 1, 1, *sizes)[-3:]


class _MaxRule(_autograd.PlainRule):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *code: Any) -> Tensor:
        y: Tensor
        y, offsets = _max_with_offsets(x, *code)
        ctx.code, ctx.sizes = code[:3], x.shape[2:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(offsets)
        return y

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor, is_plain: bool) -> tuple[Tensor | None, ...]:
        (offsets,) = ctx.saved_tensors
        if is_plain:
            return (_scatter(grad, offsets, *ctx.code, *_three(ctx.sizes)),)
        return (pool.max_pool_scatter(grad, offsets, *_pool_geometry(len(ctx.sizes), *ctx.code), ctx.sizes),)


class _AvgRule(_autograd.PlainRule):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *code: Any) -> Tensor:
        y: Tensor = _avg(x, *code)
        ctx.code, ctx.sizes = code, x.shape[2:]
        ctx.set_materialize_grads(False)
        ctx.channels_last = x.stride(1) == 1 and pool.is_channels_last(x)
        return y

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor, is_plain: bool) -> tuple[Tensor | None, ...]:
        kernel_size, window, padding, _, include_pad, divisor = ctx.code
        if is_plain and not ctx.channels_last:
            code = (kernel_size, window, padding, include_pad, divisor)
            return (_avg_adjoint(grad, *code, *_three(ctx.sizes)),)
        geometry = _pool_geometry(len(ctx.sizes), kernel_size, window, padding)
        return (pool.averaged_gradient(grad, ctx.channels_last, geometry, ctx.sizes, include_pad, divisor),)


# --- entries ---------------------------------------------------------------------------------------------------------

_autograd.without_derivative(_FPROP, _DGRAD, _WGRAD, _FPROP_BACKWARD, _DGRAD_BACKWARD)
_autograd.without_derivative(_MAX, _MAX_WITH_OFFSETS, _SCATTER, _AVG, _AVG_ADJOINT)

# Where not `is_observed`; None where the operator refuses: (image, weight, bias, *code), (image, *code, ceil_mode, ...)
fprop = _autograd.plain(_FPROP, _conv_rule(_FPROP, _FPROP_BACKWARD, conv.FpropRule, transposed=False), tensors=3)
dgrad = _autograd.plain(_DGRAD, _conv_rule(_DGRAD, _DGRAD_BACKWARD, conv.DgradRule, transposed=True), tensors=3)
max_pool = _autograd.plain(_MAX, _MaxRule, tensors=1, node_of=_MAX_WITH_OFFSETS)
avg_pool = _autograd.plain(_AVG, _AvgRule, tensors=1)
