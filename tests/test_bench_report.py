"""The benchmark's parts, targets, store, plots and combined report: what is decided about measured rows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import (
    cases,
    combined,
    everything,
    measure,
    models,
    networks,
    part,
    plot,
    runtimes,
    store,
    subnormals,
    summary,
    targets,
)
from bench.layer import FAMILIES, Layer
from bench.measure import WORKS, Row
from bench.parts import PARTS, Part
from bench.targets import TARGETS, Target

LAYERS = {layer.id: layer for layer in cases.layers(batch=1)}


def row(layer: str, ratio: float, work: str = "forward", layout: str = "contiguous", seconds: float = 1e-3) -> Row:
    """A row of the case with this id, at convext's so many seconds and this ratio."""
    found = LAYERS[layer]
    return Row(
        net=found.net,
        layer=found.name,
        shape=str(found),
        family=found.family,
        count=1,
        batch=1,
        dtype="float32",
        threads=2,
        layout=layout,
        work=work,
        algorithm="packed",
        flops=10**9,
        bytes=10**6,
        our_seconds=seconds,
        torch_seconds=seconds * ratio,
        our_spread=0.1,
        torch_spread=0.2,
        our_error=1e-7,
        torch_error=2e-7,
    )


DENSE = ("resnet50/conv2_1.a", "resnet50/conv2_1.b", "vgg16/conv4_2")
AIM = Target("dense", (1.4, 1.5), 0.95, ("float32_2_threads",), targets.dense)


def test_a_verdict_has_mean_and_worst_and_says_what_is_missing() -> None:
    rows = [row(DENSE[0], 2.0), row(DENSE[1], 0.5), row("depthwise/3x3s1_32", 9.0), row(DENSE[0], 9.0, WORKS[1])]
    v = targets.verdict(AIM, "float32_2_threads", "forward", rows, {})
    assert v is not None
    assert (v.cases, v.worst, v.worst_case, v.under) == (2, 0.5, DENSE[1], 1)
    assert v.mean == pytest.approx(1) and math.isnan(v.against_better)
    assert not v.met and str(v) == "missed: mean 28.6% short of 1.4, 1 of 2 under 0.95"
    assert targets.verdict(AIM, "float32_2_threads", "forward", rows[2:3], {}) is None
    good = targets.verdict(AIM, "float32_2_threads", WORKS[1], rows, {})
    assert good is not None and good.met and str(good) == "met" and good.wanted == 1.5


def test_a_network_counts_once() -> None:
    assert targets.over_nets([("a", 4.0), ("a", 1.0), ("b", 8.0)]) == pytest.approx(4.0)
    rows = [row(name, ratio) for name, ratio in zip(DENSE, (4.0, 1.0, 8.0), strict=True)]
    v = targets.verdict(AIM, "float32_2_threads", "forward", rows, {})
    assert v is not None and v.mean == pytest.approx(4.0) and v.over_layers == pytest.approx(32 ** (1 / 3))


def test_the_better_layout_counts_only_where_both_were_measured() -> None:
    contiguous = [row(DENSE[0], 3.0), row(DENSE[1], 2.0)]
    last = [row(DENSE[0], 1.0, layout="channels_last", seconds=2e-3)]  # torch takes 2 ms, not 3
    better = targets.better_layouts([*contiguous, *last])
    assert better == {targets.key(contiguous[0]): pytest.approx(2e-3)}
    v = targets.verdict(AIM, "float32_2_threads", "forward", contiguous, better)
    assert v is not None and v.better_cases == 1 and v.against_better == pytest.approx(2)


@pytest.mark.parametrize(
    ("layer", "suits"),
    [
        ("resnet50/conv2_1.b", {"dense 2-D", "3x3, stride 1, maps from 28x28"}),
        ("resnet50/conv4_2.b", {"dense 2-D"}),  # a map of 14 x 14
        ("resnet50/conv3_1.b", {"dense 2-D", "stride 2, from 64 channels"}),
        ("resnet50/conv1", {"dense 2-D"}),  # stride 2, of three channels
        ("dilated/stage4_d2", {"dense 2-D"}),
        ("grouped/resnext4", {"depthwise and grouped"}),
        ("sound/mamba_k4", {"1-D and 3-D"}),
        ("volumes/x3d_54", {"1-D and 3-D"}),
        ("transposed/voxels64", {"transposed"}),
        ("transposed/bilinear4x4", {"transposed"}),
    ],
)
def test_which_target_a_layer_belongs_to(layer: str, suits: set[str]) -> None:
    single = [t for t in TARGETS if t.parts[0] == "float32_2_threads"]
    assert {t.name for t in single if t.suits(LAYERS[layer])} == suits


def test_every_layer_belongs_to_a_family_target() -> None:
    single = [t for t in TARGETS if t.parts[0] == "float32_2_threads"]
    assert all(any(t.suits(layer) for t in single) for layer in LAYERS.values())
    assert {part for t in TARGETS for part in t.parts} | set(targets.PEAK_PARTS) == set(PARTS)


def test_parts_choose_layers() -> None:
    whole, eighth = PARTS["float32_2_threads"].layers(), PARTS["float32_batch_8"].layers()
    assert {layer.id for layer in whole} == set(LAYERS)
    assert {layer.id for layer in eighth} == set(LAYERS) and all(layer.batch == 8 for layer in eighth)
    assert all(layer.dims == 2 for layer in PARTS["float32_channels_last"].layers())
    for each in PARTS.values():
        chosen = each.layers()
        assert each.name in targets.PEAK_PARTS or {layer.family for layer in chosen} >= {
            "dense",
            "grouped",
            "transposed",
        }
        assert chosen == each.layers()
    every_third = dataclasses.replace(PARTS["float32_2_threads"], one_in=3).layers()
    assert every_third == [layer for net in cases.CASES for layer in [w for w in whole if w.net == net][::3]]


def test_shares_of_the_peak() -> None:
    (share,) = targets.peak_shares([row(DENSE[0], 1.0, seconds=0.01)], 100.0)
    assert share == pytest.approx(0.5)  # 100 GFLOP/s on two threads of 100 each
    slow = dataclasses.replace(row(DENSE[0], 1.0, seconds=0.01), fma_pace=80.0)  # while the layer ran
    assert targets.pace_shares([slow]) == pytest.approx([0.625]) and targets.pace_shares([row(DENSE[0], 1.0)]) == []


def test_results_are_gone_on_with_unless_something_changed(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    results = store.resume(path, 2, {"blocks": "five"}, lambda: {"peak": 1})
    assert results.machine["peak"] == 1
    results.rows.append(dataclasses.asdict(row(DENSE[0], 1.23456789)))
    store.save(path, results)
    again = store.resume(path, 2, {"blocks": "five"}, lambda: pytest.fail("not needed"))
    assert again.rows[0]["torch_seconds"] == 0.0012346 and not again.complete
    assert again.measured(("net", "work")) == {("resnet50", "forward")}
    assert Row(**again.rows[0]).ratio == pytest.approx(1.2346)
    assert store.resume(path, 3).planned == 3 and store.resume(path, 3).rows
    assert not store.resume(path, 2, {"blocks": "six"}).rows
    assert not store.resume(path, 2, again=True).rows
    content = json.loads(path.read_text())
    content["machine"]["build"] = "another"
    path.write_text(json.dumps(content))
    assert not store.resume(path, 2).rows
    assert store.folder(False, None) == store.RESULTS != store.folder(True, None)
    assert store.folder(True, tmp_path) == tmp_path
    assert store.load(tmp_path / "none.json") is None


def test_deadline() -> None:
    assert not store.Deadline(None).passed and store.Deadline(None).left is None
    assert not store.Deadline(60).passed
    late = store.Deadline(0)
    time.sleep(0.001)
    assert late.passed and late.left == 0


def test_rounds_of_slow_calls_are_cut_to_three() -> None:
    samples = measure.in_turn([lambda: time.sleep(0.02)], 1, 0.0, 9, longest=0.03).samples
    assert len(samples[0]) == 3
    before = torch.get_num_threads()
    with measure.running_on(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_plot_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ratios.{suffix}"
    plot.draw([("dense", [0.5, 2.0, 1.0]), ("empty", []), ("3-D", [30.0])], path, "all")
    assert path.stat().st_size > 1000
    first = path.read_bytes()
    if suffix == "svg":
        text = first.decode()
        assert plot.WIN in text and plot.LOSS in text
        plot.draw([("dense", [0.5, 2.0, 1.0]), ("empty", []), ("3-D", [30.0])], path, "all")
        assert path.read_bytes() == first
    with pytest.raises(ValueError, match="at least one panel"):
        plot.draw([("empty", [])], path, "none")


LIMITS = {"threads": 2, "fma_peak": {"float32": 100.0}, "copying": {"1024": 200.0, "1048576": 50.0}}


def write_part(folder: Path, part: Part, rows: list[Row], planned: int) -> None:
    machine = {**store.identity(), "build": "b", "limits": [LIMITS]}
    store.save(folder / f"{part.name}.json", store.Results(machine, planned, [dataclasses.asdict(r) for r in rows]))


def test_the_combined_report(tmp_path: Path) -> None:
    rows = [row(name, ratio, work) for work in WORKS for name, ratio in zip(DENSE, (0.9, 3.0, 2.0), strict=True)]
    write_part(tmp_path, PARTS["float32_2_threads"], rows, 630)
    write_part(tmp_path, PARTS["direct_2_threads"], [row(DENSE[2], 1.0, seconds=0.01)], 1)
    paced = dataclasses.replace(row(DENSE[2], 1.0, seconds=0.01), threads=1, fma_pace=125.0)
    write_part(tmp_path, PARTS["direct_1_thread"], [paced], 1)
    (tmp_path / "models.md").write_text("# Whole networks\n\nthe table of networks\n")
    written = {path.name for path in combined.write(tmp_path)}
    assert written == {
        "README.md",
        "families.svg",
        "settings.svg",
        "float32_2_threads.md",
        "direct_2_threads.md",
        "direct_1_thread.md",
    }
    text = (tmp_path / "README.md").read_text()
    assert "**not finished**: float32_2_threads (624 of 630 to go)" in text
    assert "**not measured**: float32_1_thread" in text
    assert "| dense 2-D | float32, 2 threads | 3 | 1.81 (1.4) | 1.75 | **0.90 (0.95) resnet50/conv2_1.a** |" in text
    assert "- dense 2-D (float32, 2 threads), forward: missed: 1 of 3 under 0.95" in text
    assert "### Distance from the floor" in text
    assert "| 100 | 100% | 125 | 80% | 80% (" in text and "missed by 11%" in text
    assert "missed by 44%" in text and "the table of networks" in text
    assert "## Losses: 2 of 6" in text
    assert "10%, 20%" not in text and "20%, 20%" in text  # the larger spread of the two sides
    with pytest.raises(FileNotFoundError, match="at least one part"):
        combined.write(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("retake", "spread", "again"),
    [("", math.inf, [0]), (DENSE[1], math.inf, [1]), (DENSE[1], 0.0, [1]), ("", 0.5, [0, 2])],
)
def test_cases_that_were_timed_elsewhere_or_spread_or_are_named_are_taken_again_in_their_place(
    retake: str, spread: float, again: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "planned", lambda of, quick: plan)
    setting = measure.Setting()
    plan = [(LAYERS[name], setting) for name in DENSE]
    shares = zip(DENSE, (0.5, 0.0, 0.0), strict=True)
    rows = [dataclasses.replace(row(name, 2.0), elsewhere=share) for name, share in shares]
    rows[2] = dataclasses.replace(rows[2], torch_spread=0.6)
    taken: list[str] = []

    def measured(layer: Layer, *_: object) -> Row:
        taken.append(layer.id)
        return row(layer.id, 3.0)

    monkeypatch.setattr(part.measure, "measure", measured)
    monkeypatch.setattr(part.measure, "operands", lambda *_: None)
    monkeypatch.setattr(part.measure, "reference", lambda *_: [])
    monkeypatch.setattr(part.store, "resume", lambda *_: store.Results({}, 3, [dataclasses.asdict(r) for r in rows]))
    options = argparse.Namespace(
        quick=False, again=False, retake=retake, spread=spread, seconds=None, turns=3, min_run_time=0.01
    )
    results = part.run(PARTS["float32_2_threads"], tmp_path / "p.json", options)
    assert taken == [DENSE[i] for i in again]
    assert [(r["net"] + "/" + r["layer"], r["torch_seconds"] / r["our_seconds"]) for r in results.rows] == [
        (name, pytest.approx(3.0 if i in again else 2.0)) for i, name in enumerate(DENSE)
    ]


def test_the_readme_gets_what_was_measured(tmp_path: Path) -> None:
    rows = [row(name, ratio, work) for work in WORKS for name, ratio in zip(DENSE, (0.9, 3.0, 2.0), strict=True)]
    write_part(tmp_path, PARTS["float32_2_threads"], [*rows, row("sound/k9", 12.0), row("sound/k9", 4.0, WORKS[1])], 8)
    whole = {"net": "LeNet-5", "batch": 1, "size": 32, "error": 0.0, "our_share": 0.5, "torch_share": 0.5}
    times = {"our_seconds": 1.0, "our_spread": 0.0, "torch_spread": 0.0}
    steps = [{**whole, **times, "torch_seconds": 3.0 - threads, "threads": threads} for threads in (1, 2)]
    store.save(tmp_path / "models.json", store.Results({}, 2, steps))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    summary.update(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text == f"before\n\n{summary.BEGIN}\n\n{summary.block(tmp_path)}\n\n{summary.END}\nafter\n"
    lines = [line for line in text.splitlines() if line.startswith("|")]
    nets = (math.sqrt(0.9 * 3.0) * 2.0 * 12.0) ** (1 / 3)  # resnet50's mean, vgg16, sound
    assert lines[2].startswith(f"| float32, 2 threads, 4 layers | **{nets:.2f}** (2.84); 1 |")
    assert "| of these 1-D, 1 layers | **12** (12); 0 | **4.00** (4.00); 0 |" in lines
    assert "LeNet-5 1.00 and 2.00." in text and "Aims that are met by their mean and by every layer: " in text
    with pytest.raises(FileNotFoundError, match="at least one part"):
        summary.update(readme, tmp_path / "nowhere")


def test_panels_are_families_across_passes_down() -> None:
    panels = combined.panels([row(DENSE[0], 2.0), row("sound/k9", 0.5, WORKS[1])])
    assert [name for name, _ in panels] == [f"{family}, {work}" for work in WORKS for family in FAMILIES]
    assert dict(panels)["dense, forward"] == [2.0] and dict(panels)["1-D, forward+backward"] == [0.5]


def test_every_piece_is_a_command() -> None:
    commands = everything.commands(quick=True)
    assert list(commands) == [*PARTS, *everything.MODULES]
    assert commands["models"] == ["bench.models", "--quick"]


def test_amdahl() -> None:
    times = {"our_seconds": 1.0, "torch_seconds": 2.0, "our_spread": 0.0, "torch_spread": 0.0}
    shares = {"our_share": 0.5, "torch_share": 0.75}
    result = models.Row(net="net", batch=1, size=32, threads=2, error=0.0, **times, **shares)
    assert result.ratio == 2 and result.bound == 4 and result.layers_ratio == pytest.approx(3)
    assert "| net | 1x32x32 | 2 |" in models.markdown([result]) and "on 2 threads: 2.00" in models.markdown([result])


def test_a_network_is_measured() -> None:
    with measure.running_on(1):
        result = models.measured(networks.NETWORKS["LeNet-5"], 2, 1, 0.001, 1)
    assert 0 < result.our_share < 1 and 0 < result.torch_share < 1
    assert result.error < 1e-5


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_have_their_papers_sizes(name: str) -> None:
    parameters = {
        "LeNet-5": 61_706,
        "AlexNet": 61_100_840,
        "VGG-16": 138_357_544,
        "ResNet-50": 25_557_032,
        "MobileNetV2": 3_504_872,
        "U-Net": 31_030_658,
    }
    network = networks.NETWORKS[name]
    with torch.device("meta"):
        model = network.make(nn).eval()
        result = model(torch.empty(1, *network.image))
    assert sum(p.numel() for p in model.parameters()) == parameters[name]
    assert result.shape[:2] == (1, network.classes)


@pytest.mark.parametrize("dtype", measure.DTYPES)
def test_subnormal_numbers_are_subnormal(dtype: str) -> None:
    layer = Layer("net", "a", (8, 8), (3, 4), 3)
    small = subnormal_of(layer, dtype)
    tiny = torch.finfo(getattr(torch, dtype)).tiny
    for t in (small.input, small.grad):
        assert (t.abs() < tiny).double().mean() > 0.9 and (t != 0).double().mean() > 0.9


def subnormal_of(layer: Layer, dtype: str) -> measure.Operands:
    return subnormals.subnormal(measure.operands(layer, getattr(torch, dtype)), dtype)


def test_subnormal_layers_are_cases() -> None:
    assert {LAYERS[name].family for name in subnormals.LAYERS} == set(FAMILIES)
    result = subnormals.Row("net", "a", "1x1", "float32", 2, "forward", (1.0, 2.0), (1.0, 8.0))
    assert "2.00 on average for convext (at most 2.00), 8.00 for torch" in subnormals.markdown([result])


def test_where_we_stand_beside_runtimes() -> None:
    def result(net: str, runtime: str, seconds: float) -> runtimes.Row:
        return runtimes.Row(net, 1, 2, runtime, (seconds, seconds), 1e-7)

    times = {"torch": 4.0, "convext": 3.0, "convext, fused": 2.0, "onnxruntime": 1.0, "OpenVINO": 4.0}
    rows = [result("VGG-16", name, seconds) for name, seconds in times.items()]
    rows += [result("LeNet-5", name, 1.0) for name in times]
    lines = runtimes.standing(rows)
    assert lines[1].endswith("0.71 on average; ahead on 1 of 2, behind on VGG-16 (0.50).")
    assert lines[2].endswith("1.41 on average; ahead on 2 of 2.")
    assert "| VGG-16 | 1x3x224x224 | 4000.0 |" in runtimes.markdown(rows, "versions")
