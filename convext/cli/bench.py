"""``bench``: times a convolution, a pooling or every one of a network by convext and by torch, turn by turn."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch

from convext.cli import networks, timed_calls
from convext.cli.failures import DONE, Missing, Usage
from convext.cli.timed_calls import LAYOUTS, PASSES, Call, Row, Setting

__all__ = ["add_arguments", "run"]

_EXAMPLES = """\
examples:
  python -m convext bench resnet18                                 every convolution and pooling of the network
  python -m convext bench my_nets:unet --input 1x3x64x64 --pass forward
  python -m convext bench --conv 8x64x56x56 --to 128 --kernel 3 --stride 2 --padding 1
  python -m convext bench --conv 1x512x16x16 --to 512 --kernel 3 --padding 1 --groups 512 --dtype float32 float64
  python -m convext bench --conv 1x64x28x28 --to 32 --kernel 4 --stride 2 --padding 1 --transposed --threads 1 2
  python -m convext bench --pool max --conv 8x64x112x112 --kernel 3 --stride 2 --padding 1 --layout channels_last
  python -m convext bench resnet18 --json bench.json --plot bench.png

ratio is torch's time / convext's, medians: above 1 convext is faster, below 1 the line is marked <. Whole benchmarks,
with errors and machine facts, are run from a source checkout: python -m bench.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    networks.add_arguments(parser, several_settings=True)
    shape = parser.add_argument_group("one shape in place of NET")
    shape.add_argument("--conv", type=networks.size, metavar="SIZE", help="the input's size, e.g. 8x64x56x56")
    shape.add_argument("--pool", choices=("max", "avg"), help="a pooling of that input, not a convolution")
    shape.add_argument("--to", type=int, metavar="K", help="output channels (default: the input's)")
    shape.add_argument("--kernel", type=int, default=3, metavar="K", help="kernel size (default: 3)")
    shape.add_argument("--stride", type=int, default=1, metavar="S")
    shape.add_argument("--padding", type=int, default=0, metavar="P")
    shape.add_argument("--dilation", type=int, default=1, metavar="D")
    shape.add_argument("--groups", type=int, default=1, metavar="G")
    shape.add_argument("--transposed", action="store_true", help="a transposed convolution")
    how = parser.add_argument_group("how it is run")
    how.add_argument("--dtype", nargs="+", choices=networks.DTYPES, default=["float32"])
    how.add_argument("--device", choices=("cpu",), default="cpu", help="convext's kernels on others are not measured")
    how.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()], metavar="N")
    how.add_argument("--layout", nargs="+", choices=LAYOUTS, default=["contiguous"])
    how.add_argument("--pass", nargs="+", choices=PASSES, default=list(PASSES), dest="passes")
    how.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each line, both sides (default: 0.5)")
    out = parser.add_argument_group("where it goes")
    out.add_argument(
        "--json", type=Path, metavar="FILE", help="write all rows; - is standard output, without the table"
    )
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios (.png, .svg, .pdf; needs matplotlib)")


def _calls(options: argparse.Namespace) -> list[Call]:
    if (options.network is None) == (options.conv is None):
        raise Usage("bench: expected a network or --conv SIZE, one of them", "python -m convext bench --help")
    if options.conv is not None:
        return [timed_calls.of_shape(options)]
    options.dtype, dtypes = options.dtype[0], options.dtype
    options.threads, threads = None, options.threads
    try:
        model, inputs = networks.network(options), networks.inputs(options)
        with networks.failures_of(options, inputs):
            found = timed_calls.of_network(model, inputs)
    finally:
        options.dtype, options.threads = dtypes, threads
    if not found:
        raise Usage(f"{options.network}: expected a network with a convolution or pooling, got none")
    return found


def _settings(options: argparse.Namespace) -> list[Setting]:
    if min(options.threads) < 1 or options.seconds <= 0:
        raise Usage("bench: expected --threads of 1 or more, and --seconds above 0")
    return [
        Setting(dtype, threads, layout, work)
        for dtype in options.dtype
        for threads in options.threads
        for layout in options.layout
        for work in options.passes
    ]


def _plot(rows: list[Row], path: Path, title: str) -> None:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.28 * len(rows)), layout="constrained")
    places = range(len(rows), 0, -1)
    axes.barh(places, [row.ratio for row in rows], color=["#2a6f97" if row.ratio >= 1 else "#c1666b" for row in rows])
    axes.set_yticks(places, [f"{row.call}, {row.setting}" for row in rows], fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("torch's time / convext's: above 1 convext is faster")
    axes.set_title(title, fontsize=9)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Usage(f"--plot {path}: {error}") from error
    finally:
        pyplot.close(figure)


def _pyplot() -> Any:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise Missing("--plot: matplotlib is not installed", "pip install matplotlib") from error
    matplotlib.use("agg")
    return importlib.import_module("matplotlib.pyplot")


def run(options: argparse.Namespace) -> int:
    settings, calls = _settings(options), _calls(options)
    for name, path in (("--json", options.json), ("--plot", options.plot)):  # before a minute is spent
        if path is not None and not path.parent.is_dir():
            raise Usage(f"{name} {path}: expected a file in a folder that is there, got none at {path.parent}")
    if options.plot is not None:
        _pyplot()  # before a minute is spent
    rows = timed_calls.measured(calls, settings, options.seconds)
    facts = timed_calls.machine()
    if str(options.json) == "-":
        print(json.dumps({"machine": facts, "rows": [row.as_dict() for row in rows]}, indent=1))
    else:
        print(timed_calls.table(rows))
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
    if options.json is not None and str(options.json) != "-":
        text = json.dumps({"machine": facts, "rows": [row.as_dict() for row in rows]}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot is not None:
        _plot(rows, options.plot, options.network or str(calls[0]))
    return DONE
