"""Convolutions on tensor cores, emulated: copied by runs of 16 bytes or by elements; TF32 by torch's switch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext.functional as CF
from convext import _cuda
from tests import cuda_emulation
from tests.cases import ConvCase
from tests.reference import OPERATORS, TOLERANCE, call, error, expected, operands
from tests.test_cuda_operators import CHANNELS, PIXELS, in_every_schedule, runs_of
from tests.test_determinism import same_bits

# 10 bits of mantissa: a factor is rounded by at most 2^-11, by 2^-12 on average, and errors of terms are independent.
TF32_TOLERANCE = 5e-4

# In channels_last, channels of a group that are multiples of 8: all three operators copy by runs; and 1 x 1 in planes.
BY_RUNS = (
    ConvCase((7, 9), 3, (16, 24), padding=1, layout="channels_last"),
    ConvCase((9, 8), 3, (8, 72), batch=2, padding=1, stride=2, layout="channels_last"),
    ConvCase((6, 5), (3, 2), (16, 136), batch=2, dilation=(1, 2), padding=((2, 0), (0, 1)), layout="channels_last"),
    ConvCase((8, 6), 3, (16, 48), padding=1, groups=2, layout="channels_last"),
    ConvCase((5, 6), 3, (8, 16), padding=1, padding_mode="circular", layout="channels_last"),
    ConvCase((3, 4, 5), 2, (8, 8), layout="channels_last"),
    ConvCase((40, 41), 3, (8, 8), batch=1, padding=1, layout="channels_last"),  # wgrad in slices
    ConvCase((4, 6), 1, (16, 72), batch=3),
    ConvCase((12, 12), 1, (8, 136), batch=2),
    ConvCase((2, 2, 6), 1, (24, 8), batch=2, groups=1),
    ConvCase((64,), 1, (8, 8), batch=2),
    ConvCase(
        (5, 8), (3, 1), (8, 16), padding=((1, 1), (0, 0)), layout="weight_last"
    ),  # runs of pixels, rows in the padding
)
# What a run would cross, or begin amid.
BY_ELEMENTS = (
    ConvCase((7, 9), 3, (12, 20), padding=1, layout="channels_last"),
    ConvCase((5, 7), 1, (8, 70), batch=2),
    ConvCase((9, 10), 3, (5, 70), padding=1),
    ConvCase((9, 8), 3, (16, 16), padding=1, stride=2, layout="sliced"),
    ConvCase((8, 8), 1, (8, 8), layout="sliced"),
    ConvCase((8, 8), 1, (8, 8), layout="offset"),
    ConvCase((6, 6), 3, (8, 8), layout="expanded"),
    ConvCase((7, 8), 3, (5, 36), padding=1, padding_mode="reflect"),
)
CASES = BY_RUNS + BY_ELEMENTS
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest) -> cuda_emulation.Emulator:
    if request.config.getoption("--device") != "emulated":
        pytest.skip("needs --device emulated")
    return cuda_emulation.load()


@contextlib.contextmanager
def tf32_may_be_set() -> Iterator[None]:
    """Also where torch.testing forbids it; put back for convolutions and recurrent networks, which must agree."""
    with torch.backends.__allow_nonbracketed_mutation():  # type: ignore[no-untyped-call]
        before = torch.backends.cudnn.allow_tf32
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def switch(emulated: cuda_emulation.Emulator) -> Iterator[None]:
    """torch's switch for TF32 rules the emulated operators, as on a GPU; put back afterwards."""
    with tf32_may_be_set():
        _cuda.read_tf32_switch(emulated.library)
        yield
        emulated.library.convext_cuda_read_tf32_by(None)


@pytest.fixture
def tf32(switch: None) -> None:
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def rounded(t: Tensor) -> Tensor:
    """To TF32: 10 bits of mantissa, ties away from zero."""
    bits = t.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def problem(operator: str, case: ConvCase) -> ConvCase:
    return case.transposed if operator == "dgrad" else case


@pytest.mark.parametrize("case", BY_RUNS, ids=lambda c: c.id)
def test_the_cases_are_made_of_runs(case: ConvCase, seed: int) -> None:
    """So that they test what they are meant to; pixels of 1 x 1 kernels count as one axis."""
    for tensor in operands("fprop", case, torch.float16, "integers", seed)[:2]:
        assert tensor is not None
        sizes, strides = tuple(tensor.shape), tensor.stride()
        if math.prod(case.kernel) == 1 and case.layout == "contiguous":
            sizes, strides = (*sizes[:2], math.prod(sizes[2:])), (*strides[:2], 1)
        lead = (1,) * (5 - len(sizes))
        runs = runs_of((*sizes[:2], *lead, *sizes[2:]), (*strides[:2], *lead, *strides[2:]), 2, tensor.data_ptr())
        assert runs & (CHANNELS if case.layout == "channels_last" or tensor.shape[2:] == case.kernel else PIXELS)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_half_types(operator: str, case: ConvCase, seed: int, emulated: cuda_emulation.Emulator) -> None:
    case = problem(operator, case)
    for dtype in HALVES:
        exact = operands(operator, case, dtype, "integers", seed)
        assert torch.equal(call(operator, case, exact).double(), expected(operator, case, exact).to(dtype).double())
        tensors = operands(operator, case, dtype, "normal", seed)
        assert error(call(operator, case, tensors), expected(operator, case, tensors)) < TOLERANCE[dtype]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_tf32(operator: str, case: ConvCase, seed: int, tf32: None) -> None:
    """Factors are rounded to TF32, products and sums are not; small integers stay exact."""
    case = problem(operator, case)
    exact = operands(operator, case, torch.float32, "integers", seed)
    assert torch.equal(call(operator, case, exact).double(), expected(operator, case, exact))
    tensors = operands(operator, case, torch.float32, "normal", seed)
    got = call(operator, case, tensors)
    if operator != "dgrad" or case.padding_mode == "zeros":  # borders under other modes are summed by the definition
        factors = [None if t is None else rounded(t) for t in tensors[:2]] + tensors[2:]
        assert error(got, expected(operator, case, factors)) < TOLERANCE[torch.float32]
    assert TOLERANCE[torch.float32] < error(got, expected(operator, case, tensors)) < TF32_TOLERANCE


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", CASES[:4] + CASES[7:9], ids=lambda c: c.id)
def test_every_schedule(
    operator: str, case: ConvCase, seed: int, tf32: None, emulated: cuda_emulation.Emulator
) -> None:
    case = problem(operator, case)
    for dtype in (torch.float16, torch.float32):
        tensors = operands(operator, case, dtype, "normal", seed)
        first, *others = in_every_schedule(emulated, functools.partial(call, operator, case, tensors))
        assert not first.isnan().any()
        assert all(same_bits(first, other) for other in others), dtype


@pytest.mark.parametrize("operator", OPERATORS)
def test_64_bit_offsets_of_tf32(operator: str, seed: int, tf32: None, emulated: cuda_emulation.Emulator) -> None:
    case = problem(operator, BY_RUNS[0])
    tensors = operands(operator, case, torch.float32, "normal", seed)
    narrow = call(operator, case, tensors)
    with emulated.wide_offsets():
        assert error(call(operator, case, tensors), narrow.double()) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("layout", ("channels_last", "contiguous"))
def test_epilogue_by_runs(layout: str, tf32: None) -> None:
    """Bias, residual and activation, where the result is written 16 bytes at a time."""
    memory_format = getattr(torch, f"{layout}_format", torch.channels_last)
    for dtype in (torch.bfloat16, torch.float32):
        x, w, b = torch.randn(2, 16, 8, 8), torch.randn(24, 16, 1, 1), torch.randn(24)
        residual = torch.randn(2, 24, 8, 8)
        x, w, b, residual = (t.to(dtype) for t in (x, w, b, residual))
        x = x.contiguous(memory_format=memory_format)
        got = CF.fused_conv2d(x, w, b, residual=residual, activation="silu")
        want = F.silu(F.conv2d(x.double(), w.double(), b.double()) + residual)
        assert error(got, want) < TOLERANCE[torch.bfloat16]


def test_square_tiles(seed: int, emulated: cuda_emulation.Emulator) -> None:
    """Of fprop they need 132 tiles; wgrad takes them as soon as there are more than 64 rows (BY_RUNS has such)."""
    case = ConvCase((92, 92), 1, (8, 72), batch=2, layout="channels_last")
    for layout in ("channels_last", "contiguous"):
        laid = dataclasses.replace(case, layout=layout)
        tensors = operands("fprop", laid, torch.float16, "integers", seed)
        assert torch.equal(call("fprop", laid, tensors).double(), expected("fprop", laid, tensors))


def test_the_switch_decides(seed: int, switch: None) -> None:
    """As it decides over cudnn's convolutions: it, what it inherits from, and the older allow_tf32."""
    case = BY_RUNS[0]
    tensors = operands("fprop", case, torch.float32, "normal", seed)
    want = expected("fprop", case, tensors)
    older = torch.backends.cudnn.rnn.fp32_precision

    def is_strict() -> bool:
        return error(call("fprop", case, tensors), want) < TOLERANCE[torch.float32]

    conv, cudnn = torch.backends.cudnn.conv, torch.backends.cudnn
    conv.fp32_precision = "ieee"
    assert is_strict()
    conv.fp32_precision = "tf32"
    assert not is_strict()
    try:
        for allowed in (False, True):
            cudnn.allow_tf32 = allowed
            assert is_strict() != allowed
        with cudnn.flags(allow_tf32=False):
            assert is_strict()
        assert not is_strict()
        conv.fp32_precision = "none"  # inherits
        for precision in ("ieee", "tf32"):
            with torch.backends.flags(fp32_precision=precision):
                assert is_strict() == (precision == "ieee")
    finally:
        cudnn.rnn.fp32_precision = older


def test_the_switch_decides_over_compiled_graphs_and_backward(seed: int, switch: None) -> None:
    x, w = torch.randn(1, 8, 6, 6, requires_grad=True), torch.randn(8, 8, 3, 3)
    y = CF.conv2d(x, w)
    gradients = []
    for precision in ("ieee", "tf32"):
        torch.backends.cudnn.conv.fp32_precision = precision
        gradients += torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    strict = CF.conv_transpose2d(torch.ones_like(y).double(), w.double())
    assert error(gradients[0], strict) < TOLERANCE[torch.float32] < error(gradients[1], strict) < TF32_TOLERANCE


def test_without_a_reader_it_is_strict(seed: int, emulated: cuda_emulation.Emulator) -> None:
    tensors = operands("fprop", BY_RUNS[0], torch.float32, "normal", seed)
    want = expected("fprop", BY_RUNS[0], tensors)
    with tf32_may_be_set():
        torch.backends.cudnn.allow_tf32 = True  # torch's default
        assert error(call("fprop", BY_RUNS[0], tensors), want) < TOLERANCE[torch.float32]
