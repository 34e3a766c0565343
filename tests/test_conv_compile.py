"""Tracing and compiling: opcheck, compile, export, make_fx, jit.trace, AOTInductor; always one graph."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import convext.functional as CF
from convext import nn
from tests.cases import CASES, MODES, ConvCase
from tests.forms import FORMS, Form, Net, pair_of_nets
from tests.reference import OPERATORS, call, operands


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


@pytest.fixture
def conv2d() -> Form:
    return FORMS["conv2d"]


OPCHECKED = (
    ConvCase((6, 5), 3, (4, 6), stride=(2, 1), padding=((1, 2), (0, 1)), groups=2),
    ConvCase((6, 5), (2, 3), (4, 6), stride=2, dilation=2, padding=2, layout="channels_last", bias=False),
    ConvCase((7,), 3, (2, 3), stride=3, padding=((-1, 2),), padding_mode="circular"),
    ConvCase((4, 3, 5), 2, (2, 2), padding=1, padding_mode="reflect", layout="sliced"),
    ConvCase((3, 3, 4), 2, (2, 4), groups=2, layout="channels_last", padding_mode="replicate", padding=1),
    ConvCase((4, 5), 1, (1, 3), layout="transposed"),
)


@pytest.mark.parametrize("grad", (False, True), ids=("plain", "requires grad"))
@pytest.mark.parametrize("case", OPCHECKED, ids=lambda c: c.id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(operator: str, case: ConvCase, grad: bool, seed: int) -> None:
    problem = case.transposed if operator == "dgrad" else case
    tensors = [
        t if t is None else t.requires_grad_(grad) for t in operands(operator, problem, torch.float64, "normal", seed)
    ]
    kernel = (list(problem.kernel),) if operator == "wgrad" else ()
    conf = (list(problem.stride), problem.flat_padding, list(problem.dilation), problem.groups)
    op = getattr(torch.ops.convext, f"conv_{operator}").default
    torch.library.opcheck(op, (*tensors, *kernel, *conf, MODES.index(problem.padding_mode)))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64), ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_fake_results_have_the_size_strides_and_type_of_real_ones(operator: str, dtype: torch.dtype) -> None:
    """Over many cases: a fake function that is wrong about strides breaks inductor's code far from the cause."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for case in CASES[::4]:
        problem = case.transposed if operator == "dgrad" else case
        tensors = operands(operator, problem, dtype, "integers", 0)
        real = call(operator, problem, tensors)
        with FakeTensorMode() as mode:
            fake = call(operator, problem, [t if t is None else mode.from_tensor(t) for t in tensors])
        meta = call(operator, problem, [t if t is None else t.to("meta") for t in tensors])
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype), str(case)
        assert (meta.shape, meta.dtype, meta.device.type) == (real.shape, real.dtype, "meta"), str(case)


def step(net: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = x.clone().requires_grad_()
    y = net(x)
    y.pow(2).sum().backward()
    return y, x.grad


def trained_alike(compiled: Any, ours: Net, torchs: Net, shapes: tuple[tuple[int, ...], ...]) -> None:
    for shape in shapes:
        x = torch.randn(shape, dtype=torch.float64)
        assert_close(step(compiled, x), step(torchs, x))
        for p, q in zip(ours.parameters(), torchs.parameters(), strict=True):
            assert_close(p.grad, q.grad)
    with torch.no_grad():
        x = torch.randn(shapes[0], dtype=torch.float64)
        assert_close(compiled(x), torchs(x))


def sizes(form: Form) -> tuple[tuple[int, ...], ...]:
    """The form's own input and two others, every batch and image axis changed."""
    n, c, *spatial = form.input_shape
    return (
        form.input_shape,
        (n + 1, c, *(s + 3 for s in spatial)),
        (n + 3, c, *(s + 4 + i for i, s in enumerate(spatial))),
    )


@pytest.mark.parametrize("dynamic", (False, True), ids=("static", "dynamic"))
@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
def test_compiled_training_step(form: Form, backend: str, dynamic: bool) -> None:
    ours, torchs = pair_of_nets(form)
    trained_alike(torch.compile(ours, backend=backend, dynamic=dynamic, fullgraph=True), ours, torchs, sizes(form))


@pytest.mark.parametrize("dynamic", (False, True), ids=("static", "dynamic"))
def test_compiled_training_step_in_inductor(conv2d: Form, dynamic: bool) -> None:
    ours, torchs = pair_of_nets(conv2d)
    trained_alike(
        torch.compile(ours, dynamic=dynamic, fullgraph=True), ours, torchs, sizes(conv2d)[: 3 if dynamic else 1]
    )


def test_compiled_layers_in_inductor() -> None:
    """Layers with every padding mode and channels_last images, forward and backward in one graph each."""

    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
            torch.nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding="same", groups=4),
            torch.nn.ReLU(),
            nn.ConvTranspose2d(8, 2, 2, stride=2),
        )

    x = torch.randn(2, 3, 8, 10).to(memory_format=torch.channels_last)
    eager, compiled = net(), net()
    y = torch.compile(compiled, fullgraph=True)(x)
    assert_close(y, eager(x), rtol=1e-5, atol=1e-5)
    y.sum().backward()
    eager(x).sum().backward()
    for p, q in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)


def test_every_padding_word_compiles() -> None:
    x, w = torch.randn(1, 2, 6, 7), torch.randn(3, 2, 3, 2)

    def all_words(x: Tensor, w: Tensor) -> list[Tensor]:
        words: tuple[Any, ...] = ("valid", "same", "same_lower", "causal", "full", ((1, 0), (0, -2)), ("same", 1))
        results = [CF.conv2d(x, w, stride=2, padding=word) for word in words]
        return results + [
            CF.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=p) for p in ("valid", "same", "causal")
        ]

    for dynamic in (False, True):
        assert_close(
            torch.compile(all_words, backend="aot_eager", fullgraph=True, dynamic=dynamic)(x, w), all_words(x, w)
        )


TRANSFORMED: dict[str, Callable[[Callable[..., Tensor]], Callable[..., Any]]] = {
    "per-sample grad": lambda f: (
        lambda w, x: torch.vmap(torch.func.grad(lambda w, x: f(x[None], w).tanh().sum()), (None, 0))(w, x)
    ),
    "jvp": lambda f: lambda w, x: torch.func.jvp(lambda w: f(x, w).tanh(), (w,), (w,)),
    "hessian": lambda f: lambda w, x: torch.func.hessian(lambda w: f(x[:1], w).tanh().sum())(w),
}


@pytest.mark.parametrize("transform", TRANSFORMED)
def test_transforms_inside_compile(conv2d: Form, transform: str) -> None:
    x, w, _ = conv2d.tensors()
    function = TRANSFORMED[transform]
    compiled = torch.compile(function(conv2d.ours), backend="aot_eager", fullgraph=True)
    assert_close(compiled(w, x), function(conv2d.torchs)(w, x))


def test_compiled_autograd(conv2d: Form) -> None:
    x, w, b = conv2d.tensors()
    p, q = w.clone().requires_grad_(), w.clone().requires_grad_()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        conv2d.ours(x, p, b).sum().backward()
    conv2d.torchs(x, q, b).sum().backward()
    assert_close(p.grad, q.grad)


def test_autocast_inside_compile(conv2d: Form) -> None:
    x, w, b = conv2d.tensors(dtype=torch.float32, grad=True)

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return conv2d.ours(x, w, b)

    y = torch.compile(function, backend="aot_eager", fullgraph=True)(x, w, b)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert w.grad is not None and w.grad.dtype == torch.float32


@pytest.mark.parametrize("strict", (False, True), ids=("not strict", "strict"))
def test_export(form: Form, strict: bool) -> None:
    net = Net(form)
    x, _, _ = form.tensors()
    dynamic = {0: torch.export.Dim("N"), x.dim() - 1: torch.export.Dim.AUTO}
    program = torch.export.export(net, (x,), dynamic_shapes={"x": dynamic}, strict=strict)
    other = torch.randn(x.shape[0] + 3, *x.shape[1:-1], x.shape[-1] + 4, dtype=x.dtype)
    assert_close(program.module()(other), net(other))
    assert_close(program.run_decompositions().module()(other), net(other))
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("convext" in name for name in names) == 1, names
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert_close(torch.export.load(file).module()(other), net(other))


@pytest.mark.parametrize("mode", ("real", "fake", "symbolic"))
def test_make_fx_of_a_gradient(form: Form, mode: str) -> None:
    args = form.tensors(grad=True)

    def function(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(form.ours(x, w, b).tanh().sum(), (x, w, b))

    graph = make_fx(function, tracing_mode=mode)(*args)
    assert_close(graph(*args), function(*args))
    assert sum("convext" in str(node.target) for node in graph.graph.nodes) == 3


def test_make_fx_of_func_transforms(form: Form) -> None:
    x, w, _ = form.tensors()
    function = torch.vmap(torch.func.grad(lambda w, x: form.ours(x[None], w).tanh().sum()), (None, 0))
    graph = make_fx(function)(w, x)
    assert_close(graph(w, x), function(w, x))


@pytest.mark.parametrize("grad", (False, True), ids=("plain", "requires grad"))
def test_make_fx_before_dispatch_keeps_one_operator(conv2d: Form, grad: bool) -> None:
    x, w, _ = conv2d.tensors()
    w.requires_grad_(grad)
    graph = make_fx(lambda x, w: conv2d.ours(x, w).tanh(), pre_dispatch=True)(x, w)
    assert_close(graph(x, w), conv2d.ours(x, w).tanh())
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert [name for name in names if "convext" in name] == ["convext.conv_fprop.default"], names


def test_jit_trace(conv2d: Form) -> None:
    net = Net(conv2d)
    x, _, _ = conv2d.tensors()
    traced = torch.jit.trace(net, (x,), check_trace=True)
    assert_close(traced(x + 1), net(x + 1))
    assert any("convext" in node.kind() for node in traced.inlined_graph.nodes()), "the trace holds the operator itself"


@pytest.mark.slow
def test_inductor_with_tuning_and_channels_last(conv2d: Form) -> None:
    net = Net(conv2d).eval()
    x = conv2d.tensors()[0].to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_close(torch.compile(net, mode="max-autotune-no-cudagraphs", fullgraph=True)(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ("conv2d", "conv_transpose2d"))
def test_aot_inductor(name: str, tmp_path: Path) -> None:
    net = Net(FORMS[name]).eval()
    x, _, _ = FORMS[name].tensors()
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim("N", min=1, max=64)}})
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "net.pt2"))
    other = torch.randn(5, *x.shape[1:], dtype=x.dtype)
    assert_close(torch._inductor.aoti_load_package(package)(other), net(other))
