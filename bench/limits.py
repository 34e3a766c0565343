"""What the machine can do at best, measured, and how long a case would take at that pace."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import convext
from bench.measure import Row

# Working sets that fit in L2 (of one core), in L3, and in neither, on the processors of today.
COPIED = (1 << 19, 1 << 23, 1 << 28)
# How often each limit is measured: the best is what the machine can do, a single one what it did at that moment.
TRIALS = 5


def fma_peak(dtype: str) -> float | None:
    """GFLOP/s that one thread reaches with the micro-kernel on data in L1; None if the build cannot say."""
    try:
        return max(float(convext._C.measure_fma_peak(dtype)) for _ in range(TRIALS)) * 1e-9
    except ValueError:
        return None


def copy_bandwidth(threads: int, size: int) -> float:
    """GB/s, read and written, of so many threads that copy at once within ``size`` bytes in all."""
    with ThreadPoolExecutor(threads) as pool:
        sizes = [size // threads] * threads
        return max(sum(pool.map(convext._C.measure_copy_bandwidth, sizes)) for _ in range(TRIALS)) * 1e-9


def least_seconds(flops: float, moved: float, gflops_peak: float, bandwidth_peak: float) -> float:
    """What no kernel undercuts on this machine: the longer of the arithmetic's time and the memory's (the roofline).

    ``moved``: bytes; the peaks in 10^9 operations and bytes a second.
    """
    return max(flops / gflops_peak, moved / bandwidth_peak) * 1e-9


def binary(size: int) -> str:
    """A power of two in words: ``"8 MiB"``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Measured limits. ``fma_peak``: dtype to GFLOP/s of one thread; ``copying``: of ``threads`` threads, working set
    in bytes to GB/s."""

    threads: int
    fma_peak: dict[str, float]
    copying: dict[int, float]

    @staticmethod
    def measured(dtypes: Sequence[str], threads: int) -> Limits:
        peaks = {dtype: fma_peak(dtype) for dtype in dtypes}
        copying = {size: copy_bandwidth(threads, size) for size in COPIED}
        return Limits(threads, {dtype: peak for dtype, peak in peaks.items() if peak is not None}, copying)

    @staticmethod
    def of(machine: dict[str, Any]) -> list[Limits]:
        """What `facts` once said of a machine, as JSON gives it back."""
        return [
            Limits(each["threads"], each["fma_peak"], {int(size): pace for size, pace in each["copying"].items()})
            for each in machine.get("limits", [])
        ]

    def lines(self) -> list[str]:
        """For a report."""
        paces = ", ".join(f"{binary(size)} at {pace:.0f}" for size, pace in self.copying.items())
        return [
            f"copying on {self.threads} thread{'s' if self.threads > 1 else ''}: {paces} GB/s (read and written)",
            *(f"FMA peak, {dtype}: {peak:.1f} GFLOP/s a thread" for dtype, peak in self.fma_peak.items()),
        ]

    def floor(self, row: Row) -> float | None:
        """Seconds that the case takes at least if it is computed by the definition: its multiply-adds at the peak, or
        its bytes at the pace of copying as many, whichever takes longer. None where no peak is known."""
        peak = self.fma_peak.get(row.dtype)
        if peak is None or row.threads != self.threads:
            return None
        fitting = [pace for size, pace in sorted(self.copying.items()) if row.bytes <= size]
        pace = fitting[0] if fitting else self.copying[max(self.copying)]
        return least_seconds(row.flops, row.bytes, peak * self.threads, pace)
