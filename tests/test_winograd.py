"""Winograd: which convolutions take it, its error, its bits, where Inf and NaN go, its memory and its switch."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
import convext.functional as CF
from tests.cases import ConvCase
from tests.reference import OPERATORS, WINOGRAD_TOLERANCE, call, error, expected, operands
from tests.test_plan import plan_of
from tests.winograd_cases import CASES, DEEP, DEEP_DILATED, LARGE, OTHERS, SUMMED_TAPS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MIB = 1 << 20
PAIRS = "avx512_bf16"  # the level that multiplies pairs of bfloat16


def takes(operator: str, case: ConvCase, dtype: torch.dtype = torch.float32) -> bool:
    return bool(plan_of(operator, case, dtype).algorithm == "winograd")


def problem(operator: str, case: ConvCase) -> ConvCase:
    return case.transposed if operator == "dgrad" else case


def bound_on(operator: str, case: ConvCase, tensors: list[Tensor | None]) -> float:
    """The error of an operator on these operands against float64."""
    scale = expected(operator, case, [t if t is None else t.double().abs() for t in tensors])
    return error(call(operator, case, tensors), expected(operator, case, tensors), scale)


@pytest.mark.parametrize("case", [*CASES, *OTHERS, *SUMMED_TAPS], ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_cases_take_it(case: ConvCase, dtype: torch.dtype) -> None:
    """On every level that does not multiply pairs of bfloat16: there some are better multiplied directly."""
    for level in convext.backends.cpu.isa_levels():
        if level == PAIRS and dtype is torch.bfloat16:
            continue
        with convext.backends.cpu.max_isa(level):
            for operator in OPERATORS:
                folds = operator == "dgrad" and case.padding_mode != "zeros"
                assert takes(operator, problem(operator, case), dtype) != folds, (operator, case, level)


@pytest.mark.parametrize("draw", ("normal", "adversarial", "integers"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES, *OTHERS, *SUMMED_TAPS], ids=lambda c: c.id)
def test_error(case: ConvCase, dtype: torch.dtype, draw: str, seed: int) -> None:
    for operator in OPERATORS:
        of = problem(operator, case)
        tensors = operands(operator, of, dtype, draw, seed)
        for level in convext.backends.cpu.isa_levels():
            with convext.backends.cpu.max_isa(level):
                gap = bound_on(operator, of, tensors)
            assert gap <= WINOGRAD_TOLERANCE[dtype], f"{operator} {case} {level}: {gap:.3g}"


def test_many_results_repay_tiles_that_overhang() -> None:
    """5 x 5 taps on 7 x 7 pixels: 0.47 of the multiplications, which fprop's 128 result channels repay, dgrad's 32."""
    case = ConvCase((7, 7), 5, (48, 128), batch=3, padding=2)
    few = dataclasses.replace(case, channels=(128, 48))
    fewer = dataclasses.replace(case, channels=(24, 128))
    for dtype in (torch.float32, torch.float64):
        assert takes("fprop", case, dtype) and not takes("fprop", few, dtype)
        assert takes("dgrad", few, dtype) and takes("dgrad", case, dtype) and not takes("dgrad", fewer, dtype)
        tensors = operands("fprop", case, dtype, "adversarial", 5)
        for level in convext.backends.cpu.isa_levels():
            with convext.backends.cpu.max_isa(level):
                assert bound_on("fprop", case, tensors) <= WINOGRAD_TOLERANCE[dtype], level
        image, *rest = tensors
        assert image is not None
        assert same_bits(call("fprop", case, [image[:1], *rest]), call("fprop", case, tensors)[:1])
    for operator, dtype in (("wgrad", torch.float32), ("fprop", torch.float16)):
        assert not takes(operator, case, dtype)
    assert not takes("fprop", dataclasses.replace(case, layout="channels_last"))


DRAWS = {
    "offset": lambda t: t + 100,
    "positive": lambda t: t.abs(),
    "magnitudes across channels": lambda t: t * torch.logspace(-4, 4, t.shape[1]).view(1, -1, 1, 1),
    "magnitudes across pixels": lambda t: t * torch.logspace(-3, 3, t.shape[3]),
    "alternating": lambda t: (
        (t.abs() + 1) * (1 - 2 * ((torch.arange(t.shape[2])[:, None] + torch.arange(t.shape[3])) % 2))
    ),
    "one large pixel": lambda t: t.index_put(
        (torch.tensor(0), torch.tensor(1), torch.tensor(1), torch.tensor(2)), t.new_tensor(1e4)
    ),
    "subnormal": lambda t: t * 1e-41,
    "near the largest": lambda t: t * 1e34,
}


@pytest.mark.parametrize("weights", ("normal", "positive", "one tap"))
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("dtype", "kernel"), [(torch.float32, 3), (torch.float32, 5), (torch.float64, 3)], ids=str)
def test_error_of_hostile_numbers(
    dtype: torch.dtype, kernel: int, operator: str, name: str, weights: str, isa: str
) -> None:
    case = problem(operator, ConvCase((21, 18), kernel, (64, 64), padding=kernel // 2, bias=False))
    first, second, *rest = operands(operator, case, dtype, "normal", 7)
    assert first is not None and second is not None
    image = DRAWS[name](first).contiguous()
    if weights == "positive":
        second = second.abs()
    elif weights == "one tap":
        second = torch.zeros_like(second).index_copy_(3, torch.tensor([1]), second[..., 1:2])
    if name == "subnormal" and dtype is torch.float32:
        second = second * 1e3  # results that float32 holds with most of their digits
        assert bound_on(operator, case, [image, second, *rest]) <= 1e-3
        return
    assert bound_on(operator, case, [image, second, *rest]) <= WINOGRAD_TOLERANCE[dtype]


def test_random_errors_are_those_that_the_documents_state() -> None:
    """Plain relative norm, about 1e-6: a worse choice of points (0, 1, -1, 2, -2) would double it."""
    for case in (LARGE, DEEP):
        for operator in OPERATORS:
            tensors = operands(operator, case, torch.float32, "normal", 3)
            assert error(call(operator, case, tensors), expected(operator, case, tensors)) <= 1.5e-6


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize(
    "case", [*CASES[:12], *OTHERS[::3], *SUMMED_TAPS, LARGE, DEEP, DEEP_DILATED], ids=lambda c: c.id
)
def test_bits_do_not_depend_on_threads(case: ConvCase, dtype: torch.dtype, threads: None, isa: str) -> None:
    for operator in OPERATORS:
        if operator == "dgrad" and case.padding_mode != "zeros":
            continue
        of = problem(operator, case)
        tensors = operands(operator, of, dtype, "normal", 1)
        results = []
        for count in (1, 2, 3, 4, 7, 16, 1):
            torch.set_num_threads(count)
            results.append(call(operator, of, tensors))
        assert all(same_bits(r, results[0]) for r in results[1:]), operator


@pytest.mark.parametrize(
    ("size", "kernel"),
    [((7, 11), 3), ((14, 14), 3), ((29, 12), 3), ((14, 12), 5), ((4, 4, 8), 3), ((9, 8, 8), 3), ((5, 8, 8), (1, 3, 3))],
    ids=str,
)
@pytest.mark.parametrize("channels", ((32, 48), (48, 80), (272, 192)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("operator", ("fprop", "dgrad"))
def test_bits_of_a_sample_do_not_depend_on_its_batch(
    operator: str, dtype: torch.dtype, channels: tuple[int, int], size: Any, kernel: Any, threads: None, isa: str
) -> None:
    """Blocks of tiles span images; what stands beside a tile must not matter, be it Inf."""
    case = ConvCase(size, kernel, channels, batch=9, padding=(0, 1, 1) if kernel == (1, 3, 3) else 1)
    assert takes(operator, case, dtype)
    image, weight, bias = operands(operator, case, dtype, "normal", 2)
    assert image is not None
    whole = call(operator, case, [image, weight, bias])
    other = torch.full_like(image, float("inf"))
    for n in (0, 4, 8):
        one = dataclasses.replace(case, batch=1)
        assert same_bits(call(operator, one, [image[n : n + 1], weight, bias])[0], whole[n])
        other[n] = image[n]
        torch.set_num_threads(1 + n % 3)
        assert same_bits(call(operator, case, [other, weight, bias])[n], whole[n])


def test_bits_from_several_python_threads() -> None:
    tensors = operands("fprop", LARGE, torch.float32, "normal", 9)
    alone = call("fprop", LARGE, tensors)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(same_bits(r, alone) for r in pool.map(lambda _: call("fprop", LARGE, tensors), range(8)))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_layouts_have_the_same_bits(layout: str) -> None:
    """A tile's arithmetic does not know where its pixels came from."""
    for case in [*CASES[:11], *OTHERS[:4], OTHERS[8], OTHERS[10], OTHERS[13], *SUMMED_TAPS]:
        for operator in OPERATORS:
            of = problem(operator, case)
            plain = operands(operator, of, torch.float32, "normal", 4)
            moved = [
                t
                if t is None or t.dim() == 1 or layout == "contiguous"
                else t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)
                for t in plain
            ]
            assert same_bits(call(operator, of, moved), call(operator, of, plain)), (operator, case)


@pytest.mark.parametrize("value", (float("inf"), float("-inf"), float("nan")))
def test_a_bad_pixel_stays_in_the_tiles_that_read_it(value: float, isa: str) -> None:
    """Result tiles are 4 x 4 from the first pixel on and read one pixel more on each side (3 x 3, padding 1)."""
    x, w = torch.randn(2, 40, 19, 26), torch.randn(48, 40, 3, 3)
    for row, column in ((0, 0), (5, 6), (8, 12), (18, 25)):
        bad = x.clone()
        bad[1, 7, row, column] = value
        y = CF.conv2d(bad, w, padding=1)
        must = torch.zeros(y.shape, dtype=torch.bool)
        must[1, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
        may = torch.zeros_like(must)
        for i in range(0, 19, 4):
            for j in range(0, 26, 4):
                if i - 1 <= row <= i + 4 and j - 1 <= column <= j + 4:
                    may[1, :, i : i + 4, j : j + 4] = True
        found = ~torch.isfinite(y)
        assert (found >= must).all() and (found <= may).all()
        assert same_bits(y[~may], CF.conv2d(x, w, padding=1)[~may])


def test_a_bad_weight_stays_in_its_channel(isa: str) -> None:
    w = torch.randn(48, 40, 3, 3)
    w[5, 3, 1, 1] = float("inf")
    bad = ~torch.isfinite(CF.conv2d(torch.randn(1, 40, 12, 12), w, padding=1))
    assert bad[:, 5].all() and not bad[:, :5].any() and not bad[:, 6:].any()


def test_a_bad_gradient_stays_in_its_slice_of_wgrad(isa: str) -> None:
    g, x = torch.randn(2, 48, 16, 16), torch.randn(2, 40, 16, 16)
    g[1, 30, 11, 15] = float("nan")
    bad = ~torch.isfinite(torch.ops.convext.conv_wgrad(g, x, [3, 3], [1, 1], [1] * 4, [1, 1], 1, 0))
    assert bad[30].all() and not bad[:30].any() and not bad[31:].any()


@pytest.fixture
def switch() -> Iterator[None]:
    yield
    convext.backends.winograd.enabled = True


def test_the_switch(switch: None) -> None:
    x, w = torch.randn(1, 64, 16, 16), torch.randn(64, 64, 3, 3)
    sizes = (x.shape, w.shape)
    assert convext.backends.winograd.enabled is True
    on = CF.conv2d(x, w, padding=1)
    with convext.backends.winograd.flags(enabled=False):
        plan = convext.conv_plan("fprop", *sizes, padding=1)
        assert convext.backends.winograd.enabled is False
        assert plan.algorithm != "winograd"
        assert ("winograd", "convext.backends.winograd.enabled is False") in plan.declined
        off = CF.conv2d(x, w, padding=1)
    assert convext.conv_plan("fprop", *sizes, padding=1).algorithm == "winograd"
    want = F.conv2d(x.double(), w.double(), padding=1)
    assert error(off, want) < error(on, want) < 1.5e-6 and error(off, want) < 5e-7
    assert same_bits(CF.conv2d(x, w, padding=1), on)
    convext.backends.winograd.enabled = False
    assert same_bits(CF.conv2d(x, w, padding=1), off)


def test_the_switch_is_put_back_after_an_error(switch: None) -> None:
    with pytest.raises(ZeroDivisionError), convext.backends.winograd.flags(enabled=False):
        raise ZeroDivisionError
    assert convext.backends.winograd.enabled is True
    with pytest.raises(TypeError, match="expected a bool, got int"):
        convext.backends.winograd.enabled = 1  # type: ignore[assignment]


def test_the_switch_reaches_the_backward_and_other_threads(switch: None) -> None:
    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        x = torch.randn(1, 64, 16, 16, requires_grad=True)
        w = torch.randn(64, 64, 3, 3, requires_grad=True)
        return list(torch.autograd.grad(CF.conv2d(x, w, padding=1).square().sum(), (x, w)))

    on = gradients()
    convext.backends.winograd.enabled = False
    off = gradients()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert all(map(same_bits, off, pool.submit(gradients).result()))
    assert not any(map(same_bits, on, off))


def test_the_switch_reaches_compiled_and_exported_graphs(switch: None) -> None:
    """It is read when the operator runs, not when it is traced."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = convext.nn.Conv2d(64, 64, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)  # type: ignore[no-any-return]

    net, x = Net(), torch.randn(1, 64, 16, 16)
    forms: list[Any] = [
        torch.compile(net, backend="aot_eager", fullgraph=True),
        torch.export.export(net, (x,)).module(),
    ]
    with torch.no_grad():
        on = net(x)
        for form in forms:
            assert same_bits(form(x), on)
        convext.backends.winograd.enabled = False
        off = net(x)
        assert not same_bits(on, off)
        for form in forms:
            assert same_bits(form(x), off)


@pytest.mark.parametrize("threads_", (1, 2, 8, 16, 64))
@pytest.mark.parametrize(
    "channels",
    (
        (12, 12),
        (32, 32),
        (64, 128),
        (192, 192),
        (256, 256),
        (512, 512),
        (1024, 1024),
        (1344, 32),
        (2048, 64),
        (64, 2048),
    ),
)
@pytest.mark.parametrize("kernel", (3, 5, (3, 3, 3), (9, 3, 3)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_workspace(
    operator: str, dtype: torch.dtype, kernel: Any, channels: tuple[int, int], threads_: int, isa: str
) -> None:
    """At most 8 MiB a thread and the bias, or wgrad's sums; the same for every batch and image."""
    rank, depth = (3, kernel[0]) if isinstance(kernel, tuple) else (2, 1)
    case = ConvCase((64,) * rank, kernel, channels, batch=4, padding=1)
    plan = plan_of(operator, case, dtype, num_threads=threads_)
    if plan.algorithm != "winograd":
        assert "winograd" in dict(plan.declined)
        return
    panel = max(plan.tile)
    rounded = [-(-c // panel) * panel for c in channels]
    transformed = 36 * depth * rounded[0] * rounded[1] * dtype.itemsize * 1.02
    shared = transformed if operator == "wgrad" else 64 * max(channels)
    assert plan.workspace_bytes <= 8 * MIB * threads_ + shared
    for changes in ({"batch": 64}, {"size": (512, 640, 128)[:rank]}):
        larger = plan_of(operator, dataclasses.replace(case, **changes), dtype, num_threads=threads_)
        assert larger.workspace_bytes <= 8 * MIB * threads_ + shared


@pytest.mark.parametrize("batch", (1, 32))
@pytest.mark.parametrize("channels", ((64, 64), (128, 128), (192, 192), (256, 128), (65, 33)))
def test_threads_keep_little_of_the_weight_each(channels: tuple[int, int], batch: int, isa: str) -> None:
    """3 MiB and a block of tiles where there are many threads, and no thread without work."""
    case = ConvCase((28, 28), 3, channels, batch=batch, padding=1)
    for count in (8, 16, 64):
        plan = plan_of("fprop", case, torch.float32, num_threads=count)
        assert plan.algorithm == "winograd" and 1 <= plan.workers <= count
        assert plan.thread_bytes <= 4.5 * MIB


def test_an_empty_batch_and_no_bias() -> None:
    w = torch.randn(64, 64, 3, 3)
    assert CF.conv2d(torch.empty(0, 64, 16, 16), w).shape == (0, 64, 14, 14)
    g = torch.empty(0, 64, 14, 14)
    assert not torch.ops.convext.conv_wgrad(g, torch.empty(0, 64, 16, 16), [3, 3], [1, 1], [0] * 4, [1, 1], 1, 0).any()
