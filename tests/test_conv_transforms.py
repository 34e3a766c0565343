"""torch.func and autograd's other transforms, each against torch's own convolution under the same transform."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, stack_module_state, vjp
from torch.testing import assert_close

import convext.functional as CF
from tests.forms import FORMS, Form, Net, pair_of_nets


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


@pytest.fixture
def conv2d() -> Form:
    return FORMS["conv2d"]


def same(form: Form, transformed: Callable[[Callable[..., Tensor]], Any]) -> None:
    """transformed(function) is equal for convext's function and torch's."""
    assert_close(transformed(form.ours), transformed(form.torchs))


def smooth(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A scalar loss with derivatives of every order."""
    return lambda *args: function(*args).tanh().sum()


def test_grad_of_every_argument(form: Form) -> None:
    args = form.tensors()
    same(form, lambda f: grad(smooth(f), argnums=(0, 1, 2))(*args))


def test_jvp(form: Form) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: jvp(f, (x, w, b), (x + 1, w - 1, b * 2)))


def test_jvp_of_one_argument(form: Form) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: jvp(lambda x: f(x, w, b), (x,), (x + 1,)))
    same(form, lambda f: jvp(lambda w: f(x, w, b), (w,), (w + 1,)))
    same(form, lambda f: jvp(lambda b: f(x, w, b), (b,), (b + 1,)))


BATCHED = [
    dims for dims in itertools.product((None, 0, 1), (None, 0, 2), (None, 0, 1)) if any(d is not None for d in dims)
]


@pytest.mark.parametrize("dims", BATCHED, ids=str)
def test_vmap_over_every_choice_of_axes(form: Form, dims: tuple[int | None, ...]) -> None:
    args = [
        t if d is None else torch.randn(*t.shape[:d], 3, *t.shape[d:], dtype=t.dtype)
        for t, d in zip(form.tensors(), dims, strict=True)
    ]
    same(form, lambda f: torch.vmap(f, in_dims=dims)(*args))


@pytest.mark.parametrize("dims", ((0, None), (None, 0), (1, 2)), ids=str)
def test_gradients_under_vmap(form: Form, dims: tuple[int | None, ...]) -> None:
    """vmap of all three operators: the batched backward reaches dgrad and wgrad with and without a batched weight."""
    args = [
        t if d is None else torch.randn(*t.shape[:d], 3, *t.shape[d:], dtype=t.dtype)
        for t, d in zip(form.tensors()[:2], dims, strict=True)
    ]
    same(form, lambda f: torch.vmap(grad(smooth(f), argnums=(0, 1)), in_dims=dims)(*args))
    same(form, lambda f: torch.vmap(lambda x, w: jvp(f, (x, w), (w.sum() * x, w)), in_dims=dims)(*args))


def test_vmap_out_dims_and_chunks(conv2d: Form) -> None:
    _, w, _ = conv2d.tensors()
    a = torch.randn(4, *conv2d.input_shape, dtype=torch.float64)
    assert_close(
        torch.vmap(lambda x: conv2d.ours(x, w), out_dims=2, chunk_size=3)(a),
        torch.vmap(lambda x: conv2d.torchs(x, w), out_dims=2)(a),
    )


def test_vmap_of_nothing_and_of_one(form: Form) -> None:
    _, w, b = form.tensors()
    a = torch.randn(1, *form.input_shape, dtype=torch.float64)
    same(form, lambda f: torch.vmap(lambda x: f(x, w, b))(a))


def test_vmap_of_vmap(form: Form) -> None:
    a = torch.randn(3, *form.input_shape, dtype=torch.float64)
    c = torch.randn(2, *form.weight_shape, dtype=torch.float64)
    same(form, lambda f: torch.vmap(torch.vmap(f, (0, None)), (None, 0))(a, c))
    a = torch.randn(3, 2, *form.input_shape, dtype=torch.float64)
    c = torch.randn(3, *form.weight_shape, dtype=torch.float64)
    same(form, lambda f: torch.vmap(torch.vmap(f, (0, None)), (0, 0))(a, c))


def test_jacobians(form: Form) -> None:
    args = form.tensors()
    args = (args[0][:1], *args[1:])
    same(form, lambda f: jacrev(f, argnums=(0, 1, 2))(*args))
    same(form, lambda f: jacfwd(f, argnums=(0, 1, 2))(*args))


def test_hessian(form: Form) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: hessian(lambda x, w: smooth(f)(x, w, b), argnums=(0, 1))(x[:1], w))


@pytest.mark.parametrize("inner", (jacfwd, jacrev), ids=("jacfwd", "jacrev"))
@pytest.mark.parametrize("outer", (jacfwd, jacrev), ids=("jacfwd", "jacrev"))
def test_jacobian_of_a_jacobian(form: Form, outer: Callable[..., Any], inner: Callable[..., Any]) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: outer(inner(lambda w: smooth(f)(x[:1], w, b)))(w))


def test_forward_over_reverse_product(form: Form) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: jvp(grad(lambda w: smooth(f)(x, w, b)), (w,), (w + 1,)))


def test_reverse_over_forward(form: Form) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: grad(lambda w: jvp(lambda x: smooth(f)(x, w, b), (x,), (x,))[1])(w))


def test_forward_over_forward(form: Form) -> None:
    x, w, b = form.tensors()
    same(form, lambda f: jvp(lambda w: jvp(lambda x: smooth(f)(x, w, b), (x,), (x,))[1], (w,), (w,)))


def test_third_order(form: Form) -> None:
    x, w, b = form.tensors()

    def third(f: Callable[..., Tensor]) -> Tensor:
        def loss(w: Tensor) -> Tensor:
            return smooth(f)(x, w, b)

        def first(w: Tensor) -> Tensor:
            return grad(loss)(w).pow(2).sum()

        def second(w: Tensor) -> Tensor:
            return grad(first)(w).pow(2).sum()

        return grad(second)(w)

    same(form, third)


def test_per_sample_gradients(form: Form) -> None:
    samples = torch.randn(5, *form.input_shape[1:], dtype=torch.float64)
    targets = torch.randint(0, 3, (5,))

    def run(net: Net) -> Any:
        parameters = dict(net.named_parameters())

        def loss(p: Any, x: Tensor, t: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(net, p, (x[None],)), t[None])

        return torch.vmap(grad(loss), (None, 0, 0))(parameters, samples, targets)

    ours, torchs = pair_of_nets(form)
    assert_close(run(ours), run(torchs))


def test_ensemble_of_stacked_parameters(form: Form) -> None:
    x, _, _ = form.tensors()

    def run(ours: bool) -> Tensor:
        torch.manual_seed(1)
        nets = [Net(form, ours) for _ in range(3)]
        for i, net in enumerate(nets):
            with torch.no_grad():
                net.weight.mul_(i + 1)
        parameters, _ = stack_module_state(nets)
        return torch.vmap(lambda p, x: functional_call(nets[0], p, (x,)), (0, None))(parameters, x)

    assert_close(run(True), run(False))


def test_functional_call_replaces_parameters(form: Form) -> None:
    net, reference = pair_of_nets(form)
    x, w, _ = form.tensors(seed=7)
    assert_close(functional_call(net, {"weight": w}, (x,)), functional_call(reference, {"weight": w}, (x,)))


def test_vjp_called_after_its_transform_has_ended(form: Form) -> None:
    x, w, _ = form.tensors()
    y, ours = vjp(lambda x, w: form.ours(x, w), x, w)
    _, torchs = vjp(lambda x, w: form.torchs(x, w), x, w)
    g = torch.randn_like(y).requires_grad_()
    assert_close(ours(g), torchs(g))

    def second(results: tuple[Tensor, ...]) -> Any:
        return torch.autograd.grad(sum(r.pow(2).sum() for r in results), g)

    assert_close(second(ours(g)), second(torchs(g)))


def test_linearize(form: Form) -> None:
    """Against torch's jvp: its own linearize is wrong for F.pad in circular mode, an assignment to slices."""
    x, w, _ = form.tensors()
    _, along = linearize(lambda x, w: form.ours(x, w), x, w)
    for dx, dw in ((x, w), (w.sum() * x, w.cos())):
        assert_close(along(dx, dw), jvp(lambda x, w: form.torchs(x, w), (x, w), (dx, dw))[1])


@pytest.mark.parametrize("reentrant", (True, False), ids=("reentrant", "not reentrant"))
def test_checkpoint(form: Form, reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    def run(f: Callable[..., Tensor]) -> list[Tensor | None]:
        args = form.tensors(grad=True)
        checkpoint(lambda *a: f(*a).tanh(), *args, use_reentrant=reentrant).sum().backward()
        return [a.grad for a in args]

    same(form, run)


def test_create_graph_then_backward(form: Form) -> None:
    x, w, b = form.tensors()

    def run(f: Callable[..., Tensor]) -> Tensor | None:
        p = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(smooth(f)(x, p, b), p, create_graph=True)
        g.pow(2).sum().backward()
        return p.grad

    same(form, run)


def test_saved_tensors_go_through_hooks(form: Form) -> None:
    x, w, b = form.tensors(grad=True)
    with torch.autograd.graph.save_on_cpu():
        y = form.ours(x, w, b)
    packed: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        form.ours(x, w, b)
    assert len(packed) == 2, "input and weight, and nothing else, are kept for the backward"
    assert_close(torch.autograd.grad(y.sum(), (x, w, b)), torch.autograd.grad(form.torchs(x, w, b).sum(), (x, w, b)))


def test_anomaly_mode_and_the_name_of_the_node(conv2d: Form) -> None:
    args = conv2d.tensors(grad=True)
    with torch.autograd.detect_anomaly(check_nan=True):
        y = conv2d.ours(*args)
        y.sum().backward()
    assert y.grad_fn is not None
    assert "conv" in y.grad_fn.name().lower()


def test_four_threads_at_once(conv2d: Form) -> None:
    args = conv2d.tensors()
    wanted = torch.func.grad(smooth(conv2d.torchs), argnums=1)(*args)
    results: list[Tensor | BaseException] = []

    def work() -> None:
        try:
            w = args[1].clone().requires_grad_()
            smooth(conv2d.ours)(args[0], w, args[2]).backward()
            assert w.grad is not None
            results.append(w.grad)
        except BaseException as e:
            results.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 4
    for r in results:
        assert isinstance(r, Tensor), r
        assert_close(r, wanted)


@pytest.mark.parametrize("outer", (torch.func.jacfwd, torch.func.jacrev), ids=lambda f: f.__name__)
@pytest.mark.parametrize("inner", (torch.func.jacfwd, torch.func.jacrev), ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ("conv", "conv_transpose", "response_norm"))
def test_second_derivatives_by_every_mode(name: str, outer: Any, inner: Any) -> None:
    """Where both operands depend on one variable, a tangent has a tangent of its own."""

    def value(t: Tensor) -> Tensor:
        if name == "conv":
            return CF.conv2d(t, t.square()[:, :, :3, :3]).square().sum()
        if name == "conv_transpose":
            return CF.conv_transpose2d(t[:, :2], t.square()[:1, :2, :3, :3].transpose(0, 1)).square().sum()
        return CF.local_response_norm(t, 3, alpha=1.0).square().sum()

    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    wanted = torch.autograd.functional.hessian(value, x)
    torch.testing.assert_close(outer(inner(value))(x), wanted)
