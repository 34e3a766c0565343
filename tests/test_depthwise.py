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
