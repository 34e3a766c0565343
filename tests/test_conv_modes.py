"""The operators under autocast, FLOP counting, dispatch and function modes, subclasses, the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import convext.functional as CF
from tests.cases import ConvCase
from tests.forms import FORMS, Form


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


@pytest.fixture
def conv2d() -> Form:
    return FORMS["conv2d"]


@pytest.mark.parametrize("given", (torch.float32, torch.bfloat16, torch.float16, torch.float64), ids=str)
@pytest.mark.parametrize("cast", (torch.bfloat16, torch.float16), ids=str)
def test_autocast_gives_the_type_that_torch_gives(form: Form, given: torch.dtype, cast: torch.dtype) -> None:
    args = form.tensors(dtype=given, grad=True)
    with torch.autocast("cpu", dtype=cast):
        ours, torchs = form.ours(*args), form.torchs(*args)
    assert ours.dtype == torchs.dtype
    grads = torch.autograd.grad(ours.double().sum(), args)
    assert [g.dtype for g in grads] == [given] * 3


def test_autocast_of_mixed_types(conv2d: Form) -> None:
    """An input that an earlier layer already made bfloat16 meets a float32 weight."""
    x, w, b = conv2d.tensors(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv2d.ours(x.bfloat16(), w, b)
        with torch.autocast("cpu", enabled=False):
            assert conv2d.ours(x, w, b).dtype == torch.float32
    assert y.dtype == torch.bfloat16
    assert_close(y, conv2d.torchs(x.bfloat16(), w.bfloat16(), b.bfloat16()), rtol=2e-2, atol=2e-2)


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


COUNTED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv2d": ((2, 4, 9, 8), (6, 4, 3, 3), {"stride": (2, 1), "padding": 1}),
    "conv1d": ((3, 4, 20), (5, 4, 7), {"dilation": 2}),
    "conv3d": ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), {}),
    "conv_transpose2d": ((2, 6, 5, 4), (6, 4, 3, 2), {"stride": 2}),
}


@pytest.mark.parametrize("function", COUNTED)
def test_flops_equal_torchs(function: str) -> None:
    shape, weight, settings = COUNTED[function]
    x, w = torch.randn(shape), torch.randn(weight)
    assert (
        flops(lambda: getattr(CF, function)(x, w, **settings))
        == flops(lambda: getattr(F, function)(x, w, **settings))
        > 0
    )
    x.requires_grad_()
    w.requires_grad_()
    assert flops(lambda: getattr(CF, function)(x, w, **settings).sum().backward()) == flops(
        lambda: getattr(F, function)(x, w, **settings).sum().backward()
    )


@pytest.mark.parametrize("groups", (2, 4))
def test_flops_of_groups_are_the_multiply_adds_done(groups: int) -> None:
    """Two a multiply-add, the same for each of the three operators."""
    case = ConvCase((9, 8), 3, (4, 8), groups=groups, padding=1)
    x = torch.randn(case.input_shape, requires_grad=True)
    w = torch.randn(case.weight_shape, requires_grad=True)
    once = 2 * torch.Size(case.output_shape).numel() * (4 // groups) * 9
    assert flops(lambda: CF.conv2d(x, w, padding=1, groups=groups)) == once
    assert flops(lambda: CF.conv2d(x, w, padding=1, groups=groups).sum().backward()) == 3 * once
    g = torch.randn(case.output_shape)
    assert flops(lambda: CF.conv_transpose2d(g, w.detach(), padding=1, groups=groups)) == once


def test_dispatch_mode_sees_three_operators(form: Form) -> None:
    seen: list[str] = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    x, w, _ = form.tensors()
    with Log():
        form.ours(x, w)
        form.ours(x.requires_grad_(), w.requires_grad_()).sum().backward()
    ours = sorted(name for name in seen if name.startswith("convext::"))
    forward, back = ("dgrad", "fprop") if "transpose" in form.name else ("fprop", "dgrad")
    assert ours == sorted([f"convext::conv_{n}" for n in (forward, forward, back, "wgrad")])


def test_function_subclass_survives(form: Form) -> None:
    class Tagged(Tensor):
        pass

    x, w, b = form.tensors()
    y = form.ours(x.as_subclass(Tagged), w.requires_grad_(), b)
    assert type(y) is type(form.torchs(x.as_subclass(Tagged), w, b)) is Tagged


def test_parameter_in_parameter_out_is_a_plain_tensor(conv2d: Form) -> None:
    x, w, b = conv2d.tensors()
    y = conv2d.ours(x, torch.nn.Parameter(w), torch.nn.Parameter(b))
    assert type(y) is Tensor and y.requires_grad


def test_wrapper_subclass(form: Form) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    x, w, b = form.tensors()
    y = form.ours(TwoTensor(x, x + 1), w, b)
    assert isinstance(y, TwoTensor)
    assert_close((y.a, y.b), (form.torchs(x, w, b), form.torchs(x + 1, w, b)))


def test_meta_device(form: Form) -> None:
    args = [t.to("meta") for t in form.tensors()]
    y = form.ours(*args)
    reference = form.torchs(*args)
    assert y.device.type == "meta" and y.shape == reference.shape and y.dtype == reference.dtype


def test_fake_mode_with_gradients(form: Form) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, w = (torch.randn(shape, requires_grad=True) for shape in (form.input_shape, form.weight_shape))
        form.ours(x, w).sum().backward()
        assert x.grad is not None and w.grad is not None
        assert x.grad.shape == x.shape and w.grad.shape == w.shape


@pytest.mark.parametrize("function", ("conv2d", "conv_transpose2d"))
def test_lazy_conjugation_and_negation_are_resolved(function: str) -> None:
    """x.conj() and z.imag of it only set a bit on the same memory; the kernels must see the true values."""
    x = torch.randn(1, 2, 5, 5, dtype=torch.complex128)
    w = torch.randn(2, 2, 3, 3, dtype=torch.complex128)
    ours, torchs = getattr(CF, function), getattr(F, function)
    assert x.conj().is_conj() and x.conj().imag.is_neg()
    assert_close(ours(x.conj(), w.conj()), torchs(x.conj().clone(), w.conj().clone()))
    assert_close(ours(x.conj().imag, w.real), torchs(x.conj().imag.clone(), w.real.clone()))
    p, q = w.clone().requires_grad_(), w.clone().requires_grad_()
    ours(x.conj(), p).abs().sum().backward()
    torchs(x.conj().clone(), q).abs().sum().backward()
    assert_close(p.grad, q.grad)


def test_deterministic_algorithms_are_always_on(conv2d: Form) -> None:
    args = conv2d.tensors(grad=True)
    plain = conv2d.ours(*args)
    try:
        torch.use_deterministic_algorithms(True)
        assert torch.equal(conv2d.ours(*args), plain)
        conv2d.ours(*args).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_zero_tensors_stay_cheap_to_build_on_meta() -> None:
    """A shape far beyond memory is only arithmetic there."""
    y = CF.conv2d(torch.empty(1, 3, 10**6, 10**6, device="meta"), torch.empty(8, 3, 3, 3, device="meta"))
    assert y.shape == (1, 8, 10**6 - 2, 10**6 - 2)
