"""Depthwise layers, a vector of planes at a time: exact sums whatever taps read padding and however the weight lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import convext
import convext.functional as CF
from tests.test_depthwise_shifted import DTYPES, algorithms, integers, operands, results

CHANNELS = 21  # a part of a block of every vector's planes
# Images of fewer rows than the kernel, and of more; padding that whole windows read.
PROBLEMS: tuple[tuple[tuple[int, int], tuple[int, int], dict[str, Any]], ...] = (
    ((7, 7), (7, 7), {"padding": 3}),
    ((3, 5), (7, 7), {"padding": 3}),
    ((2, 5), (3, 3), {"padding": (5, 2)}),
    ((7, 6), (5, 9), {"padding": (2, 4), "stride": (2, 1)}),
    ((6, 7), (4, 4), {"padding": (9, 3), "stride": (3, 2)}),
    ((9, 3), (3, 3), {"padding": (6, 2), "dilation": (4, 2)}),
    ((5, 3), (1, 17), {"padding": (2, 8)}),
    # rows of 5 and 7 taps, which share what they read: all of a row and parts of it, bands of columns, phases of dgrad
    ((3, 8), (5, 5), {"padding": 2}),
    ((5, 6), (3, 7), {"padding": (0, 2)}),
    ((3, 21), (2, 5), {"padding": (0, 9)}),
    ((1, 3000), (1, 7), {"padding": (0, 3)}),
    ((3, 15), (4, 10), {"padding": (1, 4), "stride": (1, 2)}),
    ((3, 13), (3, 14), {"padding": (1, 6), "stride": (1, 2)}),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("multiplier", (1, 2))
@pytest.mark.parametrize(("size", "kernel", "settings"), PROBLEMS, ids=str)
def test_sums_are_exact(
    size: tuple[int, int],
    kernel: tuple[int, int],
    settings: dict[str, Any],
    multiplier: int,
    dtype: torch.dtype,
    isa: str,
) -> None:
    settings = {**settings, "groups": CHANNELS}
    x, w, bias, grad = operands(CHANNELS, multiplier, size, kernel, 2, settings)
    if isa != "baseline":  # whose vectors some of the rows fill
        assert "depthwise" in algorithms(tuple(x.shape), tuple(w.shape), dtype=dtype, **settings)
    expected = results(torch.nn.functional, (x, w, bias, grad), settings)
    sparse = torch.zeros(*w.shape[:-1], 2 * w.shape[-1], dtype=w.dtype)
    sparse[..., ::2] = w
    for weight in (w.to(dtype), sparse.to(dtype)[..., ::2]):
        ours = results(CF, (x.to(dtype), weight, bias.to(dtype), grad.to(dtype)), settings)
        for a, b in zip(ours, expected, strict=True):
            assert torch.equal(a.double(), b.to(dtype).double())


def test_an_infinite_weight_meets_no_padding_above_or_below(isa: str) -> None:
    """Rows of taps that read padding alone are left out, as torch leaves them."""
    x, w = integers(1, CHANNELS, 3, 5).float(), integers(CHANNELS, 1, 7, 7).float()
    w[:, :, 0, 3] = float("inf")  # reads the image under no row of results
    assert convext.conv_plan("fprop", (1, CHANNELS, 3, 5), w.shape, padding=3, groups=CHANNELS).algorithm == "depthwise"
    y = CF.conv2d(x, w, padding=3, groups=CHANNELS)
    clean = torch.where(w.isinf(), 0, w)
    assert torch.equal(y, CF.conv2d(x, clean, padding=3, groups=CHANNELS))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kernel", (5, 7))
def test_threads_and_batch_change_no_bit(kernel: int, isa: str) -> None:
    """Rows of taps have two sets of sums."""
    settings: dict[str, Any] = {"padding": kernel // 2, "groups": CHANNELS}
    for size in ((7, 7), (2, 40)):
        x, w = torch.randn(3, CHANNELS, *size), torch.randn(CHANNELS, 1, kernel, kernel)
        bias, grad = torch.randn(CHANNELS), torch.randn(3, CHANNELS, *size)
        torch.set_num_threads(1)
        first = results(CF, (x, w, bias, grad), settings)
        alone = results(CF, (x[1:2], w, bias, grad[1:2]), settings)
        assert torch.equal(first[0][1:2], alone[0]) and torch.equal(first[1][1:2], alone[1])
        torch.set_num_threads(2)
        for a, b in zip(results(CF, (x, w, bias, grad), settings), first, strict=True):
            assert torch.equal(a, b)
