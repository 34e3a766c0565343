"""Seconds of a call on a GPU: events on the stream, the L2 cache written over before each, operands in rotation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

# What is measured on; tests, which have none, go through the same code on another.
DEVICE = "cuda"
# A GPU waits this many times as long as a call takes to be launched, so that its kernels stand in the queue by then.
HEAD_STARTS = 2.5
# What counts as one cycle of torch.cuda._sleep; a clock that is faster makes the wait shorter, hence the margin above.
CYCLES_PER_SECOND = 2.0e9
FEWEST_SAMPLES, MOST_SAMPLES = 5, 50
LARGEST_SHARE_OF_MEMORY = 0.25


def rotations(operand_bytes: int, l2_bytes: int, memory_bytes: int) -> int:
    """How many copies of a call's operands are used in turn.

    At least two; so many that between two uses of one copy twice the L2 cache is read of others; never more than fit
    into a quarter of the memory, nor more than eight.
    """
    wanted = 1 + math.ceil(2 * l2_bytes / max(1, operand_bytes))
    fitting = int(LARGEST_SHARE_OF_MEMORY * memory_bytes / max(1, operand_bytes))
    return max(1, min(max(2, wanted), 8, fitting))


def sample_count(seconds: float, budget: float) -> int:
    """How many calls of so many seconds are timed, with as much time again for what is around each."""
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, int(budget / max(1e-7, 2 * seconds))))


class Stopwatch:
    """Times functions on the current stream of the current GPU.

    A sample is: the GPU is told to wait, the L2 cache is written over, an event, the call, an event. The wait lets the
    host launch all of that before the first event passes: what lies between the two is the GPU's time alone, without
    Python's and the dispatcher's.
    """

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties()
        self.l2_bytes = int(properties.L2_cache_size)
        self.memory_bytes = int(properties.total_memory)
        self._over = torch.empty(2 * self.l2_bytes, dtype=torch.uint8, device=DEVICE)

    def launch_seconds(self, function: Callable[[], object]) -> float:
        """How long the host takes to launch a call, while the GPU is busy with something else."""
        torch.cuda._sleep(int(0.02 * CYCLES_PER_SECOND))
        start = time.perf_counter()
        function()
        taken = time.perf_counter() - start
        torch.cuda.synchronize()
        return taken

    def sample(self, function: Callable[[], object], launch_seconds: float) -> float:
        """Seconds of one call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(HEAD_STARTS * launch_seconds * CYCLES_PER_SECOND))
        self._over.zero_()
        start.record()
        function()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def in_turn(self, sides: Sequence[Sequence[Callable[[], object]]], budget: float) -> list[list[float]]:
        """Samples of each side, which is one function for each copy of its operands. `budget`: seconds a side."""
        launches, counts = [], []
        for side in sides:
            for function in side:  # the first calls load kernels, allocate, and let cuDNN choose
                function()
            torch.cuda.synchronize()
            launches.append(min(0.01, self.launch_seconds(side[0])))
            counts.append(sample_count(self.sample(side[0], launches[-1]), budget))
        samples: list[list[float]] = [[] for _ in sides]
        for turn in range(min(counts)):
            order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
            for i in order:
                samples[i].append(self.sample(sides[i][turn % len(sides[i])], launches[i]))
        return samples


# The product that stands for a type's peak: large enough that nothing but the arithmetic counts.
PRODUCT_SIZE = {"float64": 4096}
USUAL_PRODUCT_SIZE = 8192


def product_flops(size: int) -> int:
    return 2 * size**3


def arithmetic_peak(stopwatch: Stopwatch, dtype: str) -> float:
    """GFLOP/s of torch's own matrix product in this type, in TF32 where that is allowed: the highest of a second."""
    size = PRODUCT_SIZE.get(dtype, USUAL_PRODUCT_SIZE)
    a, b = (torch.randn(size, size, device=DEVICE).to(getattr(torch, dtype)) for _ in range(2))
    (samples,) = stopwatch.in_turn([[lambda: torch.mm(a, b)]], 1.0)
    return product_flops(size) / min(samples) * 1e-9


def copy_bandwidth(stopwatch: Stopwatch) -> float:
    """GB/s, read and written, of copying 2 GiB on the GPU: the highest of half a second's calls."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device=DEVICE).zero_()
    target = torch.empty_like(source)
    (samples,) = stopwatch.in_turn([[lambda: target.copy_(source)]], 0.5)
    return 2 * source.nbytes / min(samples) * 1e-9
