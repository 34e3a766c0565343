"""wgrad's own algorithms, correlation and outer products: where they are taken, and the edges of their tiles."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import convext
from tests.guard_pages import guarded

THREADS = (1, 2, 3)


def plan(image: tuple[int, ...], weight: tuple[int, ...], **settings: Any) -> Any:
    return convext.conv_plan("wgrad", image, weight, **settings)


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums are exact in any order."""
    return torch.randint(-3, 4, shape).to(dtype)


def wgrad(grad: Tensor, image: Tensor, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    conf = ([stride] * 2, [padding] * 4, [1] * 2, groups, 0)
    result: Tensor = torch.ops.convext.conv_wgrad(grad, image, [kernel] * 2, *conf)
    return result


def reference(grad: Tensor, image: Tensor, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    weight = torch.zeros(grad.shape[1], image.shape[1] // groups, kernel, kernel, dtype=torch.float64)
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        grad.double(),
        image.double(),
        weight,
        None,
        [stride] * 2,
        [padding] * 2,
        [1] * 2,
        False,
        [0] * 2,
        groups,
        [False, True, False],
    )[1]


@pytest.mark.parametrize(
    ("image", "weight", "settings", "algorithm"),
    [
        ((1, 64, 28, 28), (64, 64, 1, 1), {}, "correlation"),
        # lines of few channels that are turned first; too few columns, no vector of filters, taps that are apart
        ((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}, "outer_product"),
        ((1, 16, 28, 28), (32, 16, 5, 5), {"padding": 2}, "outer_product"),
        ((1, 1, 16000), (512, 1, 10), {"stride": 5}, "outer_product"),
        ((1, 1, 32, 32, 32), (16, 1, 3, 3, 3), {"padding": 1}, "correlation"),
        ((1, 3, 224, 224), (8, 3, 7, 7), {"stride": 2, "padding": 3}, "correlation"),
        ((1, 3, 224, 224), (64, 3, 7, 7), {"dilation": 2, "padding": 3}, "correlation"),
        ((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3, "dtype": torch.float16}, "correlation"),
        ((1, 32, 28, 28), (96, 32, 5, 5), {"padding": 2}, "winograd"),
        ((1, 32, 28, 28), (96, 32, 7, 7), {"padding": 3}, "correlation"),
        # rows that are turned where they lie: few taps in 1-D, one tap of many channels
        ((1, 64, 8000), (128, 64, 2), {}, "packed"),
        ((1, 63, 8000), (128, 63, 2), {}, "correlation"),
        ((1, 128, 14, 14), (256, 128, 1, 1), {}, "packed"),
        ((1, 128, 28, 28), (256, 128, 1, 1), {}, "correlation"),
        ((1, 256, 28, 28), (256, 256, 1, 1), {}, "packed"),
        ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "winograd"),
        # too few pixels for the sums over lanes
        ((1, 512, 7, 7), (512, 512, 1, 1), {}, "packed"),
        ((8, 48, 7, 7), (128, 48, 7, 7), {"padding": 3}, "packed"),
        # a stage that all filters share: under a stride, of narrow rows, of few pixels under one tap
        ((1, 64, 56, 56), (64, 64, 3, 3), {"stride": 2, "padding": 1}, "packed"),
        ((1, 30, 56, 56), (64, 30, 3, 3), {"stride": 2, "padding": 1}, "correlation"),
        ((1, 16, 14, 14), (48, 16, 5, 5), {"padding": 2}, "packed"),
        ((1, 17, 28, 28), (48, 17, 5, 5), {"padding": 2}, "correlation"),
        ((1, 256, 14, 14), (256, 256, 1, 1), {}, "packed"),
        ((1, 512, 799), (512, 512, 3), {"stride": 2}, "packed"),
        ((1, 512, 28, 28), (1024, 512, 1, 1), {"stride": 2}, "packed"),
        # groups of few channels at any size and in any layout
        ((1, 32, 4, 4), (32, 8, 3, 3), {"padding": 1, "groups": 4}, "correlation"),
        ((1, 32, 28, 28), (32, 8, 3, 3), {"padding": 1, "groups": 4, "channels_last": True}, "depthwise_channels_last"),
        ((1, 24, 28, 28), (32, 6, 3, 3), {"padding": 1, "groups": 4, "channels_last": True}, "correlation"),
        ((1, 64, 28, 28), (64, 64, 1, 1), {"channels_last": True}, "outer_product"),
        ((1, 3, 224, 224), (32, 3, 3, 3), {"stride": 2, "padding": 1, "channels_last": True}, "outer_product"),
        ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1, "channels_last": True}, "packed"),
        ((1, 64, 28, 28), (64, 32, 3, 3), {"padding": 1, "groups": 2, "stride": 2, "channels_last": True}, "packed"),
        ((1, 3, 28, 28), (32, 3, 3, 3), {"channels_last": True, "dtype": torch.bfloat16}, "packed"),
    ],
)
def test_the_algorithm(
    image: tuple[int, ...], weight: tuple[int, ...], settings: dict[str, Any], algorithm: str
) -> None:
    for threads in THREADS:
        assert plan(image, weight, num_threads=threads, **settings).algorithm == algorithm


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("filters", (1, 2, 3, 5, 9, 70))
@pytest.mark.parametrize("channels", (1, 3, 7, 13))
@pytest.mark.parametrize("size", (12, 17, 40))
def test_correlation_at_every_edge_of_a_tile(
    size: int, channels: int, filters: int, dtype: torch.dtype, isa: str
) -> None:
    torch.manual_seed(0)
    for kernel, stride, padding in ((1, 1, 0), (3, 1, 1), (2, 2, 0)):
        out = (size + 2 * padding - kernel) // stride + 1
        image, grad = integers(2, channels, size, size, dtype=dtype), integers(2, filters, out, out, dtype=dtype)
        expected = reference(grad, image, kernel, stride, padding).to(dtype)
        torch.testing.assert_close(wgrad(grad, image, kernel, stride, padding), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("filters", (16, 29, 150))
@pytest.mark.parametrize("channels", (16, 17, 33, 48, 70))
def test_a_shared_stage_at_every_edge_of_a_tile(channels: int, filters: int, dtype: torch.dtype, isa: str) -> None:
    """Several images to a chunk, one, and several chunks to an image; narrow last tiles, alone and behind others."""
    torch.manual_seed(0)
    for size, kernel, stride, padding, batch in ((7, 5, 1, 2, 8), (9, 3, 2, 1, 11), (70, 4, 2, 1, 1), (16, 2, 2, 0, 3)):
        out = (size + 2 * padding - kernel) // stride + 1
        image, grad = integers(batch, channels, size, size), integers(batch, filters, out, out)
        expected = reference(grad, image, kernel, stride, padding).to(dtype)
        with convext.backends.winograd.flags(enabled=False):
            result = wgrad(grad.to(dtype), image.to(dtype), kernel, stride, padding)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16), ids=str)
@pytest.mark.parametrize("filters", (16, 19, 29))
def test_a_shared_stage_of_low_panels(filters: int, dtype: torch.dtype, isa: str, threads: None) -> None:
    """Several tiles of channels a unit and several blocks of pixels, under panels low enough for a band's wide tile."""
    torch.manual_seed(0)
    for channels, kernel, stride, padding in ((64, 2, 2, 1), (70, 2, 2, 0), (38, 2, 2, 1)):
        out = (28 + 2 * padding - kernel) // stride + 1
        image, grad = integers(2, channels, 28, 28), integers(2, filters, out, out)
        expected = reference(grad, image, kernel, stride, padding).to(dtype)
        for count in THREADS:
            torch.set_num_threads(count)
            result = wgrad(grad.to(dtype), image.to(dtype), kernel, stride, padding)
            torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("side", ("end", "start"))
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes access from pages by mprotect")
def test_short_rows_are_gathered_in_whole_vectors(side: str, dtype: torch.dtype, isa: str) -> None:
    """Up to the last channel, whose vectors would end beyond the image; one image and several, one chunk and more."""
    torch.manual_seed(0)
    for channels, filters, groups, size, kernel, stride, batch in (
        (33, 70, 1, 7, 3, 1, 1),
        (70, 66, 2, 14, 3, 2, 1),
        (40, 65, 1, 7, 3, 1, 11),
        (36, 260, 1, 13, 3, 1, 1),
        (65, 130, 1, 9, 2, 2, 3),
        (34, 70, 1, 24, 3, 2, 4),
    ):
        padding = kernel // 2
        out = (size + 2 * padding - kernel) // stride + 1
        image, grad = integers(batch, channels, size, size), integers(batch, filters, out, out)
        expected = reference(grad, image, kernel, stride, padding, groups).to(dtype)
        operands = guarded(grad.to(dtype), side), guarded(image.to(dtype), side)
        with convext.backends.winograd.flags(enabled=False):
            result = wgrad(*operands, kernel, stride, padding, groups)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_many_taps_of_a_small_volume(dtype: torch.dtype, isa: str, threads: None) -> None:
    """27 taps of 4 x 4 x 4: most of a unit's columns are cut among the threads, which changes no bit."""
    torch.manual_seed(0)
    image, grad = integers(1, 40, 4, 4, 4, dtype=dtype), integers(1, 70, 4, 4, 4, dtype=dtype)
    leaf = torch.zeros(70, 40, 3, 3, 3, dtype=torch.float64).requires_grad_()
    y = torch.nn.functional.conv3d(image.double(), leaf, padding=1)
    (expected,) = torch.autograd.grad(y, [leaf], grad.double())
    for count in THREADS:
        torch.set_num_threads(count)
        result = torch.ops.convext.conv_wgrad(grad, image, [3] * 3, [1] * 3, [1] * 6, [1] * 3, 1, 0)
        torch.testing.assert_close(result, expected.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("filters", (16, 17, 33, 64, 100))
@pytest.mark.parametrize("channels", (1, 2, 3, 4, 9, 16))
def test_turned_lines_at_every_edge_of_a_tile(channels: int, filters: int, dtype: torch.dtype, isa: str) -> None:
    """Images that end where a page does; several images to a chunk, lines of two chunks, rows between which none is
    read."""
    torch.manual_seed(0)
    for size, kernel, stride, padding in ((12, 8, 1, 4), (50, 11, 4, 2), (33, 9, 2, 0), (60, 8, 3, 1), (24, 5, 1, 2)):
        out = (size + 2 * padding - kernel) // stride + 1
        image = integers(3, channels, size, size, dtype=dtype)
        grad = integers(3, filters, out, out, dtype=dtype)
        expected = reference(grad, image, kernel, stride, padding).to(dtype)
        if sys.platform == "linux":
            image, grad = guarded(image), guarded(grad)
        torch.testing.assert_close(wgrad(grad, image, kernel, stride, padding), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ("constant", "reflect", "replicate", "circular"))
def test_turned_lines_in_every_shape(mode: str, isa: str) -> None:
    """Padding modes, depth and its dilation, rows longer than a chunk, pixels that are not neighbours."""
    torch.manual_seed(0)
    code = ("constant", "reflect", "replicate", "circular").index(mode)
    for channels, size, kernel, stride, dilation in (
        (3, (24, 23), (3, 4), (2, 1), (1, 1)),
        (3, (5, 300), (3, 3), (1, 1), (1, 1)),
        (2, (7, 14, 15), (3, 5, 4), (1, 2, 2), (3, 1, 1)),
        (1, (700,), (11,), (2,), (1,)),
    ):
        axes = len(size)
        image = integers(2, channels, *size)
        padded = torch.nn.functional.pad(image, (2, 1) * axes, mode=mode)
        weight = torch.zeros(34, channels, *kernel, dtype=torch.float64, requires_grad=True)
        out = getattr(torch.nn.functional, f"conv{axes}d")(padded.double(), weight, None, stride, 0, dilation)
        grad = integers(*out.shape)
        (expected,) = torch.autograd.grad(out, weight, grad.double())
        conf = (list(stride), [2, 1] * axes, list(dilation), 1, code)
        settings = {"stride": stride, "padding": [(2, 1)] * axes, "dilation": dilation}
        settings["padding_mode"] = "zeros" if mode == "constant" else mode
        assert plan(tuple(image.shape), tuple(weight.shape), **settings).algorithm == "outer_product"
        apart = torch.zeros(*grad.shape, 2)[..., 0].copy_(grad)
        image_apart = torch.zeros(*image.shape, 2)[..., 0].copy_(image)
        for g, x in ((grad, image), (apart, image_apart), (grad[:1, :1, ..., :1].expand_as(grad), image)):
            result = torch.ops.convext.conv_wgrad(g, x, list(kernel), *conf)
            if g.stride(-1) != 0:
                torch.testing.assert_close(result.double(), expected, rtol=0, atol=0)
            else:
                same = torch.ops.convext.conv_wgrad(g.contiguous(), x, list(kernel), *conf)
                torch.testing.assert_close(result, same, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_panels_of_one_tap(dtype: torch.dtype, isa: str) -> None:
    for channels, stride, size in ((160, 1, 14), (170, 1, 13), (300, 2, 24), (72, 1, 14), (81, 2, 24)):
        out = (size - 1) // stride + 1
        image = integers(3, channels, size, size, dtype=dtype)
        grad = integers(3, 161, out, out, dtype=dtype)
        assert plan(tuple(image.shape), (161, channels, 1, 1), stride=stride, dtype=dtype).algorithm == "packed"
        torch.testing.assert_close(
            wgrad(grad, image, 1, stride), reference(grad, image, 1, stride).to(dtype), rtol=0, atol=0
        )


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "batch"),
    [
        ((49,), 1, 1, 0, 1, 8),  # whole images to a chunk
        ((300,), 1, 1, 0, 1, 3),  # chunks that begin and end within images
        ((13, 13), 1, 1, 0, 1, 2),
        ((37, 37), 1, 2, 0, 1, 2),  # every second pixel, up to the last
        ((38, 38), 1, 2, 0, 1, 2),
        ((401,), 2, 1, 0, 3, 3),
        ((300,), 3, 1, 2, 2, 2),  # chunks with padding are gathered
        ((799,), 3, 2, 0, 1, 1),
        ((800,), 3, 2, 1, 1, 1),
        ((2100,), 2, 1, 0, 1, 2),  # slices
    ],
)
def test_runs_turned_where_they_lie(
    size: tuple[int, ...],
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    batch: int,
    dtype: torch.dtype,
    isa: str,
) -> None:
    """Nothing beyond the images' ends is read."""
    torch.manual_seed(0)
    axes = len(size)
    for channels, filters in ((64, 70), (65, 96)):
        out = [(n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in size]
        image, grad = integers(batch, channels, *size), integers(batch, filters, *out)
        weight = torch.zeros(filters, channels, *[kernel] * axes, dtype=torch.float64)
        conf = ([stride] * axes, [padding] * axes, [dilation] * axes, False, [0] * axes, 1, [False, True, False])
        expected = torch.ops.aten.convolution_backward(grad.double(), image.double(), weight, None, *conf)[1].to(dtype)
        image, grad = image.to(dtype), grad.to(dtype)
        if sys.platform == "linux":
            image, grad = guarded(image), guarded(grad)
        result = torch.ops.convext.conv_wgrad(
            grad, image, [kernel] * axes, [stride] * axes, [padding] * 2 * axes, [dilation] * axes, 1, 0
        )
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ("constant", "reflect", "replicate", "circular"))
def test_a_shared_stage_in_every_shape(mode: str, isa: str) -> None:
    """Padding modes, dilation, groups, depth, pixels that are not neighbours, a result that is channels_last."""
    torch.manual_seed(0)
    code = ("constant", "reflect", "replicate", "circular").index(mode)
    for size, kernel, stride, dilation, groups in (
        ((13, 12), (3, 4), (2, 2), (1, 1), 1),
        ((14, 15), (3, 3), (2, 1), (2, 3), 2),
        ((5, 8, 9), (3, 2, 3), (1, 2, 2), (1, 1, 1), 1),
        ((40,), (17,), (2,), (1,), 3),
    ):
        axes = len(size)
        image = integers(9, 32 * groups, *size)
        padded = torch.nn.functional.pad(image, (2, 1) * axes, mode=mode)
        weight = torch.zeros(34 * groups, 32, *kernel, dtype=torch.float64, requires_grad=True)
        convolve = getattr(torch.nn.functional, f"conv{axes}d")
        out = convolve(padded.double(), weight, None, stride, 0, dilation, groups)
        grad = integers(*out.shape)
        (expected,) = torch.autograd.grad(out, weight, grad.double())
        conf = (list(stride), [2, 1] * axes, list(dilation), groups, code)
        apart = torch.zeros(*grad.shape, 2)[..., 0].copy_(grad)
        for g in (grad, apart):
            with convext.backends.winograd.flags(enabled=False):
                result = torch.ops.convext.conv_wgrad(g, image, list(kernel), *conf)
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("filters", (1, 5, 15, 29, 64, 150))
@pytest.mark.parametrize("channels", (2, 3, 16, 24, 29))
def test_outer_products_at_every_edge_of_a_tile(channels: int, filters: int, dtype: torch.dtype, isa: str) -> None:
    torch.manual_seed(0)
    for kernel, stride, padding in ((1, 1, 0), (3, 1, 1), (3, 2, 0), (1, 2, 0)):
        size = 20
        out = (size + 2 * padding - kernel) // stride + 1
        image, grad = integers(2, channels, size, size, dtype=dtype), integers(2, filters, out, out, dtype=dtype)
        expected = reference(grad, image, kernel, stride, padding).to(dtype)
        image, grad = (t.contiguous(memory_format=torch.channels_last) for t in (image, grad))
        with convext.backends.winograd.flags(enabled=False):
            torch.testing.assert_close(wgrad(grad, image, kernel, stride, padding), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
def test_one_pixel_at_every_edge_of_a_vector(dtype: torch.dtype, isa: str) -> None:
    """An outer product of two vectors, each row of which ends with a vector that overlaps the one before."""
    torch.manual_seed(0)
    for channels, filters, groups in ((37, 20, 1), (16, 3, 1), (5, 7, 1), (33, 64, 1), (24, 10, 2), (2, 1, 1)):
        image, grad = integers(1, channels, 1, 1, dtype=dtype), integers(1, filters, 1, 1, dtype=dtype)
        expected = reference(grad, image, 1, groups=groups).to(dtype)
        if sys.platform == "linux":
            image, grad = guarded(image), guarded(grad)
        torch.testing.assert_close(wgrad(grad, image, 1, groups=groups), expected, rtol=0, atol=0)


def test_reading_in_place_changes_no_bit(isa: str) -> None:
    """Images with a gap between their rows are staged; what is computed is the same."""
    torch.manual_seed(0)
    for size in (12, 28, 40):
        image, grad = torch.randn(2, 9, size, size), torch.randn(2, 21, size, size)
        apart = [torch.randn(*t.shape[:-1], size + 3)[..., :size].copy_(t) for t in (image, grad)]
        assert torch.equal(wgrad(grad, image, 1), wgrad(apart[1], apart[0], 1))


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
def test_threads_change_no_bit(layout: torch.memory_format, isa: str) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    try:
        for channels, filters, size, kernel, stride in (
            (24, 144, 56, 1, 1),
            (3, 32, 64, 3, 1),
            (40, 70, 14, 5, 1),
            (64, 300, 28, 1, 1),
            (40, 70, 29, 3, 2),
            (200, 170, 14, 1, 1),
        ):
            out = (size - 1) // stride + 1
            image = torch.randn(2, channels, size, size).contiguous(memory_format=layout)
            grad = torch.randn(2, filters, out, out).contiguous(memory_format=layout)
            results = []
            for threads in (1, 2, 5, 16):
                torch.set_num_threads(threads)
                results.append(wgrad(grad, image, kernel, stride, kernel // 2))
            assert all(torch.equal(results[0], r) for r in results[1:])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
def test_a_non_finite_channel_keeps_to_itself(layout: torch.memory_format, isa: str) -> None:
    """The last vector of a row ends in zeros, not in what stands behind it."""
    for kernel in (1, 3):
        image, grad = torch.ones(2, 20, 13, 13), torch.ones(2, 18, 13, 13)
        image[:, 7], grad[:, 5] = torch.inf, torch.nan
        image, grad = (t.contiguous(memory_format=layout) for t in (image, grad))
        result = wgrad(grad, image, kernel, padding=kernel // 2)
        finite = result.isfinite().flatten(2).all(2)
        expected = torch.ones(18, 20, dtype=torch.bool)
        expected[5], expected[:, 7] = False, False
        assert torch.equal(finite, expected)


def test_an_empty_batch_is_zero(isa: str) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        image = torch.empty(0, 20, 16, 16).contiguous(memory_format=layout)
        grad = torch.empty(0, 24, 16, 16).contiguous(memory_format=layout)
        assert torch.equal(wgrad(grad, image, 3, padding=1), torch.zeros(24, 20, 3, 3))
