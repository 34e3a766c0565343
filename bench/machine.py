"""The facts without which a time means nothing: processor, versions, the very build, and the machine's limits."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import convext
from bench import cores
from bench.limits import Limits


def processor() -> str:
    """The processor's name where the system tells it, with what tells generations of one name apart."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return processor_of(text) or platform.processor() or platform.machine()


def processor_of(cpuinfo: str) -> str:
    """The first processor of Linux's /proc/cpuinfo; empty if it is not named there."""
    lines = cpuinfo.split("\n\n")[0].splitlines()
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{label} {said[key]}" for key, label in (("cpu family", "family"), ("model", "model")) if key in said]
    name = said.get("model name", "")
    return f"{name} ({', '.join(numbers)})" if name and numbers else name


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
    return f"{turns} turns, at least {min_run_time} s a side in all; {cores.said()}"


def facts(dtypes: Sequence[str], threads: Sequence[int], turns: int, min_run_time: float) -> dict[str, Any]:
    """`identity`, the settings, and the limits measured now, as `Limits.of` reads them."""
    return {
        **identity(),
        "threads": ", ".join(map(str, threads)),
        "blocks": blocks(turns, min_run_time),
        "limits": [dataclasses.asdict(Limits.measured(dtypes, n)) for n in threads],
    }
