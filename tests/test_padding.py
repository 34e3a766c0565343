"""The padding language: torch's results where torch has the form, the formulas elsewhere."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext.functional as CF
from tests import reference
from tests.cases import MODES, ConvCase
from tests.reference import error, padded

CONV = {1: CF.conv1d, 2: CF.conv2d, 3: CF.conv3d}
TRANSPOSED = {1: CF.conv_transpose1d, 2: CF.conv_transpose2d, 3: CF.conv_transpose3d}
WORDS = ("valid", "full", "causal", "same", "same_lower")


def pair(word: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The pixels added before and after one axis of a convolution."""
    e = dilation * (kernel - 1)
    total = max((math.ceil(size / stride) - 1) * stride + e + 1 - size, 0)
    return {
        "valid": (0, 0),
        "full": (e, e),
        "causal": (e, 0),
        "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }[word]


def crop(word: str, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The pixels cut off at both ends of one axis of a transposed convolution (a negative number adds zeros)."""
    total = dilation * (kernel - 1) + 1 - stride
    if word == "valid":
        return 0, 0
    if total < 0:
        return 0, total
    return {"same": (total // 2, total - total // 2), "causal": (0, total)}[word]


SETTINGS = [s for s in itertools.product((1, 2, 5, 8, 9), (1, 2, 3, 4), (1, 2, 3), (1, 2)) if s[3] == 1 or s[1] > 1]


@pytest.mark.parametrize("word", WORDS)
def test_word_is_its_formula(word: str) -> None:
    for size, kernel, stride, dilation in SETTINGS:
        if word == "valid" and size <= dilation * (kernel - 1):
            continue
        x, w = torch.randn(1, 2, size, dtype=torch.float64), torch.randn(3, 2, kernel, dtype=torch.float64)
        y = CF.conv1d(x, w, None, stride, word, dilation)
        both = pair(word, size, kernel, stride, dilation)
        wanted = F.conv1d(padded(x, (both,), "zeros"), w, None, stride, 0, dilation)
        assert y.shape == wanted.shape and error(y, wanted) < 1e-14, (size, kernel, stride, dilation)
        if word.startswith("same"):
            assert y.shape[2] == math.ceil(size / stride)


@pytest.mark.parametrize("word", ("valid", "same"))
@pytest.mark.parametrize("dims", (1, 2, 3))
def test_words_of_torch(dims: int, word: str) -> None:
    for kernel, dilation in ((1, 1), (2, 1), (3, 1), (4, 1), (2, 3), (3, 2)):
        x = torch.randn(2, 4, *[9] * dims, dtype=torch.float64)
        w = torch.randn(4, 2, *[kernel] * dims, dtype=torch.float64)
        torchs = getattr(F, f"conv{dims}d")(x, w, padding=word, dilation=dilation, groups=2)
        assert error(CONV[dims](x, w, padding=word, dilation=dilation, groups=2), torchs) < 1e-14


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("word", WORDS)
def test_word_with_a_padding_mode(word: str, mode: str) -> None:
    x, w = torch.randn(1, 2, 7, 9, dtype=torch.float64), torch.randn(3, 2, 3, 2, dtype=torch.float64)
    both = tuple(pair(word, *s) for s in ((7, 3, 2, 1), (9, 2, 1, 3)))
    y = CF.conv2d(x, w, None, (2, 1), word, (1, 3), padding_mode=mode)
    wanted = F.conv2d(padded(x, both, mode), w, None, (2, 1), 0, (1, 3))
    assert y.shape == wanted.shape and error(y, wanted) < 1e-14


EQUAL_FORMS: list[tuple[int, Any, tuple[tuple[int, int], ...]]] = [
    (1, 2, ((2, 2),)),
    (1, (2,), ((2, 2),)),
    (1, ((1, 2),), ((1, 2),)),
    (1, [[1, 2]], ((1, 2),)),
    (1, ("causal",), ((2, 0),)),
    (2, 1, ((1, 1), (1, 1))),
    (2, (1, 2), ((1, 1), (2, 2))),  # torch's meaning: one number an axis, not a pair
    (2, [1, 2], ((1, 1), (2, 2))),
    (2, ((1, 2), (0, 3)), ((1, 2), (0, 3))),
    (2, [(1, 2), [0, 3]], ((1, 2), (0, 3))),
    (2, ((1, 2), 3), ((1, 2), (3, 3))),
    (2, (3, (1, 2)), ((3, 3), (1, 2))),
    (2, ("full", 1), ((2, 2), (1, 1))),
    (2, ("causal", (0, 1)), ((2, 0), (0, 1))),
    (2, ("same", "valid"), ((1, 1), (0, 0))),
    (2, ((-1, 2), (0, -3)), ((-1, 2), (0, -3))),
    (3, (1, "same", (2, 0)), ((1, 1), (1, 1), (2, 0))),
    (3, ((1, 0), (0, 1), (1, 1)), ((1, 0), (0, 1), (1, 1))),
]


@pytest.mark.parametrize(("dims", "padding", "pairs"), EQUAL_FORMS, ids=lambda v: str(v).replace(" ", ""))
def test_forms_of_padding(dims: int, padding: Any, pairs: tuple[tuple[int, int], ...]) -> None:
    x = torch.randn(2, 2, *(8, 7, 6)[:dims], dtype=torch.float64)
    w = torch.randn(3, 2, *[3] * dims, dtype=torch.float64)
    y = CONV[dims](x, w, padding=padding)
    wanted = getattr(F, f"conv{dims}d")(padded(x, pairs, "zeros"), w)
    assert y.shape == wanted.shape and error(y, wanted) < 1e-14
    unbatched = CONV[dims](x[0], w, padding=padding)
    assert unbatched.shape == y.shape[1:] and error(unbatched, wanted[0]) < 1e-14


WRONG_FORMS: list[tuple[int, Any]] = [
    (1, (1, 2)),  # two numbers are no pair: torch would read them as two axes
    (1, ((1, 2), (1, 2))),
    (2, ((1, 2),)),
    (2, ((1, 2, 3), (1, 2))),
    (2, ((1,), (1, 2))),
    (2, ("same", "same", "same")),
    (2, ("same", "sam")),
    (2, "Same"),
    (2, ""),
    (2, ((1.0, 2), (1, 1))),
    (2, ((None, 2), (1, 1))),
    (2, (("same", 2), (1, 1))),
    (2, (None, 1)),
    (2, ((-9, 0), (0, 0))),
    (2, {"a": 1}),
]


@pytest.mark.parametrize(("dims", "padding"), WRONG_FORMS, ids=lambda v: str(v).replace(" ", ""))
@pytest.mark.parametrize("transposed", (False, True), ids=("conv", "transposed"))
def test_wrong_forms_of_padding(dims: int, padding: Any, transposed: bool) -> None:
    if transposed and padding == ((-9, 0), (0, 0)):
        padding = ((9, 1), (0, 0))  # a negative crop extends; this one leaves nothing
    x, w = torch.randn(2, 2, *[8] * dims), torch.randn(2, 2, *[3] * dims)
    with pytest.raises((RuntimeError, TypeError, ValueError), match="padding"):
        (TRANSPOSED if transposed else CONV)[dims](x, w, padding=padding)


@pytest.mark.parametrize("word", ("valid", "same", "causal"))
def test_transposed_word_is_its_formula(word: str) -> None:
    for size, kernel, stride, dilation in SETTINGS:
        x, w = torch.randn(1, 2, size, dtype=torch.float64), torch.randn(2, 3, kernel, dtype=torch.float64)
        y = CF.conv_transpose1d(x, w, None, stride, word, 0, 1, dilation)
        lo, hi = crop(word, kernel, stride, dilation)
        wanted = padded(F.conv_transpose1d(x, w, None, stride, dilation=dilation), ((-lo, -hi),), "zeros")
        assert y.shape == wanted.shape and error(y, wanted) < 1e-14, (size, kernel, stride, dilation)
        if word != "valid":
            assert y.shape[2] == size * stride


def test_transposed_full_raises() -> None:
    with pytest.raises((RuntimeError, ValueError), match="full"):
        CF.conv_transpose1d(torch.randn(1, 2, 5), torch.randn(2, 3, 3), padding="full")


@pytest.mark.parametrize("pairs", (((1, 0), (0, 2)), ((0, 3), (-1, 1)), ((-2, -1), (0, 0))), ids=str)
@pytest.mark.parametrize("stride", (1, 2, 3))
def test_transposed_pairs_crop(pairs: tuple[tuple[int, int], ...], stride: int) -> None:
    """Cropped pixels are gone, pixels added by a negative crop hold the bias alone."""
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 4, 5), (3, 2, 3, 3), (2,)))
    y = CF.conv_transpose2d(x, w, b, stride, pairs)
    whole = F.conv_transpose2d(x, w, None, stride)
    wanted = padded(whole, tuple((-lo, -hi) for lo, hi in pairs), "zeros") + b.view(1, 2, 1, 1)
    assert y.shape == wanted.shape and error(y, wanted) < 1e-14


def test_a_causal_output_never_sees_the_future() -> None:
    x = torch.randn(1, 1, 9)
    for stride in (1, 2):
        later = x.clone()
        later[..., 5:] = 100
        w = torch.randn(1, 1, 3)
        a, b = (CF.conv1d(v, w, stride=stride, padding="causal", dilation=2) for v in (x, later))
        seen = (5 + stride - 1) // stride  # outputs at pixels 0, stride, ... before pixel 5
        assert torch.equal(a[..., :seen], b[..., :seen]) and not torch.equal(a, b)
        a, b = (CF.conv_transpose1d(v, w, stride=stride, padding="causal") for v in (x, later))
        assert torch.equal(a[..., : 5 * stride], b[..., : 5 * stride]) and not torch.equal(a, b)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", ("valid", "same", 1, ((1, 0), (0, 2)), (("same"), (2, 1))), ids=str)
@pytest.mark.parametrize("stride", (1, 2, 3))
def test_transposed_is_the_adjoint(stride: int, padding: Any, mode: str) -> None:
    """<conv(x), y> = <x, conv_transpose(y)> for every mode and for the words that mean the same in both forms."""
    size = (3 * stride, 4 * stride)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    w = torch.randn(6, 2, 3, 2, dtype=torch.float64)
    settings: dict[str, Any] = {"stride": stride, "groups": 2, "padding": padding, "padding_mode": mode}
    image = CF.conv2d(x, w, **settings)
    y = torch.randn_like(image)
    pairs = [
        pair(p, i, k, stride, 1) if isinstance(p, str) else (p, p) if isinstance(p, int) else p
        for p, i, k in zip([padding] * 2 if isinstance(padding, str | int) else padding, size, (3, 2), strict=True)
    ]
    # the pixels that the last window did not reach; a word that fixes the output size leaves them to the word itself
    left = [(i + sum(p) - k) % stride for i, p, k in zip(size, pairs, (3, 2), strict=True)]
    words = [padding] * 2 if isinstance(padding, str | int) else padding
    extra = [0 if word == "same" else r for word, r in zip(words, left, strict=True)]
    back = CF.conv_transpose2d(y, w, output_padding=tuple(extra), **settings)
    assert back.shape == x.shape
    assert torch.isclose(dot(image, y), dot(x, back), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("dims", (1, 2, 3))
def test_transposed_padding_mode_is_the_adjoint_of_the_pad(dims: int, mode: str) -> None:
    """The unpadded transposed result, folded back where the pad copied from; the bias comes after."""
    case = ConvCase((5, 4, 6)[:dims], 3, (3, 4), padding=((2, 1), (0, 2), (1, 1))[:dims], padding_mode=mode)
    g, w = torch.randn(case.output_shape, dtype=torch.float64), torch.randn(case.weight_shape, dtype=torch.float64)
    b = torch.randn(3, dtype=torch.float64)
    y = TRANSPOSED[dims](g, w, b, padding=case.padding, padding_mode=mode)
    assert error(y, reference.dgrad(case, g, w, b)) < 1e-14
    x = torch.zeros(case.input_shape, dtype=torch.float64, requires_grad=True)
    whole = getattr(F, f"conv_transpose{dims}d")(g, w)
    (folded,) = torch.autograd.grad(padded(x, case.padding, mode), x, whole)
    assert error(y, folded + b.view(1, 3, *[1] * dims)) < 1e-14


@pytest.mark.parametrize("mode", MODES[1:])
def test_padding_mode_is_torchs_pad_and_convolution(mode: str) -> None:
    x, w = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    y = CF.conv2d(x, w, padding=(1, 2), padding_mode=mode, stride=2)
    assert error(y, F.conv2d(F.pad(x, (2, 2, 1, 1), mode=mode), w, stride=2)) < 1e-14
    without = CF.conv2d(x, w, padding_mode=mode)
    assert torch.equal(without, CF.conv2d(x, w))
