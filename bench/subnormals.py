"""What numbers too small for a full mantissa cost: the same layers on ordinary and on subnormal input.

``python -m bench.subnormals``. Some processors take a hundred cycles and more for an operation on a subnormal number,
and gradients become subnormal in training. A slow-down is the time on inputs and gradients of about 1e-40 (float32)
over the time on ordinary ones; 1 is none.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import convext
from bench import cases, machine, measure, report, store
from bench.layer import Layer

# An algorithm and a family each: transformed, dense, pointwise, strided, depthwise, grouped, 1-D, 3-D, transposed.
LAYERS = (
    "resnet50/conv3_2.b",
    "googlenet/3a.5x5",
    "resnet50/conv3_1.c",
    "resnet50/conv1",
    "mobilenet_v2/4.depthwise",
    "grouped/resnext8",
    "sound/k9",
    "volumes/r3d_64",
    "transposed/dcgan128",
)

# The least numbers are 1e-45, 5e-324, 9e-41 and 6e-8; the least that are not subnormal 1e-38, 2e-308, 1e-38 and 6e-5.
SCALES = {"float32": 1e-40, "float64": 1e-310, "bfloat16": 2e-39, "float16": 3e-6}


@dataclasses.dataclass(frozen=True)
class Row:
    """Medians in seconds of one call, on ordinary and on subnormal numbers."""

    net: str
    layer: str
    shape: str
    dtype: str
    threads: int
    work: str
    our_seconds: tuple[float, float]
    torch_seconds: tuple[float, float]

    @property
    def our_slowdown(self) -> float:
        return self.our_seconds[1] / self.our_seconds[0]

    @property
    def torch_slowdown(self) -> float:
        return self.torch_seconds[1] / self.torch_seconds[0]


def subnormal(values: measure.Operands, dtype: str) -> measure.Operands:
    """Input, bias and gradient scaled down, the weight as it is: so are the sums subnormal."""
    scale = SCALES[dtype]

    def small(t: torch.Tensor) -> torch.Tensor:
        return (t.double() * scale).to(t.dtype)

    bias = None if values.bias is None else small(values.bias)
    return measure.Operands(small(values.input), values.weight, bias, small(values.grad))


def measured(layer: Layer, dtype: str, threads: int, work: str, min_run_time: float, turns: int) -> Row:
    ordinary = measure.operands(layer, getattr(torch, dtype))
    operands = (ordinary, subnormal(ordinary, dtype))
    sides = (convext.functional, torch.nn.functional)
    calls = [measure.runner(side, layer, values, work) for side in sides for values in operands]
    times = [statistics.median(samples) for samples in measure.in_turn(calls, threads, min_run_time, turns).samples]
    ours, theirs = (times[0], times[1]), (times[2], times[3])
    return Row(layer.net, layer.name, str(layer), dtype, threads, work, ours, theirs)


def markdown(rows: Sequence[Row]) -> str:
    head = [
        "layer",
        "shape",
        "dtype",
        "pass",
        "convext ms",
        "subnormal",
        "slow-down",
        "torch ms",
        "subnormal",
        "slow-down",
    ]
    lines = [
        [
            f"{row.net}/{row.layer}",
            row.shape,
            row.dtype,
            row.work,
            *map(report.milliseconds, row.our_seconds),
            f"{row.our_slowdown:.2f}",
            *map(report.milliseconds, row.torch_seconds),
            f"{row.torch_slowdown:.2f}",
        ]
        for row in rows
    ]
    ours = report.geomean(row.our_slowdown for row in rows)
    theirs = report.geomean(row.torch_slowdown for row in rows)
    worst = max(row.our_slowdown for row in rows)
    text = (
        "A slow-down is the time on subnormal inputs and gradients over the time on ordinary ones, "
        f"on {rows[0].threads} threads: {ours:.2f} on average for convext (at most {worst:.2f}), "
        f"{theirs:.2f} for torch."
    )
    return "\n".join(["# Subnormal inputs", "", text, "", *report.table(head, lines)]) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.subnormals", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=measure.DTYPES, metavar="X")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: bench/results (build/bench-quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long; the next run goes on")
    parser.add_argument("--again", action="store_true", help="discard what is measured already")
    parser.add_argument("--quick", action="store_true", help="two layers, short times: to see that it runs")
    parser.add_argument("--min-run-time", type=float, default=0.1, metavar="S", help="seconds a side (default: 0.1)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns that each side gets (default: 5)")
    options = parser.parse_args()
    options.into = store.folder(options.quick, options.into)
    if options.quick:
        options.min_run_time, options.turns = 0.005, 3
    return options


def main() -> int:
    options = arguments()
    layers = {layer.id: layer for layer in cases.layers(batch=1)}
    names = LAYERS[1:6:3] if options.quick else LAYERS
    planned = [(layers[name], dtype, work) for name in names for dtype in options.dtype for work in measure.WORKS]
    path = options.into / "subnormals.json"
    settings = {"blocks": machine.blocks(options.turns, options.min_run_time), "threads": str(options.threads)}
    results = store.resume(path, len(planned), settings, again=options.again)
    there = results.measured(("net", "layer", "dtype", "work"))
    deadline = store.Deadline(options.seconds)
    for layer, dtype, work in planned:
        if (layer.net, layer.name, dtype, work) in there:
            continue
        if deadline.passed:
            print("Not all is measured: the same command again goes on.")
            break
        row = measured(layer, dtype, options.threads, work, options.min_run_time, options.turns)
        results.rows.append(dataclasses.asdict(row))
        store.save(path, results)
    if results.rows:
        text = markdown([Row(**row) for row in results.rows])
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
