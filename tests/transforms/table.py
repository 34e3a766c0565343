"""The table: what each cell says, docs/transforms.md written from it and read back."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import torch

from tests.transforms import layers, onnx, tracing  # noqa: F401  (they register columns)
from tests.transforms.columns import COLUMNS, OURS, TORCHS, Column, Missing, NotApplicable
from tests.transforms.rows import ROWS, Row, family

DOCUMENT = Path(__file__).parents[2] / "docs" / "transforms.md"

YES, AS_TORCH, NOT_APPLICABLE = "yes", "as torch", "-"

Cells = dict[tuple[str, str], str]  # by the names of row and column

# Where a row does not pass: (column, names of rows that begin so, why).
FOOTNOTES: list[tuple[str, tuple[str, ...], str]] = [
    (
        "jit.script",
        ("",),
        "`torch.jit.script` of a layer raises NotImplementedError, which names what to use in its place; torch itself "
        "has deprecated it.",
    ),
    (
        "ONNX",
        ("stochastic_pool1d, training", "stochastic_pool2d, training", "stochastic_pool3d, training"),
        "ONNX has no node that draws one element of a window. In evaluation, where it is a weighted mean, it exports.",
    ),
    (
        "ONNX, dynamic",
        ("stochastic_pool1d, training", "stochastic_pool2d, training", "stochastic_pool3d, training"),
        "As for ONNX with a symbolic batch alone.",
    ),
    (
        "ONNX, dynamic",
        ("max_pool1d, indices", "max_pool2d, indices", "max_pool3d, indices"),
        "Values export; of indices the translation must know the sizes of the image. A symbolic batch is no obstacle.",
    ),
    (
        "ONNX, dynamic",
        ("unfold",),
        "As slices, whose ends the translation must know. A symbolic batch is no obstacle.",
    ),
]

INTRODUCTION = """\
# Transforms

Every public function of `convext.functional` under the transforms of PyTorch, on CPU. The table is made by running each
cell, `python -m tests.transforms --write`; tests run the cells again and compare. **yes**: right, held against the same
derivative by other means (numerical differences, a loop, eager mode) or against torch's own function. **as torch**:
raises, as torch's function does. **-**: has no meaning there. A number: see the notes. **not run**: not since the
column was added; `make transforms` runs everything. The fused convolutions are left out: where a derivative is asked
for they are the convolution and the activation.
"""


REMARKS = """\
Beside the table:

- `prepare_qat` of `torch.ao` replaces layers by their exact type and so leaves ours as they are, in floating point. The
  way is that of the column *fake-quantised weight*: a `FakeQuantize` registered as the parametrisation of the weight.
- A package of AOTInductor calls our operators: the process that loads it must have imported convext, whose kernels are
  in an extension of Python.
- `torch.onnx.export(model, args, path, dynamo=True, custom_translation_table=convext.onnx.translation_table())`, after
  `import convext.onnx`, which needs `onnxscript`, writes standard nodes alone.
- CUDA graphs: not tried, no CUDA kernel has run on hardware yet.
"""


def footnote(row: Row, column: Column) -> int | None:
    """The number of the note on the cell, from 1 on."""
    for number, (title, names, _) in enumerate(FOOTNOTES, 1):
        if title == column.title and row.name.startswith(names):
            return number
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _passes(row: Row, column: Column, ours: bool) -> Exception | None:
    torch.manual_seed(0)
    try:
        with _quiet():
            column.check(row, OURS if ours else TORCHS)
    except Exception as error:
        return error
    return None


def cell(row: Row, column: Column) -> str:
    """What the table says of this row and column; runs it.

    Raises:
        RuntimeError: it fails, torch's does not, and no note says why.
    """
    error = _passes(row, column, ours=True)
    note = footnote(row, column)
    if error is None:
        return YES
    if isinstance(error, NotApplicable):
        return NOT_APPLICABLE
    if note is not None:
        return f"({note})"
    if not isinstance(_passes(row, column, ours=False), (Missing, type(None))):
        return AS_TORCH
    raise RuntimeError(f"{row.name}: {column.title}: {error}") from error


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def document(cells: Cells) -> str:
    titles = [column.title for column in COLUMNS]
    lines = [INTRODUCTION, _line(["", *titles]), _line(["---"] * (1 + len(titles)))]

    def contents(row: Row) -> list[str]:
        return [cells[row.name, title] for title in titles]

    for (_, content), rows in groupby(ROWS, lambda row: (family(row), contents(row))):
        lines.append(_line(["<br>".join(f"`{row.name}`" for row in rows), *content]))
    lines.append("")
    for number, (_, _, why) in enumerate(FOOTNOTES, 1):
        lines.append(f"({number}) {why}\n")
    lines.append("What the columns ask:\n")
    docs = [(column.title, " ".join((column.check.__doc__ or "").split())) for column in COLUMNS]
    for doc, titles_of in groupby(docs, lambda pair: pair[1]):
        if doc:
            lines.append(f"- **{'; '.join(title for title, _ in titles_of)}**: {doc}")
    return "\n".join([*lines, "", REMARKS])


def read(text: str) -> Cells:
    """The cells of a document."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    header = rows[0]
    titles = header[-len(COLUMNS) :]
    cells: Cells = {}
    for names, *content in rows[2:]:
        for name in names.split("<br>"):
            cells |= {(name.strip("`"), title): value for title, value in zip(titles, content, strict=True)}
    return cells


def fill(wanted: Callable[[Row, Column], bool], report: Callable[[str], None]) -> Cells:
    """The wanted cells, by running them."""
    cells: Cells = {}
    for column in COLUMNS:
        for row in ROWS:
            if wanted(row, column):
                try:
                    cells[row.name, column.title] = cell(row, column)
                except RuntimeError as error:
                    cells[row.name, column.title] = "**no**"
                    report(str(error))
    return cells
