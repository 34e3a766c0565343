"""Gradients of every order and both directions, by finite differences; no work that nobody asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import convext.functional as CF
from tests.cases import MODES, ConvCase
from tests.reference import OPERATORS, call

Form = tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...], dict[str, Any]]

# function, input shape, weight shape, settings: small, for finite differences run once per element
FORMS: dict[str, Form] = {
    "conv1d": (CF.conv1d, (2, 2, 6), (3, 2, 3), {"stride": 2, "padding": 1}),
    "conv1d-same": (CF.conv1d, (1, 2, 5), (2, 1, 2), {"padding": "same", "groups": 2}),
    "conv1d-causal": (CF.conv1d, (1, 1, 5), (2, 1, 3), {"padding": "causal", "dilation": 2}),
    "conv2d": (CF.conv2d, (2, 4, 4, 5), (4, 2, 2, 3), {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
    "conv2d-pairs": (CF.conv2d, (1, 2, 4, 4), (2, 2, 2, 2), {"padding": ((0, 1), (-1, 2)), "stride": 2}),
    "conv2d-reflect": (CF.conv2d, (1, 2, 4, 3), (2, 1, 3, 2), {"padding": 2, "groups": 2, "padding_mode": "reflect"}),
    "conv2d-circular": (CF.conv2d, (1, 1, 4, 3), (2, 1, 3, 2), {"padding": 1, "stride": 2, "padding_mode": "circular"}),
    "conv2d-depthwise": (CF.conv2d, (1, 3, 4, 4), (6, 1, 2, 2), {"groups": 3, "dilation": 2, "padding": 1}),
    "conv2d-unbatched": (CF.conv2d, (2, 4, 4), (3, 2, 2, 2), {"stride": 3}),
    "conv3d": (CF.conv3d, (1, 2, 3, 2, 3), (2, 2, 2, 1, 2), {"padding": (1, 0, 1), "stride": (2, 1, 1)}),
    "conv3d-replicate": (CF.conv3d, (1, 1, 2, 2, 3), (1, 1, 2, 2, 1), {"padding": 1, "padding_mode": "replicate"}),
    "transpose1d": (CF.conv_transpose1d, (2, 2, 4), (2, 3, 3), {"stride": 3, "padding": 1, "output_padding": 2}),
    "transpose1d-dilated": (
        CF.conv_transpose1d,
        (1, 1, 3),
        (1, 2, 2),
        {"stride": 2, "dilation": 3, "output_padding": 2},
    ),
    "transpose2d": (CF.conv_transpose2d, (1, 4, 3, 2), (4, 1, 3, 2), {"stride": 2, "groups": 2, "padding": (1, 0)}),
    "transpose2d-same": (CF.conv_transpose2d, (1, 2, 3, 2), (2, 2, 3, 1), {"stride": 2, "padding": "same"}),
    "transpose2d-reflect": (CF.conv_transpose2d, (1, 2, 3, 3), (2, 1, 3, 3), {"padding": 1, "padding_mode": "reflect"}),
    "transpose2d-circular": (
        CF.conv_transpose2d,
        (1, 2, 3, 3),
        (2, 1, 2, 3),
        {"stride": 2, "padding": 1, "padding_mode": "circular"},
    ),
    "transpose3d": (CF.conv_transpose3d, (1, 2, 2, 2, 2), (2, 1, 2, 1, 2), {"stride": (2, 1, 2), "padding": (0, 0, 1)}),
}
SMOOTH = ("conv1d", "conv2d", "conv2d-reflect", "transpose1d", "transpose2d", "transpose2d-circular")


def tensors(form: str, dtype: torch.dtype = torch.float64, grad: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    function, x, w, settings = FORMS[form]
    channels = w[1] * settings.get("groups", 1) if "transpose" in function.__name__ else w[0]
    x_, w_, b_ = (torch.randn(shape, dtype=dtype).requires_grad_(grad) for shape in (x, w, (channels,)))
    return x_, w_, b_


def run(form: str) -> Callable[..., Tensor]:
    function, _, _, settings = FORMS[form]
    return lambda x, w, b=None: function(x, w, b, **settings)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    assert gradcheck(
        run(form),
        tensors(form),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


@pytest.mark.parametrize("form", FORMS)
def test_gradgradcheck(form: str) -> None:
    assert gradgradcheck(
        run(form),
        tensors(form),
        check_fwd_over_rev=form in SMOOTH,
        check_rev_over_rev=True,
        check_batched_grad=form in SMOOTH,
    )


@pytest.mark.parametrize("form", ("conv1d", "conv2d-circular", "transpose1d", "transpose2d"))
def test_complex(form: str) -> None:
    inputs = tensors(form, torch.complex128)
    assert gradcheck(run(form), inputs, check_forward_ad=True)
    assert gradgradcheck(run(form), inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator_as_a_function_of_its_own(operator: str, mode: str) -> None:
    """dgrad with a bias and wgrad called forward, with an uneven padding and a stride that leaves pixels over."""
    case = ConvCase(
        (4, 5), (2, 3), (2, 4), batch=1, stride=(2, 1), padding=((1, 0), (1, 2)), groups=2, padding_mode=mode
    )
    case = case.transposed if operator == "dgrad" else case
    x, w, g = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in (case.input_shape, case.weight_shape, case.output_shape)
    )
    b = torch.randn(case.channels[0 if operator == "dgrad" else 1], dtype=torch.float64, requires_grad=True)
    inputs = {"fprop": (x, w, b), "dgrad": (g, w, b), "wgrad": (g, x)}[operator]

    def function(*args: Tensor) -> Tensor:
        return call(operator, case, list(args))

    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("form", SMOOTH)
def test_third_order(form: str) -> None:
    """The gradient of a gradient of a gradient, by finite differences of the second."""
    inputs = tensors(form)

    def second(*args: Tensor) -> tuple[Tensor, ...]:
        loss = run(form)(*args).pow(3).sum()
        first = torch.autograd.grad(loss, args, create_graph=True)
        return torch.autograd.grad(sum(f.pow(2).sum() for f in first), args, create_graph=True)

    assert gradcheck(second, inputs, fast_mode=True)


class Operators(TorchDispatchMode):
    """Counts the operators of the library, and every other operator by name, that reach the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func._schema.name.removeprefix("convext::conv_")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3))[1:], ids=str)
@pytest.mark.parametrize("form", ("conv2d", "transpose2d"))
def test_no_work_for_a_gradient_that_nobody_asked(form: str, needs: tuple[bool, bool, bool]) -> None:
    inputs = tensors(form, grad=False)
    for t, need in zip(inputs, needs, strict=True):
        t.requires_grad_(need)
    y = run(form)(*inputs)
    with Operators() as operators:
        y.backward(torch.ones_like(y))
    to_input = "dgrad" if form == "conv2d" else "fprop"
    wanted = {to_input: needs[0], "wgrad": needs[1], "aten::sum": needs[2]}
    assert {name: operators.seen[name] for name in wanted} == {name: int(need) for name, need in wanted.items()}
    assert [t.grad is not None for t in inputs] == list(needs)
    other = "fprop" if form == "conv2d" else "dgrad"
    assert operators.seen[other] == 0


def test_second_derivatives_do_no_needless_work() -> None:
    """With a weight alone to differentiate, the backward of wgrad is one operator, not two."""
    x, w, _ = tensors("conv2d", grad=False)
    w.requires_grad_()
    y = run("conv2d")(x, w)
    (gw,) = torch.autograd.grad(y.pow(2).sum(), w, create_graph=True)
    with Operators() as operators:
        torch.autograd.grad(gw.sum(), w)
    # to y's gradient (fprop), from there to the weight (wgrad); never dgrad, for x needs nothing
    assert operators.seen["dgrad"] == 0
    assert operators.seen["fprop"] == 1 and operators.seen["wgrad"] == 1


def test_without_gradients_nothing_is_recorded() -> None:
    x, w, b = tensors("conv2d")
    with torch.no_grad():
        assert run("conv2d")(x, w, b).grad_fn is None
    y = run("conv2d")(x.detach(), w.detach(), b.detach())
    assert y.grad_fn is None and not y.requires_grad
    with torch.inference_mode():
        assert run("conv2d")(x, w, b).is_inference()


@pytest.mark.parametrize("dual", list(itertools.product((False, True), repeat=3))[1:], ids=str)
@pytest.mark.parametrize("form", ("conv2d", "transpose1d", "conv2d-reflect", "conv2d-unbatched"))
def test_forward_mode_with_any_tangents(form: str, dual: tuple[bool, bool, bool]) -> None:
    """The tangent is the derivative along it, whichever inputs have one (the bias alone as well)."""
    inputs = tensors(form, grad=False)
    along = tuple(torch.randn_like(t) if has else torch.zeros_like(t) for t, has in zip(inputs, dual, strict=True))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) if has else t for t, d, has in zip(inputs, along, dual, strict=True)]
        result = forward_ad.unpack_dual(run(form)(*duals))
    y = run(form)(*inputs)
    torch.testing.assert_close(result.primal, y)
    # the form is bilinear plus a bias: the tangent is exactly half the odd difference, at any step
    step = [run(form)(*(t + sign * d for t, d in zip(inputs, along, strict=True))) for sign in (1, -1)]
    torch.testing.assert_close(result.tangent, (step[0] - step[1]) / 2)


def test_an_undefined_gradient_stays_undefined() -> None:
    x, w, b = tensors("conv2d")
    y = run("conv2d")(x, w, b)
    (g,) = torch.autograd.grad(y.sum() * 0 + x.sum(), x)
    torch.testing.assert_close(g, torch.ones_like(x))
    grads = torch.autograd.grad((x.sum(),), (x, w), allow_unused=True)
    assert grads[1] is None


def test_in_place_change_of_a_saved_tensor_is_found() -> None:
    x, w, b = tensors("conv2d")
    copy = w * 1
    y = run("conv2d")(x, copy, b)
    with torch.no_grad():
        copy.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        y.sum().backward()


def test_gradients_keep_type_and_memory_format() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(2, 8, 6, 6, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        w = torch.randn(4, 8, 3, 3, dtype=dtype).requires_grad_()
        CF.conv2d(x, w).sum().backward()
        assert x.grad is not None and w.grad is not None
        assert x.grad.dtype == w.grad.dtype == dtype
        assert x.grad.stride() == x.stride()


def test_expanded_gradient_and_repeated_backward() -> None:
    """y.sum() hands back a gradient of stride 0; a kept graph gives the same gradient twice."""
    x, w, b = tensors("conv2d")
    y = run("conv2d")(x, w, b)
    first = torch.autograd.grad(y.sum(), (x, w, b), retain_graph=True)
    second = torch.autograd.grad(y, (x, w, b), torch.ones_like(y).contiguous())
    for a, c in zip(first, second, strict=True):
        assert torch.equal(a, c)
