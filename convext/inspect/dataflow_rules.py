"""For every operator that moves data: what its result sees of the input, from what its arguments see.

Operators on single elements join what their arguments see. An operator that nobody here knows is taken to read all of
its arguments for every element. Statistics of normalisations do not count, as is usual for receptive fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convext.inspect.receptive_field import Field, adaptive, resized, shifted, spread, windows
from convext.inspect.recording import tensors_in

__all__ = ["OpCall", "field_of_result"]


class OpCall:
    """One call of an operator: its arguments by the names of its schema, and its result."""

    def __init__(
        self,
        op: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        field: Callable[[Tensor], Field | None],
        windowed: set[int],
    ) -> None:
        self.op, self.args, self.kwargs, self.output, self.windowed = op, args, kwargs, output, windowed
        self._field = field
        schema = op._schema.arguments
        self._values = {a.name: a.default_value for a in schema if a.has_default_value()}
        self._values |= dict(zip([a.name for a in schema], args, strict=False)) | kwargs
        self.name = op._schema.name
        self.in_place = bool(schema) and schema[0].alias_info is not None and schema[0].alias_info.is_write
        # its storage is new, although the operator returns its argument
        self.fresh = {t.untyped_storage()._cdata for t in tensors_in(args)} if "lift_fresh" in self.name else set()

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    @property
    def source(self) -> Tensor:
        """The first tensor among the arguments."""
        return tensors_in(self.args)[0]

    def field(self, t: Any) -> Field | None:
        return self._field(t) if isinstance(t, Tensor) else None

    @property
    def size(self) -> tuple[int, ...]:
        """Of the first result."""
        return tuple(tensors_in(self.output)[0].shape)


Rule = Callable[[OpCall], "Field | list[Field | None] | None"]


def field_of_result(call: OpCall, outputs: Sequence[Tensor]) -> list[Field | None]:
    """The field of each tensor of the result."""
    rule = _RULES.get(call.name) or _RULES.get(call.name.removesuffix("_"))
    if rule is None:
        rule = _elementwise if torch.Tag.pointwise in call.op.tags else _unknown
    fields = rule(call)
    if isinstance(fields, list):
        return fields
    return [fields if t.shape == outputs[0].shape else None for t in outputs]


# --- elements ---------------------------------------------------------------------------------------------------------


def _broadcast(field: Field, size: Sequence[int], to: Sequence[int]) -> Field:
    """The field of a tensor of this size as part of one of size `to`."""
    more = len(to) - len(size)
    for dim in field_dims(field):
        if size[dim] == 1 and to[dim + more] != 1:
            field = field.picked(dim, 0)
    return field.moved({dim: dim + more for dim in range(len(size))})


def field_dims(field: Field) -> list[int]:
    return [seen.dim for seen in field.seen if seen.dim is not None]


def _elementwise(call: OpCall) -> Field | None:
    size, result = call.size, None
    for t in tensors_in((call.args, call.kwargs)):
        field = call.field(t)
        if field is not None:
            field = _broadcast(field, t.shape, size) if t.dim() <= len(size) else field.whole(*range(t.dim()))
            result = field if result is None else result.joined(field, size)
    return result


def _unknown(call: OpCall) -> Field | None:
    result = None
    for t in tensors_in((call.args, call.kwargs)):
        field = call.field(t)
        if field is not None:
            field = field.whole(*range(t.dim()))
            result = field if result is None else result.joined(field, call.size)
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


# --- windows ----------------------------------------------------------------------------------------------------------


def _on_axes(value: Any, rank: int, default: Any = None) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        return list(default)
    return values * rank if len(values) == 1 else values


def _moving(call: OpCall, field: Field, dims: Sequence[int]) -> None:
    for dim in dims:
        call.windowed.update(field.along(dim))


def _convolution(call: OpCall) -> Field | None:
    """torch's, and convext's two, which name their padding in pairs."""
    x, w = call.source, call["weight"]
    field = call.field(x)
    if field is None:
        return _unknown(call)
    ours = call.name.startswith("convext")
    rank = x.dim() - 2
    transposed = call.name.endswith("dgrad") or call.get("transposed", False)
    stride, dilation, before = (_on_axes(call[key], rank) for key in ("stride", "dilation", "padding"))
    if ours:
        before = before[::2]
    _moving(call, field, range(2, x.dim()))
    for axis in range(rank):
        reads = spread if transposed else windows
        field = field.read(2 + axis, reads(w.shape[2 + axis], stride[axis], before[axis], dilation[axis]))
    return field.whole(1)


def _pool(call: OpCall) -> Field | None:
    x = call.source
    field = call.field(x)
    if field is None:
        return None
    if "adaptive" in call.name or not call["kernel_size"]:
        rank = len(call["output_size"])
        dims = range(x.dim() - rank, x.dim())
        _moving(call, field, dims)
        for dim in dims:
            size, output = x.shape[dim], call.size[dim]
            field = field.whole(dim) if output == 1 < size else field.read(dim, adaptive(size, output))
        return field
    rank = int(call.name.split("d_")[0].removesuffix("d")[-1]) if call.name.startswith("aten") else x.dim() - 2
    kernel = _on_axes(call["kernel_size"], rank)
    stride = _on_axes(call["stride"], rank, kernel)
    dilation = _on_axes(call.get("dilation", 1), rank)
    before = _on_axes(call["padding"], rank)
    if call.name.startswith("convext"):
        before = before[::2]
    first = x.dim() - rank
    _moving(call, field, range(first, x.dim()))
    for axis in range(rank):
        field = field.read(first + axis, windows(kernel[axis], stride[axis], before[axis], dilation[axis]))
    return field


def _unfolded(call: OpCall) -> Field | None:
    """Tensor.unfold: windows along a dimension, and a new one, the last, within them."""
    field = call.field(call.source)
    dim = call["dimension"] % call.source.dim()
    return None if field is None else field.read(dim, windows(call["size"], call["step"]))


def _im2col(call: OpCall) -> Field | None:
    """unfold: the windows' places, all axes in one dimension, the last."""
    x = call.source
    field = call.field(x)
    if field is None:
        return None
    rank = x.dim() - 2
    kernel, stride, before, dilation = _columns(call, rank)
    _moving(call, field, range(2, x.dim()))
    blocks = []
    for i in range(rank):
        field = field.read(2 + i, windows(kernel[i], stride[i], before[i], dilation[i]))
        after = before[i] if call.name.startswith("aten") else call["padding"][2 * i + 1]
        blocks.append((x.shape[2 + i] + before[i] + after - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1)
    return field.whole(1).viewed((*x.shape[:2], *blocks), call.size)


def _col2im(call: OpCall) -> Field | None:
    """fold: each pixel reads the windows that hold it."""
    field, rank = call.field(call.source), len(call["output_size"])
    if field is None:
        return None
    kernel, stride, before, dilation = _columns(call, rank)
    blocks = []
    for i, size in enumerate(call["output_size"]):
        after = before[i] if call.name.startswith("aten") else call["padding"][2 * i + 1]
        blocks.append((size + before[i] + after - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1)
    field = field.whole(1).viewed(call.source.shape, (*call.source.shape[:2], *blocks))
    _moving(call, field, range(2, 2 + rank))
    for i in range(rank):
        field = field.read(2 + i, spread(kernel[i], stride[i], before[i], dilation[i]))
    return field


def _columns(call: OpCall, rank: int) -> tuple[list[int], ...]:
    """Kernel, stride, padding before and dilation of an unfold or fold."""
    before = _on_axes(call["padding"], rank)
    if call.name.startswith("convext"):
        before = before[::2]
    kernel, stride, dilation = (_on_axes(call[key], rank) for key in ("kernel_size", "stride", "dilation"))
    return kernel, stride, before, dilation


def _interpolated(call: OpCall) -> Field | None:
    x = call.source
    field = call.field(x)
    mode = next(m for m in ("nearest_exact", "nearest", "linear", "cubic") if m in call.name).replace("_", "-")
    mode += "_aa" if call.name.endswith("_aa") else ""
    for dim in range(2, x.dim()) if field is not None else ():
        assert field is not None
        field = field.read(dim, resized(x.shape[dim], call.size[dim], mode, bool(call.get("align_corners"))))
    return field


def _padded(call: OpCall) -> Field | None:
    field, last = call.field(call.source), call.source.dim() - 1
    pads = call.get("pad") or call["padding"]
    for i, before in enumerate(pads[::2]):
        field = None if field is None else field.read(last - i, shifted(-before))
    return field


def _rolled(call: OpCall) -> Field | None:
    field, dims = call.field(call.source), call["dims"]
    if field is None or not dims:
        return _unknown(call)
    for by, dim in zip(call["shifts"], dims, strict=True):
        field = field.read(dim % call.source.dim(), shifted(-by))
    return field


def _shuffled(call: OpCall) -> Field | None:
    """Pixel shuffle: channels become pixels, so that each reads one; or the other way round, a block of pixels."""
    field, dims = call.field(call.source), call.source.dim()
    down = "unshuffle" in call.name
    by = call["downscale_factor" if down else "upscale_factor"]
    for dim in (dims - 2, dims - 1):
        field = None if field is None else field.read(dim, windows(by, by) if down else spread(by, by))
    return field


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


def _embedded(call: OpCall) -> Field | None:
    return call.field(call["indices"])


def _table(*groups: tuple[Rule, str]) -> dict[str, Rule]:
    return {(n if "::" in n else f"aten::{n}"): rule for rule, names in groups for n in names.split()}


_RULES = _table(
    (_convolution, "convolution _convolution convolution_overrideable convext::conv_fprop convext::conv_dgrad"),
    (_pool, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d adaptive_max_pool2d"),
    (_pool, "adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d convext::max_pool convext::avg_pool"),
    (_pool, "convext::max_pool_with_offsets convext::l2_pool"),
    (_unfolded, "unfold"),
    (_im2col, "im2col convext::unfold"),
    (_col2im, "col2im convext::fold"),
    (_interpolated, "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d"),
    (_interpolated, "upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d"),
    (_interpolated, "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (_padded, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
    (_padded, "replication_pad1d replication_pad2d replication_pad3d"),
    (_rolled, "roll"),
    (_shuffled, "pixel_shuffle pixel_unshuffle"),
    (_viewed, "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten"),
    (_permuted, "permute transpose t"),
    (_expanded, "expand"),
    (_sliced, "slice"),
    (_selected, "select"),
    (_split, "split split_with_sizes chunk"),
    (_unbound, "unbind"),
    (_concatenated, "cat stack"),
    (_reduced, "mean sum amax amin prod var std linalg_vector_norm norm logsumexp any all argmax argmin var_mean"),
    (_reduced, "max min"),
    (_along, "_softmax _log_softmax cumsum cumprod flip index_select sort topk"),
    (_product, "mm addmm bmm baddbmm"),
    (_embedded, "embedding"),
    (_copied, "copy_"),
    (_as_first, "clone _to_copy alias detach contiguous lift_fresh native_dropout convext::local_response_norm"),
    (_as_first, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training native_layer_norm"),
    (_as_first, "native_group_norm cudnn_batch_norm channel_shuffle native_channel_shuffle _prelu_kernel"),
    (_nothing, "zeros_like ones_like empty_like rand_like randn_like full_like new_zeros new_ones new_empty new_full"),
    (_nothing, "new_empty_strided bernoulli zero fill normal uniform"),
)
