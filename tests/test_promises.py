"""Promises of the docs that no operator's own test would notice: sums of one number, long chains, hostile arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import convext
from convext import _C
from convext import functional as F


def test_bias_gradient_of_one_channel_does_not_depend_on_threads(threads: None) -> None:
    x, w, up = torch.randn(2, 4, 300, 300), torch.randn(1, 4, 3, 3), torch.randn(2, 1, 298, 298)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        bias = torch.zeros(1, requires_grad=True)
        F.conv2d(x, w, bias).backward(up)
        assert bias.grad is not None
        results.append(bias.grad)
    torch.testing.assert_close(results[0].double(), up.double().sum().reshape(1), rtol=1e-4, atol=1e-2)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_long_sums_of_positive_terms_stay_accurate(layout: str, isa: str) -> None:
    """No cancellation, so that every rounding error shows; one row of 200,000 pixels, then many rows."""
    for size in ((1, 16, 1, 200_000), (16, 16, 112, 112)):
        x = torch.rand(size)
        if layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        up = torch.rand_like(x)
        kernel = [1, 3] if size[2] == 1 else [3, 3]
        padding = [k // 2 for k in kernel for _ in range(2)]
        got = torch.ops.convext.conv_wgrad(up, x, kernel, [1, 1], padding, [1, 1], 16, 0)
        want = torch.ops.convext.conv_wgrad(up.double(), x.double(), kernel, [1, 1], padding, [1, 1], 16, 0)
        assert (got.double() - want).norm() / want.norm() < 1e-6


@pytest.mark.cpu_only("of the CPU's plans")
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_workspace_of_many_small_groups_is_one_copy_of_the_weight(batch: int, channels_last: bool) -> None:
    """Groups of two channels must not each be padded to a whole tile."""
    plan = convext.conv_plan(
        "fprop", (batch, 8192, 2, 2), (8192, 2, 1, 1), groups=4096, channels_last=channels_last, num_threads=2
    )
    assert plan.workspace_bytes <= 2 * (8 << 20) + 2 * 8192 * 2 * 4


def test_a_batch_of_one_sample_repeated_keeps_its_bits() -> None:
    x = torch.randn(1, 32, 20, 20).contiguous(memory_format=torch.channels_last)
    w = torch.randn(32, 1, 17, 17)
    assert torch.equal(F.conv2d(x, w, groups=32)[0], F.conv2d(x.expand(3, -1, -1, -1), w, groups=32)[1])


def test_sizes_beyond_64_bits_raise() -> None:
    x, w = torch.ones(1).expand(1, 1, 2**24 + 1), torch.ones(1, 1, 1)
    with pytest.raises(RuntimeError):
        torch.ops.convext.conv_dgrad(x, w, None, [2**40], [0, 0], [1], 1, 0)


def test_plans_of_impossible_problems_raise() -> None:
    for stride, size in ((0, 5), (1, -1), (1, 2**50)):
        with pytest.raises(ValueError, match="expected"):
            _C.conv_plan("fprop", "float32", [1, 1, size], [1, 1, 3], [stride], [0, 0], [1], 1, 0, False, 1)


def test_operands_on_two_devices_raise() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ops.convext.conv_fprop(
            torch.ones(1, 1, 5), torch.ones(1, 1, 3, device="meta"), None, [1], [0, 0], [1], 1, 0
        )


def test_unknown_level_in_the_environment_stops_the_import() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import convext"],
        env={"CONVEXT_MAX_ISA": "sse9", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "ValueError" in run.stderr
    assert "sse9" in run.stderr
