"""Large dilations on small images: zones of pixels (fprop, dgrad) and boxes of taps (wgrad) that leave padding out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import convext
import convext.functional as CF
from tests.cases import LAYOUTS, ConvCase
from tests.reference import OPERATORS, call, check, operands
from tests.test_plan import plan_of

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def cases() -> Iterator[ConvCase]:
    """Zones of every shape: of a pixel, of no tap, unequal; several units, panels and blocks of channels."""
    yield ConvCase((28, 28), 3, (128, 96), batch=1, padding=12, dilation=12)
    yield ConvCase((28, 28), 3, (300, 70), batch=2, padding=18, dilation=18)
    yield ConvCase((19, 31), 3, (70, 129), batch=3, padding=((14, 11), (3, 17)), dilation=(13, 11), bias=False)
    yield ConvCase((17, 16), 3, (64, 65), padding=((40, 11), (12, 30)), dilation=(11, 12))  # more padding than image
    yield ConvCase((30, 30), 3, (80, 80), padding=((-2, 15), (13, -1)), dilation=14)
    yield ConvCase((25, 40), (3, 5), (64, 64), padding=(12, 24), dilation=12)
    yield ConvCase((33, 33), 3, (72, 64), padding=16, dilation=16, stride=2)
    yield ConvCase((31, 35), (3, 2), (64, 80), padding=((13, 12), (15, 9)), dilation=13, stride=(3, 1))
    yield ConvCase((26, 27), 3, (192, 144), groups=2, padding=13, dilation=13)
    yield ConvCase((600,), 2, (128, 72), padding=((512, 0),), dilation=512)
    yield ConvCase((30,), 35, (66, 130), padding=340, dilation=20)
    yield ConvCase((16, 15), 3, (130, 134), groups=2, padding=8, dilation=8)  # odd channels of a group
    yield ConvCase((3, 20, 21), 3, (64, 64), batch=1, padding=(1, 12, 12), dilation=(1, 12, 12))
    for layout in LAYOUTS[1:]:
        yield ConvCase((22, 23), 3, (64, 66), padding=12, dilation=12, layout=layout)


CASES = list(cases())
CONTIGUOUS = next(i for i, case in enumerate(CASES) if case.layout != "contiguous")


@pytest.mark.parametrize("draw", ("integers", "normal", "adversarial"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_against_torch_in_float64(case: ConvCase, dtype: torch.dtype, draw: str, seed: int) -> None:
    for operator in OPERATORS:
        assert not check(operator, case, dtype, draw, seed=seed, isa=convext.backends.cpu.isa_levels())


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("case", CASES[:CONTIGUOUS], ids=lambda c: c.id)
@pytest.mark.parametrize(
    "dtype",
    (torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.cpu_only("other kernels have no pairs"))),
    ids=str,
)
def test_bits_do_not_depend_on_threads_or_batch(case: ConvCase, dtype: torch.dtype, threads: None, isa: str) -> None:
    for operator in OPERATORS:
        of = dataclasses.replace(case.transposed if operator == "dgrad" else case, batch=3)
        tensors = operands(operator, of, dtype, "normal", 1)
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(call(operator, of, tensors))
        assert all(same_bits(r, results[0]) for r in results[1:]), operator
        if operator == "wgrad":
            continue
        one = dataclasses.replace(of, batch=1)
        image, *rest = tensors
        assert image is not None
        for n in range(3):
            assert same_bits(call(operator, one, [image[n : n + 1], *rest])[0], results[0][n]), operator


@pytest.mark.cpu_only("other kernels have no zones")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_taps_than_zones_have(dtype: torch.dtype) -> None:
    """A strided gradient to a single row has some of 301 taps, and the panels of zones all of them."""
    image, weight = torch.randn(1, 64, 1, 40, dtype=torch.float64), torch.randn(64, 160, 301, 1, dtype=torch.float64)
    image, weight = image.to(dtype), weight.to(dtype)
    ours = CF.conv_transpose2d(image, weight, stride=(2, 1), padding=(150, 0)).double()
    theirs = torch.nn.functional.conv_transpose2d(image.double(), weight.double(), stride=(2, 1), padding=(150, 0))
    assert (ours - theirs).norm() <= 8 * torch.finfo(dtype).eps * theirs.norm()


@pytest.mark.cpu_only("other kernels multiply padding")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_left_out_is_not_multiplied(dtype: torch.dtype) -> None:
    """The sign of zones: a weight that is not finite reaches no pixel at which its tap reads padding."""
    case = CASES[0]
    for operator in ("fprop", "dgrad"):
        assert plan_of(operator, case, dtype=dtype).algorithm == "packed"
        image, weight, bias = operands(operator, case, dtype, "integers", 0)
        assert weight is not None
        weight[:, :, 0, 0] = float("inf")
        result = call(operator, case, [image, weight, bias])
        reaches = torch.zeros(28, 28, dtype=torch.bool)
        if operator == "fprop":
            reaches[12:, 12:] = True
        else:
            reaches[:16, :16] = True
        assert not result[..., ~reaches].isnan().any() and not result[..., ~reaches].isinf().any()
        assert not result[..., reaches].isfinite().any()
