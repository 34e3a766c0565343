"""Grouped layers with channels along the vector, depthwise layers by rows: where they are taken, and their edges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import convext
import convext.functional as CF

OPERATORS = ("fprop", "dgrad", "wgrad")
CPU = pytest.mark.cpu_only("of how the CPU's kernels stage images and weights")
LAYOUTS = (torch.contiguous_format, pytest.param(torch.channels_last, marks=CPU))


@pytest.fixture(autouse=True)
def _no_winograd() -> Iterator[None]:
    """Which rounds."""
    with convext.backends.winograd.flags(enabled=False):
        yield


def algorithms(image: tuple[int, ...], weight: tuple[int, ...], **settings: Any) -> list[str]:
    return [convext.conv_plan(operator, image, weight, **settings).algorithm for operator in OPERATORS]


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums are exact in any order."""
    return torch.randint(-3, 4, shape).to(dtype)


def results(
    functional: Any, x: Tensor, w: Tensor, bias: Tensor, grad: Tensor, settings: dict[str, Any]
) -> list[Tensor]:
    """Output and gradients to image and weight."""
    leaves = [t.detach().requires_grad_() for t in (x, w)]
    y = getattr(functional, f"conv{x.dim() - 2}d")(*leaves, bias, **settings)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


@pytest.mark.parametrize("threads", (1, 2, 3))
@pytest.mark.parametrize("batch", (1, 5))
@pytest.mark.parametrize(
    ("image", "weight", "settings", "expected"),
    [
        ((512, 28, 28), (512, 16, 3, 3), {"stride": 2, "padding": 1, "groups": 32}, ["grouped"] * 3),
        (
            (256, 56, 56),
            (256, 8, 3, 3),
            {"stride": 2, "padding": 1, "groups": 32},
            ["banded", "grouped", "correlation"],
        ),
        ((512, 14, 14), (512, 16, 3, 3), {"padding": 1, "groups": 32}, ["grouped"] * 3),
        ((1024, 14, 14), (1024, 32, 3, 3), {"stride": 2, "padding": 1, "groups": 32}, ["grouped"] * 3),
        ((768, 49), (768, 48, 128), {"padding": 64, "groups": 16}, ["grouped"] * 3),
        (
            (512, 28, 28),
            (512, 16, 3, 3),
            {"stride": 2, "padding": 1, "groups": 32, "channels_last": True},
            ["packed", "grouped", "grouped"],
        ),
        # the result's channels: 4 of 16 lanes one way, all the other
        ((64, 14, 14), (256, 4, 3, 3), {"padding": 1, "groups": 16}, ["grouped", "banded", "grouped"]),
        ((64, 14, 14), (64, 16, 3, 3), {"padding": 1, "groups": 4}, ["banded", "banded", "correlation"]),
        ((32, 112, 112), (32, 1, 3, 3), {"padding": 1, "groups": 32}, ["depthwise_shifted"] * 3),
        ((32, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 32}, ["depthwise_shifted"] * 3),
        (
            (32, 56, 56),
            (32, 1, 5, 5),
            {"stride": 2, "padding": 2, "groups": 32},
            ["depthwise_shifted"] * 3,
        ),
        ((512, 14, 14), (512, 1, 3, 3), {"padding": 1, "groups": 512}, ["depthwise_shifted"] * 3),
        ((512, 500), (512, 1, 31), {"padding": 15, "groups": 512}, ["depthwise"] * 3),
        ((32, 512, 512), (32, 1, 3, 3), {"padding": 1, "groups": 32}, ["depthwise"] * 3),
    ],
)
def test_the_algorithm(
    image: tuple[int, ...],
    weight: tuple[int, ...],
    settings: dict[str, Any],
    expected: list[str],
    batch: int,
    threads: int,
) -> None:
    if "avx512" not in convext.backends.cpu.isa_levels():
        pytest.skip("the lanes are those of AVX-512")
    with convext.backends.cpu.max_isa("avx512"):
        assert algorithms((batch, *image), weight, num_threads=threads, **settings) == expected


@pytest.mark.parametrize(
    ("image", "weight", "settings", "widened"),
    [
        ((512, 14, 14), (512, 16, 3, 3), {"padding": 1}, {"wgrad"}),
        ((512, 28, 28), (512, 16, 3, 3), {"stride": 2, "padding": 1}, {"dgrad", "wgrad"}),
        ((1024, 7, 7), (1024, 32, 3, 3), {"padding": 1}, set()),
        ((992, 7, 7), (992, 31, 3, 3), {"padding": 1}, {"dgrad"}),
        ((1024, 14, 14), (1024, 32, 3, 3), {"padding": 1}, set()),
        ((1024, 14, 14), (1024, 32, 3, 3), {"stride": 2, "padding": 1}, {"dgrad"}),
        ((256, 56, 56), (256, 8, 3, 3), {"stride": 2, "padding": 1}, {"dgrad"}),
        ((1536, 49), (1536, 48, 96), {"padding": 48}, {"fprop", "wgrad"}),
        ((1536, 49), (1536, 48, 64), {"padding": 32}, set()),
        ((1536, 49), (1536, 48, 7), {"padding": 3}, {"dgrad"}),
    ],
)
def test_groups_that_are_widened_instead_of_paired(
    image: tuple[int, ...], weight: tuple[int, ...], settings: dict[str, Any], widened: set[str]
) -> None:
    if "avx512_bf16" not in convext.backends.cpu.isa_levels():
        pytest.skip("needs bfloat16 dot products")
    chosen = algorithms((1, *image), weight, dtype=torch.bfloat16, groups=32, **settings)
    assert {o for o, name in zip(OPERATORS, chosen, strict=True) if name == "grouped"} == widened, chosen


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (((512, 14, 14), (512, 16, 3, 3), {"padding": 1}), ["grouped"] * 3),
        (((1024, 7, 7), (1024, 32, 3, 3), {"padding": 1}), ["winograd", "winograd", "packed"]),
        (((512, 14, 14), (512, 16, 3, 3), {"padding": 1, "dtype": torch.float64}), ["packed"] * 3),
        (((256, 28, 28), (256, 8, 3, 3), {"padding": 1}), ["depthwise_channels_last"] * 3),
        (((512, 14, 14), (512, 16, 3, 3), {"padding": 1, "padding_mode": "reflect"}), ["packed"] * 3),
        (((512, 14, 14), (512, 16, 3, 3), {"padding": 1, "dtype": torch.bfloat16}), ["packed"] * 3),
        (((256, 14, 14), (512, 8, 3, 3), {"stride": 2, "padding": 1}), ["packed", "packed", "grouped"]),
    ],
)
def test_the_algorithm_of_channels_last_images(
    case: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], expected: list[str]
) -> None:
    image, weight, settings = case
    if "avx512_bf16" not in convext.backends.cpu.isa_levels():
        pytest.skip("the lanes are those of AVX-512, the pairs its bfloat16")
    with convext.backends.winograd.flags(enabled=True):
        assert algorithms((1, *image), weight, groups=32, channels_last=True, **settings) == expected


# (input, output) channels of a group: whole vectors at every level, parts of one, more than a tile has; a source of
# more than a group's result may have.
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(
    "channels", ((16, 16), (2, 16), (3, 14), (15, 29), (32, 48), (5, 64), pytest.param((80, 16), marks=CPU)), ids=str
)
@pytest.mark.parametrize("stride", (1, 2, 3))
@pytest.mark.parametrize(
    "layouts", ("contiguous", *(pytest.param(x, marks=CPU) for x in ("channels_last", "image", "weight")))
)
def test_sums_of_groups_are_exact(
    channels: tuple[int, int], stride: int, dtype: torch.dtype, layouts: str, isa: str
) -> None:
    groups = 8

    def laid_out(t: Tensor, name: str) -> Tensor:
        last = layouts in ("channels_last", name)
        return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    for size, kernel, dilation in (
        ((7, 9), (3, 3), 1),
        ((1, 21), (1, 4), 2),
        ((12, 5), (5, 2), 1),
        ((10, 33), (2, 3), 3),
        ((9, 7), (3, 7), 1),  # runs of 3, 2 and 2 taps; two rows of 7 pixels a tile, and one
        ((8, 6), (2, 5), 2),
    ):
        padding = [min(k - 1, 2) * dilation for k in kernel]
        settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        x, w = integers(2, groups * channels[0], *size), integers(groups * channels[1], channels[0], *kernel)
        bias = integers(w.shape[0])
        grad = integers(*CF.conv2d(x, w, **settings).shape)
        expected = results(torch.nn.functional, *(t.double() for t in (x, w, bias, grad)), settings)
        x, w, grad = laid_out(x, "image"), laid_out(w, "weight"), laid_out(grad, "image")
        if dtype in (torch.bfloat16, torch.float16):  # a result is rounded once
            expected = [t.to(dtype).double() for t in expected]
        ours = results(CF, *(t.to(dtype) for t in (x, w, bias, grad)), settings)
        for a, b in zip(ours, expected, strict=True):
            assert torch.equal(a.double(), b), (size, kernel)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("multiplier", (1, 2, 3))
@pytest.mark.parametrize("kernel", (1, 2, 3, 4, 5, 7), ids=lambda k: f"k{k}")
def test_sums_of_rows_are_exact(kernel: int, multiplier: int, dtype: torch.dtype, isa: str) -> None:
    for size, stride, dilation in (
        ((4, 16), 1, 1),
        ((11, 35), 1, 1),
        ((17, 31), 1, 2),
        ((23, 47), 2, 1),
        ((40, 50), 3, 2),
    ):
        settings: dict[str, Any] = {
            "stride": stride,
            "padding": kernel // 2 * dilation,
            "dilation": dilation,
            "groups": 5,
        }
        x, w = integers(2, 5, *size, dtype=dtype), integers(5 * multiplier, 1, kernel, kernel, dtype=dtype)
        bias = integers(w.shape[0], dtype=dtype)
        grad = integers(*CF.conv2d(x, w, **settings).shape, dtype=dtype)
        expected = results(torch.nn.functional, *(t.double() for t in (x, w, bias, grad)), settings)
        for a, b in zip(results(CF, x, w, bias, grad, settings), expected, strict=True):
            assert torch.equal(a.double(), b), (size, stride, dilation)


@pytest.mark.parametrize("mode", ("reflect", "replicate", "circular"))
@pytest.mark.parametrize("channels", (1, 16))
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_padding_modes_are_staged(channels: int, mode: str, layout: torch.memory_format, isa: str) -> None:
    x, w = integers(2, 8 * channels, 9, 20), integers(8 * channels, channels, 3, 5)
    x = x.contiguous(memory_format=layout)
    for stride in (1, 2):
        y = CF.conv2d(x, w, None, stride, (2, 3), groups=8, padding_mode=mode)
        padded = torch.nn.functional.pad(x.double(), (3, 3, 2, 2), mode)
        assert torch.equal(y.double(), torch.nn.functional.conv2d(padded, w.double(), stride=stride, groups=8))


@pytest.mark.parametrize("channels", (1, 16))
def test_any_strides_of_memory(channels: int, isa: str) -> None:
    """Expanded gradients, sliced and transposed images."""
    settings: dict[str, Any] = {"padding": 1, "groups": 8}
    w, bias = integers(8 * channels, channels, 3, 3), integers(8 * channels)
    wide = integers(2, 8 * channels, 18, 40)
    last = integers(2, 16 * channels, 9, 11).contiguous(memory_format=torch.channels_last)
    for x in (
        wide[..., ::2],
        wide[:, :, ::3, 3:24],
        wide.transpose(2, 3),
        wide.flip(3)[:1].expand(3, -1, -1, -1),
        last[:, 5 : 5 + 8 * channels],
        last[:, : 8 * channels, ::2, 1:],
        last[:, ::2],
    ):
        for grad in (integers(*x.shape), torch.ones(()).expand(x.shape), integers(*x.shape[:-1], 1).expand(x.shape)):
            expected = results(torch.nn.functional, *(t.double() for t in (x, w, bias, grad)), settings)
            for a, b in zip(results(CF, x, w, bias, grad, settings), expected, strict=True):
                assert torch.equal(a.double(), b)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("channels", "size"), list(itertools.product((1, 16, 32), ((14, 14), (19, 37)))), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_threads_and_batch_change_no_bit(
    channels: int, size: tuple[int, int], layout: torch.memory_format, isa: str
) -> None:
    for stride in (1, 2):
        settings: dict[str, Any] = {"stride": stride, "padding": 1, "groups": 16}
        x, w, bias = (
            torch.randn(3, 16 * channels, *size).contiguous(memory_format=layout),
            torch.randn(16 * channels, channels, 3, 3).contiguous(memory_format=layout),
            torch.randn(16 * channels),
        )
        grad = torch.randn(CF.conv2d(x, w, **settings).shape)
        torch.set_num_threads(1)
        first = results(CF, x, w, bias, grad, settings)
        alone = results(CF, x[1:2], w, bias, grad[1:2], settings)
        assert torch.equal(first[0][1:2], alone[0]) and torch.equal(first[1][1:2], alone[1])
        exact = results(torch.nn.functional, *(t.double() for t in (x, w, bias, grad)), settings)
        for a, b in zip(first, exact, strict=True):
            assert (a.double() - b).norm() < 1e-6 * b.norm()
        for count in (2, 3):
            torch.set_num_threads(count)
            for a, b in zip(results(CF, x, w, bias, grad, settings), first, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_an_infinity_stays_within_its_windows(layout: torch.memory_format, isa: str) -> None:
    """Vectors overlap at the end of a row and leave out lanes in wgrad: none may multiply what it leaves out."""
    for channels in (1, 16):
        settings: dict[str, Any] = {"groups": 8}
        x, w = torch.randn(1, 8 * channels, 9, 37), torch.randn(8 * channels, channels, 3, 3)
        bias, grad = torch.zeros(8 * channels), torch.randn(1, 8 * channels, 7, 35)
        for y, column in ((0, 0), (4, 20), (8, 36)):
            one = x.clone(memory_format=layout)
            one[0, 0, y, column] = torch.inf
            ours, exact = (
                results(CF, one, w, bias, grad, settings),
                results(torch.nn.functional, *(t.double() for t in (one, w, bias, grad)), settings),
            )
            for a, b in zip(ours, exact, strict=True):
                assert torch.equal(a.isfinite(), b.isfinite())
