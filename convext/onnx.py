"""What convext's operators are in ONNX: standard nodes (Conv, ConvTranspose, MaxPool, AveragePool, Col2Im, LRN, ...).

For ``torch.onnx.export``, which asks for it once a call:

    torch.onnx.export(model, args, "model.onnx", dynamo=True, custom_translation_table=convext.onnx.translation_table())

Needs the packages ``onnx`` and ``onnxscript``; `import convext` does not import this module. The nodes are of opset 18.
Training graphs, random pooling and the adjoint of a padding mode have no translation.

A translation takes an operator's arguments, values of the graph in place of tensors. Symbolic sizes are values too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18 as op

from convext import _padding, _sizes
from convext.ops.pool import is_adaptive

__all__ = ["translation_table"]

Value = Any  # of the graph
Ints = Sequence[int]


def _ints(values: Ints) -> Value:
    return op.Constant(value_ints=list(values))


def _shape(sizes: Sequence[Any]) -> Value:
    """A list of sizes, of which some may be values."""
    if all(isinstance(size, int) for size in sizes):
        return _ints(sizes)
    one = _ints([1])
    return op.Concat(*[_ints([s]) if isinstance(s, int) else op.Reshape(s, one) for s in sizes], axis=0)


def _number(value: float, like: Value) -> Value:
    # Where onnxscript is installed its types say of a constant that it may be of any type.
    return op.CastLike(op.Constant(value_float=value), like)  # type: ignore[type-var, unused-ignore]


def _pixels(x: Value, rank: int) -> list[int] | None:
    """The spatial sizes, None where one is symbolic."""
    sizes = [] if x.shape is None else list(x.shape)[-rank:]
    return sizes if len(sizes) == rank and all(isinstance(size, int) for size in sizes) else None


def _sides(padding: Ints) -> list[int]:
    """(lo0, hi0, lo1, ...) in ONNX's order: all before, then all after."""
    return [*padding[::2], *padding[1::2]]


def _pad(x: Value, padding: Ints, value: float = 0.0, mode: str = "constant") -> Value:
    """With the pixels of each axis, which crop where negative."""
    if not any(padding):
        return x
    rank = len(padding) // 2
    pads = [0, 0, *padding[::2], 0, 0, *padding[1::2]]
    assert len(pads) == 2 * rank + 4
    if mode != "constant":
        return op.Pad(x, _ints(pads), mode=mode)
    return op.Pad(x, _ints(pads), _number(value, x), mode=mode)


def _crop(x: Value, padding: Ints) -> tuple[Value, list[int]]:
    """x without what negative padding takes away, and the rest of the padding."""
    return _pad(x, [min(p, 0) for p in padding]), [max(p, 0) for p in padding]


def _slice(x: Value, axis: int, first: int, end: int, step: int = 1) -> Value:
    return op.Slice(x, _ints([first]), _ints([end]), _ints([axis]), _ints([step]))


_END = 2**62


def _around(x: Value, padding: Ints) -> Value:
    """Padding by the opposite edge; ONNX's Pad has it from opset 19 on."""
    for axis, (lo, hi) in enumerate(zip(padding[::2], padding[1::2], strict=True), 2):
        before = [_slice(x, axis, -lo, _END)] if lo > 0 else []
        after = [_slice(x, axis, 0, hi)] if hi > 0 else []
        if before or after:
            x = op.Concat(*before, x, *after, axis=axis)
    return x


# --- convolution -----------------------------------------------------------------------------------------------------


def _with_bias(y: Value, bias: Value, rank: int) -> Value:
    return y if bias is None else op.Add(y, op.Reshape(bias, _ints([1, -1, *[1] * rank])))


def _conv_fprop(
    x: Value, w: Value, bias: Value, stride: Ints, padding: Ints, dilation: Ints, groups: int, mode: int
) -> Value:
    if mode:
        positive = [max(p, 0) for p in padding]
        modes = {"reflect": "reflect", "replicate": "edge"}
        name = _padding.MODES[mode]
        x = _around(x, positive) if name == "circular" else _pad(x, positive, mode=modes[name])
        padding = [min(p, 0) for p in padding]
    x, padding = _crop(x, padding)
    geometry: Any = {"strides": list(stride), "pads": _sides(padding), "dilations": list(dilation), "group": groups}
    return op.Conv(x, w, bias, **geometry) if bias is not None else op.Conv(x, w, **geometry)


def _conv_dgrad(
    g: Value, w: Value, bias: Value, stride: Ints, padding: Ints, dilation: Ints, groups: int, mode: int
) -> Value:
    if mode:
        raise NotImplementedError("convext: the transposed convolution of a padding_mode has no translation to ONNX")
    extra = [max(-p, 0) for p in padding]  # pixels that no window reaches
    geometry: Any = {"strides": list(stride), "dilations": list(dilation), "group": groups}
    y = op.ConvTranspose(g, w, pads=_sides([max(p, 0) for p in padding]), **geometry)
    return _with_bias(_pad(y, extra), bias, len(stride))


# --- pooling ---------------------------------------------------------------------------------------------------------


class _Windows:
    """Regular windows as ONNX counts them: always rounded down, and so padded at the end until the size is right."""

    def __init__(
        self, x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, output: Sequence[Any]
    ) -> None:
        self.rank = len(kernel)
        self.x, self.padding = _crop(x, padding)
        self.kernel, self.stride, self.dilation, self.output = kernel, stride, dilation, output
        self.crops = any(p < 0 for p in padding)
        sizes = _pixels(x, self.rank)
        self.known = sizes is not None and all(isinstance(size, int) for size in output)
        self.reach = list(self.padding)
        for i in range(self.rank):
            if sizes is None or not self.known:
                self.reach[2 * i + 1] += stride[i] - 1  # as many as rounding up can ask for, and one may be too many
                continue
            size = sizes[i] + min(padding[2 * i], 0) + min(padding[2 * i + 1], 0)
            last = (output[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
            self.reach[2 * i + 1] = max(last - size - self.padding[2 * i], 0)

    @property
    def in_node(self) -> bool:
        """Whether the pooling node itself may pad: runtimes want it to be less than a window."""
        return self.known and all(
            p < k for p, k in zip(self.reach, [k for k in self.kernel for _ in "ab"], strict=True)
        )

    @property
    def beyond_padding(self) -> bool:
        """Whether a window may reach beyond the padding, as ceil_mode lets it."""
        return not self.known or any(r > p for r, p in zip(self.reach, self.padding, strict=True))

    def geometry(self, pads: bool) -> dict[str, Any]:
        sides = _sides(self.reach) if pads else [0] * 2 * self.rank
        return {"kernel_shape": list(self.kernel), "strides": list(self.stride), "pads": sides}

    def cut(self, y: Value) -> Value:
        """To the size of the result."""
        if self.known:
            return y
        axes = list(range(2, 2 + self.rank))
        return op.Slice(y, _ints([0] * self.rank), _shape(self.output), _ints(axes))


def _max_of(windows: _Windows, with_indices: bool = False) -> Any:
    dilations = list(windows.dilation)
    if with_indices:
        if not windows.in_node or windows.crops:
            raise NotImplementedError("convext: the indices of this pooling have no translation to ONNX")
        return op.MaxPool(windows.x, dilations=dilations, **windows.geometry(True))
    if windows.in_node:
        values, _ = op.MaxPool(windows.x, dilations=dilations, **windows.geometry(True))
        return values
    padded = _pad(windows.x, windows.reach, -math.inf)
    values, _ = op.MaxPool(padded, dilations=dilations, **windows.geometry(False))
    return windows.cut(values)


def _max_pool(
    x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, output_size: Sequence[Any], minimum: bool
) -> Value:
    x = op.Neg(x) if minimum else x
    if is_adaptive(kernel):
        y = _adaptive(x, output_size, op.GlobalMaxPool, op.ReduceMax)
    else:
        y = _max_of(_Windows(x, kernel, stride, padding, dilation, output_size))
    return op.Neg(y) if minimum else y


def _max_pool_with_offsets(
    x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, output_size: Sequence[Any], minimum: bool
) -> tuple[Value, Value]:
    """In place of offsets, ONNX's indices into the whole tensor, from which `_max_pool_indices` makes torch's."""
    x = op.Neg(x) if minimum else x
    if is_adaptive(kernel):
        kernel = stride = _even_windows(x, output_size)
        padding, dilation = [0] * 2 * len(kernel), [1] * len(kernel)
    y, places = _max_of(_Windows(x, kernel, stride, padding, dilation, output_size), with_indices=True)
    return (op.Neg(y) if minimum else y), places


def _max_pool_indices(
    places: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, input_size: Sequence[Any]
) -> Value:
    return op.Mod(places, op.ReduceProd(_shape(input_size), keepdims=0))


def _even_windows(x: Value, output_size: Sequence[Any]) -> list[int]:
    """The windows of an adaptive pooling that divide the image evenly."""
    sizes = _pixels(x, len(output_size))
    if sizes is None or any(not isinstance(o, int) or n % o for n, o in zip(sizes, output_size, strict=True)):
        raise NotImplementedError("convext: the indices of uneven adaptive windows have no translation to ONNX")
    return [n // o for n, o in zip(sizes, output_size, strict=True)]


def _adaptive(x: Value, output_size: Sequence[Any], whole: Callable[..., Value], reduce: Callable[..., Value]) -> Value:
    """Axis after axis, a reduction for each output: a rectangle's maximum, or mean, is that of its rows'."""
    if all(isinstance(size, int) and size == 1 for size in output_size):
        return whole(x)
    sizes = _pixels(x, len(output_size))
    if sizes is None or not all(isinstance(size, int) for size in output_size):
        raise NotImplementedError("convext: adaptive windows of an image of symbolic size have no translation to ONNX")
    for axis, (size, outputs) in enumerate(zip(sizes, output_size, strict=True), 2):
        if size != outputs:
            windows = [(o * size // outputs, -(-(o + 1) * size // outputs)) for o in range(outputs)]
            parts = [reduce(_slice(x, axis, *w), _ints([axis]), keepdims=1) for w in windows]
            x = op.Concat(*parts, axis=axis)
    return x


def _sum_of(windows: _Windows, image: Value) -> Value:
    """The windows' sums over an image that is padded already."""
    if any(d != 1 for d in windows.dilation):  # AveragePool has a dilation from opset 19 on
        taps = op.Expand(_number(1.0, image), _ints([1, 1, *windows.kernel]))
        channels = op.Reshape(image, op.Concat(_ints([-1, 1]), op.Shape(image, start=2), axis=0))
        sums = op.Conv(channels, taps, strides=list(windows.stride), dilations=list(windows.dilation))
        shape = op.Concat(op.Shape(image, end=2), op.Shape(sums, start=2), axis=0)
        return windows.cut(op.Reshape(sums, shape))
    mean = op.AveragePool(image, **windows.geometry(False))
    return windows.cut(op.Mul(mean, _number(math.prod(windows.kernel), image)))


def _avg_pool(
    x: Value,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    output_size: Sequence[Any],
    count_include_pad: bool,
    divisor: int,
) -> Value:
    if is_adaptive(kernel):
        return _adaptive(x, output_size, op.GlobalAveragePool, op.ReduceMean)
    windows = _Windows(x, kernel, stride, padding, dilation, output_size)
    plain = windows.in_node and all(d == 1 for d in dilation)
    # a window of padding alone is 0 with us, and 0 / 0 elsewhere
    if plain and divisor == 0 and not (windows.beyond_padding and count_include_pad):
        return op.AveragePool(windows.x, count_include_pad=int(count_include_pad), **windows.geometry(True))
    total = _sum_of(windows, _pad(windows.x, windows.reach))
    if divisor:
        return op.Div(total, _number(divisor, x))
    counted = op.Expand(_number(1.0, x), op.Shape(windows.x))
    counted = _pad(counted, windows.padding, float(count_include_pad))
    rest = [r - p for r, p in zip(windows.reach, windows.padding, strict=True)]
    count = _sum_of(windows, _pad(counted, rest))
    return op.Div(total, op.Max(count, _number(1.0, x)))


def _l2_pool(x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, output_size: Sequence[Any]) -> Value:
    mean = _avg_pool(op.Mul(x, x), kernel, stride, padding, dilation, output_size, True, 0)
    return op.Sqrt(op.Mul(mean, _number(math.prod(kernel), x)))


# --- places ----------------------------------------------------------------------------------------------------------


def _planes(x: Value) -> Value:
    return op.Reshape(x, _ints([0, 0, -1]))


def _place_gather(x: Value, places: Value) -> Value:
    return op.Reshape(op.GatherElements(_planes(x), _planes(places), axis=2), op.Shape(places))


def _place_scatter(x: Value, places: Value, output_size: Sequence[Any], accumulate: bool) -> Value:
    leading, sizes = op.Shape(x, end=2), _shape(output_size)
    pixels = op.ReduceProd(sizes, keepdims=1)
    zeros = op.Expand(_number(0.0, x), op.Concat(leading, pixels, axis=0))
    reduction = "add" if accumulate else "none"
    y = op.ScatterElements(zeros, _planes(places), _planes(x), axis=2, reduction=reduction)
    return op.Reshape(y, op.Concat(leading, sizes, axis=0))


# --- blocks, normalisation -------------------------------------------------------------------------------------------


def _unfold(x: Value, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Value:
    """A strided slice for each tap."""
    sizes, rank = _pixels(x, len(kernel)), len(kernel)
    if sizes is None:
        raise NotImplementedError("convext: unfold of an image of symbolic size has no translation to ONNX")
    blocks = _sizes.blocks(sizes, kernel, dilation, padding, stride)
    x = _pad(x, padding)
    axes = _ints(range(2, 2 + rank))
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        first = [t * d for t, d in zip(tap, dilation, strict=True)]
        end = [f + (b - 1) * s + 1 for f, b, s in zip(first, blocks, stride, strict=True)]
        taps.append(op.Unsqueeze(op.Slice(x, _ints(first), _ints(end), axes, _ints(stride)), _ints([2])))
    columns = op.Concat(*taps, axis=2)
    return op.Reshape(columns, op.Concat(op.Shape(columns, end=1), _ints([-1, math.prod(blocks)]), axis=0))


def _fold(
    columns: Value, output_size: Sequence[Any], kernel: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Value:
    if any(p < 0 for p in padding):
        raise NotImplementedError("convext: fold with negative padding has no translation to ONNX")
    geometry = {"dilations": list(dilation), "pads": _sides(padding), "strides": list(stride)}
    return op.Col2Im(columns, _shape(output_size), _ints(kernel), **geometry)


def _local_response_norm(x: Value, size: int, alpha: float, beta: float, k: float) -> Value:
    if size % 2 == 1 and len(x.shape) == 4:  # an even window leans the other way there
        return op.LRN(x, size=size, alpha=alpha, beta=beta, bias=k)
    squares = op.Reshape(
        op.Mul(x, x), op.Concat(op.Shape(x, end=1), _ints([1]), op.Shape(x, start=1, end=2), _ints([-1]), axis=0)
    )
    pads = [size // 2, 0, (size - 1) // 2, 0]
    mean = op.AveragePool(squares, kernel_shape=[size, 1], strides=[1, 1], pads=pads, count_include_pad=1)
    divisor = op.Add(op.Mul(op.Reshape(mean, op.Shape(x)), _number(alpha, x)), _number(k, x))
    return op.Div(x, op.Pow(divisor, _number(beta, x)))


def _position_product(a: Value, b: Value) -> Value:
    return op.Einsum(a, b, equation="irp,jrp->ijp")


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For the `custom_translation_table` of ``torch.onnx.export(..., dynamo=True)``: from operators to their nodes."""
    translations: dict[str, Callable[..., Any]] = {
        "conv_fprop": _conv_fprop,
        "conv_dgrad": _conv_dgrad,
        "max_pool": _max_pool,
        "max_pool_with_offsets": _max_pool_with_offsets,
        "max_pool_indices": _max_pool_indices,
        "avg_pool": _avg_pool,
        "l2_pool": _l2_pool,
        "place_gather": _place_gather,
        "place_scatter": _place_scatter,
        "unfold": _unfold,
        "fold": _fold,
        "local_response_norm": _local_response_norm,
        "position_product": _position_product,
    }
    return {getattr(torch.ops.convext, name).default: function for name, function in translations.items()}
