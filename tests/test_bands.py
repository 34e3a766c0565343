"""Staged bands of 3-D kernels and of small maps, and images whose pointwise axes are joined into longer rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import pytest
import torch

import convext
from tests.cases import LAYOUTS, MODES, ConvCase
from tests.guard_pages import guarded
from tests.reference import OPERATORS, call, check, operands
from tests.test_plan import plan_of

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def banded() -> Iterator[ConvCase]:
    """Several blocks of a depth tap each: beside the image at either end, all of them; strides, dilation, modes."""
    yield ConvCase((6, 9, 11), 3, (40, 16), batch=1, padding=1)
    yield ConvCase((5, 8, 24), 5, (8, 16), padding=2)
    yield ConvCase((7, 9, 10), 3, (33, 15), stride=2, padding=1)
    yield ConvCase((3, 8, 9), 3, (30, 5), padding=((3, 4), (1, 1), (2, 0)))  # depths of padding alone
    yield ConvCase((9, 7, 8), (3, 2, 4), (24, 7), padding=((2, 1), (0, 1), (3, 2)), dilation=(2, 1, 1), bias=False)
    yield ConvCase((4, 20, 19), (2, 7, 7), (6, 20), padding=(1, 3, 3), stride=(1, 2, 2))
    yield ConvCase((4, 6, 300), (3, 3, 2), (20, 6), batch=1, padding=1)
    # Stages that are kept, of planes that take turns in a place; rows of whole vectors, an odd number of them.
    yield ConvCase((11, 7, 8), (3, 2, 4), (24, 14), padding=((2, 1), (0, 1), (3, 2)), dilation=(3, 1, 1))
    yield ConvCase((20, 33, 16), 3, (17, 12), batch=1, padding=1, bias=False)
    yield ConvCase((20, 19, 48), 3, (12, 9), batch=1, padding=1)
    yield ConvCase((20, 38, 48), 3, (10, 15), batch=1, stride=(1, 2, 2), padding=1)
    # Tiles of three vectors, the last of which have one, two and three; more than 64 rows, under a stride with a depth.
    yield ConvCase((3, 7, 6), 3, (4, 9), padding=1)
    yield ConvCase((3, 9, 10), 5, (3, 8), padding=2)
    yield ConvCase((5, 9, 29), 3, (20, 100), stride=2, padding=1)
    for mode in MODES[1:]:
        yield ConvCase((5, 6, 7), 3, (40, 9), padding=2, padding_mode=mode)


def short() -> Iterator[ConvCase]:
    """Bands whose last tile needs one vector or both; kernels that dgrad reads backwards, in a block or two."""
    for size in ((7, 7), (8, 8), (9, 11), (5, 6)):
        yield ConvCase(size, 5, (48, 20), padding=2)
    yield ConvCase((8, 8, 8), 3, (16, 33), batch=3, stride=2, padding=1)
    yield ConvCase((7, 5), (2, 3), (30, 34), groups=2)
    yield ConvCase((19, 20), 17, (3, 40), padding=8)  # 289 taps, more than a block
    yield ConvCase((6, 40), (1, 9), (70, 66), padding=(0, 4), dilation=(1, 2))
    for size in ((12, 12), (23, 29), (31, 33), (5, 13)):  # a single tap, read where it lies
        yield ConvCase(size, 1, (40, 3))


def joined() -> Iterator[ConvCase]:
    """A kernel along one axis or none: rows are planes, or volumes, wherever the layout has them follow each other."""
    for layout in LAYOUTS:
        yield ConvCase((5, 12, 28), (3, 1, 1), (70, 20), padding=(1, 0, 0), layout=layout)
        yield ConvCase((5, 9, 10), (2, 1, 1), (20, 33), stride=(2, 1, 1), layout=layout)
        yield ConvCase((3, 7, 9), 1, (40, 17), layout=layout)
        yield ConvCase((13, 11), 1, (33, 70), layout=layout)
        yield ConvCase((17, 1), (3, 1), (9, 12), padding=(1, 0), layout=layout)
        yield ConvCase((4, 1, 15), (2, 1, 1), (9, 12), layout=layout)
    yield ConvCase((6, 8, 9), (1, 1, 3), (20, 12), padding=(0, 0, 1), stride=(1, 1, 2))
    yield ConvCase((6, 8, 9), (1, 3, 1), (20, 12), groups=2)
    yield ConvCase((6, 8, 9), (3, 1, 1), (17, 17), groups=17, padding=(2, 0, 0))
    yield ConvCase((6, 8, 9), (3, 1, 1), (6, 4), padding=(1, 0, 0), padding_mode="circular")
    yield ConvCase((4, 40, 41), (3, 1, 1), (64, 32), batch=1, padding=(1, 0, 0))


def in_place() -> Iterator[ConvCase]:
    """Rows long enough to be read where they lie: of a single tap to few channels, and of a column of taps."""
    yield ConvCase((257, 256), 1, (20, 2))
    yield ConvCase((66000,), 1, (11, 3), batch=1)
    yield ConvCase((5, 16, 17), (3, 1, 1), (96, 12), padding=(1, 0, 0))
    yield ConvCase((6, 300), (4, 1), (70, 20), padding=((3, 2), (0, 0)), dilation=(2, 1), bias=False)
    yield ConvCase((9, 260), (5, 1), (60, 9), batch=1, stride=(2, 1), padding=(2, 0))
    yield ConvCase((5, 17, 25), (3, 1, 1), (300, 150), padding=((1, 0), (0, 0), (0, 0)), groups=3)
    yield ConvCase((12, 256), (5, 1), (64, 40), padding=((-1, 2), (0, 0)), dilation=(2, 1))
    yield ConvCase((4, 32, 32), (3, 1, 1), (96, 40), batch=1, padding=(1, 0, 0))  # channels in one set of L1
    yield ConvCase((24, 260), (3, 1), (96, 80), padding=(12, 0), dilation=(12, 1))
    for layout in LAYOUTS:
        yield ConvCase((5, 16, 17), (3, 1, 1), (100, 33), padding=(1, 0, 0), layout=layout)
    for mode in MODES[1:]:
        yield ConvCase((5, 17, 16), (3, 1, 1), (100, 10), padding=(2, 0, 0), padding_mode=mode)


BANDED, SHORT, JOINED, IN_PLACE = list(banded()), list(short()), list(joined()), list(in_place())


@pytest.mark.parametrize("draw", ("integers", "normal"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", BANDED + SHORT + JOINED + IN_PLACE, ids=lambda c: c.id)
def test_against_torch_in_float64(case: ConvCase, dtype: torch.dtype, draw: str, seed: int) -> None:
    with convext.backends.winograd.flags(enabled=False):
        for operator in OPERATORS:
            assert not check(operator, case, dtype, draw, seed=seed, isa=convext.backends.cpu.isa_levels())


@pytest.mark.parametrize("case", (*BANDED[:12], *SHORT[:6], *JOINED[:2], JOINED[-1], *IN_PLACE), ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_bits_do_not_depend_on_threads_or_batch(case: ConvCase, dtype: torch.dtype, threads: None, isa: str) -> None:
    with convext.backends.winograd.flags(enabled=False):
        for operator in ("fprop", "dgrad"):
            of = dataclasses.replace(case.transposed if operator == "dgrad" else case, batch=3)
            image, *rest = operands(operator, of, dtype, "normal", 1)
            assert image is not None
            results = []
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                results.append(call(operator, of, [image, *rest]))
            assert all(torch.equal(r, results[0]) for r in results), operator
            one = dataclasses.replace(of, batch=1)
            for n in range(3):
                assert torch.equal(call(operator, one, [image[n : n + 1], *rest])[0], results[0][n]), operator


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")
@pytest.mark.cpu_only("of the CPU's memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_beyond_the_operands(dtype: torch.dtype, isa: str) -> None:
    with convext.backends.winograd.flags(enabled=False):
        for case in (*BANDED, *SHORT, *JOINED[:6], *JOINED[-5:], *IN_PLACE):
            for operator in OPERATORS:
                of = case.transposed if operator == "dgrad" else case
                tensors = [t if t is None else guarded(t) for t in operands(operator, of, dtype, "normal", 2)]
                assert torch.isfinite(call(operator, of, tensors)).all()


@pytest.mark.cpu_only("of the CPU's plans")
def test_a_band_multiplies_no_depth_of_padding() -> None:
    """An infinite weight of a depth tap reaches no result at which that tap reads padding."""
    case = ConvCase((6, 9, 11), 3, (40, 16), batch=1, padding=1)
    with convext.backends.winograd.flags(enabled=False):
        assert plan_of("fprop", case).algorithm == "banded"
        x, w = torch.rand(case.input_shape) + 0.5, torch.rand(case.weight_shape) + 0.5
        w[:, :, 0] = float("inf")
        y = convext.functional.conv3d(x, w, padding=1)
    assert torch.isfinite(y[:, :, 0]).all() and not torch.isfinite(y[:, :, 1:]).any()


@pytest.mark.cpu_only("of the CPU's plans")
@pytest.mark.parametrize(("dilation", "algorithm"), ((1, "banded"), (64, "packed"), (512, "packed")))
def test_two_taps_far_apart_are_packed(dilation: int, algorithm: str) -> None:
    """A stage of both would hold little less than their panels do."""
    case = ConvCase((8064,), 2, (64, 128), batch=1, dilation=dilation)
    assert plan_of("dgrad", case).algorithm == algorithm


@pytest.mark.cpu_only("of the CPU's plans")
def test_a_column_of_taps_over_long_rows_is_a_depth() -> None:
    """It is planned as a kernel of depth over planes as long, but for depthwise ones."""
    planes = ConvCase((8, 28, 28), (3, 1, 1), (144, 64), batch=1, padding=(1, 0, 0))
    rows = ConvCase((8, 784), (3, 1), (144, 64), batch=1, padding=(1, 0))
    for operator in ("fprop", "dgrad"):
        assert plan_of(operator, planes) == plan_of(operator, rows), operator
    for channels in ((1, 1), (1, 4)):
        assert plan_of("fprop", ConvCase((100, 300), (5, 1), channels, padding=(2, 0))).algorithm == "depthwise_shifted"


@pytest.mark.cpu_only("of the CPU's plans")
def test_joined_axes_have_one_plan() -> None:
    """What is one matrix product is planned as one, however its pixels are numbered.

    wgrad sums over pixels in the order of their rows, which therefore stay apart (join_pointwise_axes): its workspace
    may differ, the algorithm and the tile do not.
    """
    sizes = (720,), (720, 1), (24, 30), (2, 12, 30)
    cases = [ConvCase(size, 1, (40, 48), batch=1) for size in sizes]
    for operator in ("fprop", "dgrad"):
        plans = [plan_of(operator, case) for case in cases]
        assert all(plan == plans[0] for plan in plans), operator
    heads = [str(plan_of("wgrad", case)).splitlines()[0] for case in cases]
    assert all(head == heads[0] for head in heads), heads
