"""Wrong arguments: the exception's type is torch's, the message says expected and got, nothing crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext.functional as CF
from tests.test_functional_torch import OPINFOS, outcome


def tensors(transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)
    return x, w.transpose(0, 1) if transposed else w, b


Call = Callable[[Tensor, Tensor, Tensor], tuple[tuple[Any, ...], dict[str, Any]]]

# what is wrong -> the call; run by conv2d and by conv_transpose2d, where torch decides whether and what it raises
WRONG: dict[str, Call] = {
    "input of two axes": lambda x, w, b: ((x[0, 0], w), {}),
    "input of five axes": lambda x, w, b: ((x[None], w), {}),
    "weight of three axes": lambda x, w, b: ((x, w[0]), {}),
    "weight of five axes": lambda x, w, b: ((x, w[None]), {}),
    "input channels": lambda x, w, b: ((x[:, :2], w), {}),
    "input channels, unbatched": lambda x, w, b: ((x[0, :2], w), {}),
    "bias too short": lambda x, w, b: ((x, w, b[:3]), {}),
    "bias empty": lambda x, w, b: ((x, w, b[:0]), {}),
    "bias of two axes": lambda x, w, b: ((x, w, b[None]), {}),
    "bias of no axes": lambda x, w, b: ((x, w, b[0]), {}),
    "weight of another type": lambda x, w, b: ((x, w.double()), {}),
    "bias of another type": lambda x, w, b: ((x, w, b.double()), {}),
    "complex input, real weight": lambda x, w, b: ((x + 0j, w), {}),
    "bool": lambda x, w, b: ((x > 0, w > 0), {}),
    "eight-bit float": lambda x, w, b: ((x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)), {}),
    "sparse input": lambda x, w, b: ((x.to_sparse(), w), {}),
    "input a list": lambda x, w, b: ((x.tolist(), w), {}),
    "weight None": lambda x, w, b: ((x, None), {}),
    "bias a number": lambda x, w, b: ((x, w, 1.0), {}),
    "no weight": lambda x, w, b: ((x,), {}),
    "unknown keyword": lambda x, w, b: ((x, w), {"foo": 1}),
    "too many positions": lambda x, w, b: ((x, w, b, 1, 0, 0, 1, 1, "zeros", 1), {}),
    "argument twice": lambda x, w, b: ((x, w, b, 1), {"stride": 1}),
    "stride 0": lambda x, w, b: ((x, w), {"stride": 0}),
    "stride negative": lambda x, w, b: ((x, w), {"stride": (1, -1)}),
    "stride of three": lambda x, w, b: ((x, w), {"stride": (1, 2, 3)}),
    "stride empty": lambda x, w, b: ((x, w), {"stride": ()}),
    "stride a float": lambda x, w, b: ((x, w), {"stride": 1.5}),
    "stride of floats": lambda x, w, b: ((x, w), {"stride": (1.0, 2.0)}),
    "stride a string": lambda x, w, b: ((x, w), {"stride": "a"}),
    "stride a bool": lambda x, w, b: ((x, w), {"stride": True}),
    "stride None": lambda x, w, b: ((x, w), {"stride": None}),
    "padding negative": lambda x, w, b: ((x, w), {"padding": -1}),
    "padding of three": lambda x, w, b: ((x, w), {"padding": (1, 2, 3)}),
    "padding empty": lambda x, w, b: ((x, w), {"padding": ()}),
    "padding a float": lambda x, w, b: ((x, w), {"padding": 1.0}),
    "padding an unknown word": lambda x, w, b: ((x, w), {"padding": "sam"}),
    "padding None": lambda x, w, b: ((x, w), {"padding": None}),
    "dilation 0": lambda x, w, b: ((x, w), {"dilation": 0}),
    "dilation negative": lambda x, w, b: ((x, w), {"dilation": (-1, 1)}),
    "dilation of three": lambda x, w, b: ((x, w), {"dilation": (1, 1, 1)}),
    "dilation a float": lambda x, w, b: ((x, w), {"dilation": 2.0}),
    "groups 0": lambda x, w, b: ((x, w), {"groups": 0}),
    "groups negative": lambda x, w, b: ((x, w), {"groups": -1}),
    "groups do not divide": lambda x, w, b: ((x, w), {"groups": 2}),
    "more groups than channels": lambda x, w, b: ((x, w), {"groups": 5}),
    "groups a float": lambda x, w, b: ((x, w), {"groups": 1.5}),
    "groups a tuple": lambda x, w, b: ((x, w), {"groups": (1,)}),
    "kernel larger than the image": lambda x, w, b: ((x[..., :2], w), {}),
    "kernel larger by dilation": lambda x, w, b: ((x, w), {"dilation": 3}),
    "output_padding negative": lambda x, w, b: ((x, w), {"output_padding": -1}),
    "output_padding as large as the stride": lambda x, w, b: ((x, w), {"output_padding": 2, "stride": 2}),
    "output_padding at stride 1": lambda x, w, b: ((x, w), {"output_padding": 1}),
    "output_padding of three": lambda x, w, b: ((x, w), {"output_padding": (0, 0, 0)}),
    "output_padding a string": lambda x, w, b: ((x, w), {"output_padding": "a"}),
    "nothing left of the output": lambda x, w, b: ((x, w), {"padding": 5}),
    "no image rows": lambda x, w, b: ((x[:, :, :0], w), {"padding": 2}),
    "no kernel rows": lambda x, w, b: ((x, w[:, :, :0]), {}),
    "strides beyond 64 bits": lambda x, w, b: ((x, w), {"stride": 2**70}),
}

# torch returns here what only a user's mistake can mean, or raises where this is one of the documented supersets
TORCH_ACCEPTS = {"kernel larger than the image", "kernel larger by dilation"}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", ("conv2d", "conv_transpose2d"))
def test_raises_as_torch_raises(name: str, what: str) -> None:
    args, kwargs = WRONG[what](*tensors(transposed="transpose" in name))
    torchs = outcome(getattr(F, name), *args, **kwargs)
    ours = outcome(getattr(CF, name), *args, **kwargs)
    assert ours == torchs


# a message names the wrong argument and both numbers
MESSAGES: dict[str, tuple[str, ...]] = {
    "input of two axes": ("input", "[6, 6]"),
    "weight of three axes": ("weight",),
    "input channels": ("3", "2", "channel"),
    "bias too short": ("bias", "4", "3"),
    "weight of another type": ("weight", "float", "double"),
    "bias of another type": ("bias", "float", "double"),
    "stride 0": ("stride", "0"),
    "stride of three": ("stride", "2", "3"),
    "padding negative": ("padding", "-1"),
    "padding of three": ("padding", "2", "3"),
    "padding an unknown word": ("padding", "sam"),
    "dilation 0": ("dilation", "0"),
    "groups 0": ("groups", "0"),
    "groups do not divide": ("groups", "2"),
    "kernel larger than the image": ("kernel", "3", "2"),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_message_says_expected_and_got(what: str) -> None:
    args, kwargs = WRONG[what](*tensors(transposed=False))
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        CF.conv2d(*args, **kwargs)
    text = str(caught.value).lower().replace("torch.float64", "double").replace("float32", "float")
    for part in ("expected", "got", *MESSAGES[what]):
        assert part.lower() in text, text
    assert "conv2d" in text


ERRORS = [
    (name, i, e)
    for name, op in OPINFOS.items()
    if op.error_inputs_func is not None
    for i, e in enumerate(op.error_inputs("cpu"))
]


def is_superset(kwargs: dict[str, Any]) -> bool:
    """The one documented superset among PyTorch's error inputs: 'same' at any stride."""
    return kwargs.get("padding") == "same" and kwargs.get("stride", 1) != 1


@pytest.mark.parametrize(("name", "i", "e"), ERRORS, ids=lambda v: str(v) if not hasattr(v, "error_type") else "")
def test_opinfo_error_inputs(name: str, i: int, e: Any) -> None:
    sample = e.sample_input
    if is_superset(sample.kwargs):
        assert getattr(CF, name)(sample.input, *sample.args, **sample.kwargs) is not None
        return
    with pytest.raises(e.error_type):
        getattr(CF, name)(sample.input, *sample.args, **sample.kwargs)


def test_meta_and_cpu_tensors_do_not_mix() -> None:
    x, w, b = tensors(transposed=False)
    for args in ((x.to("meta"), w), (x, w.to("meta")), (x, w, b.to("meta"))):
        with pytest.raises((RuntimeError, NotImplementedError)):
            CF.conv2d(*args)


@pytest.mark.parametrize("mode", ("mirror", "ZEROS", "constant", ""))
def test_unknown_padding_mode(mode: str) -> None:
    x, w, _ = tensors(transposed=False)
    with pytest.raises(ValueError, match="padding_mode"):
        CF.conv2d(x, w, padding=1, padding_mode=mode)


@pytest.mark.parametrize("function", (CF.conv2d, CF.conv_transpose2d))
@pytest.mark.parametrize(("mode", "padding"), (("reflect", 6), ("circular", 7), ("reflect", ((0, 6), (0, 0)))), ids=str)
def test_more_padding_than_the_mode_allows(function: Callable[..., Tensor], mode: str, padding: Any) -> None:
    """reflect needs a padding below the axis, circular one up to it; F.pad raises RuntimeError, and so do we."""
    x, w = torch.randn(1, 2, 6, 6), torch.randn(2, 2, 3, 3)
    if function is CF.conv_transpose2d:
        w = torch.randn(2, 2, 1, 1)
        x = torch.randn(1, 2, 1, 1)
    with pytest.raises(RuntimeError):
        function(x, w, padding=padding, padding_mode=mode)


ONES, PADS = [1, 1], [0, 0, 0, 0]


def raw(operator: str, *args: Any) -> Tensor:
    return getattr(torch.ops.convext, f"conv_{operator}")(*args)


X, W, G, B = torch.ones(2, 4, 6, 6), torch.ones(6, 2, 3, 3), torch.ones(2, 6, 4, 4), torch.ones(6)

# the operators themselves, called with sizes that contradict each other: each must assert before touching memory
INCONSISTENT: dict[str, tuple[Any, ...]] = {
    "fprop: channels": ("fprop", X[:, :3], W, None, ONES, PADS, ONES, 2, 0),
    "fprop: groups do not divide K": ("fprop", torch.ones(2, 8, 6, 6), W, None, ONES, PADS, ONES, 4, 0),
    "fprop: bias": ("fprop", X, W, B[:5], ONES, PADS, ONES, 2, 0),
    "fprop: bias of two axes": ("fprop", X, W, B[None], ONES, PADS, ONES, 2, 0),
    "fprop: groups 0": ("fprop", X, W, None, ONES, PADS, ONES, 0, 0),
    "fprop: stride 0": ("fprop", X, W, None, [0, 1], PADS, ONES, 2, 0),
    "fprop: stride too short": ("fprop", X, W, None, [1], PADS, ONES, 2, 0),
    "fprop: padding too short": ("fprop", X, W, None, ONES, [0, 0], ONES, 2, 0),
    "fprop: dilation 0": ("fprop", X, W, None, ONES, PADS, [1, 0], 2, 0),
    "fprop: window does not fit": ("fprop", X[..., :2], W, None, ONES, PADS, ONES, 2, 0),
    "fprop: crops everything": ("fprop", X, W, None, ONES, [-3, -3, 0, 0], ONES, 2, 0),
    "fprop: unbatched": ("fprop", X[0], W, None, ONES, PADS, ONES, 2, 0),
    "fprop: type": ("fprop", X, W.double(), None, ONES, PADS, ONES, 2, 0),
    "fprop: type of the bias": ("fprop", X, W, B.double(), ONES, PADS, ONES, 2, 0),
    "fprop: mode 4": ("fprop", X, W, None, ONES, PADS, ONES, 2, 4),
    "fprop: mode -1": ("fprop", X, W, None, ONES, PADS, ONES, 2, -1),
    "fprop: reflect too far": ("fprop", X, W, None, ONES, [6, 0, 0, 0], ONES, 2, 1),
    "fprop: circular too far": ("fprop", X, W, None, ONES, [0, 0, 0, 7], ONES, 2, 3),
    "fprop: overflow": ("fprop", X, W, None, ONES, [2**62, 2**62, 0, 0], ONES, 2, 0),
    "fprop: dilation overflow": ("fprop", X, W, None, ONES, PADS, [2**63 - 1, 1], 2, 0),
    "fprop: a result beyond any memory": ("fprop", X, W, None, ONES, [2**40, 2**40, 2**40, 2**40], ONES, 2, 0),
    "dgrad: channels": ("dgrad", G[:, :5], W, None, ONES, PADS, ONES, 2, 0),
    "dgrad: groups do not divide": ("dgrad", G, W, None, ONES, PADS, ONES, 4, 0),
    "dgrad: bias": ("dgrad", G, W, B, ONES, PADS, ONES, 2, 0),
    "dgrad: nothing left": ("dgrad", G, W, None, ONES, [3, 3, 0, 0], ONES, 2, 0),
    "dgrad: stride overflow": ("dgrad", G, W, None, [2**62, 1], PADS, ONES, 2, 0),
    "dgrad: reflect too far": ("dgrad", G[..., :1, :1], W, None, ONES, [1, 1, 1, 1], ONES, 2, 1),
    "dgrad: type": ("dgrad", G.half(), W, None, ONES, PADS, ONES, 2, 0),
    "dgrad: unbatched": ("dgrad", G[0], W, None, ONES, PADS, ONES, 2, 0),
    "wgrad: batch": ("wgrad", G[:1], X, [3, 3], ONES, PADS, ONES, 2, 0),
    "wgrad: image": ("wgrad", G[..., :3], X, [3, 3], ONES, PADS, ONES, 2, 0),
    "wgrad: image too large": ("wgrad", torch.ones(2, 6, 5, 4), X, [3, 3], ONES, PADS, ONES, 2, 0),
    "wgrad: kernel too short": ("wgrad", G, X, [3], ONES, PADS, ONES, 2, 0),
    "wgrad: kernel 0": ("wgrad", torch.ones(2, 6, 7, 4), X, [0, 3], ONES, PADS, ONES, 2, 0),
    "wgrad: groups": ("wgrad", G, X, [3, 3], ONES, PADS, ONES, 4, 0),
    "wgrad: type": ("wgrad", G, X.double(), [3, 3], ONES, PADS, ONES, 2, 0),
    "wgrad: axes": ("wgrad", G[0], X, [3, 3], ONES, PADS, ONES, 2, 0),
}


@pytest.mark.parametrize("what", INCONSISTENT)
def test_operators_assert_before_touching_memory(what: str) -> None:
    operator, *args = INCONSISTENT[what]
    with pytest.raises(RuntimeError):
        raw(operator, *args)
