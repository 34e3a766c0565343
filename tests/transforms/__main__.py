"""``python -m tests.transforms --write``: runs every cell (half an hour) and writes docs/transforms.md.

Without ``--write`` it runs the columns and rows whose names contain what is given and prints them.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.transforms import table
from tests.transforms.columns import COLUMNS, Column
from tests.transforms.rows import ROWS, Row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.transforms", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/transforms.md; other cells stay as they are")
    parser.add_argument("--column", default="", metavar="TEXT", help="columns whose title contains it")
    parser.add_argument("--row", default="", metavar="TEXT", help="rows whose name contains it")
    options = parser.parse_args()
    failures: list[str] = []

    def report(failure: str) -> None:
        failures.append(failure)
        print(failure, file=sys.stderr, flush=True)

    cells = table.read(table.DOCUMENT.read_text(encoding="utf-8")) if table.DOCUMENT.exists() else {}
    for column in COLUMNS:
        if options.column not in column.title:
            continue
        start = time.perf_counter()

        def wanted(row: Row, other: Column, column: Column = column) -> bool:
            return other is column and options.row in row.name

        found = table.fill(wanted, report)
        cells |= found
        print(f"{time.perf_counter() - start:6.1f} s  {column.title}: {sorted(set(found.values()))}", flush=True)
    if options.write:
        for row in ROWS:
            for column in COLUMNS:
                cells.setdefault((row.name, column.title), "not run")
        table.DOCUMENT.write_text(table.document(cells), encoding="utf-8")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
