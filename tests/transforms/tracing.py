"""The columns that trace: compilers, export, and the older tracers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.transforms import layers  # noqa: F401  (its columns stand before these, whoever imports first)
from tests.transforms.columns import Applied, Before, Library, NotApplicable, column, gradients, once, same
from tests.transforms.rows import ROWS, Row


class All(torch.nn.Module):
    """Every row's function on an image of its own: compiling C++ once for all takes minutes and not an hour."""

    def __init__(self, library: Library, rows: Iterable[Row] = ROWS) -> None:
        super().__init__()
        self.rows = [row for row in rows if row.in_(library.functional) is not None]
        self.models = torch.nn.ModuleList([Applied(row, library) for row in self.rows])

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [model(image) for model, image in zip(self.models, images, strict=True)]


Results = dict[str, list[Tensor]]


def _results(library: Library, call: Callable[[list[Tensor]], list[Tensor]], model: All, images: list[Tensor]) -> Any:
    """Output, gradients of the parameters and output without a gradient, of every row."""
    torch.manual_seed(0)
    outputs = call(images)
    loss = sum(y.tanh().sum() for y in outputs)
    flat = iter(torch.autograd.grad(loss, list(model.parameters())))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.manual_seed(0)
        plain = call(images)
    return {
        row.name: [y.detach(), p, *[next(flat) for _ in m.parameters()]]
        for row, m, y, p in zip(model.rows, model.models, outputs, plain, strict=True)
    }


_SIZES = ((13, 14), (5, 5), (3, 6))  # batch, and how much larger


def _some_images(row: Row, dynamic: bool) -> list[Tensor]:
    if not dynamic:
        return [row.image(dtype=torch.float32)]
    # no size of the first is that of another axis: the compiler would hold the two for one
    return [row.image(batch, 0 if row.fixed_size else larger, torch.float32) for batch, larger in _SIZES]


@once
def _by_inductor(library: Library, dynamic: bool) -> list[tuple[Results, Results]]:
    """For each size of images what the compiled functions give and what they give in eager mode."""
    model = All(library)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    images = zip(*[_some_images(row, dynamic) for row in model.rows], strict=True)
    both = [(_results(library, compiled, model, [*i]), _results(library, model, model, [*i])) for i in images]
    torch.compiler.reset()
    return both


def _inductor_column(title: str, dynamic: bool) -> None:
    @column(title, slow=True)
    def check(row: Row, library: Library) -> None:
        library.function(row)
        for compiled, eager in _by_inductor(library, dynamic):
            same(compiled[row.name], eager[row.name], rtol=1e-4, atol=1e-5)


def _aot_eager_column(title: str, dynamic: bool) -> None:
    @column(title, slow=dynamic)
    def check(row: Row, library: Library) -> None:
        """One graph, forward and backward; where sizes are left open, other images do not compile it again."""
        model = Applied(row, library)
        torch.compiler.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        graphs: set[int] = set()
        for image in _some_images(row, dynamic):
            torch.manual_seed(0)
            wanted = gradients(model, image)
            torch.manual_seed(0)
            same(gradients(compiled, image), wanted)
            graphs.add(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        torch.compiler.reset()
        if len(graphs) != 1:
            raise AssertionError("another image size compiles again")


_aot_eager_column("compile (aot_eager), static", False)
_aot_eager_column("compile (aot_eager), dynamic", True)
_inductor_column("compile (inductor), static", False)
_inductor_column("compile (inductor), dynamic", True)


def dynamic_axes(row: Row, batch_alone: bool = False) -> tuple[dict[int, Any], ...]:
    """The batch and every pixel axis of the image, but where the weights fix them."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=2, max=64)}
    if not row.fixed_size and not batch_alone:  # sizes that leave more than one pixel to each result
        axes |= {2 + i: torch.export.Dim(f"size{i}", min=8, max=512) for i in range(row.rank)}
    return (axes,)


def images_for(row: Row, dynamic: bool) -> list[Tensor]:
    """To export with, and to run what was exported."""
    first = 6 if dynamic and not row.fixed_size else 0
    larger = 9 if dynamic and not row.fixed_size else 0
    return [row.image(2, first, torch.float32), row.image(5, larger, torch.float32)]


def _round_trip(row: Row, library: Library, dynamic: bool) -> None:
    """Saved, loaded and run, also after decomposition."""
    model, images = Applied(row, library).eval(), images_for(row, dynamic)
    program = torch.export.export(model, (images[0],), dynamic_shapes=dynamic_axes(row) if dynamic else None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        torch.export.save(program, path)
        loaded = torch.export.load(path)
    for image in images if dynamic else images[:1]:
        for of in (loaded.module(), loaded.run_decompositions().module()):
            torch.manual_seed(0)
            wanted = model(image)
            torch.manual_seed(0)
            same(of(image), wanted)


@column("export, static")
def _export_static(row: Row, library: Library) -> None:
    _round_trip(row, library, dynamic=False)


@column("export, dynamic", slow=True)
def _export_dynamic(row: Row, library: Library) -> None:
    _round_trip(row, library, dynamic=True)


@once
def _packaged(library: Library) -> list[tuple[Results, Results]]:
    """The same for a package compiled for a symbolic batch and loaded from its file."""
    model = All(library).eval()
    images = [[row.image(batch, dtype=torch.float32) for row in model.rows] for batch in (2, 5)]
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (images[0],), dynamic_shapes=([{0: batch} for _ in model.rows],))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(path)
        names = [row.name for row in model.rows]

        def results(call: Callable[[list[Tensor]], list[Tensor]], given: list[Tensor]) -> Results:
            torch.manual_seed(0)
            return {name: [y] for name, y in zip(names, call(given), strict=True)}

        return [(results(loaded, given), results(model, given)) for given in images]


@column("AOTInductor", slow=True)
def _aot_inductor(row: Row, library: Library) -> None:
    """Compiled for a symbolic batch and loaded from its file; convext's shared object must be loaded before."""
    library.function(row)
    for compiled, eager in _packaged(library):
        same(compiled[row.name], eager[row.name], rtol=1e-4, atol=1e-5)


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
