"""The columns that trace: compilers, export, and the older tracers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.transforms.columns import Applied, Before, Library, NotApplicable, column, gradients, same
from tests.transforms.rows import Row


def _compiled(row: Row, library: Library, backend: str, dynamic: bool) -> None:
    """One graph: output and gradients of the parameters; with symbolic sizes of three images, compiled once."""
    model = Applied(row, library)
    images = [row.image(dtype=torch.float32)]
    if dynamic:
        sizes: tuple[tuple[int, int], ...] = ((3, 0), (5, 0)) if row.fixed_size else ((3, 2), (5, 5))
        images += [row.image(*size, dtype=torch.float32) for size in sizes]
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    compilations = 0
    for i, image in enumerate(images):
        torch.manual_seed(0)
        wanted = gradients(model, image)
        torch.manual_seed(0)
        same(gradients(compiled, image), wanted, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            same(compiled(image), wanted[0], rtol=1e-4, atol=1e-5)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        if i == 0:
            compilations = graphs
        elif graphs != compilations:
            raise AssertionError("another image size compiles again")
    torch.compiler.reset()


def _compile_column(title: str, backend: str, dynamic: bool, slow: bool) -> None:
    @column(title, slow)
    def check(row: Row, library: Library) -> None:
        _compiled(row, library, backend, dynamic)


_compile_column("compile (aot_eager), static", "aot_eager", False, slow=False)
_compile_column("compile (aot_eager), dynamic", "aot_eager", True, slow=False)
_compile_column("compile (inductor), static", "inductor", False, slow=True)
_compile_column("compile (inductor), dynamic", "inductor", True, slow=True)


def _dynamic_axes(row: Row, batch_alone: bool = False) -> tuple[dict[int, Any], ...]:
    """The batch and every pixel axis of the image; an axis of a kernel's layer that fixes it is left out."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=2, max=64)}
    if not row.fixed_size and not batch_alone:
        axes |= {2 + i: torch.export.Dim(f"size{i}", min=2, max=512) for i in range(row.rank)}
    return (axes,)


def exported(row: Row, library: Library, dynamic: bool) -> torch.export.ExportedProgram:
    shapes = _dynamic_axes(row) if dynamic else None
    return torch.export.export(Applied(row, library).eval(), (row.image(dtype=torch.float32),), dynamic_shapes=shapes)


def images_of_other_sizes(row: Row) -> list[Tensor]:
    larger = 0 if row.fixed_size else 3
    return [row.image(dtype=torch.float32), row.image(4, larger, dtype=torch.float32)]


def _round_trip(row: Row, library: Library, dynamic: bool) -> None:
    """Saved, loaded and run, also after decomposition."""
    program = exported(row, library, dynamic)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        torch.export.save(program, path)
        loaded = torch.export.load(path)
    model = Applied(row, library).eval()
    for image in images_of_other_sizes(row) if dynamic else [row.image(dtype=torch.float32)]:
        for of in (loaded.module(), loaded.run_decompositions().module()):
            torch.manual_seed(0)
            wanted = model(image)
            torch.manual_seed(0)
            same(of(image), wanted)


@column("export, static")
def _export_static(row: Row, library: Library) -> None:
    _round_trip(row, library, dynamic=False)


@column("export, dynamic")
def _export_dynamic(row: Row, library: Library) -> None:
    _round_trip(row, library, dynamic=True)


@column("AOTInductor", slow=True)
def _aot_inductor(row: Row, library: Library) -> None:
    """A package compiled for a symbolic batch, loaded from its file."""
    model, image = Applied(row, library).eval(), row.image(dtype=torch.float32)
    program = torch.export.export(model, (image,), dynamic_shapes=_dynamic_axes(row, batch_alone=True))
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(path)
        for given in (image, row.image(5, dtype=torch.float32)):
            torch.manual_seed(0)
            wanted = model(given)
            torch.manual_seed(0)
            same(loaded(given), wanted, rtol=1e-4, atol=1e-5)


@column("jit.trace")
def _jit_trace(row: Row, library: Library) -> None:
    model, image = Applied(row, library).eval(), row.image(dtype=torch.float32)
    if row.draws:
        raise NotApplicable("a trace is compared with a second run, which draws other numbers")
    traced = torch.jit.trace(model, image)  # type: ignore[no-untyped-call]
    same(traced(row.image(5, dtype=torch.float32)), model(row.image(5, dtype=torch.float32)))


@column("jit.script")
def _jit_script(row: Row, library: Library) -> None:
    """Of the layer."""
    torch.jit.script(library.layer(row))  # type: ignore[no-untyped-call]


@column("fx.symbolic_trace")
def _fx(row: Row, library: Library) -> None:
    """A model with the layer in it, traced, printed, recompiled and run."""
    model, image = Before(row, library), row.image(dtype=torch.float32)
    traced = torch.fx.symbolic_trace(model)
    traced.recompile()
    assert "scale" in traced.code
    same(traced(image), model(image))
    same(gradients(traced, image), gradients(model, image))
