"""Derivatives of pooling: every order, forward mode, transforms, compilation, what is saved and what is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.optests import opcheck

import convext.functional as CF
from tests.test_conv_autograd import Operators

Form = tuple[Callable[[Tensor], Tensor], tuple[int, ...]]

FORMS: dict[str, Form] = {
    "max1d": (lambda x: CF.max_pool1d(x, 3, 2, 1), (2, 2, 7)),
    "max2d": (lambda x: CF.max_pool2d(x, 3, 2, 1), (2, 2, 5, 6)),
    "max2d-indices": (lambda x: CF.max_pool2d(x, 2, return_indices=True)[0], (1, 2, 4, 5)),
    "max2d-pairs": (lambda x: CF.max_pool2d(x, 2, 1, ((1, 0), (-1, 1)), 2), (1, 2, 5, 5)),
    "max2d-unbatched": (lambda x: CF.max_pool2d(x, 2, 1), (2, 4, 3)),
    "max3d": (lambda x: CF.max_pool3d(x, 2, (1, 2, 2), ceil_mode=True), (1, 2, 3, 3, 3)),
    "min2d": (lambda x: CF.min_pool2d(x, 3, 1, "same"), (1, 2, 3, 4)),
    "adaptive_max2d": (lambda x: CF.adaptive_max_pool2d(x, (2, 3)), (1, 2, 5, 4)),
    "avg1d": (lambda x: CF.avg_pool1d(x, 3, 2, 1, True, False), (2, 2, 6)),
    "avg2d": (lambda x: CF.avg_pool2d(x, 3, 2, 1), (2, 2, 5, 6)),
    "avg2d-dilated": (lambda x: CF.avg_pool2d(x, 2, 1, ((2, 0), (0, 1)), dilation=2, divisor_override=3), (1, 2, 5, 4)),
    "avg3d": (lambda x: CF.avg_pool3d(x, 2, 1, 1, True, False), (1, 1, 3, 2, 3)),
    "adaptive_avg2d": (lambda x: CF.adaptive_avg_pool2d(x, (2, 3)), (1, 2, 5, 4)),
    "global": (lambda x: CF.adaptive_avg_pool3d(x, 1), (2, 2, 2, 3, 2)),
}
each_form = pytest.mark.parametrize("form", FORMS)


def image(form: str, last: bool = False) -> Tensor:
    """Distinct elements: at a tie a maximum has no derivative."""
    shape = FORMS[form][1]
    x = torch.randperm(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) / 7
    if last and x.dim() > 3:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.requires_grad_()


@each_form
@pytest.mark.parametrize("last", (False, True))
def test_gradcheck(form: str, last: bool) -> None:
    assert gradcheck(
        FORMS[form][0],
        image(form, last),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


@each_form
def test_gradgradcheck(form: str) -> None:
    assert gradgradcheck(
        FORMS[form][0], image(form), check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


@each_form
def test_vmap_and_per_sample_gradients(form: str) -> None:
    function = FORMS[form][0]
    x = torch.stack([image(form).detach() for _ in range(3)], 1)
    y = torch.vmap(function, in_dims=1, out_dims=1)(x)
    assert torch.equal(y, torch.stack([function(x[:, i]) for i in range(3)], 1))

    def loss(x: Tensor) -> Tensor:
        return function(x).pow(2).sum()

    g = torch.vmap(torch.func.grad(loss), in_dims=1)(x)
    for i in range(3):
        sample = x[:, i].clone().requires_grad_()
        assert torch.equal(g[i], torch.autograd.grad(loss(sample), sample)[0])


def test_vmap_of_indices() -> None:
    x = torch.randn(3, 2, 2, 6, 6)
    values, places = torch.vmap(lambda x: CF.max_pool2d(x, 2, return_indices=True))(x)
    for i in range(3):
        a, b = CF.max_pool2d(x[i], 2, return_indices=True)
        assert torch.equal(values[i], a) and torch.equal(places[i], b)


@pytest.mark.parametrize("form", ("max2d", "avg2d", "adaptive_avg2d", "max3d"))
def test_jacobians_and_hessians(form: str) -> None:
    x, function = image(form).detach(), FORMS[form][0]
    forward, reverse = torch.func.jacfwd(function)(x), torch.func.jacrev(function)(x)
    torch.testing.assert_close(forward, reverse)
    hessian = torch.func.hessian(lambda x: function(x).pow(3).sum())(x)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda x: function(x).pow(3).sum(), x))


@each_form
def test_compiles_in_one_graph(form: str) -> None:
    function = FORMS[form][0]
    x = image(form)

    def step(x: Tensor) -> Tensor:
        return function(x * 1.5)

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    y, wanted = compiled(x), step(x)
    assert torch.equal(y, wanted)
    g = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(wanted, x, g)[0])
    with torch.no_grad():
        assert torch.equal(compiled(x), wanted)


GEOMETRY: tuple[list[int], ...] = ([3, 2], [2, 1], [1, 1, 0, 1], [1, 1])
ADAPTIVE: tuple[list[int], ...] = ([0, 0, 0, 0],) * 4


@pytest.mark.parametrize("last", (False, True))
def test_opcheck(last: bool) -> None:
    """Schemas, fakes (shape, type, strides), autograd registration and AOT dispatch of every operator."""
    for geometry, size in ((GEOMETRY, [4, 6]), (ADAPTIVE, [4, 4])):
        x = torch.randn(2, 3, 7, 6)
        if last:
            x = x.contiguous(memory_format=torch.channels_last)
        y, offsets = torch.ops.convext.max_pool_with_offsets(x, *geometry, size, False)
        calls: dict[str, tuple[Any, ...]] = {
            "max_pool": (x, *geometry, size, False),
            "max_pool_with_offsets": (x, *geometry, size, True),
            "max_pool_gather": (x, offsets, *geometry),
            "max_pool_scatter": (y, offsets, *geometry, [7, 6]),
            "max_pool_indices": (offsets, *geometry, [7, 6]),
            "avg_pool": (x, *geometry, size, False, 0),
            "avg_pool_adjoint": (y, *geometry, [7, 6], True, 3),
        }
        for name, args in calls.items():
            opcheck(getattr(torch.ops.convext, name).default, args)
            if name != "max_pool_indices":
                args = (args[0].detach().clone().requires_grad_(), *args[1:])
                opcheck(getattr(torch.ops.convext, name).default, args)


def saved(y: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    node = y.grad_fn
    assert node is not None
    kept += [t for t in getattr(node, "saved_tensors", ()) if t is not None]
    return kept


@pytest.mark.parametrize(
    ("kernel", "dtype"), ((3, torch.uint8), (15, torch.uint8), (16, torch.int16), (182, torch.int32)), ids=str
)
def test_training_saves_offsets_alone(kernel: int, dtype: torch.dtype) -> None:
    """One byte an output while a window has fewer than 256 elements; neither the input nor int64 indices."""
    x = torch.randn(1, 1, 200, 200, requires_grad=True)
    (offsets,) = saved(CF.max_pool2d(x, kernel))
    assert offsets.dtype is dtype and offsets.shape[2:] == (200 // kernel,) * 2
    assert saved(CF.avg_pool2d(x, kernel)) == []
    for divides in (100, 60):  # known only when the size of the image is
        (offsets,) = saved(CF.adaptive_max_pool2d(x, divides))
        assert offsets.dtype is torch.int32


def test_values_alone_where_nothing_else_is_asked() -> None:
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    for grad, name in ((False, "convext::max_pool"), (True, "convext::max_pool_with_offsets")):
        with torch.set_grad_enabled(grad), Operators() as operators:
            CF.max_pool2d(x, 2)
        assert dict(operators.seen) == {name: 1}
    constant = x.detach()
    with Operators() as operators:
        assert CF.max_pool2d(constant, 2).grad_fn is None
    assert dict(operators.seen) == {"convext::max_pool": 1}


def test_the_one_winner_gets_the_gradient() -> None:
    x = torch.tensor([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])[None, None].requires_grad_()
    y = CF.max_pool2d(x, 2)
    assert y.tolist() == [[[[6, 8], [3, 4]]]]
    (g,) = torch.autograd.grad(y, x, torch.tensor([[[[1.0, 2], [3, 4]]]]))
    assert g.tolist() == [[[[0, 0, 0, 0], [0, 1, 0, 2], [3, 0, 0, 0], [0, 0, 0, 4]]]]
    assert CF.avg_pool2d(x, 2).tolist() == [[[[3.25, 5.25], [2, 2]]]]
    ties = torch.zeros(1, 1, 3, 3, requires_grad=True)
    (g,) = torch.autograd.grad(CF.max_pool2d(ties, 3).sum(), ties)
    assert g.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert CF.max_pool2d(torch.zeros(1, 96, 55, 55), 3, 2).shape == (1, 96, 27, 27)


def test_an_infinite_gradient_stays_where_it_belongs() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
    g = torch.tensor([[[[float("inf"), 1.0], [1.0, float("nan")]]]])
    (to_x,) = torch.autograd.grad(CF.max_pool2d(x, 2), x, g)
    assert to_x.isfinite().sum() == 14 and to_x[0, 0, 1, 1] == float("inf") and to_x[0, 0, 3, 3].isnan()


DYNAMIC: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: CF.max_pool2d(x, 3, 2, 1),
    "same": lambda x: CF.max_pool2d(x, 3, 2, "same", return_indices=True)[0],
    "ceil": lambda x: CF.max_pool2d(x, 2, ceil_mode=True),
    "adaptive": lambda x: CF.adaptive_max_pool2d(x, (3, None)) + CF.adaptive_avg_pool2d(x, 1),
    "adaptive, indices": lambda x: CF.adaptive_max_pool2d(x, (2, 3), return_indices=True)[0],
    "lp": lambda x: CF.lp_pool2d(x, 2, 2),
}


@pytest.mark.parametrize("function", DYNAMIC.values(), ids=DYNAMIC)
def test_symbolic_sizes_and_export(function: Callable[[Tensor], Tensor]) -> None:
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 3, 8, 9), (4, 3, 11, 10), (3, 3, 17, 16)):
        x = torch.rand(shape, requires_grad=True)
        y, wanted = compiled(x), function(x)
        assert torch.equal(y, wanted)
        g = torch.rand_like(y)
        assert torch.equal(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(wanted, x, g)[0])

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(Module(), (torch.rand(2, 3, 8, 9),), dynamic_shapes=(batch,)).module()
    x = torch.rand(5, 3, 8, 9)
    assert torch.equal(exported(x), function(x))
