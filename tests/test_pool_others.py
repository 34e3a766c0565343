"""Lp, un-, fractional and stochastic pooling, and Maxout: against torch where it has them, else by formula."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.optests import opcheck

import convext.functional as CF
from tests.reference import TOLERANCE, error, wide
from tests.test_functional_torch import outcome
from tests.test_pool_functional import parameters, same

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = (
    *(f"lp_pool{d}d" for d in (1, 2, 3)),
    *(f"max_unpool{d}d" for d in (1, 2, 3)),
    *(f"fractional_max_pool{d}d" for d in (2, 3)),
)
OPINFOS = {
    op.name.removeprefix("nn.functional."): op
    for op in op_db
    if op.name.removeprefix("nn.functional.") in NAMES and not op.variant_test_name
}


def test_opinfo_has_all_but_lp_pool() -> None:
    assert sorted(OPINFOS) == sorted(name for name in NAMES if not name.startswith("lp"))


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    torchs = parameters(getattr(F, f"{name}_with_indices" if "fractional" in name else name))
    ours = parameters(getattr(CF, name))
    assert ours[: len(torchs)] == torchs
    extra = [("padding", 0), ("dilation", 1), ("abs", False)] if name.startswith("lp") else []
    assert ours[len(torchs) :] == extra


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", sorted(OPINFOS))
def test_opinfo_samples(name: str, dtype: torch.dtype) -> None:
    count = 0
    for sample in OPINFOS[name].sample_inputs("cpu", dtype, requires_grad=True):
        args, kwargs = sample.args, sample.kwargs
        torch.manual_seed(count)
        torchs = getattr(F, name)(sample.input, *args, **kwargs)
        torch.manual_seed(count)
        ours = getattr(CF, name)(sample.input, *args, **kwargs)
        if isinstance(torchs, tuple):
            assert torch.equal(ours[1], torchs[1])
            ours, torchs = ours[0], torchs[0]
        assert ours.shape == torchs.shape and ours.dtype == torchs.dtype
        torch.testing.assert_close(ours, torchs, equal_nan=True)
        g = torch.randn_like(torchs)
        (a,), (b,) = torch.autograd.grad(ours, sample.input, g), torch.autograd.grad(torchs, sample.input, g)
        torch.testing.assert_close(a, b, equal_nan=True)
        count += 1
    assert count > 0


ERRORS = [
    (name, i, e)
    for name, op in OPINFOS.items()
    if op.error_inputs_func is not None
    for i, e in enumerate(op.error_inputs("cpu"))
]


@pytest.mark.parametrize(("name", "i", "e"), ERRORS, ids=lambda v: str(v) if not hasattr(v, "error_type") else "")
def test_opinfo_error_inputs(name: str, i: int, e: Any) -> None:
    with pytest.raises(e.error_type):
        getattr(CF, name)(e.sample_input.input, *e.sample_input.args, **e.sample_input.kwargs)


# --- Lp --------------------------------------------------------------------------------------------------------------


def torchs_lp_pool(x: Tensor, p: float, kernel: Any, stride: Any, ceil_mode: bool) -> Tensor:
    """torch's, which knows the infinite norms only in its later releases: by the formula that those have."""
    if math.isinf(p):
        sign = math.copysign(1, p)
        return sign * F.max_pool2d(sign * x.abs(), kernel, stride, 0, 1, ceil_mode)
    return F.lp_pool2d(x, p, kernel, stride, ceil_mode)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("p", (1, 2, 3, 2.5, math.inf, -math.inf), ids=str)
@pytest.mark.parametrize("ceil_mode", (False, True))
def test_lp_pool(p: float, ceil_mode: bool, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 11, 13).to(dtype) + 0.125
    for kernel, stride in ((3, None), ((2, 3), (2, 1)), (3, 2)):
        ours = CF.lp_pool2d(x, p, kernel, stride, ceil_mode)
        wanted = torchs_lp_pool(wide(x), p, kernel, stride, ceil_mode)
        assert ours.dtype is dtype and ours.shape == wanted.shape
        assert error(ours, wanted) <= TOLERANCE[dtype]


def test_lp_pool_of_integers_and_signs() -> None:
    x = torch.randint(-5, 6, (2, 3, 8, 8))
    for p in (1, 2, 3):
        torch.testing.assert_close(CF.lp_pool2d(x, p, 2), F.lp_pool2d(x, p, 2), equal_nan=True)
        y = CF.lp_pool2d(x.double(), p, 2, abs=True)
        powers = x.double().abs().pow(p).unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2))
        torch.testing.assert_close(y, powers.pow(1 / p))


def test_lp_gradient_is_finite_at_zero() -> None:
    for p in (1, 2, 3, 4.0):
        x = torch.zeros(1, 2, 6, requires_grad=True)
        (g,) = torch.autograd.grad(CF.lp_pool1d(x, p, 3).sum(), x)
        assert g.isfinite().all()
        (g,) = torch.autograd.grad(CF.lp_pool1d(x, p, 3, abs=True).sum(), x)
        assert g.isfinite().all()


def test_lp_padding_and_dilation() -> None:
    x = torch.rand(2, 3, 9, dtype=torch.float64) + 0.1
    padded = F.pad(x, (2, 1))
    wanted = torch.stack([padded[..., o : o + 5 : 2].pow(3).sum(-1).pow(1 / 3) for o in range(8)], -1)
    torch.testing.assert_close(CF.lp_pool1d(x, 3, 3, 1, padding=((2, 1),), dilation=2), wanted)
    assert CF.lp_pool1d(x, 3, 3, 2, padding="same").shape[-1] == 5


@pytest.mark.parametrize("p", (1.5, 2, 3))
def test_lp_derivatives(p: float) -> None:
    x = (torch.rand(1, 2, 5, 4, dtype=torch.float64) + 0.2).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return CF.lp_pool2d(x, p, 2, 1, padding=1)

    assert gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, x)


# --- unpooling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (*FLOATS, torch.int64, torch.uint8), ids=str)
@pytest.mark.parametrize("d", (1, 2, 3))
def test_unpool(d: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, *[9, 8, 7][:d]).mul(50).abs().clamp(max=200).to(dtype)
    for kernel, stride, padding in ((2, None, 0), (3, 2, 1)):
        pooled, places = getattr(CF, f"max_pool{d}d")(x, kernel, stride, padding, return_indices=True)
        for sizes in (None, x.shape, x.shape[2:]):
            args = (pooled, places, kernel, stride, padding, sizes)
            if dtype in FLOATS or d > 1:
                torchs = outcome(getattr(F, f"max_unpool{d}d"), *args)
                assert outcome(getattr(CF, f"max_unpool{d}d"), *args) == torchs
                if torchs[0] == "gives":
                    same(getattr(CF, f"max_unpool{d}d")(*args), *[getattr(F, f"max_unpool{d}d")(*args)] * 2)


def test_unpool_keeps_channels_last_and_the_last_of_equal_places() -> None:
    x = torch.randn(2, 5, 6, 6).contiguous(memory_format=torch.channels_last)
    pooled, places = CF.max_pool2d(x, 2, return_indices=True)
    ours, torchs = CF.max_unpool2d(pooled, places, 2), F.max_unpool2d(pooled, places, 2)
    assert ours.stride() == torchs.stride() and torch.equal(ours, torchs)
    twice = CF.max_unpool1d(torch.tensor([[1.0, 2, 3]]), torch.tensor([[4, 4, 0]]), 2)
    assert twice.tolist() == [[3, 0, 0, 0, 2, 0]]


WRONG_UNPOOL: dict[str, tuple[Any, ...]] = {
    "a place outside": (torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 16), 2),
    "a negative place": (torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), -1), 2),
    "places of another type": (torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.int32), 2),
    "places of another size": (torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 1, dtype=torch.int64), 2),
    "output size too large": (torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2, 2, 0, (6, 4)),
    "output size of one": (torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2, 2, 0, (4,)),
    "two axes": (torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int64), 2),
    "kernel of three": (torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2.5),
}


@pytest.mark.parametrize("what", WRONG_UNPOOL)
def test_unpool_raises_as_torch(what: str) -> None:
    args = WRONG_UNPOOL[what]
    torchs = outcome(F.max_unpool2d, *args)
    assert torchs[0] == "raises" and outcome(CF.max_unpool2d, *args) == torchs


def test_unpool_derivatives() -> None:
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    pooled, places = CF.max_pool2d(x, 2, return_indices=True)
    pooled.requires_grad_()

    def function(p: Tensor) -> Tensor:
        return CF.max_unpool2d(p, places, 2)

    assert gradcheck(function, pooled, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, pooled, check_fwd_over_rev=True)
    mapped = torch.vmap(lambda p, i: CF.max_unpool2d(p, i, 2))(pooled[:, None], places[:, None])
    assert torch.equal(mapped[:, 0], function(pooled))


# --- fractional ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("d", (2, 3))
def test_fractional_max_pool_draws_torchs_windows(d: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, *[17, 13, 11][:d]).to(dtype)
    x[0, 0, 3:5] = float("nan")
    name = f"fractional_max_pool{d}d"
    settings: tuple[dict[str, Any], ...] = (
        {"kernel_size": 2, "output_size": 7},
        {"kernel_size": (2, 3, 2)[:d], "output_ratio": (0.5, 0.6, 0.7)[:d]},
        {"kernel_size": 3, "output_size": (1, 5, 4)[:d]},
    )
    for seed, (window, image) in enumerate(itertools.product(settings, (x, x[1], x[:0]))):
        torch.manual_seed(seed)
        torchs = getattr(F, name)(image, **window, return_indices=True)
        torch.manual_seed(seed)
        ours = getattr(CF, name)(image, **window, return_indices=True)
        assert torch.equal(ours[1], torchs[1])
        torch.testing.assert_close(ours[0], torchs[0], rtol=0, atol=0, equal_nan=True)
        torch.manual_seed(seed)
        assert getattr(CF, name)(image, **window).shape == torchs[0].shape


def test_fractional_derivatives_and_errors() -> None:
    x = torch.randperm(2 * 2 * 30).reshape(2, 2, 5, 6).double().requires_grad_()
    samples = torch.rand(2, 2, 2, dtype=torch.float64)

    def function(x: Tensor) -> Any:
        return CF.fractional_max_pool2d(x, 2, 3, _random_samples=samples)

    assert gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, x)
    for args in ((x, 2), (x, 2, 5), (x, 0, 3), (x, 7, 1), (x[0, 0], 2, 2), (x, 2, 0)):
        assert outcome(CF.fractional_max_pool2d, *args)[0] == "raises"
    with pytest.raises(ValueError):
        CF.fractional_max_pool2d(x, 2)


# --- stochastic pooling ----------------------------------------------------------------------------------------------


def test_stochastic_pool_in_eval_is_the_weighted_mean() -> None:
    x = torch.tensor([[1.0, 3, 0, 0], [0, 0, 0, 0], [2, 2, -1, 5], [0, 4, -3, 0]])[None, None]
    y = CF.stochastic_pool2d(x, 2)
    torch.testing.assert_close(y, torch.tensor([[[[10 / 4, 0], [24 / 8, 5]]]]))


def test_stochastic_pool_draws_by_activation() -> None:
    x = torch.tensor([0.0, 1, 3, -2, 4, 0]).expand(1, 4000, 6)
    y = CF.stochastic_pool1d(x, 6, training=True, generator=torch.Generator().manual_seed(1)).flatten()
    for value, share in ((1, 1 / 8), (3, 3 / 8), (4, 4 / 8), (0, 0), (-2, 0)):
        assert abs((y == value).double().mean() - share) < 0.03
    again = CF.stochastic_pool1d(x, 6, training=True, generator=torch.Generator().manual_seed(1)).flatten()
    assert torch.equal(y, again)
    torch.testing.assert_close(y.mean(), CF.stochastic_pool1d(x[:, :1], 6).squeeze(), rtol=0.05, atol=0)
    torch.manual_seed(3)
    a = CF.stochastic_pool1d(x, 6, training=True)
    torch.manual_seed(3)
    assert torch.equal(a, CF.stochastic_pool1d(x, 6, training=True))


@pytest.mark.parametrize("d", (1, 2, 3))
def test_stochastic_pool_sends_the_gradient_where_it_drew(d: int) -> None:
    x = torch.rand(2, 3, *[6, 5, 4][:d], requires_grad=True)
    y = getattr(CF, f"stochastic_pool{d}d")(x, 2, training=True)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.sum() == y.numel() and set(g.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(x[g == 1].sum(), y.sum())
    nothing = getattr(CF, f"stochastic_pool{d}d")(torch.zeros(1, 1, *[4] * d), 2, training=True)
    assert (nothing == 0).all()


def test_stochastic_pool_in_eval_has_derivatives() -> None:
    x = (torch.rand(1, 2, 4, 4, dtype=torch.float64) + 0.1).requires_grad_()
    assert gradcheck(lambda x: CF.stochastic_pool2d(x, 2), x, check_forward_ad=True)
    zero = torch.zeros(1, 1, 4, requires_grad=True)
    assert torch.autograd.grad(CF.stochastic_pool1d(zero, 2).sum(), zero)[0].isfinite().all()


# --- Maxout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ((4, 12), (2, 12, 5), (2, 12, 5, 3), (0, 12, 3)), ids=str)
@pytest.mark.parametrize("pieces", (1, 2, 3, 12))
def test_maxout(shape: tuple[int, ...], pieces: int) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = CF.maxout(x, pieces)
    wanted = x.reshape(shape[0], 12 // pieces, pieces, *shape[2:]).amax(2)
    assert torch.equal(y, wanted)
    g = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(wanted, x, g)[0])
    assert torch.equal(CF.maxout(x, pieces, dim=1 - x.dim()), y)


def test_maxout_errors() -> None:
    x = torch.randn(2, 6, 3)
    for args in ((x, 4), (x, 0), (x, -1)):
        with pytest.raises(RuntimeError, match="expected"):
            CF.maxout(*args)
    with pytest.raises(IndexError):
        CF.maxout(x, 1, 3)
    with pytest.raises(TypeError):
        CF.maxout(x, 1.5)
    with pytest.raises(NotImplementedError):
        CF.maxout(x > 0, 2)


# --- the operators ---------------------------------------------------------------------------------------------------


def test_opcheck() -> None:
    x, places = torch.randn(2, 3, 4, 5), torch.randint(0, 20, (2, 3, 2, 6))
    y = torch.randn(2, 3, 2, 6)
    window = ([2, 2], [2, 2], [0, 0, 0, 0], [1, 1])
    calls: dict[str, tuple[Any, ...]] = {
        "place_gather": (x, places),
        "place_scatter": (y, places, [4, 5], True),
        "fractional_max_places": (x, torch.tensor([0, 2, 0, 1, 3]).expand(2, 3, 5), [2, 2], [2, 3]),
        "stochastic_pool_offsets": (x, torch.rand(2, 3, 2, 2, dtype=torch.float64), *window),
    }
    for name, args in calls.items():
        opcheck(getattr(torch.ops.convext, name).default, args)
        if name.startswith("place"):
            args = (args[0].clone().requires_grad_(), *args[1:])
            opcheck(getattr(torch.ops.convext, name).default, args)


def test_place_gather_and_scatter_are_adjoint() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    places = torch.randint(0, 20, (2, 3, 7, 6))
    from convext.ops.places import place_gather, place_scatter

    y = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close((place_gather(x, places) * y).sum(), (x * place_scatter(y, places, [4, 5], True)).sum())
    assert gradcheck(lambda x: place_gather(x, places), x, check_forward_ad=True)
    assert gradcheck(lambda y: place_scatter(y, places, [4, 5], True), y, check_forward_ad=True)
    for bad in (-1, 20):
        with pytest.raises(RuntimeError, match="expected places"):
            place_gather(x, torch.full_like(places, bad))


@pytest.mark.parametrize("name", [n for n in CF.__all__ if "pool" in n or n == "maxout"])
def test_every_function_says_what_it_raises(name: str) -> None:
    text = inspect.getdoc(getattr(CF, name)) or ""
    assert "Raises:" in text or "all else as" in text
