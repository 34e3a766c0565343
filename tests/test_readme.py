"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import store, summary

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_there_is_code() -> None:
    assert BLOCKS


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_block_runs(index: int) -> None:
    exec(compile(BLOCKS[index], f"{README.name}, block {index}", "exec"), {"__name__": "readme"})


def test_figures_of_speed_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    made = text.partition(summary.BEGIN)[2].partition(summary.END)[0].strip()
    assert made == summary.block(store.RESULTS)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (README.parent / target).exists()]
    assert not missing
