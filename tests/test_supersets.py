"""What torch rejects and convext takes, and what it treats otherwise: each line of the table is run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import convext
from convext.supersets import DIFFERENCES, SUPERSETS, Difference, Superset, as_markdown

DOCS = Path(__file__).parent.parent / "docs" / "padding.md"


def evaluate(example: str, package: ModuleType) -> Any:
    functional = package.functional if package is convext else torch.nn.functional
    return eval(example, {"F": functional, "nn": package.nn, "ones": torch.ones, "torch": torch})


@pytest.mark.parametrize("line", SUPERSETS, ids=lambda s: s.what)
def test_superset(line: Superset) -> None:
    with pytest.raises(Exception) as caught:
        evaluate(line.example, torch)
    assert type(caught.value) is line.torch_raises
    assert isinstance(evaluate(line.example, convext), torch.Tensor)


@pytest.mark.parametrize("line", DIFFERENCES, ids=lambda d: d.what)
def test_difference(line: Difference) -> None:
    torchs = evaluate(line.example, torch)
    if line.raises is None:
        assert evaluate(line.example, convext).shape != torchs.shape
    else:
        with pytest.raises(line.raises):
            evaluate(line.example, convext)


@pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
def test_the_docs_show_the_table() -> None:
    assert as_markdown() in DOCS.read_text()
