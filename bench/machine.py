"""The facts without which a time means nothing: processor, versions, the very build, and the machine's limits."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import convext
from bench import measure


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def build() -> str:
    """A digest of the compiled kernels: results of different ones are not put together."""
    path = convext._C.__file__
    return "unknown" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def identity() -> dict[str, str]:
    """What must be the same for two results to stand in one table."""
    return {
        "processor": processor(),
        "convext": f"{convext.__version__}, kernels for {convext.backends.cpu.get_max_isa()}",
        "torch": f"{torch.__version__}, its own best: {torch.backends.cpu.get_cpu_capability()}",
    }


def blocks(turns: int, min_run_time: float) -> str:
    """How long a case is timed, in words."""
    return f"{turns} turns, at least {min_run_time} s a side in all"


def facts(dtypes: Sequence[str], threads: Sequence[int], turns: int, min_run_time: float) -> dict[str, Any]:
    """`identity`, the settings, and the limits measured now; "fma_peak" maps a dtype to GFLOP/s of one thread."""
    peaks = {dtype: measure.fma_peak(dtype) for dtype in dtypes}
    bandwidths = [f"{measure.copy_bandwidth(n):.1f} GB/s on {n}" for n in threads]
    return {
        **identity(),
        "threads": ", ".join(map(str, threads)),
        "copying 256 MB (read and written)": ", ".join(bandwidths),
        "blocks": blocks(turns, min_run_time),
        "fma_peak": {dtype: peak for dtype, peak in peaks.items() if peak is not None},
    }
