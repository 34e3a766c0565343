"""Depthwise layers whose rows are shifted in registers: where they are taken, exact sums, bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import convext
import convext.functional as CF

OPERATORS = ("fprop", "dgrad", "wgrad")
SHIFTED = "depthwise_shifted"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def algorithms(image: tuple[int, ...], weight: tuple[int, ...], **settings: Any) -> list[str]:
    return [convext.conv_plan(operator, image, weight, **settings).algorithm for operator in OPERATORS]


def integers(*shape: int) -> Tensor:
    """Small integers, whose sums are exact in any order."""
    return torch.randint(-3, 4, shape).double()


def results(functional: Any, operands: tuple[Tensor, ...], settings: dict[str, Any]) -> list[Tensor]:
    """Output and gradients to image and weight."""
    x, w, bias, grad = operands
    leaves = [t.detach().requires_grad_() for t in (x, w)]
    y = functional.conv2d(*leaves, bias, **settings)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def operands(
    channels: int, multiplier: int, size: tuple[int, int], kernel: tuple[int, int], batch: int, settings: dict[str, Any]
) -> tuple[Tensor, ...]:
    x, w = integers(batch, channels, *size), integers(channels * multiplier, 1, *kernel)
    y = torch.nn.functional.conv2d(x, w, **settings)
    return x, w, integers(w.shape[0]), integers(*y.shape)


@pytest.mark.parametrize(
    ("size", "kernel", "settings", "expected"),
    [
        ((112, 112), 3, {"padding": 1}, [SHIFTED] * 3),
        ((28, 28), 7, {"padding": 3}, [SHIFTED] * 3),
        ((112, 112), 3, {"padding": 1, "stride": 2}, [SHIFTED] * 3),
        ((14, 14), 3, {"padding": 1}, [SHIFTED] * 3),
        ((14, 14), 7, {"padding": 3}, [SHIFTED, SHIFTED, "depthwise"]),
        ((7, 7), 3, {"padding": 1}, [SHIFTED, SHIFTED, "depthwise"]),
        ((14, 14), 3, {"padding": 1, "stride": 2}, [SHIFTED, "depthwise", "depthwise"]),
        ((7, 7), 7, {"padding": 3}, ["depthwise"] * 3),
        ((4, 4), 3, {"padding": 1}, ["depthwise"] * 3),
        ((2, 40), 3, {"padding": 1}, ["depthwise"] * 3),
        ((56, 56), 3, {"padding": 1, "stride": 3}, ["depthwise_rows", "depthwise", "depthwise_rows"]),
        ((512, 512), 3, {"padding": 1}, ["depthwise"] * 3),
        ((14, 14), 3, {"padding": 600, "dilation": 600}, ["depthwise"] * 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", (1, 2, 3))
def test_the_algorithm(
    size: tuple[int, int], kernel: int, settings: dict[str, Any], expected: list[str], threads: int
) -> None:
    if "avx512" not in convext.backends.cpu.isa_levels():
        pytest.skip("the lanes are those of AVX-512")
    image, weight = (2, 64, *size), (64, 1, kernel, kernel)
    with convext.backends.cpu.max_isa("avx512"):
        assert algorithms(image, weight, groups=64, num_threads=threads, **settings) == expected
    with convext.backends.cpu.max_isa("avx2"):
        assert SHIFTED not in algorithms(image, weight, groups=64, num_threads=threads, **settings)


# Rows of one vector and of several, of two planes, beside whole vectors; more rows than wait in L1.
SIZES = ((4, 16), (7, 7), (14, 14), (5, 8), (9, 6), (11, 35), (31, 29), (60, 17), (12, 32), (130, 12))
KERNELS = ((3, 3), (1, 4), (2, 1), (5, 5), (7, 7), (8, 9))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("multiplier", (1, 3))
@pytest.mark.parametrize("stride", ((1, 1), (2, 2), (1, 2), (2, 1), (3, 2)), ids=str)
def test_sums_are_exact(stride: tuple[int, int], multiplier: int, dtype: torch.dtype, isa: str) -> None:
    for i, size in enumerate(SIZES):
        for k, kernel in enumerate(KERNELS):
            dilation = ((1, 1), (2, 1), (1, 2), (1, 1), (2, 5))[(i + k) % 5]
            padding = [(0, n // 2 * d, min(n * d, 9))[(i + k) % 3] for n, d in zip(kernel, dilation, strict=True)]
            settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 5}
            if any(s + 2 * p <= d * (n - 1) for s, p, d, n in zip(size, padding, dilation, kernel, strict=True)):
                continue
            given = operands(5, multiplier, size, kernel, 2, settings)
            expected = results(torch.nn.functional, given, settings)
            ours = results(CF, tuple(t.to(dtype) for t in given), settings)
            for a, b in zip(ours, expected, strict=True):
                assert torch.equal(a.double(), b.to(dtype).double()), (size, kernel, settings)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_any_strides_of_memory(dtype: torch.dtype, isa: str) -> None:
    """Expanded gradients; sliced, transposed and flipped images; weights whose taps are not dense."""
    settings: dict[str, Any] = {"padding": 1, "groups": 8}
    bias, wide = integers(8).to(dtype), integers(2, 8, 20, 40).to(dtype)
    weights = (integers(8, 1, 3, 3).to(dtype), integers(8, 1, 3, 6)[..., ::2].to(dtype).transpose(2, 3))
    images = (
        wide[..., :20:2],
        wide[:, :, ::3, 3:10],
        wide[..., :14],
        wide.transpose(2, 3),
        wide.flip(3)[:1, :, :, :19],
    )
    for x in images:
        for w in weights:
            for grad in (integers(*x.shape), integers(*x.shape[:-1], 1).expand(x.shape)):
                given = (x, w, bias, grad.to(dtype))
                expected = results(torch.nn.functional, tuple(t.double() for t in given), settings)
                for a, b in zip(results(CF, given, settings), expected, strict=True):
                    assert torch.equal(a.double(), b.to(dtype).double())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", ((7, 7), (14, 14), (30, 29)), ids=str)
@pytest.mark.parametrize("stride", (1, 2))
def test_threads_and_batch_change_no_bit(stride: int, size: tuple[int, int], isa: str) -> None:
    settings: dict[str, Any] = {"stride": stride, "padding": 1, "groups": 131}
    x, w, bias = torch.randn(3, 131, *size), torch.randn(131, 1, 3, 3), torch.randn(131)
    grad = torch.randn(CF.conv2d(x, w, **settings).shape)
    torch.set_num_threads(1)
    first = results(CF, (x, w, bias, grad), settings)
    alone = results(CF, (x[1:2], w, bias, grad[1:2]), settings)
    assert torch.equal(first[0][1:2], alone[0]) and torch.equal(first[1][1:2], alone[1])
    exact = results(torch.nn.functional, tuple(t.double() for t in (x, w, bias, grad)), settings)
    for a, b in zip(first, exact, strict=True):
        assert (a.double() - b).norm() < 1e-6 * b.norm()
    for count in (2, 3):
        torch.set_num_threads(count)
        for a, b in zip(results(CF, (x, w, bias, grad), settings), first, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("value", (torch.inf, torch.nan))
def test_what_is_not_finite_stays_within_its_windows(value: float, isa: str) -> None:
    """Vectors hold what lies beyond a row, another plane, and lanes that wgrad leaves out."""
    for size, stride in (((7, 7), 1), ((9, 14), 1), ((9, 37), 1), ((14, 14), 2), ((9, 50), 2)):
        settings: dict[str, Any] = {"groups": 8, "stride": stride, "padding": 1}
        x, w, bias = torch.randn(1, 8, *size), torch.randn(8, 1, 3, 3), torch.zeros(8)
        grad = torch.randn(CF.conv2d(x, w, **settings).shape)
        for y, column in ((0, 0), (4, size[1] // 2), (size[0] - 1, size[1] - 1)):
            for which in (0, 3):
                given = [t.clone() for t in (x, w, bias, grad)]
                given[which][0, 3, min(y, given[which].shape[2] - 1), min(column, given[which].shape[3] - 1)] = value
                ours = results(CF, tuple(given), settings)
                exact = results(torch.nn.functional, tuple(t.double() for t in given), settings)
                for a, b in zip(ours[:2], exact[:2], strict=True):
                    assert torch.equal(a.isfinite(), b.isfinite()), (size, y, column)
                # Where two passes leave out what meets padding, one pass may not: zeros times Inf (docs/numerics.md).
                assert (ours[2].isfinite() >= exact[2].isfinite()).all(), (size, y, column)
                assert not ours[2][3].isfinite().all(), (size, y, column)


def backward(grad: Tensor, x: Tensor, w: Tensor, stride: int, padding: tuple[int, int], groups: int) -> list[Tensor]:
    """Both gradients, as plain calls ask for them."""
    leaves = [t.detach().requires_grad_() for t in (x, w)]
    y = CF.conv2d(*leaves, stride=stride, padding=padding, groups=groups)
    return list(torch.autograd.grad(y, leaves, grad))


# Strips of vectors, of which the last starts early or is cut off; one vector, written beyond the ends of rows.
ADJOINT_SIZES = (
    (14, 14),
    (7, 7),
    (5, 16),
    (9, 15),
    (28, 28),
    (13, 29),
    (4, 33),
    (30, 31),
    (10, 56),
    (6, 63),
    (300, 18),
)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("stride", (1, 2))
def test_one_pass_gives_both_gradients_with_the_bits_of_two(stride: int, dtype: torch.dtype, isa: str) -> None:
    for i, size in enumerate(ADJOINT_SIZES):
        padding = ((1, 1), (0, 1), (1, 0), (2, 2))[i % 4]
        x, w = torch.randn(2, 21, *size).to(dtype), torch.randn(21, 1, 3, 3).to(dtype)
        grad = torch.randn_like(CF.conv2d(x, w, stride=stride, padding=padding, groups=21))
        grad[0, 3, 0, 0] = 0
        leaf_x, leaf_w = x.clone().requires_grad_(), w.clone().requires_grad_()
        settings: dict[str, Any] = {"stride": stride, "padding": padding, "groups": 21}
        (by_image,) = torch.autograd.grad(CF.conv2d(leaf_x, w, **settings), [leaf_x], grad)
        (by_weight,) = torch.autograd.grad(CF.conv2d(x, leaf_w, **settings), [leaf_w], grad)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            both = backward(grad, x, w, stride, padding, 21)
            assert torch.equal(both[0], by_image) and torch.equal(both[1], by_weight), (size, padding)
        alone = backward(grad[:1], x[:1], w, stride, padding, 21)
        assert torch.equal(alone[0], by_image[:1]), (size, padding)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("stride", (1, 2))
def test_one_pass_reads_any_strides_of_memory(stride: int, dtype: torch.dtype, isa: str) -> None:
    """Rows apart, pixels apart, flipped; the end of a storage; taps that are not dense; windows that end early."""
    wide = integers(2, 9, 31, 70).to(dtype)
    images = (wide[..., :33], wide[:, 1:, ::2, 5:38], wide[..., ::2], wide.flip(2)[..., 36:], wide[1:, 8:, 17:, 40:])
    for x in images:
        channels = x.shape[1]
        weight = integers(channels, 1, 3, 6).to(dtype)
        for w in (weight[..., ::2], weight[..., :3].contiguous(), weight[..., :3].transpose(2, 3)):
            grad = integers(*CF.conv2d(x, w, stride=stride, padding=1, groups=channels).shape).to(dtype)
            for g in (grad, grad.transpose(2, 3).contiguous().transpose(2, 3), grad[..., :1].expand(grad.shape)):
                both = backward(g, x, w, stride, (1, 1), channels)
                leaves = [t.double().requires_grad_() for t in (x, w)]
                y = torch.nn.functional.conv2d(*leaves, stride=stride, padding=1, groups=channels)
                for ours, exact in zip(both, torch.autograd.grad(y, leaves, g.double()), strict=True):
                    assert torch.equal(ours.double(), exact), (x.shape, x.stride(), g.stride())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("flat", (0, 1, 2))
def test_one_pass_over_volumes_whose_kernels_are_flat(flat: int, stride: int, dtype: torch.dtype, isa: str) -> None:
    """Axes are joined, or change places, for either gradient alike: images, weights and results with them."""
    around: dict[str, list[int]] = {
        name: [thin if axis == flat else thick for axis in range(3)]
        for name, thick, thin in (("kernel", 3, 1), ("size", 28, 1), ("padding", 1, 0), ("stride", stride, 1))
    }
    layer = {"stride": around["stride"], "padding": around["padding"], "groups": 9}
    for pixels, apart in ((1, False), (3, False), (1, True)):
        w = integers(9, 1, *around["kernel"])
        if apart:  # a part of a larger weight: taps are not dense
            w = torch.cat([w, w + 1], 3)[:, :, :, : w.shape[3]]
        size = [pixels if axis == flat else length for axis, length in enumerate(around["size"])]
        x = integers(2, 9, *size)
        leaves = [t.requires_grad_() for t in (x, w)]
        y = torch.nn.functional.conv3d(*leaves, **layer)
        grad = integers(*y.shape)
        exact = torch.autograd.grad(y, leaves, grad)
        ours = [t.detach().to(dtype).requires_grad_() for t in leaves]
        both = torch.autograd.grad(CF.conv3d(*ours, **layer), ours, grad.to(dtype))
        assert all(torch.equal(a.double(), b) for a, b in zip(both, exact, strict=True)), size


@pytest.mark.parametrize("stride", (1, 2))
def test_sums_that_vanish_have_the_sign_they_have_alone(stride: int, isa: str) -> None:
    """Products too small for the type round to -0; a sum is added to zero at its end, whoever makes it."""
    x, w = torch.randn(1, 8, 28, 28), torch.full((8, 1, 3, 3), -1e-30)
    leaves = [t.clone().requires_grad_() for t in (x, w)]
    y = CF.conv2d(*leaves, stride=stride, padding=1, groups=8)
    grad = torch.full_like(y, 1e-30)
    both = torch.autograd.grad(y, leaves, grad)[0]
    alone = torch.autograd.grad(CF.conv2d(leaves[0], w, stride=stride, padding=1, groups=8), leaves[0], grad)[0]
    assert torch.equal(both.signbit(), alone.signbit())
