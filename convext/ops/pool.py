"""Max and average pooling: for each operator, side by side, its shape, its derivatives and its vmap rule.

Max pooling is a gather by recorded offsets, and its adjoint a scatter by the same: each is the derivative of the other.
Average pooling is linear and its adjoint is its gradient. Tensors are batched, (N, C, *spatial) with one to three
spatial axes. `geometry` is what every operator takes after its tensors,

    kernel_size, stride, padding (lo0, hi0, lo1, ...), dilation; each ADAPTIVE where the windows are adaptive,

and then the sizes of the result, which ceil_mode and adaptive windows decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from convext.ops import _autograd

__all__ = [
    "ADAPTIVE",
    "avg_pool",
    "avg_pool_adjoint",
    "is_adaptive",
    "l2_pool",
    "max_pool",
    "max_pool_gather",
    "max_pool_indices",
    "max_pool_scatter",
]
__all__ += ["max_pool_with_offsets"]

# In place of each list of the geometry: the windows divide the image. A length that no other list has, so that nobody
# need look at values, which may be symbolic; and not empty lists, which AOTInductor (torch 2.13) passes as None.
ADAPTIVE = (0, 0, 0, 0)

_MAX = torch.ops.convext.max_pool.default
_MAX_WITH_OFFSETS = torch.ops.convext.max_pool_with_offsets.default
_GATHER = torch.ops.convext.max_pool_gather.default
_SCATTER = torch.ops.convext.max_pool_scatter.default
_INDICES = torch.ops.convext.max_pool_indices.default
_AVG = torch.ops.convext.avg_pool.default
_L2 = torch.ops.convext.l2_pool.default
_L2_ADJOINT = torch.ops.convext.l2_pool_adjoint.default
_AVG_ADJOINT = torch.ops.convext.avg_pool_adjoint.default


# --- shapes ----------------------------------------------------------------------------------------------------------


def is_adaptive(kernel_size: Sequence[Any]) -> bool:
    """Whether this kernel size says that the windows are adaptive."""
    return len(kernel_size) == len(ADAPTIVE)


def empty_image(
    x: Tensor, spatial: Sequence[int], kernel_size: Any, dtype: torch.dtype | None = None, average: bool = False
) -> Tensor:
    """A result in the memory format that torch gives it; csrc/pool_contract.cpp states the same rule."""
    memory_format = suggest_memory_format(x)
    adaptive = is_adaptive(kernel_size)
    if x.dim() == 5 and (adaptive or average) and not (adaptive and average and tuple(spatial) == (1, 1, 1)):
        memory_format = torch.contiguous_format
    size = (*x.shape[:2], *spatial)
    return torch.empty(size, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format)


def offset_type(kernel_size: Sequence[int]) -> torch.dtype:
    """The smallest type that holds the number of taps; of an adaptive window, whose size is the image's affair, any."""
    if is_adaptive(kernel_size):
        return torch.int32
    taps = math.prod(kernel_size)
    return torch.uint8 if taps < 1 << 8 else torch.int16 if taps < 1 << 15 else torch.int32


@torch.library.register_fake("convext::max_pool")  # type: ignore[untyped-decorator]
def _max_shape(x: Tensor, k: Any, s: Any, p: Any, d: Any, output_size: Sequence[int], minimum: bool) -> Tensor:
    return empty_image(x, output_size, k)


@torch.library.register_fake("convext::max_pool_with_offsets")  # type: ignore[untyped-decorator]
def _max_with_offsets_shape(x: Tensor, k: Any, s: Any, p: Any, d: Any, output_size: Any, minimum: bool) -> Any:
    return empty_image(x, output_size, k), empty_image(x, output_size, k, offset_type(k))


@torch.library.register_fake("convext::max_pool_gather")  # type: ignore[untyped-decorator]
def _gather_shape(x: Tensor, offsets: Tensor, k: Any, *_: Any) -> Tensor:
    return empty_image(x, offsets.shape[2:], k)


@torch.library.register_fake("convext::max_pool_scatter")  # type: ignore[untyped-decorator]
def _scatter_shape(g: Tensor, offsets: Tensor, k: Any, s: Any, p: Any, d: Any, input_size: Sequence[int]) -> Tensor:
    return empty_image(offsets, input_size, k, g.dtype)


@torch.library.register_fake("convext::max_pool_indices")  # type: ignore[untyped-decorator]
def _indices_shape(offsets: Tensor, k: Any, *_: Any) -> Tensor:
    return empty_image(offsets, offsets.shape[2:], k, torch.int64)


@torch.library.register_fake("convext::avg_pool")  # type: ignore[untyped-decorator]
def _avg_shape(x: Tensor, k: Any, s: Any, p: Any, d: Any, output_size: Sequence[int], *_: Any) -> Tensor:
    return empty_image(x, output_size, k, average=True)


@torch.library.register_fake("convext::l2_pool")  # type: ignore[untyped-decorator]
def _l2_shape(x: Tensor, k: Any, s: Any, p: Any, d: Any, output_size: Sequence[int]) -> Tensor:
    return empty_image(x, output_size, k, average=True)


@torch.library.register_fake("convext::l2_pool_adjoint")  # type: ignore[untyped-decorator]
def _l2_adjoint_shape(g: Tensor, y: Tensor, x: Tensor, k: Any, *_: Any) -> Tensor:
    return empty_image(x, x.shape[2:], k)


@torch.library.register_fake("convext::avg_pool_adjoint")  # type: ignore[untyped-decorator]
def _avg_adjoint_shape(g: Tensor, k: Any, s: Any, p: Any, d: Any, input_size: Sequence[int], *_: Any) -> Tensor:
    return empty_image(g, input_size, k, average=True)


# --- derivatives -----------------------------------------------------------------------------------------------------


class _MaxRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, offsets: Tensor, x: Tensor, *conf: Any) -> None:
        ctx.geometry, ctx.sizes = conf[:4], x.shape[2:]
        ctx.save_for_backward(offsets)
        ctx.save_for_forward(offsets)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        (offsets,) = ctx.saved_tensors
        return (max_pool_scatter(grad, offsets, *ctx.geometry, ctx.sizes),)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (offsets,) = ctx.saved_tensors
        return max_pool_gather(tangents[0], offsets, *ctx.geometry)


class _GatherRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, x: Tensor, offsets: Tensor, *geometry: Any) -> None:
        _MaxRule.save(ctx, offsets, x, *geometry)

    backward = _MaxRule.backward
    jvp = _MaxRule.jvp


class _ScatterRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, g: Tensor, offsets: Tensor, *conf: Any) -> None:
        ctx.conf = conf
        ctx.save_for_backward(offsets)
        ctx.save_for_forward(offsets)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        (offsets,) = ctx.saved_tensors
        return (max_pool_gather(grad, offsets, *ctx.conf[:4]),)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (offsets,) = ctx.saved_tensors
        return max_pool_scatter(tangents[0], offsets, *ctx.conf)


def is_channels_last(x: Tensor) -> bool:
    return suggest_memory_format(x) is not torch.contiguous_format


def averaged_gradient(
    grad: Tensor, channels_last: bool, geometry: Any, sizes: Sequence[int], count_include_pad: bool, divisor: int
) -> Tensor:
    """The gradient to an image of these spatial sizes, by `avg_pool_adjoint`."""
    return avg_pool_adjoint(as_image(grad, channels_last), *geometry, sizes, count_include_pad, divisor)


def as_image(grad: Tensor, channels_last: bool) -> Tensor:
    """The operator gives its argument's memory format; as in torch the gradient has that of the image."""
    if channels_last and math.prod(grad.shape[2:]) != 1:
        return grad.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap knows no other way
    return grad


def _linear(forward: Callable[..., Tensor], adjoint: Callable[..., Tensor]) -> type[_autograd.Rule]:
    """The rule of an operator (image, *geometry, sizes of the result, ...) that is linear in the image."""

    class Rule(_autograd.Rule):
        @staticmethod
        def save(ctx: Any, x: Tensor, *conf: Any) -> None:
            ctx.conf, ctx.sizes = conf, x.shape[2:]
            ctx.channels_last = is_channels_last(x)

        @staticmethod
        def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
            return (adjoint(as_image(grad, ctx.channels_last), *ctx.conf[:4], ctx.sizes, *ctx.conf[5:]),)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            return forward(tangents[0], *ctx.conf)

    return Rule


class _L2Rule(_autograd.Rule):
    """y = sqrt(taps * average(x * x)); where it is 0, its derivative is taken as 0. Half types in float32."""

    keeps_result = True

    @staticmethod
    def save(ctx: Any, y: Tensor, x: Tensor, *conf: Any) -> None:
        ctx.conf = conf
        ctx.save_for_backward(y, x)
        ctx.save_for_forward(y, x)

    @staticmethod
    def _quotient(ctx: Any, t: Tensor, y: Tensor) -> Tensor:
        """taps * t / y, and 0 where y is."""
        zero = y == 0
        return torch.where(zero, 0, t * math.prod(ctx.conf[0]) / torch.where(zero, 1, y))

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        y, x = ctx.saved_tensors
        if grad.is_cpu and not torch.is_grad_enabled():  # no derivative of this one is asked for: one pass
            return (_l2_pool_adjoint(grad, y, x, *ctx.conf[:4]),)
        through = avg_pool_adjoint(_L2Rule._quotient(ctx, _wide(grad), _wide(y)), *ctx.conf[:4], x.shape[2:], True, 0)
        return ((_wide(x) * through).to(x.dtype),)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        y, x = ctx.saved_tensors
        moved = avg_pool(_wide(x) * _wide(cast(Tensor, tangents[0])), *ctx.conf, True, 0)
        return _L2Rule._quotient(ctx, moved, _wide(y)).to(x.dtype)


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


# --- vmap: every plane stands for itself, so that the mapped axis joins the batch -------------------------------------


def vmap_rule(entry: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """The rule of an operator whose first arguments are so many tensors."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        size = info.batch_size
        mapped = [
            t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(args[:tensors], in_dims[:tensors], strict=True)
        ]
        y = entry(*[t.flatten(0, 1) for t in mapped], *args[tensors:])
        batch = mapped[0].shape[1]
        if isinstance(y, tuple):
            return tuple(t.unflatten(0, (size, batch)) for t in y), (0,) * len(y)
        return y.unflatten(0, (size, batch)), 0

    return rule


# --- entries ---------------------------------------------------------------------------------------------------------

_Operator = Callable[..., Tensor]

max_pool_with_offsets = cast(
    Callable[..., tuple[Tensor, Tensor]], _autograd.differentiable(_MAX_WITH_OFFSETS, _MaxRule, tensors=1)
)
max_pool: _Operator = _autograd.without_record(_MAX, max_pool_with_offsets)
max_pool_gather: _Operator = _autograd.differentiable(_GATHER, _GatherRule, tensors=1)
max_pool_scatter: _Operator = _autograd.differentiable(_SCATTER, _ScatterRule, tensors=1)


def max_pool_indices(offsets: Tensor, *conf: Any) -> Tensor:
    """The winners' places in their planes, as torch counts them; -1 where a window is empty."""
    return cast(Tensor, _INDICES(offsets, *conf))


def _forward(x: Tensor | None, *conf: Any) -> Tensor:
    return avg_pool(x, *conf)


def _adjoint(g: Tensor | None, *conf: Any) -> Tensor:
    return avg_pool_adjoint(g, *conf)


avg_pool: _Operator = _autograd.differentiable(_AVG, _linear(_forward, _adjoint), tensors=1)
avg_pool_adjoint: _Operator = _autograd.differentiable(_AVG_ADJOINT, _linear(_adjoint, _forward), tensors=1)


def _l2_pool_adjoint(*args: Any) -> Tensor:
    return cast(Tensor, _L2_ADJOINT(*args))


l2_pool: _Operator = _autograd.differentiable(_L2, _L2Rule, tensors=1)

for _op, _entry, _tensors in (
    (_MAX, max_pool, 1),
    (_MAX_WITH_OFFSETS, max_pool_with_offsets, 1),
    (_GATHER, max_pool_gather, 2),
    (_SCATTER, max_pool_scatter, 2),
    (_INDICES, max_pool_indices, 1),
    (_AVG, avg_pool, 1),
    (_L2, l2_pool, 1),
    (_L2_ADJOINT, _l2_pool_adjoint, 3),
    (_AVG_ADJOINT, avg_pool_adjoint, 1),
):
    _autograd.register_vmap(_op, vmap_rule(_entry, _tensors))
