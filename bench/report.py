"""Turns rows into sums, a text line, Markdown and JSON. Pure functions: nothing is measured here."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.layer import FAMILIES
from bench.limits import Limits
from bench.measure import Row, Setting


def geomean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


@dataclasses.dataclass(frozen=True)
class Summary:
    """The rows of one setting taken together. Ratios are torch's time / convext's, losses are those below 1."""

    setting: Setting
    cases: int
    overall: float  # geometric mean of the ratios
    families: dict[str, float]
    nets: dict[str, float]
    net_times: dict[str, tuple[float, float]]  # seconds of all layers as often as the net has them: convext, torch
    losses: int
    worst: str  # the layer with the smallest ratio
    worst_ratio: float
    largest_error: float


def by_setting(rows: Iterable[Row]) -> dict[Setting, list[Row]]:
    groups: dict[Setting, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.setting, []).append(row)
    return groups


def summaries(rows: Iterable[Row]) -> list[Summary]:
    """One for each setting, in the order of the rows."""
    return [summary(setting, group) for setting, group in by_setting(rows).items()]


def summary(setting: Setting, rows: Sequence[Row]) -> Summary:
    def means(key: Callable[[Row], str], names: Iterable[str]) -> dict[str, float]:
        return {name: geomean(row.ratio for row in rows if key(row) == name) for name in names}

    nets = list(dict.fromkeys(row.net for row in rows))
    present = {row.family for row in rows}
    worst = min(rows, key=lambda row: row.ratio)
    return Summary(
        setting=setting,
        cases=len(rows),
        overall=geomean(row.ratio for row in rows),
        families=means(lambda row: row.family, [name for name in FAMILIES if name in present]),
        nets=means(lambda row: row.net, nets),
        net_times={
            net: (
                sum(row.count * row.our_seconds for row in rows if row.net == net),
                sum(row.count * row.torch_seconds for row in rows if row.net == net),
            )
            for net in nets
        },
        losses=sum(row.ratio < 1 for row in rows),
        worst=f"{worst.net}/{worst.layer}",
        worst_ratio=worst.ratio,
        largest_error=max(row.our_error for row in rows),
    )


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.01 else f"{seconds * 1e3:.1f}"


def flag(ratio: float) -> str:
    """A loss is marked, and one by more than half marked twice."""
    return "<<" if ratio < 0.5 else "<" if ratio < 1 else ""


def line(row: Row) -> str:
    """A row as one line of text."""
    return (
        f"{row.net + '/' + row.layer:28} {row.shape:34} {milliseconds(row.our_seconds):>8} ms "
        f"(torch {milliseconds(row.torch_seconds):>8}) {row.gflops:7.1f} GFLOP/s  "
        f"x{row.ratio:5.2f} {flag(row.ratio):2} "
        f"error {row.our_error:.0e}  {row.algorithm}"
    )


def text(result: Summary) -> str:
    """A summary as a few lines of text."""

    def listed(means: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in means.items())

    return "\n".join(
        [
            f"{result.setting}: {result.cases} layers, geometric mean of the ratios {result.overall:.3f}",
            f"  families: {listed(result.families)}",
            f"  networks: {listed(result.nets)}",
            f"  losses: {result.losses} of {result.cases}, the worst {result.worst} at {result.worst_ratio:.2f}; "
            f"largest error {result.largest_error:.1e}",
        ]
    )


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table; every column after the first is right-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, rule, *lines)]


def summary_table(results: Sequence[Summary]) -> list[str]:
    head = ["setting", "layers", "all", *FAMILIES, "losses", "worst", "largest error"]
    return table(
        head,
        (
            [
                r.setting,
                r.cases,
                f"**{r.overall:.2f}**",
                *(f"{r.families[name]:.2f}" if name in r.families else "" for name in FAMILIES),
                r.losses,
                f"{r.worst_ratio:.2f} ({r.worst})",
                f"{r.largest_error:.0e}",
            ]
            for r in results
        ),
    )


def nets_table(results: Sequence[Summary]) -> list[str]:
    """Networks down, settings across: the mean of the ratios, and the ratio of the whole times."""
    nets = list(dict.fromkeys(net for r in results for net in r.nets))

    def cell(r: Summary, net: str) -> str:
        if net not in r.nets:
            return ""
        ours, theirs = r.net_times[net]
        return f"{r.nets[net]:.2f} ({theirs / ours:.2f})"

    return table(
        ["network", *(str(r.setting) for r in results)], ([net, *(cell(r, net) for r in results)] for net in nets)
    )


def losses_table(rows: Iterable[Row]) -> list[str]:
    losses = sorted((row for row in rows if row.ratio < 1), key=lambda row: row.ratio)
    return table(
        ["layer", "shape", "setting", "algorithm", "ratio"],
        ([f"{r.net}/{r.layer}", r.shape, r.setting, r.algorithm, f"{r.ratio:.2f}"] for r in losses),
    )


def losses_text(rows: Iterable[Row]) -> list[str]:
    """Every case that torch wins, worst first, a line each."""
    losses = sorted((row for row in rows if row.ratio < 1), key=lambda row: row.ratio)
    return [f"x{r.ratio:.2f}  {r.net}/{r.layer}  {r.setting}  {r.algorithm}" for r in losses]


def rows_table(rows: Iterable[Row], limits: Sequence[Limits]) -> list[str]:
    def floor(row: Row) -> tuple[str, str]:
        """The floor in milliseconds, and how many times as long the case takes."""
        seconds = next((s for each in limits if (s := each.floor(row)) is not None), None)
        return ("", "") if seconds is None else (milliseconds(seconds), f"{row.our_seconds / seconds:.2f}")

    head = ["layer", "shape", "algorithm", "convext ms", "torch ms", "GFLOP/s", "floor ms", "convext / floor", "ratio"]
    head += ["error", "torch's"]
    return table(
        head,
        (
            [
                f"{r.net}/{r.layer}",
                r.shape,
                r.algorithm,
                milliseconds(r.our_seconds),
                milliseconds(r.torch_seconds),
                f"{r.gflops:.1f}",
                *floor(r),
                f"{r.ratio:.2f} {flag(r.ratio)}".strip(),
                f"{r.our_error:.0e}",
                f"{r.torch_error:.0e}",
            ]
            for r in rows
        ),
    )


def markdown(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """The whole report. ``machine``: facts to state at the top; "limits" is what `Limits.of` reads."""
    limits = Limits.of(machine)
    facts = [f"- {name}: {value}" for name, value in machine.items() if name != "limits"]
    facts += [f"- {line} (measured)" for each in limits for line in each.lines()]
    results = summaries(rows)
    losses = losses_table(rows)
    parts = [
        ["# convext against torch"],
        facts,
        [
            "A ratio is torch's time / convext's, medians of blocks timed in turn in one process: above 1, convext is "
            "faster. "
            "Means are geometric, over layers. The floor is the time of the definition's multiply-adds at the measured "
            "peak, or of moving every operand once at the measured pace of copying, whichever is longer (Winograd's "
            "algorithm may go below it). Errors are ||out - ref|| / ||ref|| against torch in float64."
        ],
        ["## Summary"],
        summary_table(results),
        ["## Networks"],
        ["Mean of the ratios (in parentheses: ratio of the summed times, each layer as often as the network has it)."],
        nets_table(results),
        [f"## Losses: {len(losses) - 2} of {len(rows)}"],
        losses if len(losses) > 2 else ["None."],
    ]
    for setting, group in by_setting(rows).items():
        parts += [[f"## {setting}"], rows_table(group, limits)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def as_json(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Everything measured, and the summaries."""
    return json.dumps(
        {
            "machine": machine,
            "summaries": [dataclasses.asdict(result) for result in summaries(rows)],
            "rows": [{**dataclasses.asdict(row), "ratio": row.ratio, "gflops": row.gflops} for row in rows],
        },
        indent=1,
    )
