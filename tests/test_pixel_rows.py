"""channels_last rows of pixels (csrc/cpu/pixel_rows.h): every place a tile's terms can have, and what is left out."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import convext
from convext import functional as F

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def integers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Small integers, whose sums are exact in any order and in every type."""
    return torch.randint(-1, 2, shape).to(dtype)


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def some_problem(choose: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Sizes of an image and a weight, and settings, around the edges of tiles, windows and blocks of 256 terms."""
    groups = choose.choice((1, 1, 1, 2, 3))
    channels, results = choose.choice((1, 2, 3, 4, 8, 24, 70)), choose.choice((1, 2, 16, 17, 24, 32, 40, 64, 70, 96))
    kernel = (choose.choice((1, 2, 3, 5, 7)), choose.choice((1, 2, 3, 4, 5, 7)))
    dilation = (choose.choice((1, 1, 2, 3)), choose.choice((1, 1, 2, 5)))
    size = (choose.randint(1, 9) + kernel[0] * dilation[0], choose.randint(1, 60) + kernel[1] * dilation[1])
    settings = {
        "stride": (choose.choice((1, 1, 2, 3)), choose.choice((1, 1, 2, 4))),
        "padding": (choose.randint(0, 3), choose.randint(0, 3)),
        "dilation": dilation,
        "groups": groups,
    }
    return (choose.choice((1, 2)), channels * groups, *size), (results * groups, channels, *kernel), settings


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_on_integers(dtype: torch.dtype, isa: str, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(12):
        image, weight, settings = some_problem(choose)
        x, w = channels_last(integers(*image, dtype=dtype)), integers(*weight, dtype=dtype)
        with convext.backends.winograd.flags(enabled=False):
            y = F.conv2d(x, w, **settings)
            g = channels_last(integers(*y.shape, dtype=dtype))
            back = F.conv_transpose2d(g, w, **settings)
        want = torch.nn.functional.conv2d(x.double(), w.double(), **settings)
        torch.testing.assert_close(y, want.to(dtype), rtol=0, atol=0, msg=f"conv2d {image} {weight} {settings}")
        want = torch.nn.functional.conv_transpose2d(g.double(), w.double(), **settings)
        torch.testing.assert_close(back, want.to(dtype), rtol=0, atol=0, msg=f"transposed {image} {weight} {settings}")


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("channels", [1, 3, 20, 130])
def test_padding_is_staged(mode: str, channels: int, isa: str) -> None:
    x = channels_last(integers(2, channels, 9, 45, dtype=torch.float32))
    w = integers(18, channels, 3, 5, dtype=torch.float32)
    got = F.conv2d(x, w, padding=((2, 1), (4, 3)), padding_mode=mode)
    padded = torch.nn.functional.pad(x.double(), (4, 3, 2, 1), mode="constant" if mode == "zeros" else mode)
    torch.testing.assert_close(got.double(), torch.nn.functional.conv2d(padded, w.double()), rtol=0, atol=0)


@pytest.mark.parametrize("width", [13, 14, 28, 45])
def test_left_out_padding_does_not_depend_on_threads_or_batch(width: int, isa: str, threads: None) -> None:
    """0 * Inf is NaN where it is computed, and must be computed for the same results in every way of cutting them."""
    x, w = channels_last(torch.randn(1, 136, 15, width)), torch.randn(40, 136, 3, 3)
    w[3, 7, 0, 0], w[5, 130, 2, 1], w[8, 0, 1, 1] = float("inf"), float("nan"), -float("inf")
    bias = torch.randn(40)
    for settings in ({"dilation": 6, "padding": 6}, {"dilation": 2, "padding": 2, "stride": 2}):
        torch.set_num_threads(1)
        alone = F.conv2d(x, w, bias, **settings)
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            together = F.conv2d(
                channels_last(torch.cat([torch.randn_like(x), x, torch.randn_like(x)])), w, bias, **settings
            )
            for result in (F.conv2d(x, w, bias, **settings), together[1:2]):
                torch.testing.assert_close(result, alone, rtol=0, atol=0, equal_nan=True)
        # every result whose window has the tap inside of the image, and no other output channel
        reached = torch.nn.functional.conv2d(torch.ones_like(x), (~torch.isfinite(w)).float(), **settings) > 0
        assert not torch.isfinite(alone[reached]).any()
        others = [k for k in range(40) if k not in (3, 5, 8)]
        assert torch.isfinite(alone[:, others]).all()


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("channels", [(6, 3), (40, 34), (130, 70)])
def test_phases_in_turn(kernel: int, channels: tuple[int, int], isa: str, threads: None) -> None:
    """Transposed convolutions whose phases have different taps, and some none at all."""
    x, w = channels_last(torch.randn(2, channels[0], 9, 15)), torch.randn(*channels, kernel, kernel)
    for stride in (2, 3):
        with convext.backends.winograd.flags(enabled=False):
            torch.set_num_threads(1)
            alone = F.conv_transpose2d(x, w, stride=stride, padding=1, output_padding=stride - 1)
            torch.set_num_threads(3)
            assert torch.equal(F.conv_transpose2d(x, w, stride=stride, padding=1, output_padding=stride - 1), alone)
        want = torch.nn.functional.conv_transpose2d(
            x.double(), w.double(), stride=stride, padding=1, output_padding=stride - 1
        )
        assert (alone.double() - want).norm() < 1e-6 * want.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [(300, 70), (1024, 264)])
def test_phases_with_and_without_taps_in_turn(
    channels: tuple[int, int], dtype: torch.dtype, isa: str, threads: None
) -> None:
    """The gradient of a strided 1 x 1 layer: a phase of one tap, packed by its readers if large, and three of none."""
    filters, depth = channels
    x, w = channels_last(integers(1, depth, 22, 26, dtype=dtype)), integers(filters, depth, 1, 1, dtype=dtype)
    grad = channels_last(integers(1, filters, 11, 13, dtype=dtype))
    leaf = x.double().requires_grad_()
    (want,) = torch.autograd.grad(torch.nn.functional.conv2d(leaf, w.double(), stride=2), [leaf], grad.double())
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        source = x.clone(memory_format=torch.preserve_format).requires_grad_()
        (got,) = torch.autograd.grad(F.conv2d(source, w, stride=2), [source], grad)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(30, 30), (9, 11)])
def test_a_huge_weight_is_read_by_few_units(size: tuple[int, int], isa: str, threads: None) -> None:
    """A weight of more than 4 MiB, and a result of more than 2 MiB whose lines are fetched: bits do not change."""
    x, w = channels_last(torch.randn(1, 640, *size)), torch.randn(650, 640, 3, 1)
    torch.set_num_threads(1)
    alone = F.conv2d(x, w, padding=(1, 0))
    for count in (2, 3):
        torch.set_num_threads(count)
        assert torch.equal(F.conv2d(x, w, padding=(1, 0)), alone)
    want = torch.nn.functional.conv2d(x.double(), w.double(), padding=(1, 0))
    assert (alone.double() - want).norm() < 1e-6 * want.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("results", [64, 96, 130, 200])
@pytest.mark.parametrize("channels", [1, 3, 7, 8])
def test_two_panels_of_a_short_sum(channels: int, results: int, dtype: torch.dtype, isa: str, threads: None) -> None:
    """First layers, up to 64 terms and above: rows of any length, a result whose lines are fetched, any threads."""
    w, bias = integers(results, channels, 3, 3, dtype=dtype), integers(results, dtype=dtype)
    for height, width in ((3, 1), (5, 7), (2, 12), (9, 25), (64, 90)):
        x = channels_last(integers(2, channels, height, width, dtype=dtype))
        want = torch.nn.functional.conv2d(x.double(), w.double(), bias.double(), padding=1)
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            got = F.conv2d(x, w, bias, padding=1)
            torch.testing.assert_close(got.double(), want, rtol=0, atol=0)
