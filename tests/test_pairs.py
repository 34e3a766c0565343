"""Half types whose terms are multiplied in pairs, or widened: odd sizes, layouts, phases, non-finite values, bits."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
from tests.reference import TOLERANCE, error

HALVES = (torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)

# Channels in and out, groups, size, kernel, stride, padding, dilation: channels of a group and pixels are odd and even,
# fill vectors and do not, and reach the packed and the banded algorithm.
PROBLEMS = (
    (1, 20, 1, (9, 11), 3, 1, 1, 1),
    (3, 16, 1, (17, 15), 7, 2, 3, 1),
    (33, 70, 1, (5, 7), 1, 1, 0, 1),
    (34, 34, 2, (14, 14), 3, 2, 1, 1),
    (66, 30, 3, (8, 33), 5, 3, 2, 1),
    (35, 300, 1, (6, 40), 3, 1, 2, 2),
    (64, 96, 1, (20, 20), 2, 2, 0, 1),
    (520, 40, 1, (7, 7), 1, 2, 0, 1),
    (48, 272, 1, (12, 12), 3, 1, 1, 1),
)


def numbers(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(-2, 3, size).to(dtype)


def gradients(y: Tensor, g: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return (y.detach(), *torch.autograd.grad(y, leaves, g))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("transposed", (False, True))
def test_small_integers_are_exact_and_others_in_bounds(
    transposed: bool, problem: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype, isa: str
) -> None:
    c, k, groups, size, kernel, stride, padding, dilation = problem
    conv = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    name = "conv_transpose2d" if transposed else "conv2d"
    shape = (c, k // groups, kernel, kernel) if transposed else (k, c // groups, kernel, kernel)
    for exact, make in ((True, numbers), (False, torch.randn)):
        x = make(2, c, *size, dtype=dtype).contiguous(memory_format=layout).requires_grad_()  # type: ignore[operator]
        w = make(*shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()  # type: ignore[operator]
        b = make(k, dtype=dtype).requires_grad_()  # type: ignore[operator]
        wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
        with convext.backends.winograd.flags(enabled=not exact):
            y, ref = getattr(convext.functional, name)(x, w, b, **conv), getattr(F, name)(*wide, **conv)
            g = make(*y.shape, dtype=dtype).contiguous(memory_format=layout)  # type: ignore[operator]
            results, references = gradients(y, g, x, w, b), gradients(ref, g.double(), *wide)
        for what, got, want in zip(("output", "input", "weight", "bias"), results, references, strict=True):
            if exact and what != "bias":
                assert torch.equal(got, want.to(dtype)), what
            else:
                assert error(got, want) <= TOLERANCE[dtype], what


@pytest.mark.parametrize("value", (float("inf"), float("nan")))
@pytest.mark.parametrize("channels", (5, 6, 33))
def test_non_finite_numbers_stay_with_their_pixels(channels: int, value: float, isa: str) -> None:
    """The partner of an odd channel is zero on both sides: an Inf in the last channel meets nothing else."""
    x, w = torch.rand(2, channels, 9, 30).bfloat16() + 0.5, torch.rand(40, channels, 5, 5).bfloat16() + 0.5
    x[1, channels - 1, 4, 20] = value
    y = convext.functional.conv2d(x, w)
    assert torch.equal(torch.isfinite(y), torch.isfinite(F.conv2d(x.double(), w.double())))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("mode", ("reflect", "replicate", "circular"))
def test_padding_modes_fold_their_borders_in_float32(mode: str, dtype: torch.dtype, isa: str) -> None:
    layer = convext.nn.Conv2d(20, 24, 3, padding=1, padding_mode=mode, dtype=dtype)
    x = torch.randn(2, 20, 7, 9).to(dtype).requires_grad_()
    y = layer(x)
    g = torch.randn_like(y)
    (got,) = torch.autograd.grad(y, x, g)
    wide = x.detach().double().requires_grad_()
    ref = F.conv2d(F.pad(wide, (1,) * 4, mode=mode), layer.weight.double(), layer.bias.double())  # type: ignore[union-attr]
    assert error(got, torch.autograd.grad(ref, wide, g.double())[0]) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_same_bits_for_every_number_of_threads_and_batch(
    problem: tuple[int, ...], dtype: torch.dtype, isa: str, threads: None
) -> None:
    c, k, groups, size, kernel, stride, padding, dilation = problem
    conv = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, w = torch.randn(3, c, *size).to(dtype).requires_grad_(), torch.randn(k, c // groups, kernel, kernel).to(dtype)
    w.requires_grad_()
    runs = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        y = convext.functional.conv2d(x, w, **conv)
        runs.append(gradients(y, torch.ones_like(y), x, w))
    for first, second in itertools.pairwise(runs):
        assert all(map(torch.equal, first, second))
    alone = x.detach()[1:2].requires_grad_()
    y = convext.functional.conv2d(alone, w, **conv)
    assert torch.equal(y[0], runs[0][0][1])
    assert torch.equal(torch.autograd.grad(y, alone, torch.ones_like(y))[0][0], runs[0][1][1])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("channels", (2, 15, 16))
def test_channels_that_are_one_in_memory(channels: int, dtype: torch.dtype, isa: str) -> None:
    """An expanded image's channels lie no distance apart; so do those of the gradient of a sum."""
    x = torch.randint(-2, 3, (2, 1, 32, 32)).to(dtype).expand(2, channels, 32, 32)
    w = numbers(8, channels, 3, 3, dtype=dtype)
    wide = F.conv2d(x.double(), w.double(), padding=1)
    torch.testing.assert_close(convext.functional.conv2d(x, w, padding=1).double(), wide.to(dtype).double())
    leaf = numbers(2, channels, 32, 32, dtype=dtype).requires_grad_()
    (grad,) = torch.autograd.grad(convext.functional.conv2d(leaf, w, padding=1).sum(), leaf)
    exact = leaf.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(exact, w.double(), padding=1).sum(), exact)
    torch.testing.assert_close(grad.double(), expected.to(dtype).double())


def shifted(t: Tensor) -> Tensor:
    """The same numbers, of which none stands next to the one it did before."""
    return torch.stack((t, t + 1), dim=-1)[..., 0]


@pytest.mark.parametrize("taps", (2, 3, 4, 7, 9, 15, 16, 17, 25))
@pytest.mark.parametrize("channels", (6, 35, 64))
def test_weights_of_any_number_of_taps_are_paired_exactly(channels: int, taps: int, isa: str) -> None:
    """Few taps are picked out of whole vectors of the weight, but for its last filter; rows that are views are not."""
    x = numbers(1, channels, 61, dtype=torch.bfloat16)
    for filters in (1, 16, 33, 300):
        weight = numbers(filters, channels, taps, dtype=torch.bfloat16)
        for stride, w in itertools.product((1, 2), (weight, shifted(weight))):
            y = convext.functional.conv1d(x, w, stride=stride)
            assert torch.equal(y, F.conv1d(x.double(), w.double(), stride=stride).bfloat16()), (filters, stride)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [((45,), 3, 2), ((40,), 16, 8), ((9, 8), 5, 2), ((4, 5, 6), 2, 2)]
)
@pytest.mark.parametrize("channels", (1, 7, 34))
def test_strided_gradients_are_exact(
    channels: int, size: tuple[int, ...], kernel: int, stride: int, dtype: torch.dtype, isa: str
) -> None:
    """The product and its fold: an odd channel, images that no vector divides, weights and images that are views."""
    rank = len(size)
    x = numbers(2, channels, *size, dtype=dtype)
    ours, theirs = (getattr(f, f"conv_transpose{rank}d") for f in (convext.functional, F))
    for results in (1, 20):
        weight = numbers(channels, results, *(kernel,) * rank, dtype=dtype)
        b = numbers(results, dtype=dtype)
        want = theirs(x.double(), weight.double(), b.double(), stride=stride, padding=1).to(dtype)
        for image, w in itertools.product((x, shifted(x)), (weight, shifted(weight))):
            assert torch.equal(ours(image, w, b, stride=stride, padding=1), want), results


def test_few_terms_do_not_repay_rows_of_pixels(isa: str) -> None:
    """Rows fill the tile better, but a product of 16 pairs, or of 32 terms, is over before its sums are turned."""
    few, many = (
        convext.conv_plan("dgrad", (1, 528, 14, 14), (terms, 528, 1, 1), dtype=torch.bfloat16).pixels_are_rows
        for terms in (32, 2048)
    )
    if isa.startswith("avx512"):  # whose vectors 196 pixels leave emptier than 528 channels
        assert many and not few


def test_rows_are_correlated_where_packing_them_is_not_repaid(isa: str) -> None:
    """Few filters, many pixels, taps that overlap."""

    def plan(image: tuple[int, ...], weight: tuple[int, ...], **settings: int) -> convext.Plan:
        return convext.conv_plan("wgrad", image, weight, dtype=torch.bfloat16, **settings)

    if isa != "avx512_bf16":
        return
    for image, weight, settings in (
        ((1, 256, 28, 28), (256, 8, 3, 3), {"padding": 1, "groups": 32}),
        ((1, 256, 28, 28), (128, 256, 1, 1), {}),
        ((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((1, 256, 28, 28), (256, 256, 3, 2), {"padding": 1}),
    ):
        assert plan(image, weight, **settings).algorithm == "correlation", image
    for image, weight, settings, reason in (
        ((1, 256, 14, 14), (1024, 256, 1, 1), {}, "1024 filters repay packed pairs, more than 64"),
        ((1, 64, 16, 16, 16), (128, 64, 2, 2, 2), {"stride": 2}, "8 taps under a stride do not repay"),
        ((1, 64, 28, 28), (128, 64, 5, 5), {"stride": 2, "padding": 2}, "196 pixels under a stride do not repay"),
    ):
        chosen = plan(image, weight, **settings)
        assert chosen.algorithm == "packed" and reason in dict(chosen.declined)["correlation"], chosen


@pytest.mark.parametrize("kernel", (1, 3, 5))
@pytest.mark.parametrize("stride", (1, 2, 3))
@pytest.mark.parametrize("groups", (1, 3))
def test_correlated_weight_gradients_are_exact(groups: int, stride: int, kernel: int, isa: str) -> None:
    """An odd number of pixels in rows that end anywhere in a pair."""
    for filters, channels, size in itertools.product((1, 9), (1, 6), ((33, 35), (40, 64))):
        x = numbers(2, groups * channels, *size, dtype=torch.bfloat16)
        w = torch.zeros(groups * filters, channels, kernel, kernel, dtype=torch.bfloat16, requires_grad=True)
        wide = w.detach().double().requires_grad_()
        conv = {"stride": stride, "padding": kernel // 2, "groups": groups}
        y, ref = convext.functional.conv2d(x, w, **conv), F.conv2d(x.double(), wide, **conv)
        g = numbers(*y.shape, dtype=torch.bfloat16)
        (got,), (want,) = torch.autograd.grad(y, w, g), torch.autograd.grad(ref, wide, g.double())
        assert torch.equal(got, want.bfloat16()), (filters, channels, size)
