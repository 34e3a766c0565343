"""Draws the ratios: a panel a group, a bar a case, sorted, on a logarithmic axis; losses in another colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bench.report import geomean

WIN, LOSS = "#2b6ca3", "#d95f02"  # told apart by the colour-blind, too

Panel = tuple[str, Sequence[float]]  # a title and torch's time / convext's of each case


def draw(panels: Sequence[Panel], path: Path, title: str, columns: int = 5) -> None:
    """Writes the figure; the file's ending says in which format (.svg, .png). Panels without cases are left out.

    All panels share their vertical axis.

    Raises:
        ValueError: no panel has a case.
    """
    panels = [(name, sorted(ratios)) for name, ratios in panels if ratios]
    if not panels:
        raise ValueError("expected at least one panel with a case, got none")
    import matplotlib  # a development requirement: what only measures does without it
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.4 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    every = [ratio for _, ratios in panels for ratio in ratios]
    low, high = min(*every, 0.9) / 1.1, max(*every, 1.1) * 1.1
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    for i, (name, ratios) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        colours = [LOSS if ratio < 1 else WIN for ratio in ratios]
        axes.bar(range(len(ratios)), [ratio - 1 for ratio in ratios], bottom=1, width=1.0, color=colours)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks] if i % columns == 0 else [""] * len(ticks), fontsize=7)
        axes.minorticks_off()
        axes.set_xticks([])
        axes.axhline(1, color="black", linewidth=0.6)
        mean, losses = geomean(ratios), sum(ratio < 1 for ratio in ratios)
        axes.axhline(mean, color="grey", linewidth=0.8, linestyle="--")
        axes.set_title(f"{name}\nmean {mean:.2f}, {losses} of {len(ratios)} below 1", fontsize=8)
        if i % columns == 0:
            axes.set_ylabel("torch's time / convext's", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same results give the same file
    with matplotlib.rc_context({"svg.hashsalt": "convext"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
