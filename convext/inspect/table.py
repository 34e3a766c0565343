"""Tables as text and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["as_html", "count", "rendered", "size_text"]

Cells = Sequence[str]


def size_text(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "scalar"


def count(number: int) -> str:
    """A number with its thousands set apart; nothing for 0."""
    return f"{number:,}" if number else ""


def _kept(header: Cells, rows: Sequence[Cells], left: int, footer: Sequence[Cells]) -> list[int]:
    """The columns in which something stands."""
    return [i for i in range(len(header)) if i < left or any(row[i] for row in (*rows, *footer))]


def rendered(header: Cells, rows: Sequence[Cells], left: int, footer: Sequence[Cells] = ()) -> str:
    """Lines of cells under a header; the first `left` columns flush left, the rest right. The footer under a rule.

    Columns in which nothing stands are left out.
    """
    kept = _kept(header, rows, left, footer)
    widths = [max(len(line[i]) for line in (header, *rows, *footer)) for i in kept]

    def line(cells: Cells) -> str:
        texts = [
            cells[i].ljust(width) if i < left else cells[i].rjust(width) for i, width in zip(kept, widths, strict=True)
        ]
        return "  ".join(texts).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(header), rule, *map(line, rows)]
    return "\n".join(lines + ([rule, *map(line, footer)] if footer else []))


def as_html(header: Cells, rows: Sequence[Cells], left: int, footer: Sequence[Cells], notes: Sequence[str]) -> str:
    """The same as an HTML table, the notes as paragraphs under it."""
    kept = _kept(header, rows, left, footer)

    def line(cells: Cells, tag: str) -> str:
        parts = [
            f'<{tag} style="text-align: {"left" if i < left else "right"}">{escape(cells[i])}</{tag}>' for i in kept
        ]
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows) + "".join(line(row, "th") for row in footer)
    text = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>{text}"
