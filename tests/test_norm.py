"""local_response_norm: values and gradients on every instruction set, layouts, bits, transforms, errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_methods_invocations import op_db

import convext
import convext.functional as CF
from tests.norm_case import FLOATS, INPUTS, reference
from tests.reference import TOLERANCE, error
from tests.test_functional_torch import outcome

# size, alpha, beta, k
WINDOWS = ((5, 1e-4, 0.75, 2.0), (1, 0.5, 0.5, 1.0), (4, 1.0, 1.0, 0.5), (3, 2.0, 0.6, 1e-3), (90, 3.0, 1.3, 0.1))


@pytest.mark.parametrize("name", INPUTS)
def test_random(name: str, isa: str) -> None:
    for dtype in FLOATS:
        x = INPUTS[name]().to(dtype)
        for window in WINDOWS:
            leaf = x.detach().requires_grad_()
            y = CF.local_response_norm(leaf, *window)
            wide = x.detach().double().requires_grad_()
            wanted = reference(wide, *window)
            assert error(y, wanted) <= TOLERANCE[dtype], (dtype, window)
            g = torch.randn_like(wanted).to(dtype)
            (ours,) = torch.autograd.grad(y, leaf, g)
            (theirs,) = torch.autograd.grad(wanted, wide, g.double())
            # the two terms may cancel: their error is bounded by the size of the larger
            assert error(ours, theirs) <= 2 * TOLERANCE[dtype], (dtype, window)
            assert ours.dtype is dtype and y.dtype is dtype


@pytest.mark.parametrize("name", INPUTS)
def test_memory_format_is_torchs(name: str) -> None:
    x = INPUTS[name]()
    assert CF.local_response_norm(x, 3).stride() == F.local_response_norm(x, 3).stride()
    compiled = torch.ops.convext.local_response_norm(x.to("meta"), 3, 1e-4, 0.75, 1.0)
    assert compiled.shape == x.shape


def test_gradient_in_another_layout() -> None:
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    y = CF.local_response_norm(x, 5, 0.5)
    g = torch.randn(2, 5, 7, 6).permute(0, 3, 1, 2)
    (a,), (b,) = torch.autograd.grad(y, x, g, retain_graph=True), torch.autograd.grad(y, x, g.contiguous())
    assert torch.equal(a, b)
    y = CF.local_response_norm(x, 5, 0.5)
    y.sum().backward()  # a gradient of stride 0
    assert x.grad is not None


@pytest.mark.parametrize("beta", (-1.7, -0.75, 0.0, 0.1, 1 / 3, 0.6, 1.25, 2.0, 3.7, 40.0))
def test_power_has_float32_accuracy(beta: float, isa: str) -> None:
    """k + x^2 from 2^-120 to 2^120, with one channel: the result is x / r^beta."""
    exponent = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    x = torch.exp2(exponent).float().view(1, 1, -1)
    r = x.double() ** 2
    wanted = x.double() / r.pow(beta)
    y = CF.local_response_norm(x, 1, alpha=1.0, beta=beta, k=0.0).double()
    inside = (
        (wanted > 1e-36) & (wanted < 3e38) & (r > 1e-36) & (r < 3e38) & (r.pow(beta) < 3e38) & (r.pow(beta) > 1e-37)
    )
    assert inside.sum() > 50
    relative = ((y - wanted) / wanted)[inside].abs().max()
    # x * x and the division round once each; the power itself adds beta times the first of them
    assert relative <= (2.5 + abs(beta)) * 2**-24, relative


@pytest.mark.parametrize("beta", (0.5, 0.6, 0.75, 1.0))
def test_infinite_and_nan_stay_in_their_window(beta: float, isa: str) -> None:
    for special in (float("inf"), float("-inf"), float("nan"), 0.0, 1e-30, 1e30):
        x = torch.randn(2, 9, 4, 5)
        x[0, 4, 1, 2] = special
        for layout in (torch.contiguous_format, torch.channels_last):
            ours = CF.local_response_norm(x.contiguous(memory_format=layout), 3, 1.0, beta, 0.0)
            torch.testing.assert_close(ours, F.local_response_norm(x, 3, 1.0, beta, 0.0), equal_nan=True)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
def test_every_thread_count_and_batch(layout: torch.memory_format, isa: str, threads: None) -> None:
    for dtype in FLOATS:
        x = torch.randn(5, 21, 37, 35).to(dtype).contiguous(memory_format=layout)
        g = torch.randn(x.shape).to(dtype).contiguous(memory_format=layout)

        def run(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            y = CF.local_response_norm(x, 5, 0.3, 0.6)
            return y.detach(), torch.autograd.grad(y, x, g)[0]

        torch.set_num_threads(1)
        alone = run(x, g)
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            for a, b, one in zip(run(x, g), alone, run(x[2:3], g[2:3]), strict=True):
                assert torch.equal(a, b) and torch.equal(one[0], a[2])


FORMS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "2d": ((2, 4, 2, 2), (3, 0.7, 0.75, 1.0)),
    "even": ((1, 5, 3), (4, 0.7, 0.5, 0.8)),
    "wide": ((2, 3, 2), (9, 0.9, 1.3, 1.1)),
    "one": ((2, 3, 2, 1, 1), (1, 0.5, 1.0, 1.0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_every_order(form: str) -> None:
    size, window = FORMS[form]
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)

    def f(t: Tensor) -> Tensor:
        return CF.local_response_norm(t, *window)  # type: ignore[arg-type]

    assert gradcheck(
        f, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True, check_undefined_grad=True
    )
    assert gradgradcheck(f, x, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)

    def second(t: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(f(t).pow(3).sum(), t, create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), t, create_graph=True)[0]

    assert gradcheck(second, x, fast_mode=True)


def test_vmap_and_func() -> None:
    x, v = torch.randn(3, 2, 5, 4, dtype=torch.float64), torch.randn(3, 2, 5, 4, dtype=torch.float64)

    def f(t: Tensor) -> Tensor:
        return CF.local_response_norm(t, 3, 0.5)

    def g(t: Tensor) -> Tensor:
        return F.local_response_norm(t, 3, 0.5)

    torch.testing.assert_close(torch.vmap(f)(x), torch.stack([g(t) for t in x]))
    torch.testing.assert_close(torch.vmap(f, in_dims=1)(x.movedim(0, 1)), torch.stack([g(t) for t in x]))
    for function in (f, g):
        assert torch.func.jvp(function, (x[0],), (v[0],))[1].shape == x[0].shape
    torch.testing.assert_close(torch.func.jvp(f, (x[0],), (v[0],)), torch.func.jvp(g, (x[0],), (v[0],)))
    losses = [lambda t, h=h: h(t).pow(3).sum() for h in (f, g)]
    torch.testing.assert_close(*[torch.vmap(torch.func.grad(loss))(x) for loss in losses])
    torch.testing.assert_close(*[torch.func.hessian(loss)(x[0]) for loss in losses])


def test_opcheck() -> None:
    for x in (torch.randn(2, 5, 4, 3), torch.randn(2, 4, 3, 5).permute(0, 3, 1, 2)):
        x = x.detach().requires_grad_()
        torch.library.opcheck(torch.ops.convext.local_response_norm.default, (x, 3, 0.5, 0.75, 1.0))
        g = torch.randn_like(x).requires_grad_()
        torch.library.opcheck(torch.ops.convext.local_response_norm_backward.default, (g, x, 3, 0.5, 0.75, 1.0))


@pytest.mark.parametrize("dynamic", (False, True))
def test_compile(dynamic: bool) -> None:
    torch._dynamo.reset()

    def run(t: Tensor) -> Tensor:
        return CF.local_response_norm(t.relu(), 3, 0.5)

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((2, 5, 4, 3), (3, 5, 6, 7)):
        x = torch.randn(size, requires_grad=True)
        assert torch.equal(compiled(x), run(x))
        torch.testing.assert_close(*[torch.autograd.grad(f(x).pow(2).sum(), x)[0] for f in (compiled, run)])


def test_opinfo_samples() -> None:
    (info,) = (op for op in op_db if op.name == "nn.functional.local_response_norm")
    for dtype in FLOATS:
        for sample in info.sample_inputs("cpu", dtype):
            ours = CF.local_response_norm(sample.input, *sample.args, **sample.kwargs)
            wanted = F.local_response_norm(sample.input.double(), *sample.args, **sample.kwargs)
            assert ours.shape == wanted.shape and ours.dtype is dtype
            assert ours.numel() == 0 or error(ours, wanted) <= TOLERANCE[dtype]


def test_signature_and_layer() -> None:
    ours, torchs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(f.local_response_norm).parameters.values()]
        for f in (CF, F)
    )
    assert ours == torchs
    assert inspect.signature(convext.nn.LocalResponseNorm) == inspect.signature(torch.nn.LocalResponseNorm)
    mine, other = (nn.LocalResponseNorm(5, 1e-3, 0.6, 2.0) for nn in (convext.nn, torch.nn))
    assert repr(mine) == repr(other) and isinstance(mine, torch.nn.LocalResponseNorm)
    x = torch.randn(2, 7, 5, 5)
    torch.testing.assert_close(mine(x), other(x))


X = torch.ones(2, 3, 4, 5)
ERRORS: dict[str, Callable[[Any], Any]] = {
    "0 dimensions": lambda f: f.local_response_norm(torch.ones(()), 3),
    "2 dimensions": lambda f: f.local_response_norm(X[0, 0], 3),
    "size 0": lambda f: f.local_response_norm(X, 0),
    "size negative": lambda f: f.local_response_norm(X, -3),
    "size a float": lambda f: f.local_response_norm(X, 3.0),
    "size a string": lambda f: f.local_response_norm(X, "3"),
    "alpha a string": lambda f: f.local_response_norm(X, 3, alpha="1"),
    "beta a string": lambda f: f.local_response_norm(X, 3, beta="1"),
    "k None": lambda f: f.local_response_norm(X, 3, k=None),
    "complex": lambda f: f.local_response_norm(X + 0j, 3),
    "bool": lambda f: f.local_response_norm(X > 0, 3),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS)
def test_raises_as_torch_raises(call: Callable[[Any], Any]) -> None:
    torchs = outcome(call, F)
    assert torchs[0] == "raises" and outcome(call, CF) == torchs
    with pytest.raises(torchs[1], match=r"expected .* got "):
        call(CF)


def test_empty() -> None:
    for size in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0)):
        x = torch.ones(size, requires_grad=True)
        y = CF.local_response_norm(x, 3)
        assert y.shape == size
        assert torch.autograd.grad(y.sum(), x)[0].shape == size
