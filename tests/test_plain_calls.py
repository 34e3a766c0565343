"""Calls that nobody observes: operators with a geometry in integers, which must be the others, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.optests import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import convext.functional as CF
from convext import _C, ops
from convext.ops import coded

CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv1d", (2, 4, 11), (6, 4, 3), {"stride": 2, "padding": 1}),
    ("conv2d", (2, 4, 9, 8), (6, 2, 3, 2), {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2), "groups": 2}),
    ("conv2d", (1, 16, 8, 8), (8, 16, 1, 1), {"stride": 2}),
    ("conv2d", (2, 3, 7, 7), (5, 3, 3, 3), {"padding": 2, "padding_mode": "reflect"}),
    ("conv2d", (2, 3, 8, 7), (5, 3, 3, 3), {"padding": 2, "stride": 2, "padding_mode": "circular"}),
    ("conv3d", (2, 2, 5, 6, 4), (3, 2, 2, 3, 2), {"padding": (1, 0, 1), "padding_mode": "replicate"}),
    ("conv_transpose1d", (2, 4, 5), (4, 3, 3), {"stride": 3, "output_padding": 2}),
    ("conv_transpose2d", (2, 4, 5, 6), (4, 3, 3, 2), {"stride": (2, 3), "padding": 1, "output_padding": (1, 0)}),
    ("conv_transpose2d", (2, 4, 5, 6), (4, 2, 3, 3), {"groups": 2, "dilation": 2, "padding_mode": "circular"}),
    ("conv_transpose3d", (1, 2, 3, 4, 3), (2, 3, 2, 2, 2), {"stride": 2}),
]
POOLINGS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("max_pool1d", (2, 3, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool2d", (2, 3, 9, 8), {"kernel_size": (3, 2), "dilation": (1, 2), "ceil_mode": True}),
    ("max_pool2d", (2, 20, 9, 8), {"kernel_size": 17, "stride": 1, "padding": 8}),
    ("max_pool3d", (2, 3, 5, 6, 7), {"kernel_size": 2, "stride": (2, 1, 3)}),
    ("min_pool2d", (2, 3, 9, 8), {"kernel_size": 3, "stride": 2}),
    ("avg_pool1d", (2, 3, 11), {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
    ("avg_pool2d", (2, 3, 9, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ("avg_pool2d", (2, 3, 9, 8), {"kernel_size": (3, 2), "divisor_override": -5, "dilation": (2, 1)}),
    ("avg_pool3d", (2, 3, 5, 6, 7), {"kernel_size": 2, "padding": 1, "stride": 3}),
]


class Watched(TorchDispatchMode):
    """A mode that changes nothing: under it the calls take the operators with lists."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._overloadname != "coded" and not func.name().endswith("_backward"), func
        return func(*args, **(kwargs or {}))


def derived(call: Callable[..., Tensor], tensors: list[Tensor], need: tuple[bool, ...]) -> list[Tensor]:
    """The result and the gradients that are asked for."""
    leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, need, strict=True)]
    y = call(*leaves)
    grad = torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t.requires_grad], grad)] if any(need) else [y]


def check_same(call: Callable[..., Tensor], tensors: list[Tensor], need: tuple[bool, ...], plainly: list[Any]) -> None:
    plainly.clear()
    ours = derived(call, tensors, need)
    assert plainly == [True], "not called plainly"
    with Watched():
        watched = derived(call, tensors, need)
    assert plainly == [True]
    for a, b in zip(ours, watched, strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each plain call was made by its operator."""
    calls: list[bool] = []

    def counted(entry: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
        def call(*args: Any) -> Tensor | None:
            y = entry(*args)
            calls.append(y is not None)
            return y

        return call

    from convext.functional import conv

    for name in ("CONV", "TRANSPOSED"):
        form = getattr(conv, name)
        monkeypatch.setattr(conv, name, form._replace(plain=counted(form.plain)))
    for name in ("max_pool", "avg_pool"):
        monkeypatch.setattr(coded, name, counted(getattr(coded, name)))
    return calls


@pytest.mark.parametrize("need", list(itertools.product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize(("name", "image", "weight", "settings"), CONVOLUTIONS, ids=str)
def test_a_convolution_is_the_same_observed_or_not(
    name: str, image: Any, weight: Any, settings: Any, need: tuple[bool, ...], plainly: list[bool]
) -> None:
    channels = weight[1] * settings.get("groups", 1) if "transpose" in name else weight[0]
    tensors = [torch.randn(*image), torch.randn(*weight), torch.randn(channels)]
    check_same(lambda *t: getattr(CF, name)(*t, **settings), tensors, need, plainly)


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("need", (False, True))
@pytest.mark.parametrize(("name", "image", "settings"), POOLINGS, ids=str)
def test_a_pooling_is_the_same_observed_or_not(
    name: str, image: Any, settings: Any, need: bool, channels_last: bool, plainly: list[bool]
) -> None:
    x = torch.randn(*image)
    if channels_last and x.dim() > 3:
        x = x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    check_same(lambda t: getattr(CF, name)(t, **settings), [x], (need,), plainly)


@pytest.mark.parametrize("dtype", (torch.complex128, torch.int64, torch.float64), ids=str)
def test_other_types_are_called_plainly(dtype: torch.dtype, plainly: list[bool]) -> None:
    x, w = torch.ones(1, 2, 5, 5, dtype=dtype), torch.ones(3, 2, 3, 3, dtype=dtype)
    need = dtype.is_floating_point or dtype.is_complex
    check_same(lambda *t: CF.conv2d(*t, padding=1), [x, w], (need, need), plainly)


def test_the_conjugate_and_the_negative_are_read_as_such() -> None:
    z, w = torch.randn(1, 2, 5, 5, dtype=torch.complex64), torch.randn(3, 2, 3, 3, dtype=torch.complex64)
    assert torch.equal(CF.conv2d(z.conj(), w), CF.conv2d(z.conj().resolve_conj(), w))
    x = z.conj().imag
    assert x.is_neg() and torch.equal(CF.conv2d(x, w.real), CF.conv2d(x.resolve_neg(), w.real.contiguous()))


def test_a_gradient_is_derived_again() -> None:
    x, w = torch.randn(1, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    leaves = [x.requires_grad_(), w.requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda x, w: CF.conv2d(x, w, stride=2, padding=1), leaves)
    assert torch.autograd.gradgradcheck(lambda x: CF.avg_pool2d(x, 3, 2), leaves[:1])
    assert torch.autograd.gradgradcheck(lambda x: CF.max_pool2d(x, 3, 2), leaves[:1])


def test_batched_gradients_take_the_differentiable_operators() -> None:
    x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    y = CF.conv2d(x, w)
    grads = torch.randn(4, *y.shape)
    both = torch.autograd.grad(y, (x, w), grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, (x, w), g, retain_graph=True) for g in grads]
    for i, batched in enumerate(both):
        torch.testing.assert_close(batched, torch.stack([g[i] for g in each]))


def test_saved_tensors_are_checked_for_writes() -> None:
    x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    y = CF.conv2d(x, w)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", (1, 2, 3))
def test_a_code_stands_for_its_arguments(rank: int) -> None:
    stride, dilation, padding = (1, 1024, 7)[:rank], (1024, 1, 3)[:rank], (511, 0, 5)[:rank]
    code = _C.conv_code(rank, stride, padding, dilation, 6, "circular")
    assert code is not None
    sides = tuple(p for p in padding for _ in range(2))
    assert coded._conv_conf(rank, *code) == (stride, sides, dilation, 6, 3)
    code = _C.conv_transpose_code(rank, 2, 3, 1, 1, 1, "zeros")
    assert code is not None
    assert coded._conv_conf(rank, *code) == ((2,) * rank, (3, 2) * rank, (1,) * rank, 1, 0)
    code = _C.conv_transpose_code(rank, 1024, 0, 511, 1, 1, "zeros")
    assert code is not None and coded._conv_conf(rank, *code)[1] == (0, -511) * rank
    code = _C.pool_code(rank, dilation, None, padding, dilation)
    assert code is not None
    assert coded._pool_geometry(rank, *code) == (dilation, dilation, sides, dilation)


@pytest.mark.parametrize(
    "arguments",
    (
        (True, 0, 1, 1, "zeros"),
        (1.0, 0, 1, 1, "zeros"),
        ((1, True), 0, 1, 1, "zeros"),
        ((1, 1, 1), 0, 1, 1, "zeros"),
        (0, 0, 1, 1, "zeros"),
        (1025, 0, 1, 1, "zeros"),
        (1 << 70, 0, 1, 1, "zeros"),
        (1, -1, 1, 1, "zeros"),
        (1, 512, 1, 1, "zeros"),
        (1, "same", 1, 1, "zeros"),
        (1, ((1, 0), (0, 0)), 1, 1, "zeros"),
        (1, 0, 0, 1, "zeros"),
        (1, 0, 1, 0, "zeros"),
        (1, 0, 1, None, "zeros"),
        (1, 0, 1, 1, "Zeros"),
        (1, 0, 1, 1, 0),
    ),
    ids=str,
)
def test_what_is_not_plain_has_no_code(arguments: tuple[Any, ...]) -> None:
    assert _C.conv_code(2, *arguments) is None


def test_codes_are_asked_for_with_a_rank() -> None:
    with pytest.raises(TypeError, match="rank"):
        _C.conv_code(4, 1, 0, 1, 1, "zeros")
    with pytest.raises(TypeError, match="rank"):
        _C.pool_code(2)  # type: ignore[call-arg]


# --- the operators ---------------------------------------------------------------------------------------------------


def test_opcheck() -> None:
    x, w, b = torch.randn(2, 4, 6, 7), torch.randn(4, 2, 3, 2), torch.randn(4)
    code = _C.conv_code(2, (2, 1), (1, 0), 1, 2, "zeros")
    pooled = _C.pool_code(2, (3, 2), 2, 1, 1)
    assert code is not None and pooled is not None
    operators = torch.ops.convext
    y, v = operators.conv_fprop.coded(x, w, b, *code), operators.conv_dgrad.coded(x, w, None, *code)
    _, offsets = operators.max_pool_with_offsets.coded(x, *pooled, True, False)
    calls = [
        (operators.conv_fprop.coded, (x, w, b, *code)),
        (operators.conv_dgrad.coded, (x, w, None, *code)),
        (operators.conv_wgrad.coded, (y, x, coded._kernel_code((3, 2)), *code)),
        (operators.conv_fprop_backward.default, (y, x, w, *code)),
        (operators.conv_dgrad_backward.default, (v, x, w, *code)),
        (operators.max_pool.coded, (x, *pooled, True, True)),
        (operators.max_pool_with_offsets.coded, (x, *pooled, True, False)),
        (operators.max_pool_scatter.coded, (offsets.float(), offsets, *pooled, 1, 6, 7)),
        (operators.avg_pool.coded, (x, *pooled, True, False, 0)),
        (operators.avg_pool_adjoint.coded, (offsets.float(), *pooled, False, 0, 1, 6, 7)),
    ]
    for op, arguments in calls:
        opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


def test_operators_refuse_what_does_not_fit() -> None:
    x, w = torch.randn(2, 4, 6, 7), torch.randn(4, 4, 3, 2)
    code = _C.conv_code(2, 1, 0, 1, 1, "zeros")
    assert code is not None
    with pytest.raises(RuntimeError, match="grad_output of size 4 on axis 0"):
        torch.ops.convext.conv_fprop_backward(x, x, w, *code)
    with pytest.raises(RuntimeError, match="padding_mode"):
        torch.ops.convext.conv_fprop.coded(x, w, None, -1, 0, 1)
    with pytest.raises(RuntimeError, match="with elements"):
        torch.ops.convext.conv_fprop.coded(x[:0], w, None, *code)
    assert torch.equal(ops.fprop(x, w, None, (1, 1), (0, 0, 0, 0), (1, 1), 1, 0), CF.conv2d(x, w))


def test_the_gradient_of_one_channel_has_the_strides_of_the_image() -> None:
    def strides(functional: Any) -> tuple[int, ...]:
        x = torch.randn(2, 1, 4, 4).as_strided((2, 1, 4, 4), (16, 1, 4, 1)).requires_grad_()
        (grad,) = torch.autograd.grad(functional.avg_pool2d(x, 2).sum(), [x])
        return grad.stride()

    with Watched():
        watched = strides(CF)
    assert strides(CF) == watched == strides(torch.nn.functional)


def test_an_error_of_a_hook_on_what_is_saved_is_no_refusal() -> None:
    """It runs once, and its error comes through."""
    seen = []

    def pack(t: Tensor) -> Tensor:
        seen.append(t)
        raise RuntimeError("not to be kept")

    x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), pytest.raises(RuntimeError, match="be kept"):
        CF.conv2d(x, w)
    assert len(seen) == 1


@pytest.mark.parametrize("name", ("conv2d", "max_pool2d", "avg_pool2d"))
def test_nodes_have_one_name(name: str) -> None:
    def node() -> str:
        arguments = (torch.randn(3, 2, 3, 3),) if name == "conv2d" else (2,)
        y = getattr(CF, name)(torch.randn(1, 2, 6, 6, requires_grad=True), *arguments)
        return str(y.grad_fn.name())

    with Watched():
        watched = node()
    assert node() == watched
