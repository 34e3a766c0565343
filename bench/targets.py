"""What the project aims at, and whether it is there. Pure functions of measured rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

from bench import cases
from bench.layer import Layer
from bench.measure import WORKS, Row
from bench.report import geomean


@dataclasses.dataclass(frozen=True)
class Target:
    """Ratios of torch's time to ours over the layers that ``suits`` names, in each of these parts.

    ``means``: the least mean (`over_nets`), forward and forward+backward; ``least``: what no case may fall under.
    """

    name: str
    means: tuple[float, float]
    least: float
    parts: tuple[str, ...]
    suits: Callable[[Layer], bool]


def dense(layer: Layer) -> bool:
    return layer.family == "dense"


def dense_3x3(layer: Layer) -> bool:
    """3x3 of stride 1, not dilated, on maps of 28 x 28 and more."""
    shape = layer.kernel == (3, 3) and layer.stride == layer.dilation == (1, 1)
    return layer.family == "dense" and shape and min(layer.size) >= 28


def dense_strided(layer: Layer) -> bool:
    """Of stride 2, with enough channels on both sides to fill a register tile."""
    return layer.family == "dense" and set(layer.stride) == {2} and min(layer.channels) >= 64


def grouped(layer: Layer) -> bool:
    return layer.family == "grouped"


def lines_and_volumes(layer: Layer) -> bool:
    return layer.family in ("1-D", "3-D")


def transposed(layer: Layer) -> bool:
    return layer.family == "transposed"


def everything(layer: Layer) -> bool:
    return True


_SINGLE = ("float32_2_threads", "float32_1_thread", "float32_batch_8")

# In the order of the report. The first part of each is the one that its row in the first table shows.
TARGETS = (
    Target("dense 2-D", (1.4, 1.5), 0.95, _SINGLE, dense),
    Target("3x3, stride 1, maps from 28x28", (1.7, 1.6), 1.2, _SINGLE, dense_3x3),
    Target("stride 2, from 64 channels", (0.9, 0.9), 0.9, _SINGLE, dense_strided),
    Target("depthwise and grouped", (2.0, 4.0), 1.0, _SINGLE, grouped),
    Target("1-D and 3-D", (1.3, 1.5), 0.95, _SINGLE, lines_and_volumes),
    Target("transposed", (1.4, 1.6), 0.95, _SINGLE, transposed),
    Target("all 2-D", (1.1, 1.2), 0.9, ("float32_channels_last",), everything),
    Target("all", (3.0, 3.0), 1.2, ("float64_2_threads", "float64_1_thread"), everything),
    Target("all", (1.0, 1.1), 0.8, ("bfloat16_2_threads", "bfloat16_1_thread"), everything),
    Target("all", (1.0, 1.1), 0.8, ("float16_2_threads", "float16_1_thread"), everything),
    Target("all", (4.0, 4.0), 1.0, ("bfloat16_avx2",), everything),
    Target("all", (4.0, 4.0), 1.0, ("float16_avx2",), everything),
)

# Of whole networks: the mean of the converted layers' ratios, and what no network may fall under.
LAYERS_AIM, NETWORK_AIM = 1.4, 1.0

# The share of the FMA peak that large dense layers reach when they are computed by the definition.
PEAK_SHARE = 0.9
PEAK_PARTS = ("direct_2_threads", "direct_1_thread")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One target held against the rows of one part and pass."""

    target: Target
    part: str
    work: str
    cases: int
    mean: float  # over networks
    over_layers: float
    worst: float
    worst_case: str
    under: int  # how many cases fall under the target's least
    against_better: float  # the mean against torch in its better layout; NaN if only one was measured
    better_cases: int  # how many cases that is known of

    @property
    def wanted(self) -> float:
        return self.target.means[WORKS.index(self.work)]

    @property
    def mean_met(self) -> bool:
        return self.mean >= self.wanted

    @property
    def least_met(self) -> bool:
        return self.under == 0

    @property
    def met(self) -> bool:
        return self.mean_met and self.least_met

    def __str__(self) -> str:
        """In words, what is met or by how much it is missed."""
        if self.met:
            return "met"
        said = []
        if not self.mean_met:
            said.append(f"mean {1 - self.mean / self.wanted:.1%} short of {self.wanted:g}")
        if not self.least_met:
            said.append(f"{self.under} of {self.cases} under {self.target.least:g}")
        return "missed: " + ", ".join(said)


@functools.cache
def _by_id(net: str, batch: int) -> dict[str, Layer]:
    return {layer.name: layer for layer in cases.layers([net], batch)}


def layer_of(row: Row) -> Layer | None:
    """The case that was measured; None if the lists have lost it since."""
    return _by_id(row.net, row.batch).get(row.layer) if row.net in cases.CASES else None


def suited(target: Target, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if (layer := layer_of(row)) is not None and target.suits(layer)]


Key = tuple[str, str, int, str, int, str]


def key(row: Row) -> Key:
    """What stays the same when only the layout changes."""
    return row.net, row.layer, row.batch, row.dtype, row.threads, row.work


def better_layouts(rows: Iterable[Row]) -> dict[Key, float]:
    """torch's seconds in the layout that suits it better, of the cases that were measured in both."""
    seconds: dict[Key, dict[str, float]] = {}
    for row in rows:
        seconds.setdefault(key(row), {})[row.layout] = row.torch_seconds
    return {k: min(v.values()) for k, v in seconds.items() if len(v) == 2}


def over_nets(ratios: Iterable[tuple[str, float]]) -> float:
    """The geometric mean of each network's geometric mean, so that none counts more for having more layers."""
    nets: dict[str, list[float]] = {}
    for net, ratio in ratios:
        nets.setdefault(net, []).append(ratio)
    return geomean(geomean(group) for group in nets.values())


def verdict(target: Target, part: str, work: str, rows: Sequence[Row], better: dict[Key, float]) -> Verdict | None:
    """None if nothing of this target was measured in this part."""
    found = [row for row in suited(target, rows) if row.work == work]
    if not found:
        return None
    worst = min(found, key=lambda row: row.ratio)
    against = [(row.net, better[key(row)] / row.our_seconds) for row in found if key(row) in better]
    return Verdict(
        target=target,
        part=part,
        work=work,
        cases=len(found),
        mean=over_nets((row.net, row.ratio) for row in found),
        over_layers=geomean(row.ratio for row in found),
        worst=worst.ratio,
        worst_case=f"{worst.net}/{worst.layer}",
        under=sum(row.ratio < target.least for row in found),
        against_better=over_nets(against),
        better_cases=len(against),
    )


def verdicts(parts: dict[str, list[Row]]) -> list[Verdict]:
    """Every target in every part that was measured, in the order of TARGETS."""
    better = better_layouts(
        row for name in ("float32_2_threads", "float32_channels_last") for row in parts.get(name, ())
    )
    found = (
        verdict(target, part, work, parts[part], better)
        for target in TARGETS
        for part in target.parts
        if part in parts
        for work in WORKS
    )
    return [v for v in found if v is not None]


def apart(found: Iterable[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Those of the parts in which their targets are first asked for, and the others."""
    all_of_them = list(found)
    first = [v for v in all_of_them if v.part == v.target.parts[0]]
    return first, [v for v in all_of_them if v.part != v.target.parts[0]]


def peak_shares(rows: Iterable[Row], peak: float) -> list[float]:
    """Of each row, the share of the FMA peak; ``peak``: GFLOP/s of one thread."""
    return [row.gflops / (peak * row.threads) for row in rows]


def pace_shares(rows: Iterable[Row]) -> list[float]:
    """Of each row that has one, the share of the pace that its threads kept up in turn with it."""
    return [row.gflops / (row.fma_pace * row.threads) for row in rows if row.fma_pace is not None]
