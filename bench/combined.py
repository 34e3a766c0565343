"""Puts all parts together: the targets, the losses, the plots, and a page of every case for each part."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import plot, report, store, targets
from bench.layer import FAMILIES
from bench.limits import Limits
from bench.measure import WORKS, Row
from bench.parts import PARTS
from bench.targets import Verdict

# Pages that other commands write beside the parts, and what each is about.
PAGES = {
    "models": "Whole networks: forward + loss + backward",
    "runtimes": "Whole networks, forward, beside onnxruntime and OpenVINO",
    "subnormals": "Subnormal inputs",
}


def read(folder: Path) -> dict[str, store.Results]:
    """The parts that were measured, in the order of PARTS."""
    found = {name: store.load(folder / f"{name}.json") for name in PARTS}
    return {name: results for name, results in found.items() if results is not None and results.rows}


def rows_of(results: store.Results) -> list[Row]:
    """Its rows, forward before forward+backward."""
    rows = [Row(**row) for row in results.rows]
    return sorted(rows, key=lambda row: WORKS.index(row.work))


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """A target a line (and part), both passes beside each other."""
    head = ["target", "setting", "layers"]
    for work in WORKS:
        head += [f"{work}: mean (aim)", "over layers", "worst (none under)", "against torch's better layout"]
    lines = []
    for target, part in dict.fromkeys((v.target, v.part) for v in verdicts):
        by_work = {v.work: v for v in verdicts if (v.target, v.part) == (target, part)}
        count = max(v.cases for v in by_work.values())
        line = [target.name, PARTS[part].title, str(count)]
        for work in WORKS:
            line += _verdict_cells(by_work[work]) if work in by_work else [""] * 4
        lines.append(line)
    return report.table(head, lines)


def _verdict_cells(v: Verdict) -> list[str]:
    def marked(text: str, met: bool) -> str:
        return text if met else f"**{text}**"

    better = "" if math.isnan(v.against_better) else f"{v.against_better:.2f}"
    if better and v.better_cases < v.cases:
        better += f" (of {v.better_cases})"
    return [
        marked(f"{v.mean:.2f} ({v.wanted:g})", v.mean_met),
        f"{v.over_layers:.2f}",
        marked(f"{v.worst:.2f} ({v.target.least:g}) {v.worst_case}", v.least_met),
        better,
    ]


def missed(verdicts: Sequence[Verdict]) -> list[str]:
    """How many are met, and the others one by one."""
    lines = [f"Met: {sum(v.met for v in verdicts)} of {len(verdicts)}."]
    lines += [f"- {v.target.name} ({PARTS[v.part].title}), {v.work}: {v}" for v in verdicts if not v.met]
    return [lines[0], *([""] if len(lines) > 1 else []), *lines[1:]]


def peak_table(parts: dict[str, store.Results]) -> list[str]:
    lines = []
    for name in targets.PEAK_PARTS:
        if name not in parts:
            continue
        rows = rows_of(parts[name])
        limits = Limits.of(parts[name].machine)
        if not limits:
            continue
        peak = limits[0].fma_peak["float32"]
        in_turn = targets.pace_shares(rows)
        paced = len(in_turn) == len(rows)
        shares = in_turn if paced else targets.peak_shares(rows, peak)
        at_first = f"{report.geomean(targets.peak_shares(rows, peak)):.0%}"
        pace = f"{report.geomean(row.fma_pace for row in rows if row.fma_pace is not None):.0f}" if paced else ""
        mean, (worst, row) = report.geomean(shares), min(zip(shares, rows, strict=True), key=lambda pair: pair[0])
        word = "met" if mean >= targets.PEAK_SHARE else f"missed by {100 * (1 - mean / targets.PEAK_SHARE):.0f}%"
        low = f"{worst:.0%} ({row.net}/{row.layer})"
        reach = sum(share >= targets.PEAK_SHARE for share in shares)
        lines.append([PARTS[name].title, len(rows), f"{peak:.0f}", at_first, pace, f"{mean:.0%}", low, reach, word])
    head = ["setting", "layers", "peak of a thread at the start, GFLOP/s", "mean share of it"]
    head += ["peak in turn with the layers", "mean share", "worst", "layers from 90% on", "aim: 90%"]
    return report.table(head, lines) if lines else ["Not measured."]


def distance_table(parts: dict[str, store.Results]) -> list[str]:
    """A line a setting and pass: convext's time / the floor, mean of each family."""
    lines: list[list[Any]] = []
    for name, results in parts.items():
        limits = Limits.of(results.machine)
        for work in WORKS:
            cells = []
            for family in FAMILIES:
                group = [row for row in rows_of(results) if (row.family, row.work) == (family, work)]
                floors = [(row, floor) for row in group for each in limits if (floor := each.floor(row)) is not None]
                cells.append(f"{report.geomean([row.our_seconds / s for row, s in floors]):.2f}" if floors else "")
            if any(cells):
                lines.append([PARTS[name].title, work, *cells])
    return report.table(["setting", "pass", *FAMILIES], lines) if lines else ["Not measured."]


def settings_table(parts: dict[str, list[Row]]) -> list[str]:
    """A line a setting: means, losses, worst case, how far blocks differ, turns taken where they should not."""
    head = [
        "setting",
        "pass",
        "layers",
        "all",
        *FAMILIES,
        "losses",
        "worst",
        "spread: median, 9 in 10 under",
        "turns elsewhere",
    ]
    lines: list[list[Any]] = []
    for name, rows in parts.items():
        for s in report.summaries(rows):
            group = [row for row in rows if row.setting == s.setting]
            spreads = sorted(max(row.our_spread, row.torch_spread) for row in group)
            families = [f"{s.families[name]:.2f}" if name in s.families else "" for name in FAMILIES]
            spread = f"{statistics.median(spreads):.0%}, {spreads[int(0.9 * (len(spreads) - 1))]:.0%}"
            line = [PARTS[name].title, s.setting.work, s.cases, f"**{s.overall:.2f}**", *families, s.losses]
            elsewhere = f"{statistics.mean(row.elsewhere for row in group):.0%}"
            lines.append([*line, f"{s.worst_ratio:.2f} ({s.worst})", spread, elsewhere])
    return report.table(head, lines)


def losses_table(parts: dict[str, list[Row]]) -> list[str]:
    """Every loss in every part, worst first."""
    found = sorted(((row, name) for name, rows in parts.items() for row in rows if row.ratio < 1), key=_ratio)
    head = ["layer", "shape", "setting", "pass", "algorithm", "ratio", "spread"]
    lines = (
        [
            f"{row.net}/{row.layer}",
            row.shape,
            PARTS[name].title,
            row.work,
            row.algorithm,
            f"{row.ratio:.2f}",
            f"{max(row.our_spread, row.torch_spread):.0%}",
        ]
        for row, name in found
    )
    return report.table(head, lines) if found else ["None."]


def _ratio(pair: tuple[Row, str]) -> float:
    return pair[0].ratio


def facts(parts: dict[str, store.Results]) -> list[str]:
    """What every part says alike, once; then what differs, by part."""
    machines = {name: results.machine for name, results in parts.items()}
    lines = []
    for fact in ("processor", "convext", "torch", "build", "blocks"):
        said: dict[str, list[str]] = {}
        for name, machine in machines.items():
            said.setdefault(str(machine.get(fact)), []).append(name)
        for text, names in said.items():
            where = "" if len(said) == 1 else f" ({', '.join(names)})"
            lines.append(f"- {fact}: {text}{where}")
    unfinished = [f"{n} ({r.planned - len(r.rows)} of {r.planned} to go)" for n, r in parts.items() if not r.complete]
    missing = [name for name in PARTS if name not in parts]
    lines += [f"- **not finished**: {', '.join(unfinished)}"] if unfinished else []
    lines += [f"- **not measured**: {', '.join(missing)}"] if missing else []
    return lines


def markdown(parts: dict[str, store.Results], pages: dict[str, list[str]], plots: Sequence[str]) -> str:
    """The report. ``pages``: title and body of what other commands measured; ``plots``: file names."""
    rows = {name: rows_of(results) for name, results in parts.items()}
    ratios = {name: group for name, group in rows.items() if name not in targets.PEAK_PARTS}
    first, others = targets.apart(targets.verdicts(rows))
    losses = losses_table(ratios)
    total = sum(map(len, ratios.values()))
    sections = [
        ["# convext against torch"],
        [
            "Written by `python -m bench.everything`; the documentation (`docs/benchmark.md`) says what is "
            "compared and how to read it. A ratio is torch's time / convext's: above 1, convext is faster. Means are "
            "geometric. What misses its aim is bold."
        ],
        facts(parts),
        [f"![ratios of every case]({name})" for name in plots],
        ["## Targets"],
        [
            "The mean that has an aim is over networks: of each network's (or family's) geometric mean. Beside it "
            "stands the mean over all layers, in which a network counts as often as it has layers."
        ],
        verdict_table(first),
        missed(first),
        ["### The same families in other settings"],
        verdict_table(others) if others else ["Not measured."],
        missed(others) if others else [],
        ["### Large dense layers by the definition, of the FMA peak"],
        peak_table(parts),
        ["### Distance from the floor"],
        [
            "convext's time / the time of the definition's multiply-adds at the measured peak, or of moving every "
            "operand once at the measured pace of copying, whichever is longer. Winograd's algorithm may go below 1."
        ],
        distance_table(parts),
        *(part for title, body in pages.items() for part in ([f"## {title}"], body)),
        ["## All settings"],
        settings_table(ratios),
        [f"Every case: {', '.join(f'[{name}]({name}.md)' for name in parts)}."],
        [f"## Losses: {max(0, len(losses) - 2)} of {total}"],
        losses,
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def panels(rows: Iterable[Row]) -> list[plot.Panel]:
    """Families across, passes down."""
    group = list(rows)
    return [
        (f"{family}, {work}", [row.ratio for row in group if (row.family, row.work) == (family, work)])
        for work in WORKS
        for family in FAMILIES
    ]


def write(folder: Path) -> list[Path]:
    """Reads what is in the folder and writes the pages and plots beside it; their names.

    Raises:
        FileNotFoundError: the folder holds no part.
    """
    parts = read(folder)
    if not parts:
        raise FileNotFoundError(f"expected the JSON of at least one part in {folder}, found none; run bench.part first")
    rows = {name: rows_of(results) for name, results in parts.items()}
    ratios = {name: group for name, group in rows.items() if name not in targets.PEAK_PARTS}
    written = []
    drawings: list[tuple[str, str, list[plot.Panel], int]] = []
    if "float32_2_threads" in rows:
        group = rows["float32_2_threads"]
        drawings.append(("families.svg", "float32, 2 threads, batch 1, by family", panels(group), len(FAMILIES)))
    by_setting: list[plot.Panel] = [
        (f"{PARTS[name].title},\n{work}", [row.ratio for row in group if row.work == work])
        for name, group in ratios.items()
        for work in WORKS
    ]
    drawings.append(("settings.svg", "all families, by setting", by_setting, 4))
    for name, title, shown, columns in drawings:
        if any(ratios for _, ratios in shown):
            plot.draw(shown, folder / name, title, columns)
            written.append(folder / name)
    for name, results in parts.items():
        page = folder / f"{name}.md"
        page.write_text(report.markdown(rows[name], results.machine), encoding="utf-8")
        written.append(page)
    pages = {
        title: path.read_text(encoding="utf-8").strip().splitlines()[2:]  # without its own title
        for name, title in PAGES.items()
        if (path := folder / f"{name}.md").exists()
    }
    main = folder / "README.md"
    main.write_text(markdown(parts, pages, [path.name for path in written if path.suffix == ".svg"]), encoding="utf-8")
    return [main, *written]
