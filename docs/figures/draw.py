"""Draws the figures of docs/arithmetic.md and docs/idea.md: python docs/figures/draw.py [FOLDER]. A test compares.

A figure is a row of pixels per tensor, one axis of an image each; the window that makes one output is coloured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

CELL = 34
GAP = 6

STYLES = {
    "pixel": "fill:#dbe7f1;stroke:#3d5a73",
    "seen": "fill:#7fb2dc;stroke:#3d5a73",
    "padding": "fill:#ffffff;stroke:#9aa5ae;stroke-dasharray:3 2",
    "padding seen": "fill:#f3e3b3;stroke:#8a7326;stroke-dasharray:3 2",
    "output": "fill:#e3efd9;stroke:#56773a",
    "made": "fill:#9cc47a;stroke:#56773a",
    "hole": "fill:#f4f4f4;stroke:#c9c9c9",
}


class Drawing:
    """Cells, words and lines at places in pixels; ``svg`` is the picture."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []
        self.width = self.height = 0.0

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)

    def cell(self, x: float, y: float, style: str, text: str = "") -> None:
        look = f"{STYLES[style]};stroke-width:1.4"
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{CELL}" height="{CELL}" rx="3" style="{look}"/>')
        if text:
            self.words(x + CELL / 2, y + CELL / 2 + 5, text, anchor="middle")
        self._reach(x + CELL, y + CELL)

    def words(self, x: float, y: float, text: str, anchor: str = "start", size: int = 14) -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}">{text}</text>')
        self._reach(x + (len(text) * size * 0.56 if anchor == "start" else 0), y + 4)

    def line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.parts.append(f'<path d="M{x0:g} {y0:g}L{x1:g} {y1:g}" style="stroke:#667;stroke-width:1.1;fill:none"/>')

    def svg(self) -> str:
        size = f"{self.width + 12:g} {self.height + 12:g}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-6 -6 {size}" width="{self.width + 12:g}" '
            f'height="{self.height + 12:g}" font-family="sans-serif" fill="#222">\n<title>{self.title}</title>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def convolution(
    title: str, size: int, kernel: int, *, stride: int = 1, lo: int = 0, hi: int = 0, dilation: int = 1, shown: int = 0
) -> Drawing:
    """Input with its padding above, outputs below; the window of output `shown` is coloured and tied to it."""
    drawing = Drawing(title)
    drawing.words(0, 14, title)
    top, below = 26, 26 + CELL + 46
    taps = [shown * stride + t * dilation - lo for t in range(kernel)]
    for i in range(-lo, size + hi):
        inside = 0 <= i < size
        style = ("seen" if i in taps else "pixel") if inside else ("padding seen" if i in taps else "padding")
        drawing.cell((i + lo) * (CELL + GAP), top, style, str(i) if inside else "")
    outputs = (size + lo + hi - dilation * (kernel - 1) - 1) // stride + 1

    def place(o: int) -> float:
        """Under the middle of its window."""
        return (o * stride + dilation * (kernel - 1) / 2) * (CELL + GAP)

    for tap in taps:
        drawing.line((tap + lo) * (CELL + GAP) + CELL / 2, top + CELL, place(shown) + CELL / 2, below)
    for o in range(outputs):
        drawing.cell(place(o), below, "made" if o == shown else "output", str(o))
    return drawing


def transposed(title: str, size: int, kernel: int, *, stride: int, lo: int, hi: int, extra: int, shown: int) -> Drawing:
    """Inputs above; below the uncropped result: every input adds its kernel there, `lo` and `hi` of it are cropped."""
    drawing = Drawing(title)
    drawing.words(0, 14, title)
    top, below = 26, 26 + CELL + 46
    whole = (size - 1) * stride + kernel + extra
    for i in range(size):
        x = (i * stride + (kernel - 1) / 2) * (CELL + GAP)
        drawing.cell(x, top, "seen" if i == shown else "pixel", str(i))
        if i == shown:
            for t in range(kernel):
                drawing.line(x + CELL / 2, top + CELL, (i * stride + t) * (CELL + GAP) + CELL / 2, below)
    for o in range(whole):
        cropped = o < lo or o >= whole - hi
        mine = shown * stride <= o < shown * stride + kernel
        style = "padding" if cropped else "made" if mine else "output"
        text = "" if cropped else str(o - lo)
        drawing.cell(o * (CELL + GAP), below, style, text)
    if extra:
        drawing.words((whole - extra) * (CELL + GAP), below + CELL + 18, "output_padding", size=12)
    return drawing


def stack(drawings: Iterable[Drawing], title: str) -> Drawing:
    """One above the other."""
    whole, y = Drawing(title), 0.0
    for drawing in drawings:
        whole.parts += [f'<g transform="translate(0 {y:g})">', *drawing.parts, "</g>"]
        whole._reach(drawing.width, y + drawing.height)
        y += drawing.height + 26
    return whole


def im2col() -> Drawing:
    """A 3 x 3 image, a 2 x 2 kernel, and the matrix whose columns are the four blocks."""
    drawing = Drawing("unfold (im2col) of a 3 x 3 image by 2 x 2 blocks")
    first = (0, 1, 3, 4)
    drawing.words(0, 14, "image")
    for i in range(9):
        drawing.cell(
            i % 3 * (CELL + GAP), 26 + i // 3 * (CELL + GAP), "seen" if i in first else "pixel", "abcdefghi"[i]
        )
    left = 4.4 * (CELL + GAP)
    drawing.words(left, 14, "columns: one for each block, one row for each tap")
    for row, offset in enumerate(first):
        for column, start in enumerate(first):
            style = "made" if column == 0 else "output"
            drawing.cell(left + column * (CELL + GAP), 26 + row * (CELL + GAP), style, "abcdefghi"[start + offset])
    return drawing


def trilinear() -> Drawing:
    """The form and its three derivatives."""
    drawing = Drawing("L(g, x, w) and its three derivatives")
    drawing.words(150, 20, "L(g, x, w) = ⟨g, x * w⟩", size=18)
    for x, name, formula, what in (
        (0, "fprop", "dL/dg", "the convolution"),
        (190, "dgrad", "dL/dx", "the transposed convolution"),
        (410, "wgrad", "dL/dw", "the weight's gradient"),
    ):
        drawing.line(250, 30, x + 70, 70)
        drawing.words(x + 10, 92, f"{name} = {formula}", size=16)
        drawing.words(x + 10, 114, what, size=13)
    return drawing


FIGURES = {
    "trilinear": trilinear,
    "padding": lambda: stack(
        (
            convolution("valid: padding (0, 0)", 5, 3),
            convolution("same: padding (1, 1), as many outputs as inputs", 5, 3, lo=1, hi=1),
            convolution("full: padding (2, 2), every window that touches the input", 5, 3, lo=2, hi=2),
            convolution("causal: padding (2, 0), an output sees what is before it", 5, 3, lo=2),
        ),
        "the words of padding, for five pixels and a kernel of three",
    ),
    "stride": lambda: stack(
        (
            convolution("stride 1", 7, 3, shown=1),
            convolution("stride 2", 7, 3, stride=2, shown=1),
            convolution(
                'stride 2, padding="same": output = 6 / 2, the odd pixel at the end', 6, 3, stride=2, hi=1, shown=2
            ),
        ),
        "stride: how far windows are apart",
    ),
    "dilation": lambda: stack(
        (convolution("dilation 1", 7, 3, shown=2), convolution("dilation 2: extent 5", 7, 3, dilation=2, shown=1)),
        "dilation: how far the taps of a window are apart",
    ),
    "transposed": lambda: stack(
        (
            transposed("stride 2, kernel 3, padding 0", 3, 3, stride=2, lo=0, hi=0, extra=0, shown=1),
            transposed("padding 1 crops a pixel at each end", 3, 3, stride=2, lo=1, hi=1, extra=0, shown=1),
            transposed("output_padding 1: one more at the end", 3, 3, stride=2, lo=1, hi=1, extra=1, shown=1),
        ),
        "transposed convolution: each input adds its kernel to the result",
    ),
    "im2col": im2col,
}


def main(words: Sequence[str]) -> None:
    folder = Path(words[0]) if words else Path(__file__).parent
    for name, draw in FIGURES.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
