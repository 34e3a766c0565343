"""Converted and overridden models under torch.compile, torch.export and torch.fx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import convext
from tests.layers import is_by_convext

X = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.max_pool = torch.nn.Conv2d(4, 8, 3), torch.nn.MaxPool2d(2)
        self.avg_pool, self.norm = torch.nn.AdaptiveAvgPool2d(2), torch.nn.LPPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.avg_pool(self.max_pool(self.conv(x).relu())))


def net() -> Net:
    torch.manual_seed(3)
    return Net().double()


def same(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


class Graphs:
    """A compiler that runs what it gets, and notes whose functions are in each graph."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, example: Any) -> Callable[..., Any]:
        targets = " ".join(str(node.target) for node in graph.graph.nodes if node.op == "call_function").split()
        names = [name for name in targets if "conv" in name or "pool" in name]
        self.seen.append("".join(sorted({"convext" if name.startswith("convext.") else "torch" for name in names})))
        return graph.forward


def test_a_compiled_model_notices_its_conversion() -> None:
    """The layers' classes are what the compiler guards on: no graph of the other kind is run."""
    model, graphs = net(), Graphs()
    wanted = model(X)
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    compiled(X)
    assert convext.convert(compiled) is compiled
    assert type(model.conv) is convext.nn.Conv2d
    same(compiled(X), wanted)
    compiled(X)
    assert graphs.seen == ["torch", "convext"]
    convext.revert(model)
    assert torch.equal(compiled(X), wanted) and "convext" not in graphs.seen[2:]


def test_a_model_compiled_in_place() -> None:
    model, graphs = net(), Graphs()
    wanted = model(X)
    model.compile(backend=graphs, fullgraph=True)
    model(X)
    same(convext.convert(model)(X), wanted)
    assert graphs.seen == ["torch", "convext"]


def test_the_block_inside_of_the_compiled_function() -> None:
    model, graphs = net(), Graphs()
    wanted = model(X)

    def inside(x: Tensor) -> Tensor:
        with convext.override(), convext.override():
            return model(x)

    for function in (inside, convext.override()(model)):
        same(torch.compile(function, fullgraph=True, backend=graphs)(X), wanted)
    assert graphs.seen == ["convext", "convext"]


def test_the_block_around_the_compiled_function() -> None:
    """It is among what the compiler guards on: a graph for inside, a graph for outside."""
    model, graphs = net(), Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    wanted = compiled(X)
    with convext.override():
        same(compiled(X), wanted)
        compiled(X)
    compiled(X)
    assert graphs.seen == ["torch", "convext"]


def test_a_part_of_the_compiled_function() -> None:
    model, graphs = net(), Graphs()

    def halves(x: Tensor) -> tuple[Tensor, Tensor]:
        with convext.override():
            ours = model(x)
        return ours, model(x)

    same(*torch.compile(halves, fullgraph=True, backend=graphs)(X))
    assert graphs.seen == ["convexttorch"]


def test_what_stays_torchs_in_a_compiled_function() -> None:
    """Without the warning, for which the graph would have to break."""
    graphs = Graphs()

    @convext.override()
    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2, out=torch.empty(2, 4, 4, 4, dtype=x.dtype))

    torch.compile(mean, fullgraph=True, backend=graphs)(X)
    assert graphs.seen == ["torch"]


@pytest.mark.parametrize("how", ("converted", "inside"))
def test_compiled_training(how: str) -> None:
    model = net()
    expected = torch.autograd.grad(model(X).square().sum(), list(model.parameters()))
    if how == "converted":
        loss = torch.compile(convext.convert(model), fullgraph=True, backend="aot_eager")(X).square().sum()
    else:
        with convext.override():
            loss = torch.compile(model, fullgraph=True, backend="aot_eager")(X).square().sum()
    for ours, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        same(ours, theirs)


def test_dynamic_shapes() -> None:
    model, graphs = net(), Graphs()

    def convolved(x: Tensor) -> Tensor:
        return model.conv(x).relu()

    compiled = torch.compile(convolved, fullgraph=True, backend=graphs, dynamic=True)
    with convext.override():
        for size in (8, 10, 13):
            x = torch.randn(2, 4, size, size + 1, dtype=torch.float64)
            assert torch.equal(compiled(x), convolved(x))
    assert graphs.seen == ["convext"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.parametrize("decomposed", (False, True))
def test_exported_programs(decomposed: bool) -> None:
    """A program exported from a torch model runs by convext inside; one exported inside, or converted, is convext's."""
    model = net().eval()
    program = torch.export.export(model, (X,))
    module = (program.run_decompositions() if decomposed else program).module()
    with convext.override():
        same(module(X), model(X))
        assert is_by_convext(module, X)
        inside = torch.export.export(model, (X,)).module()
    assert is_by_convext(inside, X)
    assert is_by_convext(torch.export.export(convext.convert(model), (X,)).module(), X)


def test_symbolic_traces() -> None:
    model = net()
    traced = torch.fx.symbolic_trace(model)
    with convext.override():
        assert is_by_convext(traced, X)
        inside = torch.fx.symbolic_trace(model)
    assert is_by_convext(convext.convert(traced), X), "its layers are modules of torch.nn"
    assert is_by_convext(torch.fx.symbolic_trace(convext.convert(net())), X)
    same(inside(X), model(X))
