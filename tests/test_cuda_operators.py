"""The CUDA operators, emulated: every schedule gives the same bits, 64-bit offsets are right, and how they plan."""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests import cuda_carried, cuda_emulation, devices
from tests.cases import CASES, LAYOUTS, MODES, ConvCase
from tests.cuda_cases import CONVOLUTIONS, OTHERS, image, there_and_back
from tests.reference import FLOATS, OPERATORS, call, check, operands
from tests.test_determinism import same_bits


@pytest.fixture(autouse=True)
def emulated(request: pytest.FixtureRequest) -> Iterator[cuda_emulation.Emulator]:
    if request.config.getoption("--device") != "emulated":
        pytest.skip("needs --device emulated")
    emulator = cuda_emulation.load()
    launches = emulator.launches()
    yield emulator
    if "plan" not in request.node.name:
        assert emulator.launches() > launches, "no kernel ran in the emulator"


each_convolution = pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: c.id)


def test_places_that_many_inputs_share(emulated: cuda_emulation.Emulator, seed: int) -> None:
    """Lists of every length, up to one that holds the whole plane: the last input, or all in ascending order."""
    count, size = 90, 40
    places = torch.stack(
        [
            torch.zeros(count, dtype=torch.int64),
            torch.arange(count) % size,
            torch.arange(count) // 40,  # lists of 40, 40 and 10
            torch.randint(size, (count,)),
        ]
    ).view(1, 4, 9, 10)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int32):
        x = torch.randn(1, 4, 9, 10).mul(100).to(dtype)
        for accumulate in (False, True):
            run = functools.partial(torch.ops.convext.place_scatter, x, places, [5, 8], accumulate)
            first, *others = in_every_schedule(emulated, run)
            wide = x.double() if x.is_floating_point() else x
            expected = torch.zeros(4, size, dtype=wide.dtype)
            for plane, (at, values) in enumerate(zip(places.view(4, count), wide.view(4, count), strict=True)):
                for place, value in zip(at.tolist(), values, strict=True):
                    expected[plane, place] = value + (expected[plane, place] if accumulate else 0)
            tolerance = {torch.bfloat16: 8e-3, torch.float32: 1e-6}.get(dtype, 1e-14)
            torch.testing.assert_close(
                first.view(4, size).to(wide.dtype), expected, rtol=tolerance, atol=100 * tolerance
            )
            assert all(same_bits(first, other) for other in others), dtype


def test_places_outside_are_reported(emulated: cuda_emulation.Emulator) -> None:
    image, places = torch.ones(1, 1, 4), torch.tensor([[[0, 4]]])
    with pytest.raises(RuntimeError, match="expected places from 0 to 3, got 4"):
        torch.ops.convext.place_gather(image, places)
    with pytest.raises(RuntimeError, match="expected places from 0 to 3, got -1"):
        torch.ops.convext.place_scatter(torch.ones(1, 1, 2), places - 1, [4], True)
    torch.ops.convext.place_gather(image, places - 1 + places.eq(0))


def in_every_schedule(emulator: cuda_emulation.Emulator, run: Callable[[], Tensor]) -> list[Tensor]:
    results = []
    for schedule, seed in (("ascending", 0), ("reversed", 0), ("random", 1), ("random", 2)):
        emulator.set_schedule(schedule, seed)
        results.append(run())
    return results


@each_convolution
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_schedule_of_convolution(
    emulated: cuda_emulation.Emulator, operator: str, case: ConvCase, seed: int
) -> None:
    problem = case.transposed if operator == "dgrad" else case
    for dtype in FLOATS:
        tensors = operands(operator, problem, dtype, "normal", seed)
        first, *others = in_every_schedule(emulated, functools.partial(call, operator, problem, tensors))
        assert not first.isnan().any()
        assert all(same_bits(first, other) for other in others), dtype


@each_convolution
@pytest.mark.parametrize("operator", OPERATORS)
def test_64_bit_offsets_of_convolution(
    emulated: cuda_emulation.Emulator, operator: str, case: ConvCase, seed: int
) -> None:
    with emulated.wide_offsets():
        for dtype in FLOATS:
            assert check(operator, case, dtype, seed=seed) is None


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("name", OTHERS)
def test_every_schedule_and_64_bit_offsets(emulated: cuda_emulation.Emulator, name: str, channels_last: bool) -> None:
    """Result and gradient: the same bits from every schedule and with offsets of either width."""
    for dtype in (torch.float32, torch.bfloat16):
        x = image(dtype, channels_last)
        run = functools.partial(there_and_back, OTHERS[name], x)
        first, *others = in_every_schedule(emulated, run)
        with emulated.wide_offsets():
            others.append(run())
        assert not first.isnan().any()
        assert all(same_bits(first, other) for other in others), dtype


def test_every_operator_is_emulated(emulated: cuda_emulation.Emulator) -> None:
    """The CUDA sources have each operator that tensors on a GPU meet, and each of them launches a kernel."""
    every = set(torch.ops.convext) - set(cuda_carried.OF_PLAIN_CALLS)
    assert set(cuda_emulation.emulated_operators()) == every
    launched: set[str] = set()

    class Launches(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = emulated.launches()
            result = func(*args, **(kwargs or {}))
            if emulated.launches() > before:
                launched.add(func.__name__.split(".")[0])
            return result

    with Launches():
        x = image(torch.float32, channels_last=False)
        for function in OTHERS.values():
            there_and_back(function, x)
            with torch.no_grad():  # which takes operators that keep nothing for a gradient
                function(x)
        torch.func.jvp(OTHERS["max pool"], (x,), (x,))
        for operator in OPERATORS:
            call(operator, CONVOLUTIONS[0], operands(operator, CONVOLUTIONS[0], torch.float32, "normal", 0))
    assert launched == every


def test_the_cases_of_the_emulator_reach_every_plan() -> None:
    """Those that the bound of tests/devices.py leaves: every algorithm, tile and way to cut wgrad's sum."""
    assert len(CASES) > 300 and max(case.multiply_adds for case in CASES) <= devices.EMULATED_MULTIPLY_ADDS
    taken = set()
    for case, operator in itertools.product((*CASES, *CONVOLUTIONS), OPERATORS):
        taken.add(algorithm_of(operator, case.transposed if operator == "dgrad" else case))
    assert {words.split()[0] for words in taken} == {"gemm", "depthwise", "direct"}, taken
    assert len({words for words in taken if words.startswith("gemm")}) > 1, taken
    assert {case.layout for case in CASES} == set(LAYOUTS)
    assert {case.padding_mode for case in CASES} == set(MODES)


def plan(
    operator: str,
    size: tuple[int, int],
    kernel: int,
    channels: tuple[int, int],
    *,
    batch: int = 8,
    groups: int = 1,
    stride: int = 1,
    floating: bool = True,
    wide_offsets: bool = False,
    element_bytes: int = 4,
    tf32: bool = False,
    runs: tuple[int, ...] = (0, 0),
    planes: bool = False,
) -> str:
    """The plan of a padded 2-D convolution, in words; channels are those of one group.

    `runs` of image, weight and result: CHANNELS and PIXELS, added. `planes`: rows are contiguous.
    """
    library = cuda_emulation.load().library
    library.convext_cuda_plan.restype = ctypes.c_char_p
    axes = [1, 1, 1, 1, 0, 0]
    for extent in size:
        axes += [extent, kernel, stride, 1, kernel // 2, kernel // 2]
    numbers = [ctypes.c_int64(n) for n in (batch, groups, *channels)]
    array = (ctypes.c_int64 * 18)(*axes)
    flags = (OPERATORS.index(operator), int(floating), int(wide_offsets))
    copies = (element_bytes, int(tf32), (ctypes.c_int * 3)(*runs), int(planes))
    return str(library.convext_cuda_plan(*flags, *numbers, 0, array, *copies).decode())


CHANNELS, PIXELS = 1, 2


def runs_of(sizes: tuple[int, ...], strides: tuple[int, ...], element_bytes: int, address: int = 0) -> int:
    """CHANNELS and PIXELS, added, of a tensor of (outer, channels, depth, height, width)."""
    library = cuda_emulation.load().library
    arrays = [(ctypes.c_int64 * 5)(*numbers) for numbers in (sizes, strides)]
    return int(library.convext_cuda_runs(ctypes.c_int64(address), element_bytes, *arrays))


def algorithm_of(operator: str, case: ConvCase) -> str:
    library = cuda_emulation.load().library
    library.convext_cuda_plan.restype = ctypes.c_char_p
    axes = [1, 1, 1, 1, 0, 0] * (3 - case.dims)
    per_axis = zip(case.size, case.kernel, case.stride, case.dilation, case.padding, strict=True)
    for extent, kernel, stride, dilation, pair in per_axis:
        axes += [extent, kernel, stride, dilation, *pair]
    channels = [c // case.groups for c in case.channels]
    numbers = [ctypes.c_int64(n) for n in (case.batch, case.groups, *channels)]
    flags = (OPERATORS.index(operator), 1, 0)
    array = (ctypes.c_int64 * 18)(*axes)
    copies = (4, 0, (ctypes.c_int * 3)(), 0)  # float32, whose elements lie nowhere next to each other
    words = library.convext_cuda_plan(*flags, *numbers, MODES.index(case.padding_mode), array, *copies).decode()
    return str(words.split(" slices ")[0])


@pytest.mark.parametrize("operator", OPERATORS)
def test_plan_of_tiles(operator: str) -> None:
    assert plan(operator, (56, 56), 3, (64, 64)).startswith("gemm large")
    assert plan(operator, (56, 56), 3, (16, 16)).startswith("gemm small")
    assert plan(operator, (56, 56), 3, (64, 64), wide_offsets=True).startswith("gemm small")
    assert plan(operator, (56, 56), 3, (1, 1), groups=64).startswith("depthwise")
    direct = plan(operator, (56, 56), 3, (64, 64), floating=False)
    assert direct.startswith("direct") and "integers and complex numbers" in direct


def test_plan_of_stores() -> None:
    half = functools.partial(plan, size=(56, 56), channels=(128, 128), element_bytes=2)
    for operator in ("fprop", "dgrad"):
        assert "c along rows" in half(operator, kernel=3, runs=(CHANNELS, CHANNELS, CHANNELS))
        assert "c along columns" in half(operator, kernel=1, runs=(PIXELS, CHANNELS, PIXELS))
        assert "c elements" in half(operator, kernel=3, runs=(CHANNELS, CHANNELS, PIXELS))
        assert "c elements" in half(operator, kernel=3, runs=(PIXELS, CHANNELS, CHANNELS))
    assert "c elements" in half("wgrad", kernel=3, runs=(CHANNELS, CHANNELS, CHANNELS))


def test_plan_of_arithmetic() -> None:
    for element_bytes, tf32, words in (
        (4, False, "by multiply-adds"),
        (4, True, "by tensor cores"),
        (2, False, "by tensor cores"),
        (8, True, "by tensor cores"),
    ):
        assert words in plan("fprop", (56, 56), 3, (64, 64), element_bytes=element_bytes, tf32=tf32)


def test_plan_of_runs_of_16_bytes() -> None:
    channels_last, planes = (2048, 1, 2048, 256, 16), (2048, 128, 128, 16, 1)
    sizes = (2, 16, 1, 8, 16)
    assert runs_of(sizes, channels_last, 2) == runs_of(sizes, channels_last, 4) == CHANNELS
    assert runs_of(sizes, planes, 2) == PIXELS
    assert runs_of(sizes, planes, 2, address=16) == PIXELS
    assert runs_of(sizes, planes, 2, address=8) == 0  # as a slice begins
    assert runs_of((2, 12, 1, 8, 16), channels_last, 2) == 0  # channels of a group that end amid a run
    assert runs_of((2, 12, 1, 8, 16), channels_last, 4) == CHANNELS
    assert runs_of((2, 16, 1, 8, 12), planes, 2) == 0
    assert runs_of(sizes, (2060, 1, 2060, 256, 16), 2) == 0  # samples that begin amid a run
    assert runs_of((1, 16, 1, 8, 16), (2060, 1, 2060, 256, 16), 2) == CHANNELS  # there is but one
    assert runs_of((2, 1, 1, 8, 16), (2048, 4, 128, 16, 1), 2) == 0  # of other groups' channels
    assert runs_of(sizes, (4096, 2, 4096, 512, 32), 2) == 0


@pytest.mark.parametrize(
    ("operator", "kernel", "runs", "words"),
    (
        ("fprop", 3, (CHANNELS, CHANNELS), "square slices 1 .*; a along depth, b along depth"),
        ("dgrad", 3, (CHANNELS, CHANNELS), "square slices 1 .*; a along rows, b along depth"),
        ("wgrad", 3, (CHANNELS, CHANNELS), "square .*; a along rows, b along rows"),
        ("fprop", 1, (PIXELS, CHANNELS), "square slices 1 .*; a along depth, b along rows"),
        ("dgrad", 1, (PIXELS, CHANNELS), "square slices 1 .*; a along rows, b along rows"),
        ("wgrad", 1, (PIXELS, PIXELS), "square .*; a along depth, b along depth"),
        ("fprop", 3, (PIXELS, CHANNELS), "large .*; a elements, b elements"),  # taps meet pixels at other offsets
        ("wgrad", 3, (PIXELS, PIXELS), "large .*; a elements, b elements"),
        ("wgrad", 3, (PIXELS, CHANNELS), "large .*; a elements, b elements"),
        ("fprop", 3, (CHANNELS, 0), "large .*; a elements, b elements"),
    ),
)
def test_plan_of_copies(operator: str, kernel: int, runs: tuple[int, int], words: str) -> None:
    size, channels = (56, 56), (128, 256)
    for types in ({"element_bytes": 2}, {"tf32": True}):
        assert re.match(f"gemm {words}", plan(operator, size, kernel, channels, runs=runs, **types))  # type: ignore[arg-type]
    for others in ({"element_bytes": 8}, {"element_bytes": 4}, {"element_bytes": 2, "wide_offsets": True}):
        assert "a elements, b elements" in plan(operator, size, kernel, channels, runs=runs, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("operator", OPERATORS)
def test_plan_of_depthwise(operator: str) -> None:
    one = functools.partial(plan, operator, (56, 56), channels=(1, 1), groups=64)
    assert one(3, runs=(CHANNELS, CHANNELS, CHANNELS)).startswith("depthwise along channels")
    assert one(3, planes=True).startswith("depthwise by planes")
    assert one(3).startswith("depthwise by elements")
    sliced = " slices 1 " not in one(3, planes=True)
    assert sliced == (operator == "wgrad")
    for others in (
        {"kernel": 3, "runs": (CHANNELS, 0, 0)},
        {"kernel": 3, "runs": (CHANNELS, 0, CHANNELS), "wide_offsets": True},
        {"kernel": 9, "runs": (CHANNELS, 0, CHANNELS)},  # 81 taps
        {"kernel": 7, "planes": True, "stride": 8},  # a tile of 127 x 255; 49 taps
        {"kernel": 3, "planes": True, "channels": (1, 2), "groups": 4},
    ):
        settings = {"channels": (1, 1), "groups": 64, **others}
        assert plan(operator, (56, 56), **settings).startswith("depthwise by elements")  # type: ignore[arg-type]


def test_plan_of_square_tiles() -> None:
    """Not where they would leave much of a GPU, or of themselves, empty."""
    half = {"element_bytes": 2, "runs": (CHANNELS, CHANNELS)}
    assert plan("fprop", (56, 56), 3, (64, 64), **half).startswith("gemm large")  # type: ignore[arg-type]
    assert plan("fprop", (14, 14), 3, (128, 128), batch=1, **half).startswith("gemm large")  # type: ignore[arg-type]


def test_plan_of_many_phases() -> None:
    assert plan("dgrad", (90, 90), 9, (16, 16), stride=8).startswith("gemm")
    assert "more than 64 phases" in plan("dgrad", (90, 90), 9, (16, 16), stride=9)
    assert plan("fprop", (90, 90), 9, (16, 16), stride=9).startswith("gemm")


def test_plan_of_slices_bounds_the_workspace() -> None:
    for size, channels, batch in (((224, 224), (3, 64), 64), ((7, 7), (512, 512), 64), ((7, 7), (4, 5), 1)):
        words = plan("wgrad", size, 3, channels, batch=batch).split(";")[0].split()
        slices, depth, workspace = int(words[3]), int(words[5]), int(words[7])
        pixels = batch * size[0] * size[1]
        assert slices * depth >= pixels > (slices - 1) * depth
        assert workspace <= 264 * 64 * 128 * 4
        assert (workspace == 0) == (slices == 1)
    assert "slices 1 " in plan("fprop", (224, 224), 3, (3, 64), batch=64)
