"""Times torch's and convext's function turn by turn, on random tensors of the sizes that a layer got in its model."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from convext.inspect import layers
from convext.inspect.recording import map_tensors, tensors_in

__all__ = ["Measurements", "Probe"]

_SECONDS = 0.2  # for each kind of layer, both libraries together
_MOST_TURNS = 100


@dataclasses.dataclass(frozen=True)
class _TensorLike:
    """What a time depends on of a tensor: not its values."""

    size: tuple[int, ...]
    dtype: torch.dtype
    memory_format: torch.memory_format
    device: torch.device

    @staticmethod
    def of(t: Tensor) -> _TensorLike:
        return _TensorLike(tuple(t.shape), t.dtype, suggest_memory_format(t), t.device)

    def drawn(self) -> Tensor:
        t = torch.zeros(self.size, dtype=self.dtype)
        if self.dtype.is_floating_point or self.dtype.is_complex:
            t.normal_()
        return t.contiguous(memory_format=self.memory_format)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A call of a function that can be made again without its tensors; equal ones take equally long."""

    function: str
    arguments: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(function: str, arguments: dict[str, Any]) -> Probe | None:
        """None for calls that cannot: on other devices than the CPU, or with the places of elements."""
        tensors = tensors_in(arguments)
        if any(t.device.type != "cpu" for t in tensors) or "indices" in arguments:
            return None
        if function.startswith("fractional"):
            arguments = {**arguments, "_random_samples": None}
        frozen = {key: _frozen(map_tensors(_TensorLike.of, value)) for key, value in arguments.items()}
        return Probe(function, tuple(frozen.items()))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


class Measurements:
    """Remembers what it has measured: a network has many layers of one kind."""

    def __init__(self) -> None:
        self._known: dict[Probe, tuple[float | None, float | None]] = {}

    def of(self, probe: Probe) -> tuple[float | None, float | None]:
        """Seconds a call of convext and of torch, medians; torch's None where it has no such function."""
        if probe not in self._known:
            self._known[probe] = _measured(probe)
        return self._known[probe]


def _measured(probe: Probe) -> tuple[float | None, float | None]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        arguments = {key: value.drawn() if isinstance(value, _TensorLike) else value for key, value in probe.arguments}
        ours = functools.partial(layers.convext_call, probe.function, arguments)
        torchs = functools.partial(layers.torch_call, probe.function, arguments)
        try:
            torchs()
        except (NotImplementedError, RuntimeError):
            return _in_turn([ours])[0], None
        our_median, torch_median = _in_turn([ours, torchs])
        return our_median, torch_median


def _in_turn(runs: Sequence[Callable[[], Any]]) -> list[float]:
    """The median time of each: one call a turn, in an order that changes, after one that is not counted."""
    samples: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    end = time.perf_counter() + _SECONDS
    for turn in range(_MOST_TURNS):
        for i in range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs))):
            start = time.perf_counter()
            runs[i]()
            samples[i].append(time.perf_counter() - start)
        if turn >= 2 and time.perf_counter() > end:
            break
    return [statistics.median(times) for times in samples]
