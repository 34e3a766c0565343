"""channels_last to a few result channels (csrc/cpu/narrow_channels.h): the edges of its tiles, taps and results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import convext
from convext import functional as F

pytestmark = pytest.mark.cpu_only("of the CPU's kernels")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# kernel, stride, padding, dilation
SETTINGS = (
    ((1, 1), 1, 0, 1),
    ((3, 3), 1, 1, 1),
    ((2, 5), (1, 2), (1, 4), 1),
    ((4, 4), 2, 1, 1),
    ((3, 2), 1, 2, (1, 3)),
)


def integers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Small integers, whose sums are exact in any order and in every type."""
    return torch.randint(-1, 2, shape).to(dtype)


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("results", (1, 2, 3, 4))
def test_exact_at_every_edge_of_a_tile(results: int, dtype: torch.dtype, isa: str, seed: int) -> None:
    for width in (1, 4, 5, 8, 15, 16, 17, 33):
        for channels in (16, 48):
            for kernel, stride, padding, dilation in SETTINGS:
                pads = padding if isinstance(padding, tuple) else (padding,) * 2
                steps = dilation if isinstance(dilation, tuple) else (dilation,) * 2
                if width + 2 * pads[1] < steps[1] * (kernel[1] - 1) + 1:
                    continue
                settings = {"stride": stride, "padding": padding, "dilation": dilation}
                x, b = channels_last(integers(2, channels, 6, width, dtype=dtype)), integers(results, dtype=dtype)
                w = integers(results, channels, *kernel, dtype=dtype)
                want = torch.nn.functional.conv2d(x.double(), w.double(), b.double(), **settings)
                torch.testing.assert_close(F.conv2d(x, w, b, **settings), want.to(dtype), rtol=0, atol=0)
                w = integers(channels, results, *kernel, dtype=dtype)
                try:
                    want = torch.nn.functional.conv_transpose2d(x.double(), w.double(), b.double(), **settings)
                except RuntimeError:  # padding crops all of it
                    continue
                torch.testing.assert_close(F.conv_transpose2d(x, w, b, **settings), want.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(mode: str, isa: str) -> None:
    x, w = channels_last(integers(2, 32, 9, 30, dtype=torch.float32)), integers(3, 32, 3, 5, dtype=torch.float32)
    got = F.conv2d(x, w, padding=((2, 1), (4, 3)), padding_mode=mode)
    padded = torch.nn.functional.pad(x.double(), (4, 3, 2, 1), mode="constant" if mode == "zeros" else mode)
    torch.testing.assert_close(got.double(), torch.nn.functional.conv2d(padded, w.double()), rtol=0, atol=0)


@pytest.mark.parametrize("results", (1, 2, 3, 4))
def test_threads_and_batch_change_no_bit(results: int, isa: str, threads: None) -> None:
    images = [channels_last(torch.randn(1, 64, 13, 21)) for _ in range(3)]
    forward, back = torch.randn(results, 64, 3, 3), torch.randn(64, results, 4, 4)
    torch.set_num_threads(1)
    alone = [(F.conv2d(x, forward, padding=1), F.conv_transpose2d(x, back, stride=2, padding=1)) for x in images]
    together = channels_last(torch.cat(images))
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        for i, (y, z) in enumerate(alone):
            assert torch.equal(F.conv2d(together, forward, padding=1)[i : i + 1], y)
            assert torch.equal(F.conv_transpose2d(together, back, stride=2, padding=1)[i : i + 1], z)


def test_infinite_weights_reach_only_what_reads_them(isa: str) -> None:
    x, w = torch.ones(1, 32, 9, 40), torch.randn(2, 32, 3, 3)
    w[1, 5, 0, 2] = float("inf")
    y = F.conv2d(channels_last(x), w, padding=1)
    reads = torch.nn.functional.conv2d(x, (~torch.isfinite(w)).float(), padding=1) > 0
    assert torch.equal(~torch.isfinite(y), reads)


@pytest.mark.parametrize(
    ("weight", "reason"),
    (
        ((5, 64, 3, 3), "5 result channels repay vectors of them, more than"),
        ((2, 17, 3, 3), "17 channels do not fill vectors"),
        ((2, 64, 9, 9), "a sum has 5184 terms"),
    ),
    ids=str,
)
def test_what_is_declined_says_why(weight: tuple[int, ...], reason: str) -> None:
    plan = convext.conv_plan("fprop", (1, weight[1], 30, 30), weight, channels_last=True)
    assert reason in dict(plan.declined)["narrow_channels_last"], plan
    assert (
        "not channels_last"
        in dict(convext.conv_plan("fprop", (1, 64, 30, 30), (2, 64, 3, 3)).declined)["narrow_channels_last"]
    )
