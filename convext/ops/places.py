"""Operators on places, int64 indices into the planes of an image, and on windows that lie or are drawn at random.

Gathering by places and adding up by them are each other's adjoint. Tensors are batched, (N, C, *spatial) with one to
three spatial axes; see csrc/library.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from convext.ops import _autograd
from convext.ops.pool import offset_type, vmap_rule

__all__ = ["fractional_max_places", "place_gather", "place_scatter", "stochastic_pool_offsets"]

_GATHER = torch.ops.convext.place_gather.default
_SCATTER = torch.ops.convext.place_scatter.default
_FRACTIONAL = torch.ops.convext.fractional_max_places.default
_STOCHASTIC = torch.ops.convext.stochastic_pool_offsets.default


@torch.library.register_fake("convext::place_gather")  # type: ignore[untyped-decorator]
def _gather_shape(x: Tensor, places: Tensor) -> Tensor:
    return x.new_empty(places.shape)


@torch.library.register_fake("convext::place_scatter")  # type: ignore[untyped-decorator]
def _scatter_shape(x: Tensor, places: Tensor, output_size: Sequence[int], accumulate: bool) -> Tensor:
    memory_format = suggest_memory_format(x) if x.dim() == 4 else torch.contiguous_format
    return torch.empty((*x.shape[:2], *output_size), dtype=x.dtype, device=x.device, memory_format=memory_format)


@torch.library.register_fake("convext::fractional_max_places")  # type: ignore[untyped-decorator]
def _fractional_shape(x: Tensor, begins: Tensor, kernel_size: Any, output_size: Sequence[int]) -> Tensor:
    return x.new_empty((*x.shape[:2], *output_size), dtype=torch.int64)


@torch.library.register_fake("convext::stochastic_pool_offsets")  # type: ignore[untyped-decorator]
def _stochastic_shape(x: Tensor, uniform: Tensor, kernel_size: Any, *_: Any) -> Tensor:
    return x.new_empty(uniform.shape, dtype=offset_type(kernel_size))


def _keep(ctx: Any, places: Tensor) -> None:
    ctx.save_for_backward(places)
    ctx.save_for_forward(places)


class _GatherRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, x: Tensor, places: Tensor) -> None:
        ctx.sizes = x.shape[2:]
        _keep(ctx, places)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        return (place_scatter(grad, places, ctx.sizes, True),)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (places,) = ctx.saved_tensors
        return place_gather(tangents[0], places)


class _ScatterRule(_autograd.Rule):
    """Where places are equal and one alone is kept, the gradient still goes to all of them, as in torch."""

    @staticmethod
    def save(ctx: Any, x: Tensor, places: Tensor, *conf: Any) -> None:
        ctx.conf = conf
        _keep(ctx, places)

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        return (place_gather(grad, places),)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (places,) = ctx.saved_tensors
        return place_scatter(tangents[0], places, *ctx.conf)


place_gather: Callable[..., Tensor] = _autograd.differentiable(_GATHER, _GatherRule, tensors=1)
place_scatter: Callable[..., Tensor] = _autograd.differentiable(_SCATTER, _ScatterRule, tensors=1)


def fractional_max_places(x: Tensor, *args: Any) -> Tensor:
    """The places of the largest elements of windows that begin where each plane's list says."""
    return cast(Tensor, _FRACTIONAL(x.detach(), *args))


def stochastic_pool_offsets(x: Tensor, *args: Any) -> Tensor:
    """The offset of one element of each window, drawn in proportion to its positive part."""
    return cast(Tensor, _STOCHASTIC(x.detach(), *args))


for _op, _entry in (
    (_GATHER, place_gather),
    (_SCATTER, place_scatter),
    (_FRACTIONAL, fractional_max_places),
    (_STOCHASTIC, stochastic_pool_offsets),
):
    _autograd.register_vmap(_op, vmap_rule(_entry, 2))
