"""What a part of the benchmark on a GPU has measured, as text and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import report
from bench.cuda_parts import Part, Row
from bench.layer import FAMILIES

__all__ = ["line", "markdown", "text"]


def line(row: Row) -> str:
    """A row as one line of text."""
    name = f"{row.net}/{row.layer}"
    return (
        f"{name:32} {row.work:16} {report.milliseconds(row.our_seconds):>8} ms "
        f"(torch {report.milliseconds(row.torch_seconds):>8}) {row.gflops:9.0f} GFLOP/s {row.bandwidth:6.0f} GB/s  "
        f"x{row.ratio:5.2f} {report.flag(row.ratio):2} error {row.our_error:.0e}"
    )


def of_work(rows: Sequence[Row], work: str) -> list[Row]:
    return [row for row in rows if row.work == work]


def text(part: Part, rows: Sequence[Row]) -> str:
    """The means of a part, a line for each kind of work."""
    lines = []
    for work in part.works:
        group = of_work(rows, work)
        if group:
            worst = min(group, key=lambda row: row.ratio)
            mean = report.geomean(row.ratio for row in group)
            lines.append(
                f"{part.title}, {work}: {len(group)} cases, geometric mean {mean:.2f}, "
                f"the worst {worst.ratio:.2f} ({worst.net}/{worst.layer})"
            )
    return "\n".join(lines)


def _cells(row: Row, peak: float, bandwidth: float) -> list[str]:
    return [
        f"{row.net}/{row.layer}",
        row.shape,
        report.milliseconds(row.our_seconds),
        report.milliseconds(row.torch_seconds),
        f"{row.gflops:.0f}" if row.flops else "",
        f"{row.bandwidth:.0f}",
        f"{100 * row.of_limit(peak, bandwidth):.0f}%",
        f"{row.ratio:.2f} {report.flag(row.ratio)}".strip(),
        f"{row.our_error:.0e}",
        f"{row.torch_error:.0e}",
    ]


def markdown(part: Part, rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """The page of a part. ``machine``: its facts, among them "arithmetic_peak" and "bandwidth_peak"."""
    peak, bandwidth = machine["arithmetic_peak"], machine["bandwidth_peak"]
    facts = [f"- {name}: {value}" for name, value in machine.items() if not name.endswith("_peak")]
    facts += [
        f"- torch's matrix product: {peak:.0f} GFLOP/s (measured)",
        f"- copying on the GPU: {bandwidth:.0f} GB/s read and written (measured)",
    ]
    parts = [
        [f"# On a GPU: {part.title}"],
        facts,
        [
            "A ratio is torch's time / convext's, medians of single calls by CUDA events, turn by turn in one process, "
            "with the L2 cache written over before each: above 1, convext is faster. Means are geometric. GB/s counts "
            "each tensor of an operator once. The limit is the longer of the arithmetic's time at the measured "
            "GFLOP/s and the memory's at the measured GB/s; the share of it is given. Errors are "
            "||out - ref|| / ||ref|| against torch in float64."
        ],
    ]
    head = ["case", "shape", "convext ms", "torch ms", "GFLOP/s", "GB/s", "of limit", "ratio", "error", "torch's"]
    for work in part.works:
        group = of_work(rows, work)
        if not group:
            continue
        families = [name for name in FAMILIES if any(row.family == name for row in group)]
        means = ", ".join(
            f"{name} {report.geomean(row.ratio for row in group if row.family == name):.2f}" for name in families
        )
        losses = sum(row.ratio < 1 for row in group)
        mean = report.geomean(row.ratio for row in group)
        parts += [
            [f"## {work}: geometric mean {mean:.2f}"],
            [f"{losses} of {len(group)} slower than torch. {means}".strip()],
            report.table(head, (_cells(row, peak, bandwidth) for row in group)),
        ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"
