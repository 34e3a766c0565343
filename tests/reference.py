"""The three operators in float64 torch, inputs for a case, and `check`, which runs one case against them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._prims_common import suggest_memory_format

import convext
from tests.cases import MODES, ConvCase, lay_out

OPERATORS = ("fprop", "dgrad", "wgrad")

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = FLOATS + COMPLEX + INTEGERS

# ||out - ref|| / ||ref|| for random inputs; ||out - ref|| / || |x| * |w| || where sums cancel
TOLERANCE = {
    torch.float64: 1e-14,
    torch.complex128: 1e-14,
    torch.float32: 1e-6,
    torch.complex64: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}

# The same of Winograd's algorithm; float64 and the half types, whose rounding of the result is coarser, keep theirs.
WINOGRAD_TOLERANCE = {**TOLERANCE, torch.float32: 5e-6}

# Integers up to this size: every sum is exact in the accumulator of the type. int8 to int32 are drawn large enough that
# results wrap around; the float64 reference still holds them exactly (below 2^53).
LARGEST = {
    torch.float16: 2,
    torch.bfloat16: 2,
    torch.uint8: 255,
    torch.int8: 128,
    torch.int16: 1 << 15,
    torch.int32: 1 << 20,
    torch.int64: 1 << 20,
}

# The norm of this few random results may be near zero by chance; then their standard deviation takes its place.
FEW = 64

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def padded(x: Tensor, padding: tuple[tuple[int, int], ...], mode: str) -> Tensor:
    """x with each axis extended by (lo, hi), cropped where negative, through an index by the mode's definition."""
    for axis, (lo, hi) in enumerate(padding, start=2):
        size = x.shape[axis]
        at = torch.arange(-lo, size + hi)
        inside = (at >= 0) & (at < size)
        if mode == "reflect":
            at = at.abs()
            at = torch.where(at >= size, 2 * (size - 1) - at, at)
        elif mode == "circular":
            at = at % size
        x = x.index_select(axis, at.clamp(0, size - 1))
        if mode == "zeros":
            keep = inside.view([-1] + [1] * (x.dim() - 1 - axis))
            x = torch.where(keep, x, torch.zeros((), dtype=x.dtype))
    return x


def wide(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def along_channels(bias: Tensor, dims: int) -> Tensor:
    return bias.view(1, -1, *[1] * dims)


def fprop(case: ConvCase, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution, in float64 or complex128."""
    x, w = padded(wide(x), case.padding, case.padding_mode), wide(w)
    y = CONV[case.dims](x, w, None, case.stride, 0, case.dilation, case.groups)
    return y if bias is None else y + along_channels(wide(bias), case.dims)


def dgrad(case: ConvCase, g: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """The transposed map of fprop in its input (no conjugation): result of shape (N, C, *case.size)."""
    x = torch.zeros(g.shape[0], *case.input_shape[1:], dtype=wide(g).dtype, requires_grad=True)
    (out,) = torch.autograd.grad(fprop(case, x, wide(w).conj()), x, wide(g))
    return out if bias is None else out + along_channels(wide(bias), case.dims)


def wgrad(case: ConvCase, g: Tensor, x: Tensor) -> Tensor:
    """The transposed map of fprop in its weight (no conjugation).

    In slices of a few thousand pixels, added at the end: torch's own sum over 10^5 pixels is off by 10^-14.
    """
    g, x = wide(g), padded(wide(x), case.padding, case.padding_mode)
    stride, extent = case.stride[0], case.dilation[0] * (case.kernel[0] - 1) + 1
    rows = max(1, 4096 // max(1, math.prod(g.shape[3:])))
    bare = dataclasses.replace(case, padding=0, padding_mode="zeros")
    slices = [torch.zeros(case.weight_shape, dtype=g.dtype)]
    for n, first in itertools.product(range(g.shape[0]), range(0, g.shape[2], rows)):
        part = g[n : n + 1, :, first : first + rows]
        seen = x[n : n + 1, :, first * stride : (first + part.shape[2] - 1) * stride + extent]
        w = torch.zeros(case.weight_shape, dtype=g.dtype, requires_grad=True)
        slices += torch.autograd.grad(fprop(bare, seen.conj(), w), w, part)
    return torch.stack(slices).sum(0)


def draw_tensor(shape: tuple[int, ...], dtype: torch.dtype, draw: str, generator: torch.Generator) -> Tensor:
    """'integers', 'normal', or 'adversarial': magnitudes over eight binary orders and an offset; sums cancel."""
    if draw == "integers":
        largest = LARGEST.get(dtype, 4)
        low = 0 if dtype is torch.uint8 else -largest
        high = largest + (0 if dtype in (torch.int8, torch.int16) else 1)
        values = torch.randint(low, high, shape, generator=generator)
        if dtype.is_complex:
            return torch.complex(values.double(), torch.randint(low, high, shape, generator=generator).double()).to(
                dtype
            )
        return values.to(dtype)
    values = torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else torch.float64, generator=generator)
    if draw == "adversarial":
        values = values * 2.0 ** torch.randint(-4, 5, shape, generator=generator) + 3
        values = values * (2.0 * torch.randint(0, 2, shape[:1] + (1,) * (len(shape) - 1), generator=generator) - 1)
        if dtype is torch.float16:
            values = values / 16  # long sums stay below the type's largest number, 65504
    return values.to(dtype)


def operands(operator: str, case: ConvCase, dtype: torch.dtype, draw: str, seed: int) -> list[Tensor | None]:
    """The operator's tensors in the case's layout: input or grad_output, weight, bias; or grad_output, input."""
    generator = torch.Generator().manual_seed(seed)
    weight, x, g = (
        lay_out(draw_tensor(shape, dtype, draw, generator), case.layout, weight=shape is case_weight)
        for case_weight in [case.weight_shape]
        for shape in (case_weight, case.input_shape, case.output_shape)
    )
    channels = case.channels[1 if operator == "fprop" else 0]
    bias = draw_tensor((channels,), dtype, draw, generator) if case.bias else None
    if operator == "wgrad":
        return [g, x]
    return [x if operator == "fprop" else g, weight, bias]


def call(operator: str, case: ConvCase, tensors: list[Tensor | None]) -> Tensor:
    """The operator itself, below the Python layer."""
    conf = (case.stride, case.flat_padding, case.dilation, case.groups, MODES.index(case.padding_mode))
    if operator == "wgrad":
        return torch.ops.convext.conv_wgrad(*tensors, case.kernel, *conf)
    return getattr(torch.ops.convext, f"conv_{operator}")(*tensors, *conf)


def expected(operator: str, case: ConvCase, tensors: list[Tensor | None]) -> Tensor:
    """The reference's result. On one thread: torch starts its threads anew for every group, which on a busy machine
    makes the references, not the kernels, take the suite's time."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}[operator](case, *tensors)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(count)


def expected_strides(result: Tensor, a: Tensor, b: Tensor) -> tuple[int, ...]:
    """channels_last where an operand suggests it; torch keeps 3-D float64 and integers contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(result.dim())
    kept = result.dim() == 5 and (result.dtype is torch.float64 or result.dtype in INTEGERS)
    if last is None or kept or last not in (suggest_memory_format(a), suggest_memory_format(b)):
        last = torch.contiguous_format
    return torch.empty(result.shape, device="meta", memory_format=last).stride()


def error(got: Tensor, want: Tensor, scale: Tensor | None = None) -> float:
    """||got - want|| / ||scale||, scale being want unless given; 0 for two empty tensors."""
    norm = torch.linalg.vector_norm(want if scale is None else scale).item()
    gap = torch.linalg.vector_norm(wide(got) - want).item()
    return gap / norm if norm else gap


def check(
    operator: str,
    case: ConvCase,
    dtype: torch.dtype | str,
    draw: str = "normal",
    *,
    seed: int = 0,
    isa: str | Sequence[str] | None = None,
) -> str | None:
    """Run one operator on one case, on one instruction set or on several (None: the one in use).

    None when all is right; else, for each level with a fault, what is wrong and a line to run it again.
    """
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    problem = case.transposed if operator == "dgrad" else case
    tensors = operands(operator, problem, dtype, draw, seed)
    want = expected(operator, problem, tensors)
    strides = expected_strides(want.to("meta", dtype), *tensors[:2])
    scale = None
    faults = []
    for level in [isa] if isa is None or isinstance(isa, str) else isa:
        with convext.backends.cpu.max_isa(level) if level else contextlib.nullcontext():
            got = call(operator, problem, tensors)
            rounds = runs_winograd(operator, problem, dtype)
        exactly = draw == "integers" and not rounds
        if not exactly and scale is None:
            scale = error_scale(operator, problem, tensors, want, draw)
        fault = fault_in(
            got,
            want,
            None if exactly else scale,
            dtype,
            strides,
            (WINOGRAD_TOLERANCE if rounds else TOLERANCE).get(dtype, 0),
        )
        if fault:
            name = f"{operator} {case.id} {str(dtype)[6:]} {draw} {level or ''}"
            faults.append(f"{name}: {fault}\n  {case.repro(operator, dtype, draw, seed, level)}")
    return "\n".join(faults) or None


def runs_winograd(operator: str, case: ConvCase, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the plan is Winograd's algorithm, which rounds more and is not exact on integers."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    settings = {name: getattr(case, name) for name in names} | {"channels_last": case.layout == "channels_last"}
    plan = convext.conv_plan(operator, case.input_shape, case.weight_shape, dtype=dtype, **settings)
    return plan.algorithm == "winograd"


def error_scale(operator: str, case: ConvCase, tensors: list[Tensor | None], want: Tensor, draw: str) -> Tensor:
    """What an error is measured against."""
    if draw == "adversarial":
        return expected(operator, case, [t if t is None else wide(t).abs() for t in tensors])
    if want.numel() < FEW:
        return expected(operator, case, [t if t is None else wide(t).abs() ** 2 for t in tensors]).sqrt()
    return want


def fault_in(
    got: Tensor,
    want: Tensor,
    scale: Tensor | None,
    dtype: torch.dtype,
    strides: tuple[int, ...],
    tolerance: float,
) -> str | None:
    """What is wrong with a result: type, shape, strides, or values (by the norm of scale; exactly, without one)."""
    made, meant = (got.dtype, tuple(got.shape), got.stride()), (dtype, tuple(want.shape), strides)
    if made != meant:
        return f"expected type, shape and strides {meant}, got {made}"
    if scale is not None:
        gap = error(got, want, scale)
        return None if gap <= tolerance else f"error {gap:.3g} above {tolerance:g}"
    exact = (want.to(torch.int64) if got.dtype in INTEGERS else want).to(got.dtype)
    wrong = (got != exact).nonzero()
    if len(wrong) == 0:
        return None
    at = tuple(wrong[0].tolist())
    values = f"expected {exact[at].item()}, got {got[at].item()}"
    return f"{len(wrong)} of {got.numel()} elements differ, first at {at}: {values}"
