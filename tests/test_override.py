"""convext.override: torch's functions compute by convext inside of it, and nothing else changes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils.checkpoint import CheckpointError, checkpoint

import convext
from convext import _checks
from convext.rerouting import _OURS, _TYPES
from tests.layers import LAYERS, Layer, is_by_convext, is_by_torch, tensors


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Nothing is left to torch unless a test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", convext.LeftToTorchWarning)
        yield


def randn(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


X, W = randn(2, 4, 8, 8), randn(6, 4, 3, 3)


def conv(x: Tensor = X) -> Tensor:
    return F.conv2d(x, W, padding=1)


def same(a: Any, b: Any) -> None:
    for ours, theirs in zip(tensors(a), tensors(b), strict=True):
        assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


# --- what is covered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_torchs_layers_call_convext(case: Layer) -> None:
    layer, inputs = case.make(), case.inputs()
    if "Lazy" in case.name:
        layer(*inputs)
    x = inputs[0].requires_grad_()
    torch.manual_seed(1)
    wanted = layer(*inputs)
    expected = torch.autograd.grad(tensors(wanted)[0].square().sum(), x)
    with convext.override():
        torch.manual_seed(1)
        y = layer(*inputs)
        assert is_by_convext(layer, *inputs)
    same(y, wanted)
    same(torch.autograd.grad(tensors(y)[0].square().sum(), x), expected)
    assert not is_by_convext(layer, *inputs)


def _by_name(name: str) -> Callable[..., Any]:
    scope: Any = {"torch": torch, "F": F, "aten": torch.ops.aten}
    for part in name.split("."):
        scope = scope[part] if isinstance(scope, dict) else getattr(scope, part)
    return scope  # type: ignore[no-any-return]


def _calls() -> dict[str, tuple[Any, ...]]:
    calls: dict[str, tuple[Any, ...]] = {}
    for rank in (1, 2, 3):
        x, w = randn(2, 4, *[6] * rank), randn(4, 3, *[3] * rank)
        strides, pads = [2] * rank, [1] * rank
        calls |= {
            f"torch.conv{rank}d": (x, randn(6, 4, *[3] * rank), None, 1, "same"),
            f"torch.conv_transpose{rank}d": (x, w, None, 2, 1, 1),
            f"torch.max_pool{rank}d": (x, 2),
            f"F.max_pool{rank}d": (x, 3, 2, 1),
            f"F.max_pool{rank}d_with_indices": (x, 3, 2, 1),
            f"F.adaptive_max_pool{rank}d_with_indices": (x, 3),
            f"F.avg_pool{rank}d": (x, 2),
            f"F.lp_pool{rank}d": (x, 4.0, 2),
            f"aten.conv{rank}d": (x, randn(6, 4, *[3] * rank)),
            f"aten.conv{rank}d.default": (x, randn(6, 4, *[3] * rank), None, strides, pads),
            f"aten.conv{rank}d.padding": (x, randn(6, 4, *[3] * rank), None, [1] * rank, "same"),
            f"aten.conv_transpose{rank}d.{'input' if rank > 1 else 'default'}": (x, w, None, strides, pads),
            f"aten.max_pool{rank}d.default": (x, strides),
            f"aten.max_pool{rank}d_with_indices.default": (x, strides),
            f"aten.avg_pool{rank}d.default": (x, strides),
            f"aten.adaptive_avg_pool{rank}d.default": (x, [3] * rank),
            f"aten.adaptive_max_pool{rank}d.default": (x, [3] * rank),
            f"aten.convolution.default@{rank}": (x, w, None, strides, pads, [1] * rank, True, pads, 1),
        }
    for rank in (2, 3):
        x = randn(2, 4, *[6] * rank)
        samples = torch.rand(2, 4, rank).double()
        calls[f"F.fractional_max_pool{rank}d"] = (x, 2, 3, None, False, samples)
        calls[f"F.fractional_max_pool{rank}d_with_indices"] = (x, 2, 3, None, False, samples)
        calls[f"aten._adaptive_avg_pool{rank}d.default"] = (x, [3] * rank)
    x = randn(2, 4, 6, 6)
    calls |= {
        "torch.adaptive_avg_pool1d": (x[0], 3),
        "torch.adaptive_max_pool1d": (x[0], 3),
        "torch.max_pool1d_with_indices": (x[0], 3, 2),
        "torch.avg_pool1d": (x[0], 3, 2),
        "torch.convolution": (x, W, randn(6), (1, 1), (1, 1), (1, 1), False, (0, 0), 1),
        "F.adaptive_avg_pool2d": (x, (None, 2)),
        "F.unfold": (x, 3, 1, 1),
        "F.fold": (randn(2, 36, 36), (6, 6), 3, 1, 1),
        "F.local_response_norm": (x, 3),
        "aten.im2col.default": (x, [3, 3], [1, 1], [1, 1], [1, 1]),
        "aten.col2im.default": (randn(2, 36, 36), [6, 6], [3, 3], [1, 1], [1, 1], [1, 1]),
    }
    return calls


CALLS = _calls()


@pytest.mark.parametrize("name", CALLS)
def test_every_spelling(name: str) -> None:
    function = _by_name(name.split("@")[0])
    wanted = function(*CALLS[name])
    with convext.override():
        y = function(*CALLS[name])
        assert is_by_convext(function, *CALLS[name])
    assert isinstance(y, tuple) == isinstance(wanted, tuple)
    same(y, wanted)


def test_no_spelling_is_forgotten() -> None:
    """Every public function of torch whose name says that it is one of these; the rest with its reason."""
    words = ("conv", "pool", "fold", "local_response")
    not_ours = (
        *("cudnn_", "miopen_", "mkldnn_", "quantized_"),  # a backend's own
        "conv_tbc",  # time comes first
        "unfold_copy",  # of the view that Tensor.unfold gives
    )
    for module in (torch, F):
        for name in dir(module):
            if name.startswith(("_", *not_ours)) or not any(word in name for word in words):
                continue
            assert getattr(module, name) in _OURS, name


def test_arguments_by_name() -> None:
    with convext.override():
        same(F.conv2d(input=X, weight=W, stride=2), convext.functional.conv2d(X, W, stride=2))
        y, places = F.max_pool2d(input=X, kernel_size=2, return_indices=True)
    same((y, places), F.max_pool2d(X, 2, return_indices=True))


def test_other_functions_are_untouched() -> None:
    def others() -> Tensor:
        return (
            F.linear(X.flatten(1), X.flatten(1)).relu()
            + torch.nn.functional.interpolate(X, 4).sum()
            + X.unfold(2, 3, 1).sum()
        )

    wanted = others()
    with convext.override():
        assert torch.equal(others(), wanted)


def test_an_error_is_convexts() -> None:
    with convext.override(), pytest.raises(RuntimeError, match="conv2d: expected input of 4 channels"):
        F.conv2d(X[:, :3], W)
    assert is_by_torch(conv), "and the block is over"


# --- the block --------------------------------------------------------------------------------------------------------


def test_nesting_and_reentrance() -> None:
    block = convext.override()
    with block:
        with block, convext.override():
            assert is_by_convext(conv)
        assert is_by_convext(conv)
    assert is_by_torch(conv)


def test_decorator() -> None:
    @convext.override()
    def decorated(x: Tensor, depth: int = 2) -> Tensor:
        return decorated(conv(x)[:, :4], depth - 1) if depth else conv(x)

    assert is_by_convext(decorated, X) and is_by_torch(conv)
    assert decorated.__name__ == "decorated"


def test_a_model_for_good() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3)).double()
    model.forward = convext.override()(model.forward)  # type: ignore[method-assign]
    assert is_by_convext(model, X)


def test_it_holds_for_its_thread() -> None:
    seen: dict[str, bool] = {}

    def work(name: str, entered: bool) -> None:
        if entered:
            with convext.override():
                seen[name] = is_by_convext(conv)
        else:
            seen[name] = is_by_convext(conv)

    with convext.override():
        threads = [threading.Thread(target=work, args=(str(e), e)) for e in (True, False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {"True": True, "False": False}


class Count(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_beside_other_modes() -> None:
    """A mode outside sees convext's function, one inside torch's; each sees the call once."""
    with Count() as outer, convext.override(), Count() as inner:
        conv()
    assert inner.seen == [F.conv2d]
    assert outer.seen.count(convext.functional.conv2d) == 1 and F.conv2d not in outer.seen
    with torch.device("meta"), convext.override():
        assert F.conv2d(torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)).is_meta


def test_converted_layers_inside() -> None:
    layer = convext.nn.Conv2d(4, 6, 3).double()
    with convext.override():
        y = layer(X)
    assert torch.equal(y, layer(X))


# --- transforms -------------------------------------------------------------------------------------------------------


def test_func_transforms() -> None:
    def loss(x: Tensor, w: Tensor) -> Tensor:
        return F.max_pool2d(F.conv2d(x, w), 2).square().sum()

    calls: dict[str, Callable[[], Any]] = {
        "grad": lambda: torch.func.grad(loss, (0, 1))(X, W),
        "jvp": lambda: torch.func.jvp(loss, (X, W), (X, W)),
        "vmap": lambda: torch.vmap(loss)(X[:, None], W.expand(2, *W.shape)),
        "per sample": lambda: torch.vmap(torch.func.grad(loss, 1), (0, None))(X[:, None], W),
        "hessian": lambda: torch.func.hessian(loss, 1)(X[:1, :, :4, :4], W),
    }
    for name, call in calls.items():
        wanted = call()
        with convext.override():
            same(call(), wanted)
        with convext.override():
            assert is_by_convext(call), name


def test_autocast() -> None:
    x, w = X.float(), W.float()
    with torch.autocast("cpu", torch.bfloat16), convext.override():
        y = F.conv2d(x, w)
        assert y.dtype == torch.bfloat16 and is_by_convext(F.conv2d, x, w)
        assert F.max_pool3d(y[None], 2).dtype == torch.float32, "as torch's autocast has it"
    with convext.override(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.conv2d(x, w), y)


def test_checkpoints() -> None:
    """What the backward pass computes again is computed where that runs: the block has to be given along."""
    x = X.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(conv(x).square().sum(), x)

    def blocks() -> tuple[Any, Any]:
        return convext.override(), convext.override()

    y = checkpoint(conv, x, use_reentrant=False, context_fn=blocks)
    same(torch.autograd.grad(y.square().sum(), x)[0], wanted)
    with convext.override():
        y = checkpoint(conv, x, use_reentrant=False)
    with pytest.raises(CheckpointError, match="different metadata"):
        y.square().sum().backward()


# --- what stays torch's -----------------------------------------------------------------------------------------------


def test_devices_without_kernels_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one silent case."""
    monkeypatch.setattr("convext._coverage.DEVICES", frozenset({"meta"}))
    with convext.override():
        assert is_by_torch(conv)
        assert is_by_torch(torch.nn.Conv2d(4, 6, 3).double(), X)


class Silent(Tensor):
    """A subclass that leaves all to Tensor."""


class Loud(Tensor):
    """A subclass with a __torch_function__ of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning", "ignore:ComplexHalf")
@pytest.mark.parametrize(
    ("why", "call"),
    {
        r"max_pool2d is left to torch: one of its tensors has the type torch\.quint8": lambda: F.max_pool2d(
            torch.quantize_per_tensor(X.float(), 0.1, 0, torch.quint8), 2
        ),
        r"has the type torch\.complex32": lambda: F.conv2d(X.to(torch.complex32), W.to(torch.complex32)),
        r"has the layout torch\._mkldnn": lambda: F.conv2d(X.float().to_mkldnn(), W.float().to_mkldnn()),
        "is a Loud, which has a __torch_function__ of its own": lambda: F.conv2d(X.as_subclass(Loud), W),
        r"adaptive_avg_pool2d is left to torch: its input has the type torch\.complex128": lambda: (
            F.adaptive_avg_pool2d(X.to(torch.complex128), 1)
        ),
        "it is asked for out=": lambda: F.avg_pool2d(X, 2, out=torch.empty(2, 4, 4, 4, dtype=torch.float64)),
    }.items(),
)
def test_left_with_a_warning(why: str, call: Callable[[], Tensor]) -> None:
    wanted = call()
    with convext.override(), pytest.warns(convext.LeftToTorchWarning, match=why):
        y = call()
    assert type(y) is type(wanted) and y.dtype == wanted.dtype and y.layout == wanted.layout


EVERY_TYPE = (*_checks.DTYPES, torch.bool)


@pytest.mark.parametrize("name", _TYPES)
def test_types_are_those_of_the_functions(name: str) -> None:
    """The table of element types says what convext's functions say."""
    rank = 2 if name in ("unfold", "fold", "local_response_norm") else int(name[-2])
    x = torch.ones(1, 4, *[4] * rank)
    arguments: dict[str, tuple[Any, ...]] = {
        "conv": (torch.ones(4, 4, *[1] * rank),),
        "lp_": (2.0, 2),
        "max_un": (torch.zeros(1, 4, *[4] * rank, dtype=torch.int64), 2),
        "fractional": (2, 2),
        "fold": (4, 1),
    }
    rest = next((a for start, a in arguments.items() if name.startswith(start)), (2,))
    x = x.flatten(2) if name == "fold" else x
    taken = set()
    for dtype in EVERY_TYPE:
        try:
            convext.functional.__dict__[name](x.to(dtype), *[a.to(dtype) if "conv" in name else a for a in rest])
            taken.add(dtype)
        except (NotImplementedError, RuntimeError) as error:
            assert "expected" in str(error) or "not implemented" in str(error), error
    assert taken == _TYPES[name]


def test_plain_subclasses_are_taken() -> None:
    with convext.override():
        y = F.conv2d(X.as_subclass(Silent), W, padding=1)
        assert is_by_convext(F.conv2d, X.as_subclass(Silent), W)
    assert type(y) is Silent
    same(y.as_subclass(Tensor), conv())
