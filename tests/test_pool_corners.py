"""L2 pooling, which has an operator of its own, and what poolings owe to traces, modes, layouts and extremes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import convext
import convext.functional as CF

SHAPES = ((2, 3, 9), (2, 3, 8, 9), (1, 2, 5, 6, 5), (1, 2, 5, 43))


def pair(rank: int) -> tuple[Any, Any]:
    return getattr(CF, f"lp_pool{rank}d"), getattr(F, f"lp_pool{rank}d")


@pytest.mark.parametrize("isa", convext.backends.cpu.isa_levels())
@pytest.mark.parametrize("ceil_mode", (False, True))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], ceil_mode: bool, isa: str) -> None:
    ours, theirs = pair(len(shape) - 2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with convext.backends.cpu.max_isa(isa):
        for window in ((2, 2), (3, 2), (3, 1), (2, None)):
            a, b = ours(x, 2, *window, ceil_mode), theirs(x, 2, *window, ceil_mode)
            torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
            g = torch.randn_like(a)
            for p, q in zip(torch.autograd.grad(a, x, g), torch.autograd.grad(b, x, g), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_derivatives(shape: tuple[int, ...]) -> None:
    ours, _ = pair(len(shape) - 2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: ours(t, 2, 2, 2), (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(lambda t: ours(t, 2, 2, 2), (x,))
    image = x.detach()[:1, :1]
    total = lambda t: ours(t, 2, 2, 2).square().sum() + ours(t, 2, 2, 1).sum()  # noqa: E731
    wanted = torch.autograd.functional.hessian(total, image)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            torch.testing.assert_close(outer(inner(total))(image), wanted)
    zeros = torch.zeros(shape, requires_grad=True)
    ours(zeros, 2, 2, 2).sum().backward()
    assert zeros.grad is not None and not zeros.grad.any()


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_layout_and_half_types(shape: tuple[int, ...]) -> None:
    ours, theirs = pair(len(shape) - 2)
    wanted = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = torch.randn(shape).contiguous(memory_format=wanted)
    a, b = ours(x, 2, 3, 2), theirs(x, 2, 3, 2)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert a.stride() == b.stride()
    g = torch.randn_like(a)
    (p,), (q,) = (
        torch.autograd.grad(f(t, 2, 3, 2), t, g) for f, t in ((f, x.requires_grad_()) for f in (ours, theirs))
    )
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert p.stride() == x.stride()
    x.requires_grad_(False)
    for dtype, bound in ((torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
        low = x.to(dtype).requires_grad_()
        y = ours(low, 2, 2)
        exact = theirs(low.detach().double(), 2, 2)
        assert y.dtype is dtype and float((y.detach().double() - exact).norm() / exact.norm()) < bound
        y.sum().backward()
        assert low.grad is not None and low.grad.dtype is dtype


def test_negative_norms_are_torchs() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    torch.testing.assert_close(CF.lp_pool2d(x, -1, 2), F.lp_pool2d(x, -1, 2))


def test_a_function_mode_loses_no_argument() -> None:
    x = torch.randn(1, 2, 6, 6)
    expected = CF.lp_pool2d(x, 3, 3, padding=1, abs=True)
    with torch.device("cpu"):
        assert torch.equal(CF.lp_pool2d(x, 3, 3, padding=1, abs=True), expected)


@pytest.mark.parametrize("name", ("max_pool2d", "min_pool2d", "avg_pool2d", "lp_pool2d", "adaptive_avg_pool2d"))
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_trace(name: str) -> None:
    arguments: tuple[Any, ...] = {"lp_pool2d": (2, 2), "adaptive_avg_pool2d": ((None, 2),)}.get(name, (2,))
    x = torch.rand(1, 1, 4, 4)
    traced = torch.jit.trace(lambda t: getattr(CF, name)(t, *arguments), (x,))
    assert torch.equal(traced(x), getattr(CF, name)(x, *arguments))


def test_the_least_integer_by_minus_one() -> None:
    least = torch.iinfo(torch.int64).min
    x = torch.tensor([[[[least, 0], [0, 0]]]])
    assert CF.avg_pool2d(x, 2, divisor_override=-1).item() == least  # wraps, as -least does
    y = torch.tensor([[[[3, -5], [7, 1]]]])
    assert CF.avg_pool2d(y, 2, divisor_override=-1).item() == F.avg_pool2d(y, 2, divisor_override=-1).item() == -6
    ones = (1, 1)
    with pytest.raises(RuntimeError, match="divisor"):
        torch.ops.convext.avg_pool(x, ones, ones, (0,) * 4, ones, (2, 2), True, -1)


def test_vmap_over_nothing() -> None:
    assert torch.func.vmap(lambda t: CF.max_pool2d(t, 2))(torch.randn(0, 2, 3, 4, 4)).shape == (0, 2, 3, 2, 2)


@pytest.mark.parametrize("call", ("avg_pool2d", "adaptive_avg_pool2d"))
@pytest.mark.parametrize("size", (1, 3))
def test_a_gradient_has_the_layout_of_the_image(call: str, size: int) -> None:
    x = torch.randn(2, 64, 7, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    strides = [torch.autograd.grad(getattr(m, call)(x, size).flatten(1).sum(), x)[0].stride() for m in (F, CF)]
    assert strides[0] == strides[1]


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_means_of_large_images(layout: torch.memory_format) -> None:
    x = torch.rand(1, 16, 512, 512).contiguous(memory_format=layout)
    exact = x.double().mean((2, 3), keepdim=True)
    assert float((CF.adaptive_avg_pool2d(x, 1).double() - exact).norm() / exact.norm()) < 1e-6


def test_unshared_weights_are_checked_on_each_axis() -> None:
    with pytest.raises(RuntimeError, match="output pixels"):
        CF.locally_connected(torch.randn(1, 2, 5, 6), torch.randn(3, 2, 3, 3, 2, 6))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_autocast_types_are_torchs(dtype: torch.dtype) -> None:
    x, indices = torch.rand(1, 2, 8, 8).to(dtype), torch.arange(64).view(1, 1, 8, 8).expand(1, 2, 8, 8).contiguous()
    calls = {
        "lp_pool2d": lambda m: m.lp_pool2d(x, 2, 2),
        "max_unpool2d": lambda m: m.max_unpool2d(x, indices, 1),
        "fractional_max_pool2d": lambda m: m.fractional_max_pool2d(x, 2, output_size=4),
        "max_pool3d": lambda m: m.max_pool3d(x[None], 2, return_indices=True)[0],
    }
    if dtype is torch.bfloat16:  # torch has no average of three axes in float16 under this autocast
        calls["local_response_norm"] = lambda m: m.local_response_norm(x, 3)
    for name, call in calls.items():
        with torch.autocast("cpu", torch.bfloat16):
            assert call(CF).dtype is call(F).dtype, name
