"""docs/transforms.md says what running the transforms gives, column by column."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import convext
from tests.transforms import table
from tests.transforms.columns import COLUMNS, Column
from tests.transforms.rows import ROWS


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_every_function_has_a_row() -> None:
    fused = {
        name for name in convext.functional.__all__ if name.startswith("fused_")
    }  # tests/test_fused_conv.py has them
    assert {row.function or row.name for row in ROWS} == set(convext.functional.__all__) - fused


def test_the_document_is_what_its_cells_give() -> None:
    text = table.DOCUMENT.read_text(encoding="utf-8")
    cells = table.read(text)
    assert set(cells) == {(row.name, column.title) for row in ROWS for column in COLUMNS}
    assert table.document(cells) == text


@pytest.mark.parametrize(
    "column",
    [pytest.param(c, id=c.title, marks=[pytest.mark.slow] if c.slow else []) for c in COLUMNS],
)
def test_column(column: Column) -> None:
    if column.title.startswith("ONNX"):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    cells = table.read(table.DOCUMENT.read_text(encoding="utf-8"))
    if all(cells[row.name, column.title] == "not run" for row in ROWS):
        pytest.skip("the document says that nobody has run it: `make transforms`")
    found = {row.name: table.cell(row, column) for row in ROWS}
    assert found == {row.name: cells[row.name, column.title] for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_layer_that_is_scripted_says_what_to_use(row: table.Row) -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.script compiles no layer .* torch\.export"):
        torch.jit.script(row.layer(convext.nn))
