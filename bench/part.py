"""Runs one part of the benchmark and writes its JSON; what an earlier run has left is gone on with.

``python -m bench.part float64_2_threads --seconds 300`` stops after 300 seconds at the latest, and the same command
again goes on from there. ``python -m bench.everything`` runs all parts.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

import convext
from bench import cores, machine, measure, report, store
from bench.layer import Layer
from bench.parts import PARTS, Part

# seconds for all turns of both sides of a case, where a call is so slow that it matters
LONGEST = 2.0
# what tells a part's rows apart
KEY = ("net", "layer", "batch", "work")


def key(layer: Layer, setting: measure.Setting) -> tuple[str, str, int, str]:
    """The values of KEY in the row of this case."""
    return layer.net, layer.name, layer.batch, setting.work


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.part", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: bench/results (build/bench-quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long; the next run goes on")
    parser.add_argument("--again", action="store_true", help="discard what is measured already")
    parser.add_argument(
        "--retake",
        nargs="?",
        const="",
        metavar="NET/LAYER",
        help="measure anew: this layer, or all cases whose turns were taken elsewhere",
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=math.inf,
        metavar="S",
        help="with --retake: all cases, too, in which the blocks of one side or the other spread by more than this",
    )
    parser.add_argument("--quick", action="store_true", help="a few layers, short times: to see that it runs")
    parser.add_argument("--min-run-time", type=float, default=0.1, metavar="S", help="seconds a side (default: 0.1)")
    parser.add_argument(
        "--cores", choices=cores.PLACEMENTS, default=cores.wanted, help="of the threads (default: near)"
    )
    parser.add_argument("--turns", type=int, default=9, metavar="N", help="turns that each side gets (default: 9)")
    options = parser.parse_args()
    options.into = store.folder(options.quick, options.into)
    cores.wanted = options.cores
    if options.quick:
        options.min_run_time, options.turns = 0.005, 3
    return options


def planned(part: Part, quick: bool) -> list[tuple[Layer, measure.Setting]]:
    """What is to be measured, in order."""
    layers = part.layers()
    if quick:
        layers = sorted(layers, key=lambda layer: layer.flops(False))[: len(layers) // 2 : max(1, len(layers) // 12)]
    return [(layer, setting) for layer in layers for setting in part.settings()]


def retaken(row: dict[str, Any], layer: str, spread: float) -> bool:
    """Whether a row is to be measured anew: whichever side a disturbance has hit, and whoever has won."""
    if layer:
        return f"{row['net']}/{row['layer']}" == layer
    return row["elsewhere"] > 0 or max(row["our_spread"], row["torch_spread"]) > spread


def run(part: Part, path: Path, options: argparse.Namespace) -> store.Results:
    """Measures what is not there yet, saving after each layer."""
    convext.backends.winograd.enabled = part.winograd
    plan = planned(part, options.quick)

    def facts() -> dict[str, object]:
        return machine.facts([part.dtype], [part.threads], options.turns, options.min_run_time)

    settings = {"blocks": machine.blocks(options.turns, options.min_run_time)}
    results = store.resume(path, len(plan), settings, facts, options.again)
    place = {key(*case): i for i, case in enumerate(plan)}
    results.rows = [row for row in results.rows if tuple(row[name] for name in KEY) in place]  # the lists may change
    if options.retake is not None:
        results.rows = [row for row in results.rows if not retaken(row, options.retake, options.spread)]
    there = results.measured(KEY)
    left = [case for case in plan if key(*case) not in there]
    deadline = store.Deadline(options.seconds)
    before = None
    for layer, setting in left:
        if layer != before:
            if deadline.passed:
                break
            values = measure.operands(layer, getattr(torch, part.dtype))
            references = measure.reference(layer, values, part.works[-1])
            before = layer
        row = measure.measure(
            layer, setting, values, references, options.min_run_time, options.turns, LONGEST, part.with_pace
        )
        results.rows.append(dataclasses.asdict(row))
        store.save(path, results)
        print(f"[{len(results.rows)}/{results.planned}] {setting.work:16} {report.line(row)}", flush=True)
    results.rows.sort(key=lambda row: place[tuple(row[name] for name in KEY)])
    store.save(path, results)
    return results


def main() -> int:
    options = arguments()
    part = PARTS[options.part]
    if not part.environment.items() <= os.environ.items():  # must stand before torch is loaded: start again
        os.execve(
            sys.executable, [sys.executable, "-m", "bench.part", *sys.argv[1:]], {**os.environ, **part.environment}
        )
    results = run(part, options.into / f"{part.name}.json", options)
    print(
        f"{part.name}: {len(results.rows)} of {results.planned}{'' if results.complete else '; run it again to go on'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
