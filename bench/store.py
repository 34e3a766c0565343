"""Results on disk, one JSON file a run, to which an interrupted run returns: what is measured is not measured again."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import build, identity

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass
class Results:
    """What one run has measured so far. ``planned``: how many rows it has when it is complete."""

    machine: dict[str, Any]
    planned: int
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.rows) >= self.planned

    def measured(self, names: Sequence[str]) -> set[tuple[Any, ...]]:
        """The values of these fields in every row: the keys of what is there."""
        return {tuple(row[name] for name in names) for row in self.rows}


def load(path: Path) -> Results | None:
    """The results in this file; None if there is none."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Results(content["machine"], content["planned"], content["rows"])


def save(path: Path, results: Results) -> None:
    """Writes the file, a row a line; an interruption leaves the earlier file."""
    rows = ",\n".join(json.dumps({name: _short(value) for name, value in row.items()}) for row in results.rows)
    head = json.dumps({"machine": results.machine, "planned": results.planned}, indent=1)[:-2]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f'{head},\n "rows": [\n{rows}\n]}}\n', encoding="utf-8")
    os.replace(unfinished, path)


def _short(value: Any) -> Any:
    """Five digits: no time is known better."""
    if isinstance(value, (list, tuple)):
        return [_short(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def resume(
    path: Path,
    planned: int,
    settings: dict[str, Any] | None = None,
    facts: Callable[[], dict[str, Any]] = dict,
    again: bool = False,
) -> Results:
    """The results of an earlier run that this one goes on with, or none yet.

    Rows of another build, machine or torch, or of other ``settings``, are not taken over: they would stand in
    one table with the new ones. ``facts``, more to be told, is asked only for a new run.
    """
    earlier = None if again else load(path)
    now = {**identity(), "build": build(), **(settings or {})}
    if earlier is not None and now.items() <= earlier.machine.items():
        return dataclasses.replace(earlier, planned=planned)
    if earlier is not None:
        print(f"{path.name}: of another build, machine or setting; measured anew")
    return Results({**facts(), **now}, planned)


def folder(quick: bool, asked: Path | None) -> Path:
    """Where results go: where asked; quick ones are none, and stay apart from those that are."""
    return asked or (Path("build") / "bench-quick" if quick else RESULTS)


class Deadline:
    """Tells when a run is to stop, to be gone on with later: a number of seconds from now, or never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    @property
    def left(self) -> float | None:
        """Seconds, at least 0."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())
