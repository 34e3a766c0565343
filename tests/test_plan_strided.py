"""The plan of strided problems: who takes the gradient, and how deep layers on small maps are cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import convext
from tests.cases import ConvCase
from tests.reference import check

MIB = 1 << 20


def dgrad_plan(image: tuple[int, ...], weight: tuple[int, ...], **settings: Any) -> Any:
    return convext.conv_plan("dgrad", image, weight, **settings)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(
    ("image", "weight", "settings"),
    [
        ((1, 512, 14, 14), (512, 512, 3, 3), {"stride": 2, "padding": 1}),
        ((1, 512, 32, 32), (1024, 512, 2, 2), {"stride": 2}),
        ((4, 128, 16, 16), (256, 128, 4, 4), {"stride": 2, "padding": 1}),
        ((1, 512, 1599), (512, 512, 3), {"stride": 2}),
        ((1, 128, 4000), (256, 128, 16), {"stride": 8, "padding": 4}),
        ((1, 256, 8, 8, 8), (256, 256, 2, 2, 2), {"stride": 2}),
        ((1, 32, 9, 17), (64, 32, 3, 3), {"stride": (1, 2), "padding": 1}),
    ],
    ids=str,
)
def test_a_strided_gradient_is_a_product_and_a_fold(
    image: tuple[int, ...], weight: tuple[int, ...], settings: dict[str, Any], dtype: torch.dtype, isa: str
) -> None:
    assert dgrad_plan(image, weight, dtype=dtype, **settings).algorithm == "col2im"


@pytest.mark.parametrize(
    ("operator", "image", "weight", "settings", "reason"),
    [
        ("dgrad", (1, 64, 9, 9), (64, 64, 7, 7), {}, "the stride is one"),
        ("dgrad", (1, 64, 9, 9), (64, 64, 3, 3), {"stride": 2, "channels_last": True}, "channels_last"),
        (
            "dgrad",
            (1, 64, 9, 9),
            (64, 64, 3, 3),
            {"stride": 2, "padding": 1, "padding_mode": "circular"},
            "folds border pixels",
        ),
        ("dgrad", (1, 64, 100), (64, 64, 65), {"stride": 2}, "more than 64 taps"),
        ("dgrad", (1, 8, 9, 100_000), (8, 8, 5, 5), {"stride": 2}, "needs more than 3 MiB"),
    ],
    ids=str,
)
def test_it_says_what_it_declines(
    operator: str, image: tuple[int, ...], weight: tuple[int, ...], settings: dict[str, Any], reason: str
) -> None:
    plan = convext.conv_plan(operator, image, weight, **settings)
    assert plan.algorithm != "col2im"
    reasons = dict(plan.declined)
    assert "col2im" in reasons and reason in reasons["col2im"], plan


@pytest.mark.parametrize("threads", (1, 2, 16))
@pytest.mark.parametrize(
    "size", ((4, 4), (37, 21), (128, 128), (1024, 1024), (3, 4000), (4000, 3), (20_000,), (2_000_000,), (40, 40, 40))
)
@pytest.mark.parametrize(("kernel", "stride"), ((1, 2), (2, 2), (3, 2), (4, 2), (3, 3), (5, 4)))
def test_its_workspace_is_bounded(size: tuple[int, ...], kernel: int, stride: int, threads: int, isa: str) -> None:
    for dtype in (torch.float32, torch.float64):
        weight = (64, 48) + (kernel,) * len(size)
        plan = dgrad_plan((2, 48, *size), weight, stride=stride, padding=kernel // 2, dtype=dtype, num_threads=threads)
        if plan.algorithm == "col2im":
            assert plan.workspace_bytes <= 3 * MIB * threads + 64 * 8, plan


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("width", (33, 64, 65))
def test_a_strided_pointwise_gradient_at_every_edge_of_a_vector(width: int, dtype: torch.dtype) -> None:
    """Between the lines and the pixels that a window reads there is nothing but the bias."""
    for height, stride in ((4, 2), (5, 2), (7, 3), (5, (1, 2)), (5, (2, 1))):
        case = ConvCase((height, width), 1, (20, 9), batch=2, stride=stride)
        assert not check("dgrad", case, dtype, "integers", isa=convext.backends.cpu.isa_levels())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "channels"),
    [
        ((14, 14), 3, (30, 40)),
        ((13, 14), 1, (33, 40)),
        ((8, 8), 4, (13, 40)),
        ((6, 64), 2, (5, 300)),
        ((13,), 3, (16, 20)),
    ],
    ids=str,
)
def test_units_of_several_images(
    size: tuple[int, ...], kernel: int, channels: tuple[int, int], dtype: torch.dtype, isa: str
) -> None:
    """As many as fill vectors, of which the last tile may have one."""
    for batch in (1, 2, 5, 9):
        case = ConvCase(size, kernel, channels, batch=batch, stride=2, padding=kernel // 2)
        assert not check("dgrad", case, dtype, "integers")


def test_neither_images_of_a_unit_nor_threads_change_a_bit(isa: str, threads: None) -> None:
    grad, weight = torch.randn(9, 300, 7, 7), torch.randn(300, 20, 3, 3)
    torch.set_num_threads(1)
    want = torch.cat([convext.functional.conv_transpose2d(g[None], weight, stride=2, padding=1) for g in grad])
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        assert torch.equal(convext.functional.conv_transpose2d(grad, weight, stride=2, padding=1), want)


def test_bands_of_a_cut_image_agree_with_the_whole(isa: str) -> None:
    """Small integers are exact, so the cut may not show: along each axis that bands can cut."""
    for size, kernel in (((75, 33), 4), ((3001,), 3), ((13, 12, 11), 3), ((1, 2500), 3)):
        generator = torch.Generator().manual_seed(0)
        grad = torch.randint(-3, 4, (2, 5, *size), generator=generator).double()
        weight = torch.randint(-3, 4, (5, 3) + (kernel,) * len(size), generator=generator).double()
        name = f"conv_transpose{len(size)}d"
        settings: dict[str, Any] = {"stride": 2, "padding": 1 if size[0] > 1 else (0, 1), "output_padding": 0}
        if len(size) == 1:
            settings["padding"] = 1
        ours = getattr(convext.functional, name)(grad, weight, None, **settings)
        theirs = getattr(torch.nn.functional, name)(grad, weight, None, **settings)
        assert torch.equal(ours, theirs), (size, kernel)


def test_few_pixels_of_deep_layers_are_rows(isa: str) -> None:
    """49 pixels fill vectors badly, unless they are as short as the baseline's; 256 fill them well."""
    few = convext.conv_plan("fprop", (1, 512, 14, 14), (512, 512, 3, 3), stride=2, padding=1)
    many = convext.conv_plan("fprop", (4, 128, 16, 16), (256, 128, 4, 4), stride=2, padding=1)
    assert few.algorithm == many.algorithm == "packed"
    assert few.pixels_are_rows == (isa != "baseline") and not many.pixels_are_rows


def test_sums_of_one_block_keep_pixels_along_the_vector(isa: str) -> None:
    """They are stored as soon as they are begun, so that a transposition of the result is not repaid."""
    short = convext.conv_plan("fprop", (1, 96, 14, 14), (576, 96, 1, 1))
    assert short.algorithm == "packed" and not short.pixels_are_rows


def test_bands_serve_more_channels_where_a_pixel_has_many_readers(isa: str) -> None:
    many = convext.conv_plan("fprop", (1, 3, 227, 227), (96, 3, 11, 11), stride=4)
    few = convext.conv_plan("fprop", (1, 3, 224, 224), (96, 3, 4, 4), stride=4)
    with convext.backends.winograd.flags(enabled=False):
        narrow = convext.conv_plan("fprop", (1, 48, 7, 7), (128, 48, 5, 5), padding=2)
    assert (many.algorithm, few.algorithm, narrow.algorithm) == ("banded", "packed", "packed")
