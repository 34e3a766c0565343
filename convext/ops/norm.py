"""Local response normalisation and the product at each position: shapes, derivatives and vmap rules, side by side.

With S the sum over the window of channels and S' its adjoint (the window reversed), q = alpha / size,

    r = k + q S(x^2)        y = x r^-beta
    J(v)  = v r^-beta - 2 beta q x r^(-beta-1) S(x v)          the tangent
    J'(g) = g r^-beta - 2 beta q x S'(g x r^(-beta-1))         the gradient

The result and J' are kernels. J and the derivatives of J' are stated in torch's elementwise operations, in float32 at
least, and so have derivatives of every order.

The product at each position is bilinear and closed: its derivatives are the same operator on transposed operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from convext.ops import _autograd

__all__ = ["local_response_norm", "position_product"]

_NORM = torch.ops.convext.local_response_norm.default
_NORM_BACKWARD = torch.ops.convext.local_response_norm_backward.default
_PRODUCT = torch.ops.convext.position_product.default

Window = tuple[int, float, float, float]  # size, alpha, beta, k


@torch.library.register_fake("convext::local_response_norm")  # type: ignore[untyped-decorator]
def _norm_shape(x: Tensor, *window: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("convext::local_response_norm_backward")  # type: ignore[untyped-decorator]
def _norm_backward_shape(g: Tensor, x: Tensor, *window: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("convext::position_product")  # type: ignore[untyped-decorator]
def _product_shape(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[0], a.shape[2]))


# --- local response normalisation: J and the derivatives of J' --------------------------------------------------------


def _window_sum(t: Tensor, before: int, after: int) -> Tensor:
    """The sum over channels c - before to c + after, without subtracting."""
    channels = t.shape[1]
    before, after = min(before, channels), min(after, channels)
    padded = torch.nn.functional.pad(t, (0, 0) * (t.dim() - 2) + (before, after))
    total = padded.narrow(1, 0, channels)
    for i in range(1, before + after + 1):
        total = total + padded.narrow(1, i, channels)
    return total


class _Terms:
    """S, S' and powers of r for one input, in a type wide enough to compute in."""

    def __init__(self, x: Tensor, window: Window) -> None:
        size, alpha, self.beta, k = window
        self.before, self.after = size // 2, (size - 1) // 2
        self.scale = alpha / size
        self.dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
        self.x = x.to(self.dtype)
        self.r = k + self.scale * self.sum(self.x * self.x)

    def sum(self, t: Tensor) -> Tensor:
        return _window_sum(t, self.before, self.after)

    def adjoint_sum(self, t: Tensor) -> Tensor:
        return _window_sum(t, self.after, self.before)

    def power(self, less: int) -> Tensor:
        return self.r.pow(-self.beta - less)


def _tangent(x: Tensor, v: Tensor, window: Window) -> Tensor:
    """J(v)."""
    t = _Terms(x, window)
    wide = v.to(t.dtype)
    along = 2 * t.beta * t.scale * t.x * t.power(1) * t.sum(t.x * wide)
    return (wide * t.power(0) - along).to(x.dtype)


def _gradient_tangent(g: Tensor, x: Tensor, v: Tensor, window: Window) -> Tensor:
    """The change of J'(g) as x moves along v."""
    t = _Terms(x, window)
    wide, g = v.to(t.dtype), g.to(t.dtype)
    moved = 2 * t.scale * t.sum(t.x * wide)  # of r
    p1, p2 = t.power(1), t.power(2)
    inner = g * wide * p1 - (t.beta + 1) * g * t.x * p2 * moved
    sums = wide * t.adjoint_sum(g * t.x * p1) + t.x * t.adjoint_sum(inner)
    return (-t.beta * g * p1 * moved - 2 * t.beta * t.scale * sums).to(x.dtype)


class _NormRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, x: Tensor, *window: Any) -> None:
        ctx.window = window
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return (_local_response_norm_backward(grad, x, *ctx.window) if need[0] else None,)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (x,) = ctx.saved_tensors
        return _tangent(x, cast(Tensor, tangents[0]), ctx.window)


class _NormBackwardRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, g: Tensor, x: Tensor, *window: Any) -> None:
        ctx.window = window
        ctx.save_for_backward(g, x)
        ctx.save_for_forward(g, x)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        # second derivatives are symmetric: the change of J'(g) along v is also the gradient of <v, J'(g)> to x
        g, x = ctx.saved_tensors
        return (
            _tangent(x, grad, ctx.window) if need[0] else None,
            _gradient_tangent(g, x, grad, ctx.window) if need[1] else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        g, x = ctx.saved_tensors
        by_g = _local_response_norm_backward(tangents[0], x, *ctx.window) if tangents[0] is not None else None
        by_x = _gradient_tangent(g, x, tangents[1], ctx.window) if tangents[1] is not None else None
        if by_g is None or by_x is None:
            return cast(Tensor, by_x if by_g is None else by_g)
        return cast(Tensor, by_g + by_x)


# --- the product at each position -------------------------------------------------------------------------------------


class _ProductRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, a: Tensor, b: Tensor) -> None:
        need = ctx.needs_input_grad
        ctx.save_for_backward(a if need[1] else None, b if need[0] else None)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        return (
            position_product(grad, b.transpose(0, 1)) if need[0] else None,
            position_product(grad.transpose(0, 1), a.transpose(0, 1)) if need[1] else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        ta, tb = tangents
        by_a = position_product(ta, b) if ta is not None else None
        by_b = position_product(a, tb) if tb is not None else None
        if by_a is None or by_b is None:
            return cast(Tensor, by_b if by_a is None else by_a)
        return by_a + by_b


# --- vmap -------------------------------------------------------------------------------------------------------------


def _mapped_first(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _norm_vmap(info: Any, in_dims: Any, x: Tensor, *window: Any) -> Any:
    x = x.movedim(in_dims[0], 0)
    return local_response_norm(x.flatten(0, 1), *window).reshape(x.shape), 0


def _norm_backward_vmap(info: Any, in_dims: Any, g: Tensor, x: Tensor, *window: Any) -> Any:
    g, x = (_mapped_first(t, dim, info.batch_size) for t, dim in zip((g, x), in_dims[:2], strict=True))
    return _local_response_norm_backward(g.flatten(0, 1), x.flatten(0, 1), *window).reshape(x.shape), 0


def _product_vmap(info: Any, in_dims: Any, a: Tensor, b: Tensor) -> Any:
    """A mapped axis of one operand is more of its rows; of both, more positions."""
    a_dim, b_dim = in_dims
    size = info.batch_size
    if b_dim is None:
        a = a.movedim(a_dim, 0)
        y: Any = position_product(a.flatten(0, 1), b)
        return y.unflatten(0, a.shape[:2]), 0
    if a_dim is None:
        b = b.movedim(b_dim, 0)
        y = position_product(a, b.flatten(0, 1))
        return y.unflatten(1, b.shape[:2]), 1
    a, b = (t.movedim(dim, 2) for t, dim in ((a, a_dim), (b, b_dim)))
    y = position_product(a.flatten(2), b.flatten(2))
    return y.unflatten(2, (size, a.shape[3])), 2


def _product_flops(a: Any, b: Any, *, out_shape: Sequence[int]) -> tuple[int, ...]:
    return (*out_shape, a[1])


local_response_norm = cast(
    Callable[[Tensor, int, float, float, float], Tensor], _autograd.differentiable(_NORM, _NormRule, tensors=1)
)
_local_response_norm_backward = _autograd.differentiable(_NORM_BACKWARD, _NormBackwardRule, tensors=2)
position_product = cast(Callable[[Tensor, Tensor], Tensor], _autograd.differentiable(_PRODUCT, _ProductRule, tensors=2))

_autograd.register_vmap(_NORM, _norm_vmap)
_autograd.register_vmap(_NORM_BACKWARD, _norm_backward_vmap)
_autograd.register_vmap(_PRODUCT, _product_vmap)
_autograd.register_autocast(_PRODUCT)
_autograd.register_flops(_PRODUCT, _product_flops)
