"""Kernels bound by memory, emulated: depthwise convolution, pooling, normalisation, unfold; whole vectors and edges."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext.functional as CF
from tests import cuda_emulation
from tests.cases import ConvCase
from tests.reference import FLOATS, OPERATORS, TOLERANCE, call, check, operands
from tests.test_cuda_operators import in_every_schedule
from tests.test_determinism import same_bits


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest) -> cuda_emulation.Emulator:
    if request.config.getoption("--device") != "emulated":
        pytest.skip("needs --device emulated")
    return cuda_emulation.load()


def depthwise(channels: int) -> dict[str, object]:
    return {"channels": (channels, channels), "groups": channels}


DEPTHWISE = (
    ConvCase((7, 10), 3, padding=1, layout="channels_last", **depthwise(16)),
    ConvCase((9, 8), 3, padding=1, stride=2, layout="channels_last", **depthwise(72)),  # slabs, the last one not whole
    ConvCase((6, 11), (5, 2), padding=((2, 1), (0, 3)), dilation=(1, 2), layout="channels_last", **depthwise(8)),
    ConvCase((6, 7), 3, padding=1, padding_mode="reflect", layout="channels_last", **depthwise(24)),
    ConvCase((6, 7), 3, padding=1, layout="channels_last", **depthwise(12)),  # float32 alone has whole vectors
    ConvCase((3, 5, 6), 2, stride=(1, 2, 1), layout="channels_last", **depthwise(8)),
    ConvCase((7, 7), 3, padding=1, batch=3, **depthwise(6)),  # planes share a block
    ConvCase((20, 41), 3, padding=1, batch=1, **depthwise(3)),  # planes of several tiles
    ConvCase((37, 35), (5, 3), padding=2, stride=2, **depthwise(2)),
    ConvCase((9, 12), 3, padding=((0, 3), (2, 0)), dilation=2, **depthwise(5)),
    ConvCase((18, 34), 3, padding=1, padding_mode="circular", batch=1, **depthwise(2)),
    ConvCase((9, 9), 3, padding=1, layout="sliced", **depthwise(4)),
    ConvCase((9, 9), 3, padding=1, layout="offset", **depthwise(8)),
    ConvCase((40,), 4, stride=3, batch=3, **depthwise(3)),
    ConvCase((5, 5), 5, **depthwise(40)),  # one result for each plane
    ConvCase((5, 5), 2, stride=4, **depthwise(4)),  # dgrad: phases without a tap
    ConvCase((70, 65), 5, padding=2, batch=1, **depthwise(2)),  # wgrad in slices, of planes
    ConvCase((50, 51), 3, padding=1, layout="channels_last", **depthwise(8)),  # and along channels
)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", DEPTHWISE, ids=lambda c: c.id)
def test_depthwise(operator: str, case: ConvCase, seed: int) -> None:
    for dtype in FLOATS:
        for draw in ("integers", "normal"):
            assert check(operator, case, dtype, draw, seed=seed) is None


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", (DEPTHWISE[1], DEPTHWISE[7], DEPTHWISE[-1]), ids=lambda c: c.id)
def test_every_schedule_of_depthwise(
    operator: str, case: ConvCase, seed: int, emulated: cuda_emulation.Emulator
) -> None:
    case = case.transposed if operator == "dgrad" else case
    tensors = operands(operator, case, torch.float16, "normal", seed)
    first, *others = in_every_schedule(emulated, functools.partial(call, operator, case, tensors))
    assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("activation", ("relu", "silu"))
def test_depthwise_with_an_epilogue(activation: str, channels_last: bool) -> None:
    x, w, b = torch.randn(2, 16, 9, 10), torch.randn(16, 1, 3, 3), torch.randn(16)
    residual = torch.randn(2, 16, 9, 10)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    got = CF.fused_conv2d(x, w, b, residual=residual, padding=1, groups=16, activation=activation)
    want = F.conv2d(x.double(), w.double(), b.double(), padding=1, groups=16) + residual
    torch.testing.assert_close(got.double(), getattr(F, activation)(want), rtol=1e-5, atol=1e-5)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: CF.max_pool2d(x, 3, 2, 1),
    "min": lambda x: CF.min_pool2d(x, 2, 1, dilation=(2, 3)),
    "max of a window of 300": lambda x: CF.max_pool2d(x, (20, 15), 1, ((9, 10), (7, 7))),  # its codes take two bytes
    "adaptive max": lambda x: CF.adaptive_max_pool2d(x, (4, 3)),
    "average": lambda x: CF.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average of a window of 300": lambda x: CF.avg_pool2d(x, (20, 15), 1, ((9, 10), (7, 7))),
    "adaptive average": lambda x: CF.adaptive_avg_pool2d(x, (4, 5)),
    "L2": lambda x: CF.lp_pool2d(x, 2, 3, 2),
}


@pytest.mark.parametrize("channels", (8, 24, 12, 5))
@pytest.mark.parametrize("name", POOLS)
def test_pools_along_channels(name: str, channels: int) -> None:
    """Result and gradient have the bits of the contiguous image's, of which a thread takes one element."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x = torch.randn(2, channels, 11, 14).to(dtype)
        x[0, 1, 2, 3], x[1, 2, 4, 4] = float("nan"), float("inf")
        results = []
        for image in (x, x.contiguous(memory_format=torch.channels_last), channels_last_slice(x)):
            leaf = image.detach().requires_grad_()
            y = POOLS[name](leaf)
            grad = torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype)
            results.append((y.detach(), *torch.autograd.grad(y, leaf, grad)))
        for y, back in results[1:]:
            torch.testing.assert_close(y, results[0][0], rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(back, results[0][1], rtol=0, atol=0, equal_nan=True)


def channels_last_slice(x: Tensor) -> Tensor:
    """channels_last, but no pixel begins at a multiple of 16 bytes."""
    room = x.new_full((*x.shape[:1], *x.shape[2:], x.shape[1] + 1), 7).permute(0, 3, 1, 2)
    room[:, 1:] = x
    return room[:, 1:]


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("channels", (1, 3, 8, 19))
@pytest.mark.parametrize("size", (4, 5))
def test_response_norm(size: int, channels: int, layout: torch.memory_format) -> None:
    for dtype in FLOATS:
        for beta in (0.75, 1.3):
            x = torch.randn(2, channels, 5, 6).to(dtype).contiguous(memory_format=layout).requires_grad_()
            y = CF.local_response_norm(x, size, 2.0, beta, 1.5)
            grad = torch.randn(y.shape).to(dtype)
            wide = x.detach().double().requires_grad_()
            want = F.local_response_norm(wide, size, 2.0, beta, 1.5)
            gap = TOLERANCE[dtype] * 2
            torch.testing.assert_close(y.detach().double(), want.detach(), rtol=gap, atol=gap)
            back, back_wanted = torch.autograd.grad(y, x, grad), torch.autograd.grad(want, wide, grad.double())
            torch.testing.assert_close(back[0].double(), back_wanted[0], rtol=10 * gap, atol=gap)


@pytest.mark.parametrize(
    "size", ((4, 4), (8, 12), (5, 7), (3, 16))
)  # rows that end amid 16 bytes, at their end, beyond
@pytest.mark.parametrize("dtype", (torch.uint8, torch.float16, torch.float32, torch.float64, torch.complex128))
def test_unfold_by_16_bytes(dtype: torch.dtype, size: tuple[int, int], emulated: cuda_emulation.Emulator) -> None:
    x = torch.arange(2 * 3 * size[0] * size[1]).view(2, 3, *size).to(dtype)
    for padding, stride in ((1, 1), (3, 2)):
        want = F.unfold(x.double() if not dtype.is_complex else x, 3, padding=padding, stride=stride).to(dtype)
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            results = in_every_schedule(
                emulated, functools.partial(CF.unfold, image, 3, padding=padding, stride=stride)
            )
            assert all(torch.equal(result, want) for result in results)
