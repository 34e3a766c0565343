"""For every operator that moves data: what its result sees of the input, from what its arguments see.

Operators on single elements join what their arguments see. An operator that nobody here knows is taken to read all of
its arguments for every element. Statistics of normalisations do not count, as is usual for receptive fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from convext.inspect import dataflow_windows as window
from convext.inspect.dataflow_call import OpCall
from convext.inspect.receptive_field import Field, shifted, windows
from convext.inspect.recording import tensors_in

__all__ = ["field_of_result"]


Rule = Callable[[OpCall], "Field | list[Field | None] | None"]


def field_of_result(call: OpCall, outputs: Sequence[Tensor]) -> list[Field | None]:
    """The field of each tensor of the result."""
    rule = _RULES.get(call.name) or _RULES.get(call.name.removesuffix("_"))
    if rule is None:
        rule = _elementwise if torch.Tag.pointwise in call.op.tags else OpCall.everything
    fields = rule(call)
    if isinstance(fields, list):
        return fields
    return [fields if t.shape == outputs[0].shape else None for t in outputs]


# --- elements ---------------------------------------------------------------------------------------------------------


def _broadcast(field: Field, size: Sequence[int], to: Sequence[int]) -> Field:
    """The field of a tensor of this size as part of one of size `to`."""
    more = len(to) - len(size)
    for dim in range(len(size)):
        if size[dim] == 1 and to[dim + more] != 1:
            field = field.picked(dim, 0)
    return field.moved({dim: dim + more for dim in range(len(size))})


def _elementwise(call: OpCall) -> Field | None:
    size, result = call.size, None
    for t in tensors_in((call.args, call.kwargs)):
        field = call.field(t)
        if field is not None:
            field = _broadcast(field, t.shape, size) if t.dim() <= len(size) else field.whole(*range(t.dim()))
            result = field if result is None else result.joined(field, size)
    return result


def _as_first(call: OpCall) -> Field | None:
    """The first argument's field: copies, and normalisations, whose statistics do not count."""
    return call.field(call.source)


def _copied(call: OpCall) -> Field | None:
    field = call.field(call["src"])
    return None if field is None else _broadcast(field, call["src"].shape, call.size)


def _nothing(call: OpCall) -> Field | None:
    """Values that do not depend on the argument's."""
    return None


# --- views ------------------------------------------------------------------------------------------------------------


def _viewed(call: OpCall) -> Field | None:
    field = call.field(call.source)
    return None if field is None else field.viewed(call.source.shape, call.size)


def _permuted(call: OpCall) -> Field | None:
    field, rank = call.field(call.source), call.source.dim()
    order = list(range(rank))
    if "permute" in call.name:
        order = [d % rank for d in call["dims"]]
    elif rank > 1:
        a, b = (0, 1) if call.name == "aten::t" else (call["dim0"] % rank, call["dim1"] % rank)
        order[a], order[b] = order[b], order[a]
    return None if field is None else field.moved({dim: i for i, dim in enumerate(order)})


def _expanded(call: OpCall) -> Field | None:
    field = call.field(call.source)
    return None if field is None else _broadcast(field, call.source.shape, call.size)


def _repeated(call: OpCall) -> Field | None:
    x, repeats = call.source, call["repeats"]
    field, more = call.field(x), len(repeats) - x.dim()
    if field is None:
        return None
    for dim, n in enumerate(x.shape):
        if repeats[dim + more] != 1:
            field = field.picked(dim, 0) if n == 1 else field.whole(dim)
    return field.moved({dim: dim + more for dim in range(x.dim())})


def _indexed(call: OpCall) -> Field | None:
    """A list of places along one dimension; any other index may take everything from everywhere."""
    x, indices = call.source, call["indices"]
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    field = call.field(x)
    if field is None or len(dims) != 1 or indices[dims[0]].dim() != 1:
        return call.everything()
    return field.whole(dims[0])


def _sliced(call: OpCall) -> Field | None:
    field, dim = call.field(call.source), call["dim"] % call.source.dim()
    start, n = call["start"] or 0, call.source.shape[dim]
    start = min(start + n if start < 0 else start, n)
    return None if field is None else field.read(dim, windows(1, call["step"], -start))


def _without(field: Field, dim: int, index: int, rank: int) -> Field:
    field = field.picked(dim, index)
    return field.moved({d: d - (d > dim) for d in range(rank) if d != dim})


def _selected(call: OpCall) -> Field | None:
    field, rank = call.field(call.source), call.source.dim()
    dim = call["dim"] % rank
    return None if field is None else _without(field, dim, call["index"] % call.source.shape[dim], rank)


def _split(call: OpCall) -> list[Field | None]:
    field, dim, start = call.field(call.source), call["dim"] % call.source.dim(), 0
    fields: list[Field | None] = []
    for part in tensors_in(call.output):
        fields.append(None if field is None else field.read(dim, shifted(start)))
        start += part.shape[dim]
    return fields


def _unbound(call: OpCall) -> list[Field | None]:
    field, rank = call.field(call.source), call.source.dim()
    dim = call["dim"] % rank
    parts = range(len(tensors_in(call.output)))
    return [None if field is None else _without(field, dim, i, rank) for i in parts]


def _concatenated(call: OpCall) -> Field | None:
    """Along another dimension than those of the field its elements see what all parts together do."""
    dim, result = call["dim"] % len(call.size), None
    for t in call["tensors"]:
        field = call.field(t)
        if field is not None:
            if "stack" in call.name:
                field = field.moved({d: d + (d >= dim) for d in range(t.dim())})
            elif t.shape[dim] != call.size[dim]:
                field = field.whole(dim)
            result = field if result is None else result.joined(field, call.size)
    return result


# --- sums -------------------------------------------------------------------------------------------------------------


def _reduced(call: OpCall) -> Field | None:
    x = call.source
    field, rank = call.field(x), x.dim()
    if field is None:
        return None
    dims = call.get("dim")
    dims = (
        range(rank) if dims is None or dims == [] else [d % rank for d in (dims if isinstance(dims, list) else [dims])]
    )
    field = field.whole(*dims)
    if len(call.size) == rank:
        return field
    kept = [d for d in range(rank) if d not in dims]
    return field.moved({d: i for i, d in enumerate(kept)})


def _along(call: OpCall) -> Field | None:
    """Each element reads all along `dim`, or along each of `dims`."""
    x = call.source
    field, dims = call.field(x), call.get("dims") or [call["dim"]]
    return None if field is None else field.whole(*[d % x.dim() for d in dims])


def _product(call: OpCall) -> Field | None:
    """Matrices, or batches of them, (..., m, k) times (..., k, n); a bias is no function of the input."""
    a, b = tensors_in(call.args)[-2:]
    left, right = call.field(a), call.field(b)
    last = a.dim() - 1
    if left is not None:
        left = left.whole(last)
    if right is not None:
        right = right.whole(last - 1)
    if left is None or right is None:
        return right if left is None else left
    return left.joined(right, call.size)


def _position_product(call: OpCall) -> Field | None:
    """out[i, j, p] = sum over r of a[i, r, p] * b[j, r, p]"""
    a, b = (call.field(call[name]) for name in ("a", "b"))
    left = None if a is None else a.moved({0: 0, 2: 2})
    right = None if b is None else b.moved({0: 1, 2: 2})
    if left is None or right is None:
        return right if left is None else left
    return left.joined(right, call.size)


def _embedded(call: OpCall) -> Field | None:
    return call.field(call["indices"])


def _table(*groups: tuple[Rule, str]) -> dict[str, Rule]:
    return {(n if "::" in n else f"aten::{n}"): rule for rule, names in groups for n in names.split()}


_RULES = _table(
    (window.convolution, "convolution _convolution convolution_overrideable convext::conv_fprop convext::conv_dgrad"),
    (window.convolution, "convext::conv_fused"),
    (window.pool, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d adaptive_max_pool2d"),
    (window.pool, "adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d convext::max_pool convext::avg_pool"),
    (window.pool, "convext::max_pool_with_offsets convext::l2_pool convext::max_pool_gather"),
    (window.pool, "convext::stochastic_pool_offsets"),
    (window.unfolded, "unfold"),
    (window.im2col, "im2col convext::unfold"),
    (window.col2im, "col2im convext::fold"),
    (
        window.interpolated,
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d",
    ),
    (
        window.interpolated,
        "upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d",
    ),
    (window.interpolated, "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (window.padded, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
    (window.padded, "replication_pad1d replication_pad2d replication_pad3d"),
    (window.rolled, "roll"),
    (window.shuffled, "pixel_shuffle pixel_unshuffle"),
    (_viewed, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten"),
    (_permuted, "permute transpose t"),
    (_expanded, "expand"),
    (_repeated, "repeat"),
    (_indexed, "index"),
    (_sliced, "slice"),
    (_selected, "select"),
    (_split, "split split_with_sizes chunk"),
    (_unbound, "unbind"),
    (_concatenated, "cat stack"),
    (_reduced, "mean sum amax amin prod var std linalg_vector_norm norm logsumexp any all argmax argmin var_mean"),
    (_reduced, "max min"),
    (_along, "_softmax _log_softmax cumsum cumprod flip index_select sort topk glu"),
    (_product, "mm addmm bmm baddbmm"),
    (_position_product, "convext::position_product"),
    (_embedded, "embedding"),
    (_copied, "copy_"),
    (_as_first, "clone _to_copy alias detach contiguous lift_fresh native_dropout convext::local_response_norm"),
    (_as_first, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training native_layer_norm"),
    (_as_first, "native_group_norm cudnn_batch_norm channel_shuffle native_channel_shuffle _prelu_kernel hardswish"),
    (_as_first, "rrelu_with_noise log_sigmoid_forward"),
    (_nothing, "zeros_like ones_like empty_like rand_like randn_like full_like new_zeros new_ones new_empty new_full"),
    (_nothing, "new_empty_strided bernoulli zero fill normal uniform"),
)
