"""What make's targets for a GPU decide without one: the benchmark's arithmetic, the sanitizer's verdicts, refusals."""

from __future__ import annotations

import argparse
import dataclasses
import math
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import convext
from bench import cases, cuda, cuda_parts, cuda_report, cuda_timing, store
from bench.cuda_parts import PARTS, Row, bytes_moved
from bench.layer import Layer
from bench.limits import least_seconds
from tests import cuda_carried, cuda_sanitizer, devices
from tests.cuda_sanitizer import FOUND, RAN, Verdict, status, verdict

MEGA = 1 << 20
LAYER = Layer("net", "layer", (8, 8), (3, 5), 3, padding=1, batch=2)
FIRST = dataclasses.replace(LAYER, first=True)


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_bytes_of_a_layer() -> None:
    x, w, y, bias = 2 * 3 * 64, 5 * 3 * 9, 2 * 5 * 64, 5
    assert bytes_moved(LAYER, "float32", False) == 4 * (x + w + y + bias)
    assert bytes_moved(LAYER, "bfloat16", False) == 2 * (x + w + y + bias)
    back = (y + w + x) + (y + x + w) + bias
    assert bytes_moved(LAYER, "float64", True) == 8 * (x + w + y + bias + back)
    assert bytes_moved(FIRST, "float64", True) == 8 * (x + w + y + bias + back - (y + w + x))


def test_the_limit_is_the_longer_of_arithmetic_and_memory() -> None:
    assert least_seconds(2e9, 1e9, gflops_peak=1000, bandwidth_peak=4000) == pytest.approx(2e-3)
    assert least_seconds(2e9, 1e9, gflops_peak=1e6, bandwidth_peak=4000) == pytest.approx(0.25e-3)
    assert cuda_timing.product_flops(8192) == 2 * 8192**3


@pytest.mark.parametrize(
    ("operands", "l2", "memory", "wanted"),
    (
        (60 * MEGA, 60 * MEGA, 1 << 37, 3),  # twice the cache is read before the first copy comes again
        (1 * MEGA, 60 * MEGA, 1 << 37, 8),  # never more than eight: the cache is written over as well
        (4000 * MEGA, 60 * MEGA, 1 << 37, 2),
        (4000 * MEGA, 60 * MEGA, 1 << 33, 1),  # what does not fit twice into a quarter of the memory
        (0, 60 * MEGA, 1 << 37, 8),
    ),
)
def test_copies_of_the_operands(operands: int, l2: int, memory: int, wanted: int) -> None:
    assert cuda_timing.rotations(operands, l2, memory) == wanted


def test_samples() -> None:
    assert cuda_timing.sample_count(1e-5, 0.05) == cuda_timing.MOST_SAMPLES
    assert cuda_timing.sample_count(1e-3, 0.05) == 25
    assert cuda_timing.sample_count(10.0, 0.05) == cuda_timing.FEWEST_SAMPLES
    assert cuda_timing.sample_count(0.0, 0.05) == cuda_timing.MOST_SAMPLES


def test_parts() -> None:
    """Settings as their names say, cases in the layouts they have, and none too large for a GPU or for the time."""
    assert {(p.dtype, p.tf32) for p in PARTS.values()} >= {("float32", False), ("float32", True), ("bfloat16", False)}
    for part in PARTS.values():
        assert part.name.startswith("cuda_") and ("channels_last" in part.name) == (part.layout == "channels_last")
        assert not part.tf32 or part.dtype == "float32"
        assert bool(part.pools()) == part.pool and bool(part.layers()) != part.pool
        for layer in part.layers():
            assert layer.batch == cuda_parts.BATCH and layer.flops(False) <= cuda_parts.MOST_FLOPS
            assert part.layout == "contiguous" or layer.dims > 1
    families = {layer.family for layer in PARTS["cuda_float32"].layers()}
    assert families == {layer.family for layer in cases.layers()}


def row(work: str = "forward", ours: float = 2e-3, flops: int = 4 * 10**12, **changes: object) -> Row:
    case = {"net": "net", "layer": "layer", "shape": "2x3x8x8 k3", "family": "dense"}
    times = {"our_seconds": ours, "torch_seconds": 4e-3, "our_spread": 0.1, "torch_spread": 0.2}
    errors = {"our_error": 1e-7, "torch_error": 2e-7}
    made = Row(**case, work=work, flops=flops, moved=10**9, **times, **errors)  # type: ignore[arg-type]
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_what_a_row_says() -> None:
    r = row()
    assert (r.ratio, r.gflops, r.bandwidth) == pytest.approx((2.0, 2e6, 500.0))
    assert r.of_limit(gflops_peak=4e6, bandwidth_peak=4000) == pytest.approx(0.5)
    assert "x 2.00" in cuda_report.line(r) and "2000000 GFLOP/s" in cuda_report.line(r)


def test_the_page_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = PARTS["cuda_bfloat16"]
    assert cuda.write_page(part, tmp_path) is None
    machine = {"GPU": "H200", "arithmetic_peak": 4e6, "bandwidth_peak": 4000.0}
    rows = [row(), row("forward+backward", 8e-3), row("forward", 1e-3, 0, family=cuda.POOL_FAMILY, net="pool")]
    store.save(tmp_path / "cuda_bfloat16.json", store.Results(machine, 5, [dataclasses.asdict(each) for each in rows]))
    page = cuda.write_page(part, tmp_path)
    assert page is not None
    text = page.read_text()
    for said in (
        "- GPU: H200",
        "- torch's matrix product: 4000000 GFLOP/s (measured)",
        "- **not finished**: 2 of 5 to go",
        f"## forward: geometric mean {math.sqrt(2.0 * 4.0):.2f}",
        "## forward+backward: geometric mean 0.50",
        "1 of 1 slower than torch",
        "| net/layer | 2x3x8x8 k3 | 2.000 | 4.000 | 2000000 | 500 | 50% | 2.00 | 1e-07 | 2e-07 |",
    ):
        assert said in text, said
    assert "the worst 0.50 (net/layer)" in capsys.readouterr().out


def test_time_is_shared_among_the_parts() -> None:
    assert cuda.shares(480, 10) == 48
    assert cuda.shares(100, 1) == cuda.shares(100, 0) == 100


class FakeEvent:
    """Passes when it is recorded; the clock goes on with every call that `FakeGpu` counts."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = FakeEvent.clock

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return (end.time - self.time) * 1e3


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the benchmark asks of a GPU, on the CPU: to run its code, not to measure."""
    properties = types.SimpleNamespace(L2_cache_size=1 << 10, total_memory=1 << 30)
    for name, value in {
        "get_device_properties": lambda: properties,
        "get_device_name": lambda: "a fake",
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "_sleep": lambda cycles: None,
        "Event": FakeEvent,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda_timing, "DEVICE", "cpu")
    monkeypatch.setattr(cuda, "arithmetic_peak", lambda *_: 1e6)
    monkeypatch.setattr(cuda, "copy_bandwidth", lambda *_: 1e3)
    monkeypatch.setattr(cuda._cuda, "LIBRARY", Path(str(convext._C.__file__)))
    for name in ("allow_tf32", "let_cudnn_search"):
        monkeypatch.setattr(cuda, name, lambda _: None)


def test_samples_are_the_calls_alone_and_in_turn(fake_gpu: None) -> None:
    order: list[str] = []

    def taking(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            FakeEvent.clock += seconds
            order.append(name)

        return call

    stopwatch = cuda_timing.Stopwatch()
    stopwatch._over = torch.empty(8, dtype=torch.uint8)
    ours, theirs = stopwatch.in_turn([[taking("a1", 0.01), taking("a2", 0.01)], [taking("b", 0.02)]], budget=0.2)
    assert ours == pytest.approx([0.01] * 5) and theirs == pytest.approx([0.02] * 5)
    assert order[-10:] == ["a1", "b", "b", "a2", "a1", "b", "b", "a2", "a1", "b"]  # the copies of a side in rotation


@pytest.mark.parametrize("name", ("cuda_float32", "cuda_bfloat16_channels_last", "cuda_pool_float32"))
def test_a_part_from_its_cases_to_its_page(
    name: str, fake_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tiny layers, in two sittings: the second goes on where the first stopped."""
    part = PARTS[name]
    small = [dataclasses.replace(layer, batch=2).small() for layer in part.layers()[::12]]
    few = [dataclasses.replace(c, shape=(1, 2, *c.shape[2:])) for c in part.pools() if "unfold" in c.name]
    monkeypatch.setattr(cuda_parts.Part, "layers", lambda self: small)
    monkeypatch.setattr(cuda_parts.Part, "pools", lambda self: few)

    def tick(side: Sequence[Callable[[], object]]) -> list[Callable[[], object]]:
        def call(function: Callable[[], object]) -> Callable[[], object]:
            def ticking() -> object:
                FakeEvent.clock += 0.05
                return function()

            return ticking

        return [call(function) for function in side]

    stopwatch = cuda_timing.Stopwatch()
    in_turn = stopwatch.in_turn
    monkeypatch.setattr(stopwatch, "in_turn", lambda sides, budget: in_turn([tick(s) for s in sides], budget))
    options = argparse.Namespace(into=tmp_path, budget=0.01, again=False)
    first = cuda.run(part, options, stopwatch, seconds=-1)
    assert first.rows == []
    results = cuda.run(part, options, stopwatch, seconds=600)
    assert results.complete and len(results.rows) == 2 * (len(small) + len(few)) > 0
    assert [r["our_seconds"] for r in results.rows] == pytest.approx([0.05] * len(results.rows))
    largest = max(r["our_error"] for r in results.rows)
    assert largest <= (1e-2 if part.dtype == "bfloat16" else 1e-5), largest
    again = cuda.run(part, options, stopwatch, seconds=600)
    assert again.rows == store.load(tmp_path / f"{name}.json").rows  # type: ignore[union-attr]
    page = cuda.write_page(part, tmp_path)
    assert page is not None and "geometric mean 1.00" in page.read_text()


# --- the sanitizer ----------------------------------------------------------------------------------------------------

CLEAN = f"{RAN}: 500 calls of 22 operators\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("returncode", "output", "kind", "said"),
    (
        (0, CLEAN, "clean", "no error: 0 errors"),
        (0, CLEAN.replace("ERROR", "RACECHECK").replace("0 errors", "0 hazards displayed"), "clean", "0 hazards"),
        (FOUND, CLEAN.replace("0 errors", "3 errors"), "found", "3 errors"),
        (1, "========= Error: Device not supported. Please refer to the manual", "refused", "refuses this device"),
        (FOUND, "========= Device not supported\n========= ERROR SUMMARY: 1 error", "refused", "nothing was checked"),
        (1, "Traceback\nRuntimeError: CUDA error", "failed", "ended with 1"),
        (0, "========= ERROR SUMMARY: 0 errors", "failed", "not all operators had run"),
    ),
)
def test_verdicts(returncode: int, output: str, kind: str, said: str) -> None:
    found = verdict(returncode, output)
    assert found.kind == kind and said in found.text


def test_status_of_the_sanitizer() -> None:
    clean, found, refused, failed = (Verdict(kind, "") for kind in ("clean", "found", "refused", "failed"))
    assert status({"a": clean, "b": clean}) == 0
    assert status({"a": clean, "b": refused}) == 2
    assert status({"a": refused, "b": found}) == status({"a": clean, "b": failed}) == 1


def test_the_sanitizer_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda_sanitizer.sanitizer() is None
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_sanitizer.sanitizer() == str(tool)


# --- no GPU, and which tests a device leaves out ----------------------------------------------------------------------

WITHOUT = pytest.mark.skipif(cuda_carried.absence() is None, reason="there is a GPU")


@WITHOUT
@pytest.mark.parametrize(
    ("arguments", "returncode", "said"),
    (
        (["bench.cuda"], 2, "bench.cuda: there is no GPU to measure on: "),
        (["tests.cuda_sanitizer"], 2, "cuda-sanitize: nothing was checked: "),
        (["pytest", "--device", "cuda", "tests/test_textbook.py"], 4, "--device cuda: "),
        (["pytest", "--device", "gpu", "tests/test_textbook.py"], 4, "expected a device among cpu, cuda, emulated"),
    ),
)
def test_without_a_gpu(arguments: list[str], returncode: int, said: str) -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == returncode, result.stderr
    assert said in result.stderr
    if "gpu" not in arguments:
        assert str(cuda_carried.absence()) in result.stderr


def test_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each reason in turn, the last being that there is none."""
    from convext import _cuda

    library = tmp_path / "_C_cuda.so"
    monkeypatch.setattr(_cuda, "LIBRARY", library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _cuda.absence() == f"torch {torch.__version__} has no CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "were not built" in str(_cuda.absence())
    library.touch()
    assert _cuda.absence() == "_C_cuda.so was not loaded"
    monkeypatch.setattr(torch.ops, "loaded_libraries", {str(library)})
    assert _cuda.loaded() and "finds no GPU" in str(_cuda.absence())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _cuda.absence() is None


def test_devices_with_kernels() -> None:
    assert ("cuda" in convext._coverage.DEVICES) == convext._cuda.loaded()


def test_files_that_a_device_leaves_out() -> None:
    """The tables name files that exist, each with a reason, and nothing is left out on the CPU."""
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    for table in (devices.OF_THE_CPU, devices.TOO_LONG_EMULATED):
        assert table.keys() <= here and all(table.values())
    assert not devices.OF_THE_CPU.keys() & devices.TOO_LONG_EMULATED.keys()
    assert not any(devices.left_out("cpu", name) for name in here)
    assert devices.left_out("cuda", "test_plan.py") and devices.left_out("emulated", "test_plan.py")
    assert devices.left_out("emulated", "test_alexnet.py") and not devices.left_out("cuda", "test_alexnet.py")
