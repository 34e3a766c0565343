"""The command line: which layers, in which settings, and where the results go."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import convext
from bench import cases, machine, measure, report
from bench.layer import Layer
from bench.measure import Row, Setting


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Times convext's convolutions against torch's."
    )
    many = {"nargs": "+", "metavar": "X"}
    parser.add_argument("--net", choices=list(cases.CASES), help="only these networks and families", **many)  # type: ignore[arg-type]
    parser.add_argument(
        "--filter",
        default="",
        metavar="REGEX",
        help="only layers whose 'net/name', family or shape (as --list prints them) matches",
    )
    parser.add_argument("--quick", action="store_true", help="a few layers, short times: to see that it runs")
    parser.add_argument("--batch", type=int, help="for all layers (default: each network's own, 1 to 4)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=measure.DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()], metavar="N")
    parser.add_argument("--layout", nargs="+", default=["contiguous"], choices=measure.LAYOUTS)
    parser.add_argument("--pass", nargs="+", default=list(measure.WORKS), choices=measure.WORKS, dest="works")
    parser.add_argument("--min-run-time", type=float, default=0.2, metavar="S", help="seconds a side (default: 0.2)")
    parser.add_argument("--turns", type=int, default=9, metavar="N", help="turns that each side gets (default: 9)")
    parser.add_argument("--isa", help="cap convext's instruction set: baseline, avx2, avx512, avx512_bf16")
    parser.add_argument("--list", action="store_true", help="list the layers and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report")
    options = parser.parse_args()
    if options.quick:
        options.min_run_time, options.turns = min(options.min_run_time, 0.05), min(options.turns, 3)
    if min(options.turns, *options.threads) < 1 or (options.batch is not None and options.batch < 1):
        parser.error("--turns, --threads and --batch take numbers from 1 on")
    return options


def chosen_layers(options: argparse.Namespace) -> list[Layer]:
    found = cases.layers(options.net, options.batch)
    if options.quick:
        few = {layer.id for layer in cases.quick()}
        found = [layer for layer in found if layer.id in few]
    pattern = re.compile(options.filter)
    return [layer for layer in found if any(map(pattern.search, (layer.id, layer.family, str(layer))))]


def settings(options: argparse.Namespace, layer: Layer, dtype: str) -> list[Setting]:
    return [
        Setting(dtype, threads, layout, work)
        for threads in options.threads
        for layout in options.layout
        if measure.has_layout(layer, layout)
        for work in options.works
    ]


def run(options: argparse.Namespace, layers: list[Layer]) -> Iterator[Row]:
    """Every layer in every setting, a line of progress each. Operands and references live as long as their layer."""
    total = sum(len(settings(options, layer, dtype)) for layer in layers for dtype in options.dtype)
    done, start = 0, time.monotonic()
    most = "forward" if options.works == ["forward"] else "forward+backward"
    for layer in layers:
        for dtype in options.dtype:
            values = measure.operands(layer, getattr(torch, dtype))
            references = measure.reference(layer, values, most)
            for setting in settings(options, layer, dtype):
                row = measure.measure(layer, setting, values, references, options.min_run_time, options.turns)
                done += 1
                left = (time.monotonic() - start) / done * (total - done)
                print(f"[{done}/{total}, {left:.0f} s left] {setting}\n  {report.line(row)}", flush=True)
                yield row


def main() -> int:
    options = arguments()
    layers = chosen_layers(options)
    if options.list or not layers:
        print(
            "\n".join(f"{layer.id:28} {layer.family:10} x{layer.count}  {layer}" for layer in layers) or "no such layer"
        )
        return 0 if layers else 1
    if options.isa is not None:
        convext.backends.cpu.set_max_isa(options.isa)
    facts = machine.facts(options.dtype, options.threads, options.turns, options.min_run_time)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    rows = list(run(options, layers))
    rows.sort(key=lambda row: (row.dtype, row.threads, row.layout, row.work))  # stable: layers stay in order
    print("\nratio = torch's time / convext's: above 1 convext is faster")
    print("\n".join(report.text(result) for result in report.summaries(rows)))
    print("\n".join(report.losses_text(rows)))
    for path, content in ((options.json, report.as_json), (options.markdown, report.markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content(rows, facts), encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
