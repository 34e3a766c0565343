"""One real case beyond 2^31 elements: every offset is 64 bits wide. Slow, and only where memory is enough."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import convext.functional as CF
from tests.reference import TOLERANCE, error

SIDE = 46_342  # SIDE^2 is just above 2^31
GIB = 1 << 30


def free_memory() -> int:
    info = Path("/proc/meminfo")
    if not info.exists():
        return 0
    return (
        int(next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable")).split()[1]) * 1024
    )


@pytest.fixture(scope="module")
def image() -> Tensor:
    """(1, 1, SIDE, SIDE) in bfloat16, 4 GiB: pixels that differ from row to row and from column to column."""
    if free_memory() < 13 * GIB:
        pytest.skip("needs 13 GiB of free memory")
    columns = (torch.arange(SIDE) % 251 - 125).bfloat16() / 64
    rows = (torch.arange(SIDE) % 241 - 120).bfloat16() / 64
    x = torch.empty(1, 1, SIDE, SIDE, dtype=torch.bfloat16)
    torch.add(rows[:, None], columns[None, :], out=x[0, 0])
    assert x.numel() > 2**31
    return x


# bands of rows to look at: both ends, and the row in which element 2^31 lies
BANDS = (0, 20_000, 2**31 // SIDE - 2, SIDE - 4)


@pytest.mark.slow
def test_forward(image: Tensor) -> None:
    w, b = torch.randn(1, 1, 3, 3).bfloat16(), torch.randn(1).bfloat16()
    y = CF.conv2d(image, w, b, padding=((0, 0), (1, 1)))
    assert y.shape == (1, 1, SIDE - 2, SIDE)
    for top in BANDS:
        band = image[:, :, top : top + 4].double()
        wanted = torch.nn.functional.conv2d(band, w.double(), b.double(), padding=(0, 1))
        assert error(y[:, :, top : top + 2], wanted) < TOLERANCE[torch.bfloat16], top


@pytest.mark.slow
def test_transposed(image: Tensor) -> None:
    w = torch.randn(1, 1, 3, 3).bfloat16()
    y = CF.conv_transpose2d(image, w, padding=1)
    assert y.shape == image.shape
    for top in BANDS:
        first, last = max(top - 1, 0), min(top + 5, SIDE)
        wanted = torch.nn.functional.conv_transpose2d(image[:, :, first:last].double(), w.double(), padding=(0, 1))
        offset = top - first + 1  # the unpadded result starts one row before its first input row
        assert error(y[:, :, top : top + 4], wanted[:, :, offset : offset + 4]) < TOLERANCE[torch.bfloat16], top


@pytest.mark.slow
def test_gradient_of_the_weight(image: Tensor) -> None:
    """Against float64 over bands of rows, whose sums add up to the whole."""
    g = image  # the image of a 1x1 kernel has its own size
    out = torch.ops.convext.conv_wgrad(g, image, [1, 1], [1, 1], [0] * 4, [1, 1], 1, 0)
    wanted = sum(image[0, 0, top : top + 512].double().square().sum() for top in range(0, SIDE, 512))
    assert abs(out.item() - float(wanted)) < TOLERANCE[torch.bfloat16] * float(wanted)


@pytest.mark.slow
def test_max_pool_of_bytes() -> None:
    """2 GiB of uint8: values, the int64 places of the winners, and the smallest elements, of bands of rows."""
    if free_memory() < 12 * GIB:
        pytest.skip("needs 12 GiB of free memory")
    columns, rows = torch.arange(SIDE) * 37 % 127, torch.arange(SIDE) * 53 % 113
    x = torch.empty(1, 1, SIDE, SIDE, dtype=torch.uint8)
    torch.add(rows[:, None].to(torch.uint8), columns[None, :].to(torch.uint8), out=x[0, 0])
    values, places = CF.max_pool2d(x, 4, return_indices=True)
    smallest = CF.min_pool2d(x, 4)
    side = SIDE // 4
    assert values.shape == (1, 1, side, side)
    for start in (0, 5_000, 2**31 // SIDE // 4 - 1, side - 2):
        band = x[0, 0, 4 * start : 4 * start + 8, : 4 * side].reshape(2, 4, side, 4).transpose(1, 2).flatten(2).int()
        assert torch.equal(values[0, 0, start : start + 2].int(), band.amax(-1))
        assert torch.equal(smallest[0, 0, start : start + 2].int(), band.amin(-1))
        at = places[0, 0, start : start + 2]
        assert torch.equal(x.flatten()[at], values[0, 0, start : start + 2])
        assert torch.equal(at // SIDE // 4, torch.arange(start, start + 2)[:, None].expand(2, side))
        assert torch.equal(at % SIDE // 4, torch.arange(side).expand(2, side))
