"""What the results of operators that read windows see: convolution, pooling, unfold, interpolation, padding.

torch's operators and convext's, which name their padding in pairs (before, after).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convext.inspect.dataflow_call import OpCall
from convext.inspect.receptive_field import Field, adaptive, resized, shifted, spread, windows
from convext.ops.pool import is_adaptive

__all__ = ["col2im", "convolution", "im2col", "interpolated", "padded", "pool", "rolled", "shuffled", "unfolded"]


def _on_axes(value: Any, rank: int, default: Any = None) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        return list(default)
    return values * rank if len(values) == 1 else values


def _moving(call: OpCall, field: Field, dims: Sequence[int]) -> None:
    for dim in dims:
        call.windowed.update(field.along(dim))


def convolution(call: OpCall) -> Field | None:
    """torch's, and convext's, which name their padding in pairs."""
    x, w = call.source, call["weight"]
    field = call.field(x)
    if field is None:
        return call.everything()
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
    field = field.whole(1)
    residual = call.field(call.get("residual"))  # of the fused one
    return field if residual is None else field.joined(residual, call.size)


def pool(call: OpCall) -> Field | None:
    x = call.source
    field = call.field(x)
    if field is None:
        return None
    ours = call.name.startswith("convext")
    if "adaptive" in call.name or (ours and is_adaptive(call["kernel_size"])):
        rank = x.dim() - 2 if ours else len(call["output_size"])
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
    if ours:
        before = before[::2]
    first = x.dim() - rank
    _moving(call, field, range(first, x.dim()))
    for axis in range(rank):
        field = field.read(first + axis, windows(kernel[axis], stride[axis], before[axis], dilation[axis]))
    return field


def unfolded(call: OpCall) -> Field | None:
    """Tensor.unfold: windows along a dimension, and a new one, the last, within them."""
    field = call.field(call.source)
    dim = call["dimension"] % call.source.dim()
    return None if field is None else field.read(dim, windows(call["size"], call["step"]))


def im2col(call: OpCall) -> Field | None:
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


def col2im(call: OpCall) -> Field | None:
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


def interpolated(call: OpCall) -> Field | None:
    x = call.source
    field = call.field(x)
    mode = next(m for m in ("nearest_exact", "nearest", "linear", "cubic") if m in call.name).replace("_", "-")
    mode += "_aa" if call.name.endswith("_aa") else ""
    for dim in range(2, x.dim()) if field is not None else ():
        assert field is not None
        field = field.read(dim, resized(x.shape[dim], call.size[dim], mode, bool(call.get("align_corners"))))
    return field


def padded(call: OpCall) -> Field | None:
    field, last = call.field(call.source), call.source.dim() - 1
    pads = call.get("pad") or call["padding"]
    for i, before in enumerate(pads[::2]):
        field = None if field is None else field.read(last - i, shifted(-before))
    return field


def rolled(call: OpCall) -> Field | None:
    field, dims = call.field(call.source), call["dims"]
    if field is None or not dims:
        return call.everything()
    for by, dim in zip(call["shifts"], dims, strict=True):
        field = field.read(dim % call.source.dim(), shifted(-by))
    return field


def shuffled(call: OpCall) -> Field | None:
    """Pixel shuffle: channels become pixels, so that each reads one; or the other way round, a block of pixels."""
    field, dims = call.field(call.source), call.source.dim()
    down = "unshuffle" in call.name
    by = call["downscale_factor" if down else "upscale_factor"]
    for dim in (dims - 2, dims - 1):
        field = None if field is None else field.read(dim, windows(by, by) if down else spread(by, by))
    return field
