"""The README's figures of speed, made from what is measured: none of them is written by hand.

``python -m bench.everything`` puts them between two marks in the README; a test holds the README against the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench import combined, store, targets
from bench.measure import WORKS, Row
from bench.models import Row as NetworkRow
from bench.parts import PARTS
from bench.report import geomean, table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by python -m bench.everything --report: begin -->", "<!-- end -->"

# The part whose families have lines of their own, and their names here.
DETAILED = "float32_2_threads"
FAMILIES = {
    "dense": "dense 2-D",
    "grouped": "depthwise and grouped",
    "transposed": "transposed",
    "1-D": "1-D",
    "3-D": "3-D",
}


def _number(mean: float) -> str:
    return f"{mean:.2f}" if mean < 10 else f"{mean:.0f}"


def _cell(rows: Sequence[Row]) -> str:
    nets = targets.over_nets((row.net, row.ratio) for row in rows)
    losses = sum(row.ratio < 1 for row in rows)
    return f"**{_number(nets)}** ({_number(geomean(row.ratio for row in rows))}); {losses}"


def _line(title: str, rows: Sequence[Row]) -> list[str]:
    works = [[row for row in rows if row.work == work] for work in WORKS]
    return [f"{title}, {len(works[0])} layers", *(_cell(group) for group in works)]


def speeds(parts: Mapping[str, Sequence[Row]]) -> list[str]:
    """A line a part, and one for each family of the first."""
    lines = []
    for name, rows in parts.items():
        if name in targets.PEAK_PARTS:
            continue
        lines.append(_line(PARTS[name].title, rows))
        if name == DETAILED:
            lines += [_line(f"of these {title}", [r for r in rows if r.family == f]) for f, title in FAMILIES.items()]
    return table(["torch's time over ours", "forward", "forward + backward"], lines)


def met(parts: Mapping[str, Sequence[Row]]) -> str:
    """How many targets are met: of the settings in which they are first asked for, and of the others."""
    first, others = targets.apart(targets.verdicts({name: list(rows) for name, rows in parts.items()}))

    def count(group: Sequence[targets.Verdict]) -> str:
        return f"{sum(v.met for v in group)} of {len(group)}"

    means = sum(v.mean_met for v in first)
    return (
        f"Aims that are met by their mean and by every layer: {count(first)} in the first table of the report (by "
        f"their mean {means}), {count(others)} in the same families' other settings."
    )


def networks(rows: Iterable[NetworkRow]) -> str:
    """Each network's ratio on each number of threads."""
    ratios: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: -row.threads):
        ratios.setdefault(row.net, []).append(_number(row.ratio))
    return ", ".join(f"{net} {' and '.join(values)}" for net, values in ratios.items())


def block(folder: Path) -> str:
    """What stands between the marks.

    Raises:
        FileNotFoundError: the folder holds no part.
    """
    parts = {name: combined.rows_of(results) for name, results in combined.read(folder).items()}
    if not parts:
        raise FileNotFoundError(f"expected the JSON of at least one part in {folder}, found none")
    whole = store.load(folder / "models.json")
    lines = [*speeds(parts), "", met(parts)]
    if whole is not None:
        said = networks(NetworkRow(**row) for row in whole.rows)
        passes = "forward, loss and backward, on two threads and on one"
        lines += ["", f"Whole networks after `convext.convert`, {passes}: {said}."]
    return "\n".join(lines)


def update(readme: Path, folder: Path) -> None:
    """Writes the block into a README that has the marks."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{block(folder)}\n\n{END}{after}", encoding="utf-8")
