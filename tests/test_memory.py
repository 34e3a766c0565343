"""Memory: nothing leaks, nothing the size of an im2col is ever made, and results are the only large allocations."""

from __future__ import annotations

import concurrent.futures
import os
import platform
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import convext
import convext.functional as CF

MIB = 1 << 20
STATUS = Path("/proc/self/status")
ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("most_channels", (20, 160))
def test_five_hundred_shapes_leave_nothing_behind(most_channels: int) -> None:
    rng = random.Random(4)
    algorithms = set()

    def one() -> None:
        n, c, k, size, kernel = (
            rng.randint(1, 3),
            rng.randint(1, most_channels),
            rng.randint(1, most_channels),
            rng.randint(7, 40),
            rng.randint(1, 5),
        )
        stride, padding = rng.randint(1, 3), rng.randint(0, 3)
        x = torch.randn(n, c, size, size + 3, requires_grad=True)
        w = torch.randn(k, c, kernel, kernel, requires_grad=True)
        algorithms.add(convext.conv_plan("fprop", x.shape, w.shape, stride=stride, padding=padding).algorithm)
        CF.conv2d(x, w, stride=stride, padding=padding).sum().backward()

    for _ in range(100):
        one()
    before = resident()
    for _ in range(500):
        one()
    assert resident() - before < 20 * MIB
    assert algorithms >= ({"banded"} if most_channels < 32 else {"banded", "packed", "winograd"})


def test_five_hundred_shapes_of_every_family_leave_nothing_behind() -> None:
    rng = random.Random(5)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

    def one() -> None:
        dims, transposed, dtype = rng.randint(1, 3), rng.random() < 0.3, rng.choice(dtypes)
        groups = rng.choice((1, 1, 2, 8))
        c, k = groups * rng.randint(1, 6), groups * rng.randint(1, 6)
        kernel, stride, dilation = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 2)
        size = [rng.randint(9, 14) if dims == 3 else rng.randint(9, 40) for _ in range(dims)]
        x = torch.randn(rng.randint(1, 3), c, *size).to(dtype).requires_grad_()
        outer, inner = (c, k) if transposed else (k, c)
        w = torch.randn(outer, inner // groups, *[kernel] * dims).to(dtype).requires_grad_()
        function = getattr(CF, f"conv_transpose{dims}d" if transposed else f"conv{dims}d")
        settings = {"stride": stride, "padding": rng.randint(0, 2), "dilation": dilation, "groups": groups}
        function(x, w, **settings).sum().backward()

    for _ in range(100):
        one()
    before = resident()
    for _ in range(500):
        one()
    assert resident() - before < 20 * MIB


MEASURE = """
import sys, torch, convext
torch.set_num_threads(2)
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
def size(*ts): return sum(t.numel() * t.element_size() for t in ts)
{setup}
{warm}
before = peak()
results = {work}
print(peak() - before - size(*results), size(*inputs))
"""

# The peak is the process's high-water mark: inputs are written before the measurement and the warm-up is small.
LARGE = {
    "fprop": (
        "x, w = torch.ones(1, 32, 512, 512), torch.ones(16, 32, 3, 3)",
        "[convext.functional.conv2d(x, w, padding=1)]",
    ),
    "fprop, channels last": (
        "x, w = torch.ones(1, 32, 512, 512).to(memory_format=torch.channels_last), torch.ones(16, 32, 3, 3)",
        "[convext.functional.conv2d(x, w, padding=1)]",
    ),
    "fprop, reflect": (
        "x, w = torch.ones(1, 32, 512, 512), torch.ones(16, 32, 5, 5)",
        "[convext.functional.conv2d(x, w, padding=2, padding_mode='reflect')]",
    ),
    "fprop, sliced": (
        "x, w = torch.ones(1, 32, 512, 1024)[..., ::2], torch.ones(16, 32, 3, 3)",
        "[convext.functional.conv2d(x, w, padding=1)]",
    ),
    "fprop, bfloat16": (
        "x, w = torch.ones(1, 64, 512, 512, dtype=torch.bfloat16), torch.ones(16, 64, 3, 3, dtype=torch.bfloat16)",
        "[convext.functional.conv2d(x, w, padding=1)]",
    ),
    "dgrad": (
        "x, w = torch.ones(1, 32, 512, 512), torch.ones(32, 8, 3, 3)",
        "[convext.functional.conv_transpose2d(x, w)]",
    ),
    "dgrad, strided": (
        "x, w = torch.ones(1, 32, 256, 256), torch.ones(32, 8, 4, 4)",
        "[convext.functional.conv_transpose2d(x, w, stride=2, padding=1)]",
    ),
    "dgrad, circular": (
        "x, w = torch.ones(1, 32, 512, 512), torch.ones(32, 8, 3, 3)",
        "[convext.functional.conv_transpose2d(x, w, padding=1, padding_mode='circular')]",
    ),
    "wgrad": (
        "x, w = torch.ones(1, 32, 512, 512), torch.ones(1, 16, 510, 510)",
        "[torch.ops.convext.conv_wgrad(w, x, [3, 3], [1, 1], [0] * 4, [1, 1], 1, 0)]",
    ),
    "depthwise": (
        "x, w = torch.ones(1, 32, 512, 512), torch.ones(32, 1, 7, 7)",
        "[convext.functional.conv2d(x, w, padding=3, groups=32)]",
    ),
    "integers": (
        "x, w = torch.ones(1, 8, 512, 512).int(), torch.ones(4, 8, 3, 3).int()",
        "[convext.functional.conv2d(x, w)]",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_convolution_takes_its_result_and_a_workspace(name: str) -> None:
    """An im2col would take 250 MiB and more; allowed are 8 MiB a thread and as much again for the allocator."""
    setup, work = LARGE[name]
    warm = "_ = convext.functional.conv2d(torch.ones(1, 1, 64, 64), torch.ones(1, 1, 3, 3))"
    code = textwrap.dedent(MEASURE).format(setup=setup + "\ninputs = (x, w)", warm=warm, work=work)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    extra, inputs = map(int, result.stdout.split())
    assert inputs >= 8 * MIB
    assert extra < 2 * 2 * 8 * MIB, f"{extra / MIB:.0f} MiB beyond the result"


def test_the_backward_keeps_no_copy_of_its_inputs() -> None:
    """Saved for the backward are the input and the weight themselves, whatever the padding and the memory format."""
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(6, 4, 3, 3, requires_grad=True)
    for settings in ({"padding": 1}, {"padding": 1, "padding_mode": "circular"}, {"padding": "same", "stride": 2}):
        saved: list[int] = []

        def pack(t: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(t.data_ptr())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            CF.conv2d(x, w, **settings)  # type: ignore[arg-type]
        assert set(saved) <= {x.data_ptr(), w.data_ptr()}


def test_what_an_earlier_workspace_held_does_not_matter() -> None:
    """A thread keeps its workspace's memory; another thread has its own, and the same bits."""
    generator = torch.Generator().manual_seed(3)

    def problem(channels: int, size: int, **settings: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
        c = channels // settings.get("groups", 1)
        x = torch.randn(2, channels, size, size, generator=generator)
        return x, torch.randn(channels, c, 3, 3, generator=generator), settings

    problems = [
        problem(40, 14, padding=1),
        problem(144, 20, padding=1),
        problem(64, 7, padding=1, groups=64),
        problem(64, 15, stride=2),
        problem(128, 14, padding=1, groups=8),
    ]

    def run(index: int) -> list[torch.Tensor]:
        x, w, settings = problems[index]
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        y = CF.conv2d(*leaves, **settings)
        return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    order = [*range(len(problems)), *reversed(range(len(problems)))]
    ours = [(i, run(i)) for i in order]
    for i, mine in ours:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a thread that has run nothing before
            fresh = pool.submit(run, i).result()
        assert all(torch.equal(a, b) for a, b in zip(mine, fresh, strict=True))


PLACES = """
import random, sys, torch, torch.nn.functional as F, convext.functional as CF
from bench.heap import keep_freed_memory
keep_freed_memory()
rng = random.Random({seed})
around = [torch.empty(rng.randrange(100, 200_000)) for _ in range(rng.randrange(50))]
def places(f, x, w):
    with torch.no_grad():
        return len({{f(x, w, padding=1).data_ptr() for _ in range(20)}})
for channels, size, kernel in ((1, 256, 3), (3, 224, 3), (64, 112, 1)):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.ones(1, channels, size, size).to(memory_format=layout)
        w = torch.ones(64, channels, kernel, kernel)
        places(CF.conv2d, x, w)
        print(places(CF.conv2d, x, w))
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ,
    reason="what another malloc does is its own affair",
)
def test_large_results_of_a_loop_stay_in_one_place() -> None:
    """Each call's result is freed before the next: in two places by turns it would fall out of the caches."""
    places = []
    for seed in range(3):
        code = textwrap.dedent(PLACES).format(seed=seed)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        places += [int(line) for line in done.stdout.split()]
    assert len(places) == 18
    assert places.count(1) >= 16, places  # a splinter of the one size that is left alone may cost a second place
