"""dgrad on images of one pixel as combinations of the weight's rows, read where they lie."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import convext
from tests.cases import ConvCase
from tests.guard_pages import guarded
from tests.reference import call, check, operands
from tests.test_plan import plan_of

DTYPES = (torch.float32, torch.float64)


def cases() -> Iterator[ConvCase]:
    """Results that end inside of vectors, tiles and units; sums of several blocks; one, a few and many samples."""
    for i, (results, terms) in enumerate(((70000, 1), (769, 90), (2049, 33), (1537, 255), (130, 513), (767, 257))):
        yield ConvCase((1,), 1, (results, terms), batch=1 + 16 * i % 35, bias=i % 2 == 0)
    yield ConvCase((4, 4), 4, (64, 100), batch=1)
    yield ConvCase((3, 2, 5), (3, 2, 5), (70, 33), batch=3)
    yield ConvCase((1, 1), 1, (520, 520), batch=18, groups=2)
    yield ConvCase((1, 1), 1, (3, 30000), batch=2)
    yield ConvCase((1, 1), 1, (520, 160), batch=2, layout="channels_last")
    yield ConvCase((3, 3), 3, (70, 160), batch=2, layout="offset")
    yield ConvCase((1, 1), 1, (130, 600), batch=3, layout="expanded")


CASES = [case.transposed for case in cases()]


@pytest.mark.parametrize("draw", ("integers", "normal", "adversarial"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_against_torch_in_float64(case: ConvCase, dtype: torch.dtype, draw: str, seed: int) -> None:
    assert not check("dgrad", case, dtype, draw, seed=seed, isa=convext.backends.cpu.isa_levels())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_bits_do_not_depend_on_threads_or_batch(case: ConvCase, dtype: torch.dtype, threads: None, isa: str) -> None:
    case = dataclasses.replace(case, batch=35, layout="contiguous")
    image, *rest = operands("dgrad", case, dtype, "normal", 1)
    assert image is not None
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(call("dgrad", case, [image, *rest]))
    assert all(torch.equal(r, results[0]) for r in results)
    for first, last in ((0, 1), (11, 14), (15, 33)):
        part = dataclasses.replace(case, batch=last - first)
        assert torch.equal(call("dgrad", part, [image[first:last], *rest]), results[0][first:last])


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")
@pytest.mark.cpu_only("of the CPU's memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_beyond_the_operands(dtype: torch.dtype, isa: str) -> None:
    for case in CASES[:10]:
        tensors: list[Tensor | None] = [
            t if t is None else guarded(t) for t in operands("dgrad", case, dtype, "normal", 2)
        ]
        assert torch.isfinite(call("dgrad", case, tensors)).all()


@pytest.mark.cpu_only("of the CPU's plans")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_when_it_is_taken(dtype: torch.dtype) -> None:
    for case in CASES[:10]:
        assert plan_of("dgrad", case, dtype).algorithm == "row_combination", case
    for case, reason in (
        (ConvCase((1, 1), 1, (100, 100)).transposed, "KiB, less than 256"),
        (ConvCase((1, 2), 1, (600, 200)).transposed, "not a single pixel"),
    ):
        assert any(reason in text for name, text in plan_of("dgrad", case, dtype).declined if name == "row_combination")


@pytest.mark.cpu_only("of the CPU's plans")
def test_half_types_decline() -> None:
    declined = dict(plan_of("dgrad", CASES[1], torch.bfloat16).declined)
    assert declined["row_combination"] == "its operands would have to be widened first"
