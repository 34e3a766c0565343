"""Products with the weight as it lies (csrc/cpu/line_product.h): every place of lines, panels and blocks."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import convext
from convext import functional as F

DTYPES = (torch.float32, torch.float64)


def integers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Small integers, whose sums are exact in any order."""
    return torch.randint(-2, 3, shape).to(dtype)


def some_problem(choose: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Sizes of an image and a weight, and settings, around the edges of tiles, panels and blocks of 256 terms."""
    groups = choose.choice((1, 1, 1, 2))
    channels, results = choose.choice((1, 3, 16, 29, 65, 130, 300)), choose.choice((1, 8, 13, 14, 15, 65, 130, 200))
    kernel = (choose.choice((1, 2, 3, 5)), choose.choice((1, 2, 3, 5)))
    size = (choose.randint(5, 17) + kernel[0], choose.choice((2, 4, 7, 14, 16, 29, 40)) + kernel[1])
    settings = {
        "stride": choose.choice((1, 1, 2)),
        "padding": (choose.randint(0, 2), choose.randint(0, 2)),
        "groups": groups,
    }
    return (choose.choice((1, 2, 3)), channels * groups, *size), (results * groups, channels, *kernel), settings


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_on_integers(dtype: torch.dtype, isa: str, seed: int, threads: None) -> None:
    choose = random.Random(seed)
    for count in (1, 2, 1, 3, 1, 2, 5, 1):
        image, weight, settings = some_problem(choose)
        x, w, bias = (integers(*shape, dtype=dtype) for shape in (image, weight, weight[:1]))
        torch.set_num_threads(count)
        with convext.backends.winograd.flags(enabled=False):
            y = F.conv2d(x, w, bias, **settings)
        want = torch.nn.functional.conv2d(x.double(), w.double(), bias.double(), **settings)
        torch.testing.assert_close(y, want.to(dtype), rtol=0, atol=0, msg=f"{image} {weight} {settings}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lines_across_are_exact_on_integers(dtype: torch.dtype, isa: str, seed: int, threads: None) -> None:
    """dgrad of one tap: panels of a vector and wider, which begin anywhere in a term's row and end with it."""
    choose = random.Random(seed)
    for count in (1, 2, 1, 3, 1, 2, 5, 1):
        groups, padding = choose.choice((1, 1, 1, 2)), choose.choice((0, 0, 1))
        terms, results = (
            choose.choice((1, 3, 16, 65, 256, 300, 520)),
            choose.choice((1, 8, 13, 14, 15, 16, 17, 65, 200)),
        )
        image = (
            choose.choice((1, 2, 3, 9)),
            terms * groups,
            choose.randint(3, 15),
            choose.choice((3, 4, 7, 14, 16, 29)),
        )
        weight = (terms * groups, results, 1, 1)
        x, w, bias = (
            integers(*image, dtype=dtype),
            integers(*weight, dtype=dtype),
            integers(results * groups, dtype=dtype),
        )
        torch.set_num_threads(count)
        y = F.conv_transpose2d(x, w, bias, padding=padding, groups=groups)
        want = torch.nn.functional.conv_transpose2d(
            x.double(), w.double(), bias.double(), padding=padding, groups=groups
        )
        torch.testing.assert_close(y, want.to(dtype), rtol=0, atol=0, msg=f"{image} {weight} {padding} {groups}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_of_lines_across_are_those_of_a_packed_weight(dtype: torch.dtype, isa: str, threads: None) -> None:
    x, w = torch.randn(2, 300, 14, 14, dtype=dtype), torch.randn(300, 90, 1, 1, dtype=dtype)
    swapped = w.transpose(0, 1).contiguous().transpose(0, 1)
    sliced = torch.randn(303, 95, 1, 1, dtype=dtype)[1:-2, 2:-3]
    sliced.copy_(w)
    torch.set_num_threads(1)
    want = F.conv_transpose2d(x, swapped)
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        for other in (w, swapped, sliced):
            assert torch.equal(F.conv_transpose2d(x, other), want)
        assert torch.equal(F.conv_transpose2d(torch.cat([x, x, x]), w)[:2], want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("image", "weight"), [((1, 130, 9, 14), (150, 130, 3, 3)), ((3, 300, 7, 7), (90, 300, 1, 2))])
def test_the_bits_are_those_of_a_packed_weight(
    image: tuple[int, ...], weight: tuple[int, ...], dtype: torch.dtype, isa: str, threads: None
) -> None:
    """A weight whose rows are not contiguous is packed; and neither the threads nor the batch change a bit."""
    x, w = torch.randn(image, dtype=dtype), torch.randn(weight, dtype=dtype)
    swapped = w.transpose(0, 1).contiguous().transpose(0, 1)
    sliced = torch.randn(weight[0] + 3, weight[1] + 2, *weight[2:], dtype=dtype)[1:-2, 1:-1]
    sliced.copy_(w)
    with convext.backends.winograd.flags(enabled=False):
        torch.set_num_threads(1)
        want = F.conv2d(x, w, padding=(1, 2))
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            for other in (w, swapped, sliced):
                assert torch.equal(F.conv2d(x, other, padding=(1, 2)), want)
            assert torch.equal(F.conv2d(torch.cat([x, x, x]), w, padding=(1, 2))[: image[0]], want)


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.SiLU()], ids=str)
def test_an_epilogue_finishes_halves_of_tiles(activation: torch.nn.Module, isa: str) -> None:
    """Clamped in the registers, or activated in scratch memory; 14 x 14 pixels end within half of a tile."""
    x, model = torch.randn(1, 40, 14, 14), torch.nn.Sequential(torch.nn.Conv2d(40, 130, 3, padding=1), activation)
    with torch.no_grad(), convext.backends.winograd.flags(enabled=False):
        fused = convext.fuse(convext.convert(model.eval()))
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
