"""unfold (im2col) and fold (col2im): each other's adjoint, so each is the other's gradient; both are linear.

Images are batched, (N, C, *spatial) with one to three spatial axes; columns are (N, C * taps, blocks), the rows in
torch's order: channel, then tap. `conf` is what both take at the end:

    kernel_size, dilation, padding (lo0, hi0, lo1, ...), stride.

Results are contiguous, as torch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from convext import _sizes
from convext.ops import _autograd

__all__ = ["fold", "unfold"]

_UNFOLD = torch.ops.convext.unfold.default
_FOLD = torch.ops.convext.fold.default


@torch.library.register_fake("convext::unfold")  # type: ignore[untyped-decorator]
def _unfold_shape(image: Tensor, kernel_size: Sequence[int], *conf: Any) -> Tensor:
    blocks = _sizes.blocks(image.shape[2:], kernel_size, *conf)
    return image.new_empty((image.shape[0], image.shape[1] * math.prod(kernel_size), math.prod(blocks)))


@torch.library.register_fake("convext::fold")  # type: ignore[untyped-decorator]
def _fold_shape(columns: Tensor, output_size: Sequence[int], kernel_size: Sequence[int], *conf: Any) -> Tensor:
    return columns.new_empty((columns.shape[0], columns.shape[1] // math.prod(kernel_size), *output_size))


class _UnfoldRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, image: Tensor, *conf: Any) -> None:
        ctx.conf, ctx.size = conf, image.shape[2:]

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        return (fold(grad, ctx.size, *ctx.conf) if need[0] else None,)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return unfold(cast(Tensor, tangents[0]), *ctx.conf)


class _FoldRule(_autograd.Rule):
    @staticmethod
    def save(ctx: Any, columns: Tensor, output_size: Sequence[int], *conf: Any) -> None:
        ctx.conf, ctx.size = conf, output_size

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        return (unfold(grad, *ctx.conf) if need[0] else None,)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return fold(cast(Tensor, tangents[0]), ctx.size, *ctx.conf)


def _batch_vmap(entry: Any, in_dims: Any, t: Tensor, *conf: Any) -> Any:
    """The mapped axis joins the batch."""
    t = t.movedim(in_dims[0], 0)
    return entry(t.flatten(0, 1), *conf).unflatten(0, t.shape[:2]), 0


def _unfold_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    return _batch_vmap(unfold, in_dims, *args)


def _fold_vmap(info: Any, in_dims: Any, *args: Any) -> Any:
    return _batch_vmap(fold, in_dims, *args)


class _Unfold(Protocol):
    def __call__(
        self,
        image: Tensor,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[int],
        stride: Sequence[int],
        /,
    ) -> Tensor: ...


class _Fold(Protocol):
    def __call__(
        self,
        columns: Tensor,
        output_size: Sequence[int],
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[int],
        stride: Sequence[int],
        /,
    ) -> Tensor: ...


unfold = cast(_Unfold, _autograd.differentiable(_UNFOLD, _UnfoldRule, tensors=1))
fold = cast(_Fold, _autograd.differentiable(_FOLD, _FoldRule, tensors=1))

_autograd.register_vmap(_UNFOLD, _unfold_vmap)
_autograd.register_vmap(_FOLD, _fold_vmap)
