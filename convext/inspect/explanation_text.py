"""The table of an explanation, as text and as HTML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from convext.inspect import table

if TYPE_CHECKING:
    from convext.inspect.explanation import ExplainedLayer, Explanation

__all__ = ["html", "text"]

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?")

_HEADER = (
    "layer", "type", "input", "output", "parameters", "multiply-adds", "receptive field", "jump", "algorithm",
    "workspace", "convext", "torch",
)  # fmt: skip


def _is_folded(row: ExplainedLayer) -> bool:
    """Whether a row only adds to the line of all of its type: activations, normalisations, what was never called."""
    return not row.multiply_adds and row.function is None


def _axes(values: Sequence[int | Fraction | None]) -> str:
    """One number where all axes have the same."""
    texts = ["all" if v is None else str(v) for v in values]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _bytes(n: int | None) -> str:
    if n is None:
        return ""
    return f"{n} B" if n < 1024 else f"{n / 1024:.0f} KiB" if n < 1024 * 1024 else f"{n / 1024 / 1024:.1f} MiB"


def _seconds(s: float | None) -> str:
    return "" if s is None else f"{s * 1e3:.3f} ms"


def _cells(row: ExplainedLayer) -> list[str]:
    moving = [j for j in row.jump if j is not None]
    return [
        row.name if row.call < 2 else f"{row.name} ({row.call})",
        row.type,
        table.size_text(row.input_size),
        table.size_text(row.output_size),
        table.count(row.parameters),
        table.count(row.multiply_adds),
        _axes(row.receptive_field) if row.receptive_field else "",
        _axes(moving) if moving else "",
        row.algorithm,
        _bytes(row.workspace_bytes),
        _seconds(row.convext_seconds),
        _seconds(row.torch_seconds),
    ]


def _totals(explanation: Explanation) -> list[str]:
    rows = explanation.rows
    compared = [row for row in rows if row.convext_seconds is not None and row.torch_seconds is not None]
    cells = ["in all"] + [""] * (len(_HEADER) - 1)
    cells[4], cells[5] = table.count(explanation.parameters), table.count(explanation.multiply_adds)
    cells[9] = _bytes(max((row.workspace_bytes or 0 for row in rows), default=0) or None)
    if compared:
        cells[10] = _seconds(sum(row.convext_seconds or 0.0 for row in compared))
        cells[11] = _seconds(sum(row.torch_seconds or 0.0 for row in compared))
    return cells


def _lines(explanation: Explanation) -> tuple[list[list[str]], list[str]]:
    """The lines of the table, and the notes under it."""
    shown = [row for row in explanation.rows if not _is_folded(row)]
    return [_cells(row) for row in shown], [*_folded(explanation), *_notes(explanation), *_declined(shown)]


def _folded(explanation: Explanation) -> list[str]:
    calls: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for row in explanation.rows:
        if _is_folded(row):
            kind = row.type if row.call else f"{row.type} (never called)"
            calls[kind] += 1
            parameters[kind] += row.parameters
    entries = [
        f"{n} {kind}" + (f" with {parameters[kind]:,} parameters" if parameters[kind] else "")
        for kind, n in calls.items()
    ]
    return ["also " + ", ".join(entries)] if entries else []


def _notes(explanation: Explanation) -> list[str]:
    notes = []
    if explanation.bias_adds:
        both = explanation.multiply_adds + explanation.bias_adds
        notes.append(f"biases: {explanation.bias_adds:,} additions beside the multiply-adds, {both:,} with them")
    if any(row.receptive_field for row in explanation.rows):
        notes.append("receptive field: pixels of the input that one of the output sees; jump: from one to the next")
    if any(row.workspace_bytes is not None for row in explanation.rows):
        notes.append("workspace: what a call of convext takes beside its result; in all: the largest")
    if any(row.convext_seconds is not None for row in explanation.rows):
        threads = f"{explanation.threads} thread{'s' * (explanation.threads > 1)}"
        notes.append(f"times: a forward call on {threads}, medians; in all: of the layers that both have")
    return notes


def _declined(rows: Sequence[ExplainedLayer]) -> list[str]:
    """Every reason once, with the layers to which it applies; reasons that differ in one number alone are one."""
    # by the algorithm and the text between the numbers: those numbers, and who has them
    reasons: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], list[str]]] = {}
    for row in rows:
        for algorithm, reason in row.declined:
            found = reasons.setdefault((algorithm, tuple(_NUMBER.split(reason))), {})
            names = found.setdefault(tuple(_NUMBER.findall(reason)), [])
            if row.name not in names:
                names.append(row.name)
    lines = []
    for (algorithm, words), found in reasons.items():
        varying = sum(len(set(values)) > 1 for values in zip(*found, strict=True))
        for numbers in [list(found)] if varying <= 1 else [[each] for each in found]:
            spans = [_span(values) for values in zip(*numbers, strict=True)]
            reason = "".join(a + b for a, b in zip(words, [*spans, ""], strict=True))
            names = list(dict.fromkeys(name for each in numbers for name in found[each]))
            where = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
            lines.append(f"not {algorithm}: {reason} ({where})")
    return lines


def _span(values: Sequence[str]) -> str:
    ordered = sorted(values, key=lambda value: float(value.replace(",", "")))
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def text(explanation: Explanation) -> str:
    lines, notes = _lines(explanation)
    return "\n".join([table.rendered(_HEADER, lines, 4, [_totals(explanation)]), *notes])


def html(explanation: Explanation) -> str:
    lines, notes = _lines(explanation)
    return table.as_html(_HEADER, lines, 4, [_totals(explanation)], notes)
