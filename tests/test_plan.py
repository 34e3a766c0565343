"""The plan: a pure function from a problem to algorithm, tile and workspace, that explains itself."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

import convext
from tests.cases import CASES, ConvCase
from tests.reference import DTYPES, OPERATORS

LEVELS = convext.backends.cpu.isa_levels()
MIB = 1 << 20


def plan_of(operator: str, case: ConvCase, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    return convext.conv_plan(operator, case.input_shape, case.weight_shape, dtype=dtype, **conf(case), **settings)


def conf(case: ConvCase) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(case, name) for name in names} | {"channels_last": case.layout == "channels_last"}


def problem(operator: str, case: ConvCase) -> ConvCase:
    return case.transposed if operator == "dgrad" else case


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_case_has_a_plan_that_explains_itself(operator: str, dtype: torch.dtype, isa: str) -> None:
    for case in CASES[::3]:
        plan = plan_of(operator, problem(operator, case), dtype)
        assert plan.algorithm and plan.isa in LEVELS and LEVELS.index(plan.isa) <= LEVELS.index(isa)
        assert all(edge >= 1 for edge in plan.tile) and plan.workspace_bytes >= 0
        for algorithm, reason in plan.declined:
            assert algorithm != plan.algorithm and len(reason.split()) >= 2, (algorithm, reason)
        text = str(plan)
        assert plan.algorithm in text and plan.isa in text
        assert all(reason in text for _, reason in plan.declined)


def test_a_plan_is_pure() -> None:
    """Asked twice, or after work was done, it is the same; and nobody can change it."""
    for operator in OPERATORS:
        for case in CASES[::10]:
            first = plan_of(operator, problem(operator, case))
            convext.functional.conv1d(torch.randn(1, 3, 50), torch.randn(4, 3, 5))
            assert plan_of(operator, problem(operator, case)) == first
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.algorithm = "other"


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_plan_does_not_depend_on_batch_or_threads(operator: str) -> None:
    """What fixes a sample's bits: algorithm, tile and instruction set."""
    for case in CASES:
        if case.batch == 0:
            continue
        plans = {
            (p.algorithm, p.isa, tuple(p.tile))
            for batch in (1, 2, 7, 64)
            for threads in (1, 2, 16)
            for p in [plan_of(operator, dataclasses.replace(problem(operator, case), batch=batch), num_threads=threads)]
        }
        assert len(plans) == 1, f"{case}: {plans}"


def packed_weight_bytes(case: ConvCase, dtype: torch.dtype, tile: tuple[int, int]) -> int:
    """One packed copy of the weight, channels rounded up to the tile; half types packed as float32."""
    up = max(tile)
    k, c = (-(-n // case.groups // up) * up for n in (case.channels[1], case.channels[0]))
    taps = torch.Size(case.kernel).numel()
    width = max(dtype.itemsize, 4)
    return (
        case.groups
        * taps
        * max(k * -(-case.channels[0] // case.groups), c * -(-case.channels[1] // case.groups))
        * width
    )


LARGE = (
    ConvCase((224, 224), 3, (64, 64), batch=32, padding=1),
    ConvCase((224, 224), 7, (3, 64), batch=32, stride=2, padding=3),
    ConvCase((2000, 2000), 3, (3, 16), batch=1, padding=1),
    ConvCase((56, 56), 1, (256, 64), batch=64, layout="channels_last"),
    ConvCase((14, 14), 3, (512, 512), batch=64, padding=1),
    ConvCase((112, 112), 3, (96, 96), batch=64, padding=1, groups=96),
    ConvCase((64, 64, 64), 3, (32, 32), batch=4, padding=1),
    ConvCase((1_000_000,), 15, (16, 16), batch=8, dilation=64),
    ConvCase((64, 64), 4, (128, 256), batch=16, stride=2, padding=1),
    ConvCase((300, 300), 5, (32, 32), batch=8, padding=2, padding_mode="reflect"),
)


@pytest.mark.parametrize("threads", (1, 2, 16))
@pytest.mark.parametrize("case", LARGE, ids=lambda c: c.id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_workspace_is_bounded(operator: str, case: ConvCase, threads: int, isa: str) -> None:
    """At most 8 MiB a thread and one packed copy of the weight, in every type."""
    for dtype in DTYPES:
        plan = plan_of(operator, problem(operator, case), dtype, num_threads=threads)
        bound = 8 * MIB * threads + packed_weight_bytes(case, dtype, plan.tile)
        assert plan.workspace_bytes <= bound, f"{dtype}: {plan}"


@pytest.mark.parametrize("case", LARGE, ids=lambda c: c.id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_workspace_does_not_grow_with_batch_or_image(operator: str, case: ConvCase, isa: str) -> None:
    """Beyond a size at which every block is full, nothing is added."""

    def bytes_of(**changes: Any) -> int:
        return plan_of(operator, problem(operator, dataclasses.replace(case, **changes)), num_threads=1).workspace_bytes

    assert bytes_of(batch=4096) == bytes_of(batch=256)
    large, larger = (tuple(n * s for s in case.size) for n in (16, 32))
    assert bytes_of(size=larger) == bytes_of(size=large)


def test_workspace_bytes_is_the_plans() -> None:
    case = LARGE[0]
    for operator in OPERATORS:
        plan = plan_of(operator, case, num_threads=2)
        assert (
            convext.workspace_bytes(operator, case.input_shape, case.weight_shape, padding=1, num_threads=2)
            == plan.workspace_bytes
        )


def test_every_algorithm_is_reached_by_some_case() -> None:
    """An algorithm that no case takes is not tested at all."""
    taken, named = set(), set()
    for level in LEVELS:
        with convext.backends.cpu.max_isa(level):
            for operator in OPERATORS:
                for case in CASES:
                    for dtype in DTYPES[:1] + DTYPES[-1:]:
                        plan = plan_of(operator, problem(operator, case), dtype)
                        taken.add(plan.algorithm)
                        named |= {plan.algorithm, *(name for name, _ in plan.declined)}
    assert named == taken, f"never taken: {named - taken}"


def test_only_algorithms_for_the_operator_decline() -> None:
    elsewhere = {"fprop": {"correlation", "outer_product", "col2im"}, "dgrad": {"correlation", "outer_product"}}
    elsewhere["fprop"] |= {"row_combination"}
    elsewhere["dgrad"] |= {"inner_product"}
    elsewhere["wgrad"] = {"col2im", "banded", "inner_product", "row_combination", "narrow_channels_last"}
    for operator in OPERATORS:
        for case in CASES:
            for algorithm, _ in plan_of(operator, problem(operator, case)).declined:
                assert algorithm not in elsewhere[operator], (operator, case)


@pytest.mark.parametrize("filters", (2, 4))
def test_channels_of_several_filters_are_filtered_in_lanes(filters: int) -> None:
    case = ConvCase((9, 10), 3, (64, 64 * filters), groups=64, padding=1, layout="channels_last")
    for level in LEVELS:
        with convext.backends.cpu.max_isa(level):
            for operator in OPERATORS:
                plan = plan_of(operator, problem(operator, case))
                assert plan.algorithm == "depthwise_channels_last", plan


@pytest.mark.parametrize("size", (1, 2, 4, 8))
def test_groups_that_divide_a_vector_are_filtered_in_its_lanes(size: int) -> None:
    """On channels_last images, each operator, at every level whose vector holds a group."""
    case = ConvCase((9, 10), 3, (64, 64), groups=64 // size, padding=1, layout="channels_last")
    for level in LEVELS:
        with convext.backends.cpu.max_isa(level):
            for operator in OPERATORS:
                plan = plan_of(operator, problem(operator, case))
                fits = level != "baseline" or size <= 4
                assert (plan.algorithm == "depthwise_channels_last") == fits, plan


@pytest.mark.parametrize(
    ("case", "reason"),
    (
        (ConvCase((9, 10), 3, (64, 192), groups=64, layout="channels_last"), "nor one with 2 or 4 filters"),
        (ConvCase((9, 10), 3, (96, 96), groups=32, layout="channels_last"), "1, 2, 4 or 8 channels on both sides"),
        (ConvCase((9, 10), 3, (64, 64), groups=4, layout="channels_last"), "1, 2, 4 or 8 channels on both sides"),
        (ConvCase((9, 10), 3, (64, 64), groups=16), "not channels_last"),
        (ConvCase((9, 10), 3, (8, 8), groups=2, layout="channels_last"), "8 channels do not fill a vector"),
        (ConvCase((20, 20), 9, (64, 64), groups=16, layout="channels_last"), "324 terms, more than 256"),
    ),
    ids=str,
)
def test_groups_that_are_not_say_why(case: ConvCase, reason: str) -> None:
    plan = plan_of("fprop", case)
    if reason.startswith("8 channels") and plan.isa != "avx512":
        pytest.skip("a shorter vector is filled")
    assert reason in dict(plan.declined)["depthwise_channels_last"], plan


def test_defaults_are_those_of_the_functions() -> None:
    plan = convext.conv_plan("fprop", (1, 3, 8, 8), (4, 3, 3, 3))
    assert plan == convext.conv_plan(
        "fprop",
        [1, 3, 8, 8],
        [4, 3, 3, 3],
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        padding_mode="zeros",
        dtype=torch.float32,
        channels_last=False,
        num_threads=torch.get_num_threads(),
    )
    assert convext.conv_plan("fprop", (1, 3, 8, 8), (4, 3, 3, 3), padding="same").algorithm


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("forward", (1, 3, 8, 8), (4, 3, 3, 3)), {}),
        (("fprop", (1, 3, 8, 8), (4, 2, 3, 3)), {}),
        (("fprop", (1, 3, 8, 8), (4, 3, 9, 9)), {}),
        (("fprop", (1, 3, 8, 8), (4, 3, 3, 3)), {"stride": 0}),
        (("fprop", (1, 3, 8, 8), (4, 3, 3, 3)), {"padding_mode": "mirror"}),
        (("fprop", (1, 3, 8, 8), (4, 3, 3, 3)), {"dtype": torch.bool}),
        (("fprop", (3, 8, 8), (4, 3, 3, 3)), {}),
    ],
    ids=str,
)
def test_a_wrong_problem_has_no_plan(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RuntimeError, TypeError, NotImplementedError)):
        convext.conv_plan(*args, **kwargs)


def test_levels_ascend_from_baseline() -> None:
    order = ["baseline", "avx2", "avx512", "avx512_bf16"]
    assert LEVELS[0] == "baseline"
    assert [level for level in order if level in LEVELS] == LEVELS or set(LEVELS) - set(order)


def test_max_isa_is_set_and_put_back() -> None:
    before = convext.backends.cpu.get_max_isa()
    for level in LEVELS:
        with convext.backends.cpu.max_isa(level):
            assert convext.backends.cpu.get_max_isa() == level
            assert convext.conv_plan("fprop", (1, 16, 32, 32), (16, 16, 3, 3)).isa == level
    assert convext.backends.cpu.get_max_isa() == before
    with pytest.raises(ZeroDivisionError), convext.backends.cpu.max_isa("baseline"):
        raise ZeroDivisionError
    assert convext.backends.cpu.get_max_isa() == before


@pytest.mark.parametrize("name", ("sse", "", "AVX2", "avx1024"))
def test_unknown_level(name: str) -> None:
    before = convext.backends.cpu.get_max_isa()
    with pytest.raises(ValueError):
        convext.backends.cpu.set_max_isa(name)
    assert convext.backends.cpu.get_max_isa() == before


PRINT_LEVEL = "import convext; print(convext.conv_plan('fprop', (1, 16, 32, 32), (16, 16, 3, 3)).isa)"


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_environment_caps_the_level(level: str) -> None:
    result = in_a_process(PRINT_LEVEL, CONVEXT_MAX_ISA=level)
    assert result.stdout.split() == [level], result.stderr


def test_environment_with_an_unknown_level_is_an_error_that_names_the_known() -> None:
    result = in_a_process(PRINT_LEVEL, CONVEXT_MAX_ISA="sse9")
    assert result.returncode != 0
    assert "sse9" in result.stderr and "baseline" in result.stderr


def test_the_tile_in_words(isa: str) -> None:
    plan = convext.conv_plan("fprop", (1, 64, 28, 28), (256, 64, 7, 7))
    assert plan.algorithm == "packed"
    rows = "pixels x channels" if plan.pixels_are_rows else "channels x pixels"
    assert f"tile {plan.tile[0]} x {plan.tile[1]} ({rows})" in str(plan)
    plan = convext.conv_plan("wgrad", (8, 16, 64, 64), (16, 16, 3, 3))
    assert (f"in {plan.slices} slices" in str(plan)) == (plan.slices > 1)
