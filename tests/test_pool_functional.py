"""The pooling functions against torch.nn.functional: signatures, PyTorch's samples and error inputs, memory format."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import convext.functional as CF
from tests.reference import TOLERANCE, error, wide
from tests.test_functional_torch import outcome

AVERAGES = tuple(f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3))
MAXIMA = tuple(f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3))
NAMES = AVERAGES + MAXIMA
OPINFOS = {
    op.name.removeprefix("nn.functional."): op for op in op_db if op.name.removeprefix("nn.functional.") in NAMES
}
SAMPLED = [(name, dtype) for name in NAMES for dtype in sorted(OPINFOS[name].dtypes, key=str)]


def test_opinfo_has_all() -> None:
    assert sorted(OPINFOS) == sorted(NAMES)


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    if "max" in name:
        torchs = parameters(getattr(F, f"{name}_with_indices"))
    elif "adaptive" in name:
        torchs = [("input", inspect.Parameter.empty), ("output_size", inspect.Parameter.empty)]
    else:
        line = next(line for line in getattr(F, name).__doc__.splitlines() if line.startswith(name))
        scope: dict[str, Any] = {}
        exec(f"def {line.split(' -> ')[0]}: pass", scope)
        torchs = parameters(scope[name])
    ours = parameters(getattr(CF, name))
    assert ours[: len(torchs)] == torchs
    assert ours[len(torchs) :] == ([("dilation", 1)] if name.startswith("avg") else [])


@pytest.mark.parametrize("d", (1, 2, 3))
def test_min_pool_takes_what_max_pool_takes(d: int) -> None:
    assert parameters(getattr(CF, f"min_pool{d}d")) == parameters(getattr(CF, f"max_pool{d}d"))


def same(ours: Any, torchs: Any, wanted: Any) -> None:
    """Shape, type and strides as torch's; values as those of the same call in float64; indices equal."""
    if isinstance(torchs, tuple):
        assert torch.equal(ours[1], torchs[1]) and ours[1].stride() == torchs[1].stride()
        ours, torchs, wanted = ours[0], torchs[0], wanted[0]
    assert (ours.shape, ours.dtype, ours.stride()) == (torchs.shape, torchs.dtype, torchs.stride())
    if ours.is_floating_point():
        assert error(ours, wide(wanted)) <= TOLERANCE[ours.dtype]
    else:
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize(("name", "dtype"), SAMPLED, ids=lambda v: str(v).removeprefix("torch."))
def test_opinfo_samples(name: str, dtype: torch.dtype) -> None:
    count = 0
    for sample in OPINFOS[name].sample_inputs("cpu", dtype):
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        try:
            torchs = getattr(F, name)(*args, **kwargs)
        except NotImplementedError:  # a type that torch lists and this build of it has no kernel for
            continue
        wanted = getattr(F, name)(
            sample.input.double() if dtype.is_floating_point else sample.input, *args[1:], **kwargs
        )
        same(getattr(CF, name)(*args, **kwargs), torchs, wanted)
        count += 1
    assert count > 0


@pytest.mark.parametrize("name", NAMES)
def test_opinfo_gradients(name: str) -> None:
    for sample in OPINFOS[name].sample_inputs("cpu", torch.float64, requires_grad=True):
        ours = getattr(CF, name)(sample.input, *sample.args, **sample.kwargs)
        torchs = getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
        if isinstance(torchs, tuple):
            assert not ours[1].requires_grad
            ours, torchs = ours[0], torchs[0]
        g = torch.randn_like(torchs)
        (a,), (b,) = torch.autograd.grad(ours, sample.input, g), torch.autograd.grad(torchs, sample.input, g)
        assert a.shape == b.shape and error(a, b) <= 1e-13


ERRORS = [
    (name, i, e)
    for name, op in OPINFOS.items()
    if op.error_inputs_func is not None
    for i, e in enumerate(op.error_inputs("cpu"))
]


@pytest.mark.parametrize(("name", "i", "e"), ERRORS, ids=lambda v: str(v) if not hasattr(v, "error_type") else "")
def test_opinfo_error_inputs(name: str, i: int, e: Any) -> None:
    sample = e.sample_input
    with pytest.raises(e.error_type) as caught:
        getattr(CF, name)(sample.input, *sample.args, **sample.kwargs)
    assert "expected" in str(caught.value) and "got" in str(caught.value) and name in str(caught.value)


X = torch.randn(2, 3, 6, 6)
WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "input of five axes": ((X[None], 2), {}),
    "input a list": ((X.tolist(), 2), {}),
    "sparse input": ((X.to_sparse(), 2), {}),
    "complex": ((X + 0j, 2), {}),
    "bool": ((X > 0, 2), {}),
    "no channels": ((X[:, :0], 2), {}),
    "no rows": ((X[:, :, :0], 2), {}),
    "no kernel": ((X,), {}),
    "kernel 0": ((X, 0), {}),
    "kernel of three": ((X, (1, 2, 3)), {}),
    "kernel empty": ((X, ()), {}),
    "kernel a float": ((X, 2.0), {}),
    "kernel a string": ((X, "a"), {}),
    "kernel None": ((X, None), {}),
    "kernel larger than the image": ((X, 7), {}),
    "kernel larger by dilation": ((X, 3), {"dilation": 3}),
    "stride 0": ((X, 2, 0), {}),
    "stride negative": ((X, 2, -1), {}),
    "stride of three": ((X, 2, (1, 2, 3)), {}),
    "stride a float": ((X, 2, 1.5), {}),
    "padding negative": ((X, 2, 2, -1), {}),
    "padding more than half": ((X, 3, 2, 2), {}),
    "padding of three": ((X, 2, 1, (1, 1, 1)), {}),
    "padding a float": ((X, 2, 1, 1.0), {}),
    "padding None": ((X, 2, 1, None), {}),
    "ceil_mode a string": ((X, 2), {"ceil_mode": "a"}),
    "unknown keyword": ((X, 2), {"foo": 1}),
    "dilation 0": ((X, 2), {"dilation": 0}),
    "divisor 0": ((X, 2), {"divisor_override": 0}),
    "divisor a float": ((X, 2), {"divisor_override": 1.5}),
    "count_include_pad None": ((X, 2), {"count_include_pad": None}),
}


# torch's average has no dilation
@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name in ("max_pool2d", "avg_pool2d")
        for what in WRONG
        if name[:3] == "max" or "dilation" not in what
    ],
)
def test_raises_as_torch_raises(name: str, what: str) -> None:
    args, kwargs = WRONG[what]
    assert outcome(getattr(CF, name), *args, **kwargs) == outcome(getattr(F, name), *args, **kwargs)


ADAPTIVE_WRONG: dict[str, tuple[Any, ...]] = {
    "negative": (X, -1),
    "three": (X, (1, 2, 3)),
    "one of two": (X, (2,)),
    "a float": (X, 2.5),
    "a string": (X, "ab"),
    "no rows": (X[:, :, :0], 2),
    "two axes": (X[0, 0], 2),
    "integers": (X.long(), 2),
    "size 0": (X, 0),
    "no batch": (X[:0], 2),
    "None": (X, None),
    "no channels": (X[:, :0], 2),
    "None and 3": (X, (None, 3)),
}


@pytest.mark.parametrize("what", ADAPTIVE_WRONG)
@pytest.mark.parametrize("name", ("adaptive_max_pool2d", "adaptive_avg_pool2d"))
def test_adaptive_takes_and_raises_as_torch(name: str, what: str) -> None:
    args = ADAPTIVE_WRONG[what]
    assert outcome(getattr(CF, name), *args) == outcome(getattr(F, name), *args)


FORMATS: dict[str, Callable[[], Tensor]] = {
    "channels last": lambda: torch.randn(2, 4, 9, 9).contiguous(memory_format=torch.channels_last),
    "channels last 3d": lambda: torch.randn(2, 4, 9, 8, 7).contiguous(memory_format=torch.channels_last_3d),
    "unbatched, channels last": lambda: torch.randn(1, 9, 9, 4).permute(0, 3, 1, 2)[0],
    "rows of channels last": lambda: torch.randn(2, 9, 9, 4).permute(0, 3, 1, 2)[:, :, ::2],
    "one channel": lambda: torch.randn(2, 1, 9, 9).contiguous(memory_format=torch.channels_last),
    "expanded": lambda: torch.randn(1, 4, 1, 5).expand(3, 4, 5, 5),
    "flipped axes": lambda: torch.randn(5, 5, 4, 2).permute(3, 2, 1, 0),
    "every other": lambda: torch.randn(2, 8, 18, 10)[:, ::2, ::2, ::2],
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("kind", ("max", "avg", "adaptive_max", "adaptive_avg"))
def test_strides_are_torchs(kind: str, make: Callable[[], Tensor]) -> None:
    x = make()
    name = f"{kind}_pool{3 if x.dim() == 5 else 2}d"
    ours, torchs = getattr(CF, name)(x, 3), getattr(F, name)(x, 3)
    assert ours.stride() == torchs.stride()
    torch.testing.assert_close(ours, torchs)
    if "max" in kind:
        for a, b in zip(
            getattr(CF, name)(x, 3, return_indices=True), getattr(F, name)(x, 3, return_indices=True), strict=True
        ):
            assert a.stride() == b.stride()
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("last", (False, True))
def test_nan_propagates_as_in_torch(dtype: torch.dtype, last: bool, isa: str) -> None:
    """A NaN wins; of several, the last one of the window has the index."""
    x = torch.randn(2, 19, 12, 25, dtype=dtype)
    x[torch.rand(x.shape) < 0.2] = float("nan")
    x[torch.rand(x.shape) < 0.2] = float("-inf")
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    for settings in (
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1},
    ):
        ours, torchs = (
            CF.max_pool2d(x, **settings, return_indices=True),
            F.max_pool2d(x, **settings, return_indices=True),
        )
        assert torch.equal(ours[1], torchs[1])
        torch.testing.assert_close(ours[0], torchs[0], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(CF.max_pool2d(x, **settings), torchs[0], rtol=0, atol=0, equal_nan=True)
        low = CF.min_pool2d(x, **settings, return_indices=True)
        torchs = F.max_pool2d(-x, **settings, return_indices=True)
        assert torch.equal(low[1], torchs[1])
    x[0, 3], x[1, 4, :, 2:] = float("-inf"), float("-inf")
    x[1, 5:] = torch.where(x[1, 5:].isnan(), 3, x[1, 5:])  # a plane's largest elements equal ones
    for size in ((5, 7), (1, 1), (4, 5)):
        ours, torchs = CF.adaptive_max_pool2d(x, size, True), F.adaptive_max_pool2d(x, size, True)
        assert torch.equal(ours[1], torchs[1])
        torch.testing.assert_close(ours[0], torchs[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_autocast_gives_torchs_type(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, *[4] * int(name[-2]), dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert getattr(CF, name)(x, 2).dtype == getattr(F, name)(x, 2).dtype


SIZES = [(7, 3), (12, 4), (5, 9), (1, 3), (64, 7), (11, 11), (9, 1), (300, 1), (300, 299), (17, 5)]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(("size", "output"), SIZES)
def test_adaptive_sizes(size: int, output: int, layout: str, isa: str) -> None:
    x = torch.randn(2, 18, 6, size)
    x = x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)
    wide = x.double().requires_grad_()
    x.requires_grad_()
    for outputs in ((4, output), (None, output), (1, output)):
        y, wanted = CF.adaptive_avg_pool2d(x, outputs), F.adaptive_avg_pool2d(wide, outputs)
        assert error(y, wanted) <= 1e-6
        g = torch.randn_like(y)
        (a,), (b,) = torch.autograd.grad(y, x, g), torch.autograd.grad(wanted, wide, g.double())
        assert error(a, b) <= 1e-6
        (y, at), (wanted, to) = CF.adaptive_max_pool2d(x, outputs, True), F.adaptive_max_pool2d(wide, outputs, True)
        assert torch.equal(at, to) and torch.equal(y.double(), wanted)
        (a,), (b,) = torch.autograd.grad(y, x, g), torch.autograd.grad(wanted, wide, g.double())
        assert error(a, b) <= 1e-6


@pytest.mark.parametrize("rank", (1, 2, 3))
def test_unbatched_and_no_batch(rank: int) -> None:
    x = torch.randn(3, *[7] * rank)
    for kind in ("max", "avg"):
        ours, torchs = getattr(CF, f"{kind}_pool{rank}d"), getattr(F, f"{kind}_pool{rank}d")
        torch.testing.assert_close(ours(x, 3, 2, 1), torchs(x, 3, 2, 1))
        assert ours(x[None][:0], 3, 2, 1).shape == torchs(x[None][:0], 3, 2, 1).shape
        empty = x[None][:0].requires_grad_()
        assert torch.autograd.grad(ours(empty, 2).sum(), empty)[0].shape == empty.shape
