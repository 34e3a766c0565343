"""Shapes that nobody thought of, from hypothesis: the three operators against float64 torch, and integers for equality.

CONVEXT_TEST_EXAMPLES sets how many a test tries (default 300); with many thousands it becomes a search of an hour.
"""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convext
from tests.cases import LAYOUTS, MODES, ConvCase
from tests.reference import DTYPES, FLOATS, OPERATORS, check

LEVELS = convext.backends.cpu.isa_levels()
EXAMPLES = int(os.environ.get("CONVEXT_TEST_EXAMPLES", "300"))
MODERATE = settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
LARGEST_WORK = 300_000


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3, 8, 17)))
    c, k = (groups * draw(st.integers(1, max(1, 40 // groups))) for _ in range(2))
    mode = draw(st.sampled_from(MODES))
    size, kernel, stride, dilation, padding = [], [], [], [], []
    for axis in range(dims):
        kernel.append(draw(st.integers(1, 7 if dims < 3 else 3)))
        stride.append(draw(st.integers(1, 5)))
        dilation.append(draw(st.integers(1, 4)))
        extent = dilation[-1] * (kernel[-1] - 1)
        lo, hi = (draw(st.integers(-2, extent + 2)) for _ in range(2))
        smallest = max(extent + 1 - lo - hi, 1, 1 - lo - hi)
        if mode == "reflect":
            smallest = max(smallest, lo + 1, hi + 1)
        if mode == "circular":
            smallest = max(smallest, lo, hi)
        room = 20 if dims == 3 else 70 if dims == 1 or axis == 1 else 12
        size.append(smallest + draw(st.integers(0, room)))
        padding.append((lo, hi))
    return ConvCase(
        tuple(size),
        tuple(kernel),
        (c, k),
        batch=draw(st.integers(0, 3)),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
        padding_mode=mode,
        layout=draw(st.sampled_from(LAYOUTS)),
        bias=draw(st.booleans()),
    )


def affordable(case: ConvCase) -> ConvCase:
    """The same case with fewer channels where it would take long."""
    groups, (c, k) = case.groups, case.channels
    work = torch.Size(case.output_shape).numel() * torch.Size(case.weight_shape[1:]).numel()
    if work <= LARGEST_WORK:
        return case
    fewer = (max(groups, c // 8 // groups * groups), max(groups, k // 8 // groups * groups))
    return ConvCase(**{f: getattr(case, f) for f in case.__dataclass_fields__} | {"channels": fewer})


@given(
    case=conv_cases().map(affordable),
    operator=st.sampled_from(OPERATORS),
    dtype=st.sampled_from(FLOATS),
    draw=st.sampled_from(("normal", "adversarial")),
    seed=st.integers(0, 2**31),
)
@MODERATE
def test_random_values(case: ConvCase, operator: str, dtype: torch.dtype, draw: str, seed: int) -> None:
    fault = check(operator, case, dtype, draw, seed=seed, isa=LEVELS)
    assert fault is None, fault


@given(
    case=conv_cases().map(affordable),
    operator=st.sampled_from(OPERATORS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
@MODERATE
def test_integer_values(case: ConvCase, operator: str, dtype: torch.dtype, seed: int) -> None:
    fault = check(operator, case, dtype, "integers", seed=seed, isa=LEVELS)
    assert fault is None, fault


@given(
    case=conv_cases().map(affordable),
    threads=st.integers(2, 7),
    operator=st.sampled_from(OPERATORS),
    isa=st.sampled_from(LEVELS),
)
@settings(MODERATE, max_examples=EXAMPLES // 3)
def test_bits_do_not_depend_on_threads(case: ConvCase, threads: int, operator: str, isa: str) -> None:
    from tests.reference import call, operands

    problem = case.transposed if operator == "dgrad" else case
    tensors = operands(operator, problem, torch.float32, "normal", 3)
    count = torch.get_num_threads()
    try:
        with convext.backends.cpu.max_isa(isa):
            torch.set_num_threads(1)
            alone = call(operator, problem, tensors)
            torch.set_num_threads(threads)
            assert torch.equal(call(operator, problem, tensors), alone)
    finally:
        torch.set_num_threads(count)
