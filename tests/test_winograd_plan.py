"""Winograd: what declines it, in words, and where it begins to be taken."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import convext
from tests.cases import ConvCase
from tests.reference import OPERATORS, WINOGRAD_TOLERANCE, operands
from tests.test_plan import plan_of
from tests.test_winograd import PAIRS, bound_on, problem
from tests.winograd_cases import LARGE


@pytest.mark.skipif(PAIRS not in convext.backends.cpu.isa_levels(), reason="needs bfloat16 dot products")
@pytest.mark.parametrize(
    ("operator", "case", "reason"),
    [
        ("fprop", ConvCase((31, 29), 3, (65, 65), padding=1), "65 columns leave panels of 96 emptier"),
        ("wgrad", ConvCase((32, 32, 32), 3, (16, 32), padding=1), "16 columns leave panels of 32 emptier"),
        ("dgrad", ConvCase((28, 28), 5, (32, 96), padding=2), None),
        ("fprop", ConvCase((28, 28), 5, (32, 96), padding=2, layout="channels_last"), "5 x 5 pairs of 32 channels"),
        ("fprop", ConvCase((28, 28), 5, (32, 96), padding=2), None),
        ("dgrad", ConvCase((14, 14), 3, (48, 65), padding=1), None),
        ("wgrad", ConvCase((13, 13), 3, (64, 96), padding=1), "13 x 13 pixels leave tiles emptier"),
        ("wgrad", ConvCase((14, 14), 3, (64, 96), padding=1), None),
        ("fprop", ConvCase((13, 13), 3, (64, 96), padding=1), "13 x 13 pixels leave tiles emptier"),
        ("fprop", ConvCase((13, 13), 3, (63, 96), padding=1), None),
        ("fprop", ConvCase((7, 7), 3, (62, 62), padding=1, groups=2), "49 pixels of pairs do not repay"),
        ("dgrad", ConvCase((7, 7), 3, (64, 64), padding=1, groups=2), "49 pixels of pairs do not repay"),
        ("dgrad", ConvCase((8, 8), 3, (64, 64), padding=1), "64 pixels of pairs do not repay"),
        ("fprop", ConvCase((7, 7), 3, (64, 64), padding=1), "49 pixels of pairs do not repay"),
        ("fprop", ConvCase((7, 7), 3, (63, 63), padding=1), None),
        ("fprop", ConvCase((8, 9), 3, (64, 64), padding=1), None),
        ("fprop", ConvCase((16, 16, 16), 3, (12, 16), padding=1), "a group has 12 x 16 channels"),
        ("fprop", ConvCase((64, 64), 3, (16, 32), padding=1), "a group has 16 x 32 channels"),
    ],
    ids=str,
)
def test_pairs_that_are_better_multiplied_directly(operator: str, case: ConvCase, reason: str | None) -> None:
    of = problem(operator, case)
    for level in ("avx512", PAIRS):
        with convext.backends.cpu.max_isa(level):
            declines = level == PAIRS and reason is not None
            plan = plan_of(operator, of, torch.bfloat16)
            assert (plan.algorithm != "winograd") == declines
            assert not declines or dict(plan.declined)["winograd"].startswith(str(reason))
            tensors = operands(operator, of, torch.bfloat16, "normal", 3)
            assert bound_on(operator, of, tensors) <= WINOGRAD_TOLERANCE[torch.bfloat16]


@pytest.mark.skipif(PAIRS not in convext.backends.cpu.isa_levels(), reason="needs bfloat16 dot products")
def test_small_maps_where_panels_would_widen() -> None:
    """5 x 5 on 7 x 7: tiles overhang too far, unless panels of pairs cost as much to make, those of an odd channel."""
    case = ConvCase((7, 7), 5, (49, 129), padding=2)
    for operator in ("fprop", "dgrad"):
        for level, taken in (("avx512", False), (PAIRS, True)):
            with convext.backends.cpu.max_isa(level):
                assert (plan_of(operator, case, torch.bfloat16).algorithm == "winograd") == taken
                tensors = operands(operator, case, torch.bfloat16, "normal", 3)
                assert bound_on(operator, case, tensors) <= WINOGRAD_TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kernel": 7, "padding": 3}, "the kernel is 7 x 7 in the plane, neither 3 x 3 nor 5 x 5"),
        ({"kernel": (3, 5), "padding": 2}, "the kernel is 3 x 5 in the plane, neither 3 x 3 nor 5 x 5"),
        ({"stride": 2}, "stride"),
        ({"dilation": 11, "padding": 11}, "tiles of pixels 11 apart do not fit a stage, which takes 10"),
        ({"dilation": 6, "padding": 6}, "32 x 32 pixels leave too much of their tiles empty"),
        ({"channels": (8, 64)}, "channels"),
        ({"channels": (64, 8)}, "channels"),
        ({"groups": 32}, "channels"),
        ({"size": (3, 3)}, "pixels"),
    ],
    ids=str,
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_declines_in_words(operator: str, changes: dict[str, Any], reason: str) -> None:
    case = dataclasses.replace(ConvCase((32, 32), 3, (64, 64), padding=1), **changes)
    plan = plan_of(operator, problem(operator, case))
    declined = dict(plan.declined)
    assert plan.algorithm != "winograd" and reason in declined.get("winograd", reason)


def test_declines_other_types_and_strides_of_a_depth() -> None:
    for dtype in (torch.complex64, torch.int32):
        assert plan_of("fprop", LARGE, dtype).algorithm != "winograd"
    for changes, reason in (
        ({"stride": (2, 1, 1)}, "the stride is not one"),
        ({"dilation": (2, 1, 1)}, "the depth is dilated"),
    ):
        volume = dataclasses.replace(ConvCase((8, 16, 16), 3, (64, 64), padding=1), **changes)
        assert dict(plan_of("fprop", volume).declined)["winograd"] == reason
    few = ConvCase((2, 4, 4), 3, (64, 64), padding=1)
    assert dict(plan_of("fprop", few).declined)["winograd"].startswith("2 x 4 x 4 pixels of a result are few")
    folded = dataclasses.replace(LARGE, padding_mode="reflect")
    assert "padding mode" in dict(plan_of("dgrad", folded).declined)["winograd"]


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "taken"),
    (
        ((8, 8, 8), (16, 16), (3, 3, 3), OPERATORS),
        ((8, 8, 8), (16, 16), (5, 5, 5), ()),
        ((8, 8, 8), (15, 16), (3, 3, 3), ()),
        ((8, 12, 12), (16, 16), (5, 5, 5), ()),
        ((11, 12, 12), (16, 16), (5, 5, 5), OPERATORS),
        ((12, 12, 12), (12, 12), (3, 3, 3), OPERATORS),
        ((12, 12, 12), (12, 11), (3, 3, 3), ()),
        ((12, 12, 12), (8, 16), (5, 5, 5), ("fprop",)),
        ((12, 12, 12), (16, 8), (5, 5, 5), ("dgrad", "wgrad")),
        ((12, 12, 12), (7, 20), (3, 3, 3), ()),
        ((1, 40, 40), (16, 16), (5, 5, 5), ()),  # four taps in five see padding alone
        ((2, 28, 28), (12, 12), (9, 3, 3), ()),
        ((3, 28, 28), (12, 12), (3, 3, 3), OPERATORS),
    ),
    ids=str,
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_few_channels_under_a_depth(
    operator: str,
    size: tuple[int, ...],
    channels: tuple[int, int],
    kernel: tuple[int, ...],
    taken: tuple[str, ...],
    isa: str,
) -> None:
    padding = tuple(k // 2 for k in kernel)
    case = problem(operator, ConvCase(size, kernel, channels, batch=1, padding=padding))
    assert (plan_of(operator, case).algorithm == "winograd") == (operator in taken)


def test_columns_that_leave_vectors_empty() -> None:
    """17 of 32 lanes are too few, 17 of 24 are not."""
    case = ConvCase((24, 24, 24), 5, (17, 17), batch=1, padding=2)
    for level, taken in (("avx512", False), ("avx2", True)):
        if level in convext.backends.cpu.isa_levels():
            with convext.backends.cpu.max_isa(level):
                assert (plan_of("fprop", case).algorithm == "winograd") == taken


@pytest.mark.parametrize(
    ("size", "kernel", "channels", "taken"),
    (
        ((56, 56), 3, (16, 32), True),
        ((57, 55), 3, (32, 16), False),
        ((64, 64), 3, (16, 31), False),
        ((49, 64), 3, (48, 20), True),
        ((32, 32), 5, (32, 16), True),
        ((33, 31), 5, (16, 32), False),
    ),
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_few_channels_of_planes(
    operator: str, size: tuple[int, int], kernel: int, channels: tuple[int, int], taken: bool, isa: str
) -> None:
    case = problem(operator, ConvCase(size, kernel, channels, batch=1, padding=kernel // 2))
    assert (plan_of(operator, case).algorithm == "winograd") == taken
