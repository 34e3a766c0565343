"""A single tap's products, whose pixels are read where they lie (csrc/cpu/packed_conv.h, run_held_lines)."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from torch import Tensor

import convext
from convext import functional as F
from tests.guard_pages import guarded

DTYPES = (torch.float32, torch.float64)


def integers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Small integers, whose sums are exact in any order."""
    return torch.randint(-2, 3, shape).to(dtype)


def among_nan(x: Tensor, step: int, channels: int) -> Tensor:
    """The same numbers, `step` apart in a row of NaN, with channels of NaN behind those of each image."""
    whole = x.new_full((x.shape[0], x.shape[1] + channels, *x.shape[2:-1], step * x.shape[-1]), float("nan"))
    part = whole[:, : x.shape[1], ..., ::step]
    part.copy_(x)
    return part


def both(x: Tensor, w: Tensor, bias: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """The convolution; and the transposed one by the same matrix, whose weight has its lines across."""
    conv, transposed = getattr(F, f"conv{x.dim() - 2}d"), getattr(F, f"conv_transpose{x.dim() - 2}d")
    turned = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
    return conv(x, w, bias, groups=groups), transposed(x, turned, bias, groups=groups)


def check(x: Tensor, rows: int, groups: int = 1) -> None:
    """Results are exact for this image in all the ways in which it can lie."""
    w = integers(rows * groups, x.shape[1] // groups, *[1] * (x.dim() - 2), dtype=x.dtype)
    bias = integers(rows * groups, dtype=x.dtype)
    exact = getattr(torch.nn.functional, f"conv{x.dim() - 2}d")(x.double(), w.double(), bias.double(), groups=groups)
    images = [x, among_nan(x, 1, 1), among_nan(x, 2, 0)]
    if sys.platform.startswith("linux"):
        images.append(guarded(x))
        w = guarded(w)
    for image in images:
        for y in both(image, w, bias, groups):
            torch.testing.assert_close(
                y, exact.to(x.dtype), rtol=0, atol=0, msg=f"{tuple(x.shape)} {image.stride()} {rows} {groups}"
            )
    for same in (x[:1].expand(3, *x.shape[1:]), x[:, :1].expand_as(x)):
        for y, expected in zip(both(same, w, bias, groups), both(same.contiguous(), w, bias, groups), strict=True):
            assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("image", "rows"),
    [((2, 300, 14, 14), 48), ((3, 17, 7, 7), 16), ((1, 256, 33), 128), ((2, 40, 2, 5, 9), 29), ((2, 24, 32, 32), 60)],
    ids=str,
)
def test_exact_on_integers(
    image: tuple[int, ...], rows: int, groups: int, dtype: torch.dtype, isa: str, threads: None
) -> None:
    """Tiles that end with an image or within, blocks of 256 terms; what lies beside the pixels never counts."""
    batch, channels, *size = image
    for count in (1, 2):
        torch.set_num_threads(count)
        check(integers(batch, channels * groups, *size, dtype=dtype), rows, groups)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_on_random_sizes(dtype: torch.dtype, isa: str, seed: int, threads: None) -> None:
    """Rows, columns, blocks and images around the edges of tiles."""
    choose = random.Random(seed)
    for count in (1, 2, 3, 5):
        groups, batch = choose.choice((1, 1, 1, 2)), choose.choice((1, 2, 3))
        channels, rows = choose.choice((1, 3, 17, 64, 256, 300)), choose.choice((9, 14, 16, 29, 60, 128, 130))
        sizes = ((choose.randint(1, 300),), (choose.randint(1, 17), choose.choice((3, 7, 14, 31))), (2, 5, 9), (32, 32))
        torch.set_num_threads(count)
        check(integers(batch, channels * groups, *choose.choice(sizes), dtype=dtype), rows, groups)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("image", "rows", "algorithm"),
    [
        ((2, 300, 14, 14), 48, "packed"),
        ((1, 20, 33, 64), 100, "packed"),
        ((3, 24, 100, 100), 20, "banded"),
        ((3, 16, 9000), 32, "banded"),
        ((2, 100, 60, 60), 90, "packed"),  # tile by tile
        ((2, 80, 60, 60), 90, "packed"),  # panel by panel: more results than pixels, which stream
    ],
    ids=str,
)
def test_the_bits_are_those_of_gathered_pixels(
    image: tuple[int, ...], rows: int, algorithm: str, dtype: torch.dtype, isa: str, threads: None
) -> None:
    """Of any threads and batch."""
    x, bias = torch.randn(image, dtype=dtype), torch.randn(rows, dtype=dtype)
    w = torch.randn(rows, image[1], *[1] * (len(image) - 2), dtype=dtype)
    for batch in (image[0], 1):
        assert convext.conv_plan("fprop", (batch, *image[1:]), w.shape, dtype=dtype).algorithm == algorithm
    torch.set_num_threads(1)
    want = both(among_nan(x, 2, 0), w, bias)
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        for got, expected in zip(both(x, w, bias), want, strict=True):
            assert torch.equal(got, expected)
    for got, expected in zip(both(x[-1:], w, bias), want, strict=True):
        assert torch.equal(got, expected[-1:])


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.SiLU()], ids=str)
@pytest.mark.parametrize("size", [(14, 14), (8, 8), (90, 90)], ids=str)
def test_an_epilogue_finishes_tiles(activation: torch.nn.Module, size: tuple[int, int], isa: str) -> None:
    """Clamped in the registers, or activated in scratch memory; images end within a tile and with one; in bands."""
    x, model = torch.randn(3, 300, *size), torch.nn.Sequential(torch.nn.Conv2d(300, 30, 1), activation)
    with torch.no_grad():
        fused = convext.fuse(convext.convert(model.eval()))
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
        assert torch.equal(fused(x)[:1], fused(x[:1]))
