"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["count", "rendered", "size_text"]


def size_text(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "scalar"


def count(number: int) -> str:
    """A number with its thousands set apart; nothing for 0."""
    return f"{number:,}" if number else ""


def rendered(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int, footer: Sequence[Sequence[str]] = ()
) -> str:
    """Lines of cells under a header; the first `left` columns flush left, the rest right. The footer under a rule.

    Columns in which nothing stands are left out.
    """
    kept = [i for i in range(len(header)) if any(row[i] for row in (*rows, *footer)) or i < left]
    widths = [max(len(line[i]) for line in (header, *rows, *footer)) for i in kept]

    def line(cells: Sequence[str]) -> str:
        texts = [
            cells[i].ljust(width) if i < left else cells[i].rjust(width) for i, width in zip(kept, widths, strict=True)
        ]
        return "  ".join(texts).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(header), rule, *map(line, rows)]
    return "\n".join(lines + ([rule, *map(line, footer)] if footer else []))
