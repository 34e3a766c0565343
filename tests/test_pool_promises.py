"""Pooling's promises: the same bits for every thread count, run and batch; the padding language; bounded operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import convext.functional as CF
from tests.pool_case import PoolCase, reference_average, reference_max
from tests.reference import error
from tests.test_determinism import same_bits

CASES = (
    PoolCase((33, 31), 3, 2, 1, channels=5, batch=3),
    PoolCase((33, 31), 3, 1, 1, channels=33, batch=3, layout="channels_last"),
    PoolCase((5000,), 5, 3, 2, channels=3, batch=3),
    PoolCase((9, 10, 11), 3, 2, 1, channels=4, batch=3, count_include_pad=False),
    PoolCase((40, 41), 9, 2, 4, channels=3, batch=3),
)


def run(case: PoolCase, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    results: list[Tensor] = []
    adaptive = getattr(CF, f"adaptive_avg_pool{case.dims}d")
    for y in (case.maximum(x), case.average(x), adaptive(x, 4)):
        g = torch.linspace(-1, 1, y[0].numel(), dtype=y.dtype).reshape(y[0].shape).expand(y.shape)
        results += [y.detach(), torch.autograd.grad(y, x, g)[0]]
    with torch.no_grad():
        results += [case.maximum(x), case.maximum(x, return_indices=True)[0]]
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_bits_do_not_depend_on_threads_or_company(case: PoolCase, dtype: torch.dtype, isa: str, threads: None) -> None:
    x = case.image(dtype)
    torch.set_num_threads(1)
    alone = run(case, x)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        assert all(same_bits(a, b) for a, b in zip(run(case, x), alone, strict=True)), count
    for i, company in enumerate((float("nan"), 0.0, float("inf"))):
        other = torch.full_like(x, company)
        other[i] = x[i]
        assert all(same_bits(a[i], b[i]) for a, b in zip(run(case, other), alone, strict=True)), company


def word_padding(word: str, size: int, k: int, s: int, d: int) -> tuple[int, int]:
    e = d * (k - 1)
    total = max((-(-size // s) - 1) * s + e + 1 - size, 0)
    return {
        "valid": (0, 0),
        "full": (e, e),
        "causal": (e, 0),
        "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }[word]


@pytest.mark.parametrize("word", ("valid", "full", "causal", "same", "same_lower"))
@pytest.mark.parametrize("stride", (1, 2, 3))
@pytest.mark.parametrize("dilation", (1, 2))
def test_words(word: str, stride: int, dilation: int) -> None:
    x = torch.randn(2, 3, 10, 9)
    pairs = tuple(word_padding(word, size, 3, stride, dilation) for size in (10, 9))
    case = PoolCase((10, 9), 3, stride, pairs, dilation)
    for padding in (word, pairs, (word, pairs[1])):
        for ceil_mode in (False, True) if "same" in word else (False,):
            window: dict[str, Any] = {"stride": stride, "dilation": dilation, "ceil_mode": ceil_mode}
            if ceil_mode and padding is pairs:
                continue
            assert torch.equal(CF.max_pool2d(x, 3, padding=padding, **window), reference_max(case, x)[0])
            assert torch.equal(CF.min_pool2d(x, 3, padding=padding, **window), reference_max(case, x, "min")[0])
            assert error(CF.avg_pool2d(x, 3, padding=padding, **window), reference_average(case, x)) < 1e-6
    if "same" in word:
        assert CF.max_pool2d(x, 3, stride, word, dilation).shape[2:] == (-(-10 // stride), -(-9 // stride))


def test_padding_is_at_most_the_window() -> None:
    x = torch.randn(1, 1, 8)
    assert CF.max_pool1d(x, 3, 1, ((2, 2),)).shape[-1] == 10
    for padding in (2, ((3, 0),), ((0, 3),)):
        for function in (CF.max_pool1d, CF.avg_pool1d, CF.min_pool1d):
            with pytest.raises(RuntimeError, match="expected padding of at most"):
                function(x, 3, 1, padding)


@pytest.mark.parametrize("dtype", (torch.float32, torch.uint8, torch.int8, torch.int32, torch.int64), ids=str)
def test_windows_that_touch_nothing(dtype: torch.dtype) -> None:
    x = torch.ones(1, 1, 2, dtype=dtype)
    settings_: dict[str, Any] = {"kernel_size": 2, "stride": 1, "padding": ((5, 5),), "dilation": 5}
    lowest, highest = (
        (-torch.inf, torch.inf) if dtype.is_floating_point else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    )
    values, places = CF.max_pool1d(x, **settings_, return_indices=True)
    assert values.flatten().tolist() == [1, 1, lowest, lowest, lowest, 1, 1]
    assert places.flatten().tolist() == [0, 1, -1, -1, -1, 0, 1]
    assert CF.min_pool1d(x, **settings_).flatten().tolist() == [1, 1, highest, highest, highest, 1, 1]
    if dtype.is_floating_point:
        x.requires_grad_()
        (g,) = torch.autograd.grad(CF.max_pool1d(x, **settings_).sum(), x)
        assert g.flatten().tolist() == [2, 2]
        y = CF.avg_pool1d(x, **settings_, count_include_pad=False)
        assert y.flatten().tolist() == [1, 1, 0, 0, 0, 1, 1]


ONES, PADS = [1, 1], [0, 0, 0, 0]
X = torch.ones(2, 3, 6, 6)
OFFSETS = torch.zeros(2, 3, 3, 3, dtype=torch.uint8)
TWO = ([2, 2], [2, 2], PADS, ONES)
INCONSISTENT: dict[str, tuple[Any, ...]] = {
    "kernel 0": ("max_pool", X, [0, 2], ONES, PADS, ONES, [3, 3], False),
    "kernel too short": ("max_pool", X, [2], ONES, PADS, ONES, [3, 3], False),
    "stride 0": ("max_pool", X, [2, 2], [0, 1], PADS, ONES, [3, 3], False),
    "padding too short": ("max_pool", X, [2, 2], ONES, [0, 0], ONES, [3, 3], False),
    "dilation overflow": ("max_pool", X, [2, 2], ONES, PADS, [2**62, 1], [3, 3], False),
    "stride overflow": ("avg_pool", X, [2, 2], [2**40, 1], PADS, ONES, [2**39, 1], False, 0),
    "no result": ("avg_pool", X, *TWO, [0, 3], False, 0),
    "result of three axes": ("avg_pool", X, *TWO, [3, 3, 3], False, 0),
    "two axes": ("avg_pool", X[0, 0], *TWO, [3, 3], False, 0),
    "half adaptive": ("avg_pool", X, [0] * 4, ONES, [0] * 4, [0] * 4, [3, 3], False, 0),
    "nothing but a size": ("avg_pool", X, [], [], [], [], [3, 3], False, 0),
    "bool": ("max_pool", X > 0, *TWO, [3, 3], False),
    "int32 average": ("avg_pool", X.int(), *TWO, [3, 3], False, 0),
    "integer gradient": ("avg_pool_adjoint", X.long(), *TWO, [12, 12], False, 0),
    "offsets of another type": ("max_pool_gather", X, OFFSETS.int(), *TWO),
    "offsets of another batch": ("max_pool_gather", X, OFFSETS[:1], *TWO),
    "offsets of other sizes": ("max_pool_scatter", X[..., :3, :2], OFFSETS, *TWO, [6, 6]),
    "indices of another type": ("max_pool_indices", OFFSETS.short(), *TWO, [6, 6]),
}


@pytest.mark.parametrize("what", INCONSISTENT)
def test_operators_assert_before_touching_memory(what: str) -> None:
    name, *args = INCONSISTENT[what]
    with pytest.raises(RuntimeError):
        getattr(torch.ops.convext, name)(*args)


def test_strange_offsets_and_sizes_touch_nothing_outside() -> None:
    """Offsets that no pooling recorded, and results larger than the windows fill."""
    strange = torch.randint(0, 256, (2, 3, 3, 3), dtype=torch.uint8)
    torch.ops.convext.max_pool_gather(X, strange, *TWO)
    torch.ops.convext.max_pool_scatter(torch.ones(2, 3, 3, 3), strange, *TWO, [6, 6])
    wide = ([9, 9], ONES, PADS, ONES)
    torch.ops.convext.max_pool_scatter(torch.ones(2, 3, 3, 3), strange, *wide, [6, 6])
    torch.ops.convext.max_pool_gather(X, strange, *wide)
    y = torch.ops.convext.max_pool(X, *TWO, [9, 9], False)
    assert torch.equal(y[..., :3, :3], torch.ones(2, 3, 3, 3)) and (y[..., 3:, :] == -torch.inf).all()
    far = torch.ops.convext.max_pool(X, [2, 2], ONES, [-50, 0, 50, 50], ONES, [3, 3], False)
    assert (far == -torch.inf).all()


@st.composite
def cases(draw: st.DrawFn) -> PoolCase:
    dims = draw(st.integers(1, 3))
    small = st.integers(1, 4)
    kernel, stride, dilation = (tuple(draw(small) for _ in range(dims)) for _ in range(3))
    extent = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((draw(st.integers(-1, e)), draw(st.integers(-1, e))) for e in extent)
    size = tuple(
        draw(st.integers(max(1, e + 1 - lo - hi, 1 - lo, 1 - hi), e + 14))
        for e, (lo, hi) in zip(extent, padding, strict=True)
    )
    return PoolCase(
        size,
        kernel,
        stride,
        padding,
        dilation,
        draw(st.booleans()),
        draw(st.integers(1, 2)),
        draw(st.sampled_from((1, 3, 17))),
        draw(st.sampled_from(("contiguous", "channels_last", "sliced", "transposed"))),
        draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_any_window(case: PoolCase) -> None:
    x = case.image(torch.float32, integers=True)
    values, places = case.maximum(x, return_indices=True)
    wanted, at = reference_max(case, x)
    assert torch.equal(values, wanted) and torch.equal(places, at)
    assert torch.equal(case.maximum(x), wanted)
    assert error(case.average(x), reference_average(case, x), reference_average(case, x.abs())) < 1e-6
