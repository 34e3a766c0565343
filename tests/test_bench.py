"""The benchmark's pure functions, and its layers, run small, as cases of the three operators."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convext
from bench import cases, machine, measure, overhead, report
from bench.layer import FAMILIES, Layer
from bench.limits import Limits
from bench.measure import Row
from convext import functional
from tests.cases import ConvCase, seed_of
from tests.reference import OPERATORS, check

ROOT = Path(__file__).parents[1]

LAYERS = cases.layers()
LEVELS = convext.backends.cpu.isa_levels()


def case_of(layer: Layer) -> ConvCase:
    """The layer from the convolution's side: a transposed one is read backwards."""
    size, channels = layer.size, layer.channels
    if layer.transposed:
        size, channels = layer.output_size, channels[::-1]
    names = ("kernel", "stride", "padding", "dilation", "groups", "batch", "bias")
    return ConvCase(size, channels=channels, **{name: getattr(layer, name) for name in names})


@pytest.mark.parametrize("net", cases.CASES)
def test_layers_of_every_network_and_family_at_small_size(net: str) -> None:
    wrong = []
    for layer in cases.layers([net]):
        case = case_of(layer.small())
        for operator in OPERATORS:
            for dtype in (torch.float32, torch.bfloat16):
                wrong.append(check(operator, case, dtype, "normal", seed=seed_of(layer.id), isa=LEVELS))
    assert not any(wrong), "\n".join(w for w in wrong if w)


@pytest.mark.parametrize("layer", LAYERS[::25], ids=lambda layer: layer.id)
@pytest.mark.parametrize("work", measure.WORKS)
def test_both_sides_run_the_same_problem(layer: Layer, work: str) -> None:
    small = layer.small()
    values = measure.operands(small, torch.float64)
    wanted = measure.reference(small, values, work)
    for layout in measure.LAYOUTS:
        ready = measure.laid_out(values, layout)
        for module in (functional, torch.nn.functional):
            assert measure.relative_error(measure.runner(module, small, ready, work)(), wanted) < 1e-13


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.id)
def test_sizes_and_flops_of_a_layer(layer: Layer) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x, w = torch.empty(layer.input_shape, device="meta"), torch.empty(layer.weight_shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        y = getattr(functional, layer.function)(x, w, **layer.settings)
    assert y.shape == layer.output_shape
    assert counter.get_total_flops() == layer.flops(backward=False)
    assert layer.family in FAMILIES and str(layer)


def test_every_network_and_family_is_there() -> None:
    assert {layer.net for layer in LAYERS} == set(cases.CASES)
    assert {layer.family for layer in LAYERS} == set(FAMILIES)
    assert len({layer.id for layer in LAYERS}) == len(LAYERS)
    with pytest.raises(KeyError):
        cases.layers(["lenet6"])


def test_distinct_counts_repetitions() -> None:
    layer = Layer("net", "a", (8, 8), (3, 4), 3)
    found = cases.distinct([layer, dataclasses.replace(layer, name="b"), dataclasses.replace(layer, kernel=1)])
    assert [(f.name, f.count) for f in found] == [("a", 2), ("a", 1)]


def test_geomean() -> None:
    assert report.geomean([2.0, 8.0]) == pytest.approx(4)
    assert report.geomean([3.0]) == pytest.approx(3)
    assert math.isnan(report.geomean([]))


def row(net: str, ours: float, torchs: float, dtype: str = "float32") -> Row:
    return Row(
        net=net,
        layer=f"{ours}-{torchs}",
        shape="1x3x8x8 k3 4",
        family="dense",
        count=2,
        batch=1,
        dtype=dtype,
        threads=2,
        layout="contiguous",
        work="forward",
        algorithm="packed",
        flops=10**9,
        bytes=10**6,
        our_seconds=ours,
        torch_seconds=torchs,
        our_spread=0.1,
        torch_spread=0.1,
        our_error=1e-7,
        torch_error=2e-7,
    )


def test_report() -> None:
    rows = [row("a", 1.0, 2.0), row("a", 1.0, 0.5), row("b", 2.0, 16.0), row("a", 1.0, 3.0, "float64")]
    single, double = report.summaries(rows)
    assert (single.cases, single.losses, single.worst_ratio) == (3, 1, 0.5)
    assert single.overall == pytest.approx(2) and double.overall == pytest.approx(3)
    assert single.nets == pytest.approx({"a": 1.0, "b": 8.0})
    assert single.net_times["a"] == (4.0, 5.0)
    assert rows[0].ratio == 2 and rows[0].gflops == pytest.approx(1)
    limits = dataclasses.asdict(Limits(2, {"float32": 100.0}, {1 << 28: 40.0}))
    text = report.markdown(rows, {"processor": "some", "limits": [limits]})
    assert "Losses: 1 of 4" in text and "1.0-0.5" in text and "some" in text
    read = json.loads(report.as_json(rows, {"processor": "some"}))
    assert len(read["rows"]) == 4 and read["rows"][0]["ratio"] == 2


def test_floor() -> None:
    limits = Limits(2, {"float32": 100.0}, {1 << 20: 50.0, 1 << 10: 200.0})
    (read,) = Limits.of(json.loads(json.dumps({"limits": [dataclasses.asdict(limits)]})))
    assert read == limits
    case = row("a", 1.0, 2.0)
    assert limits.floor(case) == pytest.approx(1e9 / 200e9)  # two threads at 100 GFLOP/s each
    few = dataclasses.replace(case, flops=1)
    assert limits.floor(few) == pytest.approx(1e6 / 50e9)
    assert limits.floor(dataclasses.replace(few, bytes=1024)) == pytest.approx(1024 / 200e9)
    assert limits.floor(dataclasses.replace(few, bytes=1 << 21)) == pytest.approx((1 << 21) / 50e9)  # the last
    assert limits.floor(dataclasses.replace(case, dtype="float64")) is None
    assert limits.floor(dataclasses.replace(case, threads=1)) is None


def test_the_pace_is_measured_of_threads_at_once() -> None:
    torch.set_num_threads(2)
    assert convext._C.measure_fma_pace("float32", 2, 0.001) > 1e9
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        convext._C.measure_fma_pace("float32", 0, 0.001)
    with pytest.raises(ValueError, match="floating-point dtype, got 'int64'"):
        convext._C.measure_fma_pace("int64", 1, 0.001)


def test_limits_are_measured() -> None:
    limits = Limits.measured(["float32", "int64"], 1)
    assert set(limits.fma_peak) == {"float32"} and limits.fma_peak["float32"] > 1
    assert all(pace > 0.1 for pace in limits.copying.values()) and len(limits.copying) == 3
    assert "8 MiB at" in limits.lines()[0]
    for size in (0, 1, -5, 1 << 40):
        with pytest.raises(ValueError, match="2 to 2\\^34 bytes"):
            convext._C.measure_copy_bandwidth(size)


def test_bytes_of_a_layer() -> None:
    layer = cases.layers(["lenet5"])[0]
    once = math.prod(layer.input_shape) + math.prod(layer.output_shape) + math.prod(layer.weight_shape)
    assert layer.elements(False) == once and layer.elements(True) == (2 if layer.first else 3) * once


def test_generations_of_a_processor_are_told_apart() -> None:
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel\t\t: 9\n"
    assert machine.processor_of(text) == "AMD EPYC (family 25, model 17)"
    assert machine.processor_of("processor : 0\nBogoMIPS : 50.0\n") == machine.processor_of("") == ""
    assert machine.processor()


def test_freed_memory_is_kept_where_malloc_is_glibcs() -> None:
    code = "from bench import heap; print(heap.keep_freed_memory())"  # a process of its own: it cannot be taken back
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


def test_in_turn_alternates_and_gives_as_many_samples_as_turns() -> None:
    calls: list[str] = []
    samples = measure.in_turn([lambda: calls.append("a"), lambda: calls.append("b")], 1, 0.0, 3).samples
    assert [len(s) for s in samples] == [3, 3]
    assert all(s >= 0 for side in samples for s in side)
    assert {"a", "b"} == set(calls)


@pytest.mark.parametrize("kind", overhead.KINDS)
@pytest.mark.parametrize("case", overhead.CASES, ids=lambda case: case.function)
def test_both_sides_of_an_overhead_do_the_same(case: overhead.Case, kind: str) -> None:
    results = []
    for ours in (True, False):
        torch.manual_seed(0)
        results.append(overhead.runner(case, ours, kind, "forward+backward")())
    torch.testing.assert_close(*results)


def test_a_line_of_overhead() -> None:
    row = overhead.Row(overhead.CASES[0], "layer", "forward", 30.0, 10.0)
    assert overhead.line(row) == "| conv2d | layer | forward | 30.0 | 10.0 | 3.00 | 2.5 **missed** |"
    row = overhead.measured(overhead.CASES[-1], "function", "forward", 1, 0.001)
    assert row.ours > 0 and row.torchs > 0 and row.target is None
