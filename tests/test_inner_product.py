"""Layers on images of one pixel as inner products of rows that are read where they lie."""

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

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def cases() -> Iterator[ConvCase]:
    """Sums of less than a vector more, of several chunks, and on both sides of them; blocks and tiles of every size."""
    for i, terms in enumerate((64, 65, 79, 127, 511, 1023, 1025, 2049, 4097, 9001)):
        yield ConvCase((1,), 1, (terms, 1 + 3 * i % 16), batch=1 + 5 * i % 13, bias=i % 2 == 0)
    yield ConvCase((4, 4), 4, (512, 1), batch=1)
    yield ConvCase((4, 4), 4, (40, 7), batch=50)
    yield ConvCase((3, 2, 5), (3, 2, 5), (18, 33), batch=3)
    yield ConvCase((1, 1), 1, (600, 100), batch=13, bias=False)
    yield ConvCase((3, 3), 3, (300, 34), batch=12, groups=2)
    yield ConvCase((1, 1), 1, (520, 16), batch=2, layout="channels_last")
    yield ConvCase((3, 3), 3, (70, 16), batch=2, layout="offset")
    yield ConvCase((1, 1), 1, (130, 5), batch=3, layout="expanded")


CASES = list(cases())


@pytest.mark.parametrize("draw", ("integers", "normal", "adversarial"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_against_torch_in_float64(case: ConvCase, dtype: torch.dtype, draw: str, seed: int) -> None:
    assert not check("fprop", case, dtype, draw, seed=seed, isa=convext.backends.cpu.isa_levels())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_bits_do_not_depend_on_threads_or_batch(case: ConvCase, dtype: torch.dtype, threads: None, isa: str) -> None:
    case = dataclasses.replace(case, batch=53, layout="contiguous")
    image, *rest = operands("fprop", case, dtype, "normal", 1)
    assert image is not None
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(call("fprop", case, [image, *rest]))
    assert all(torch.equal(r, results[0]) for r in results)
    for first, last in ((0, 1), (11, 14), (48, 53)):
        part = dataclasses.replace(case, batch=last - first)
        assert torch.equal(call("fprop", part, [image[first:last], *rest]), results[0][first:last])


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")
@pytest.mark.cpu_only("of the CPU's memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_beyond_the_operands(dtype: torch.dtype, isa: str) -> None:
    for case in CASES[:15]:
        tensors: list[Tensor | None] = [
            t if t is None else guarded(t) for t in operands("fprop", case, dtype, "normal", 2)
        ]
        assert torch.isfinite(call("fprop", case, tensors)).all()


@pytest.mark.cpu_only("of the CPU's plans")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_when_it_is_taken(dtype: torch.dtype) -> None:
    assert all(plan_of("fprop", case, dtype).algorithm == "inner_product" for case in CASES[:16])
    fewest = 256 if dtype == torch.float64 else 512
    for case, reason in (
        (ConvCase((1, 1), 1, (63, 5)), "63 terms, fewer than 64"),
        (ConvCase((1, 1), 1, (fewest - 12, 17)), f"{fewest - 12} terms, fewer than {fewest}"),
        (ConvCase((1, 2), 1, (500, 5)), "not a single pixel"),
        (ConvCase((2, 2), 2, (64, 5), layout="channels_last"), "not a single pixel"),
    ):
        assert any(reason in text for name, text in plan_of("fprop", case, dtype).declined if name == "inner_product")
