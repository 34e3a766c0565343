"""Whole networks at inference beside runtimes that do nothing else: onnxruntime and OpenVINO.

``python -m bench.runtimes``. Each runtime runs in a process of its own, in turn, in several rounds, on the same image
and weights in float32: torch as it is, convext.convert, the same with convext.fuse, onnxruntime and OpenVINO on what
torch.onnx.export writes. Needs ``pip install -r requirements-runtimes.txt``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench import report, store
from bench.networks import NETWORKS, Network
from bench.runtime_worker import RUNTIMES

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
OURS = "convext, fused"
RIVALS = ("onnxruntime", "OpenVINO")


@dataclasses.dataclass(frozen=True)
class Row:
    """A network in one runtime. ``seconds``: the median call of each round."""

    net: str
    batch: int
    threads: int
    runtime: str
    seconds: tuple[float, ...]
    error: float  # ||out - ref|| / ||ref|| against torch in float64

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def missing() -> list[str]:
    """The packages that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def prepare(network: Network, batch: int, folder: Path) -> None:
    """Writes image, weights, expected result and ONNX file for `bench.runtime_worker`."""
    torch.manual_seed(0)
    model = network.make(nn).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2)
    image = torch.randn(batch, *network.image)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(image.double())
    np.save(folder / "image.npy", image.numpy())
    np.save(folder / "expected.npy", expected.numpy())
    torch.save(model.state_dict(), folder / "network.pt")
    torch.onnx.export(model, (image,), folder / "network.onnx", dynamo=True, verbose=False)


def measured(network: Network, batch: int, threads: int, rounds: int, seconds: float) -> list[Row]:
    """Every runtime once a round; the order turns round."""
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in RUNTIMES}
    with tempfile.TemporaryDirectory() as folder:
        prepare(network, batch, Path(folder))
        for turn in range(rounds):
            for runtime in list(RUNTIMES) if turn % 2 == 0 else reversed(RUNTIMES):
                worker = [sys.executable, "-m", "bench.runtime_worker", runtime, network.name, folder]
                whole = [*worker, str(threads), str(seconds)]
                done = subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True)
                answers[runtime].append(json.loads(done.stdout.splitlines()[-1]))
    return [
        Row(network.name, batch, threads, name, tuple(a["seconds"] for a in found), max(a["error"] for a in found))
        for name, found in answers.items()
    ]


def standing(rows: Sequence[Row]) -> list[str]:
    """Where convext stands, in words: for each rival the mean ratio, wins and losses."""
    times = {(row.net, row.runtime): row.median for row in rows}
    nets = list(dict.fromkeys(row.net for row in rows))
    lines = []
    for rival in ("torch", *RIVALS):
        ratios = {
            net: times[net, rival] / times[net, OURS] for net in nets if (net, rival) in times and (net, OURS) in times
        }
        if not ratios:
            continue
        wins = [net for net, ratio in ratios.items() if ratio >= 1]
        mean = report.geomean(ratios.values())
        behind = ", ".join(f"{net} ({ratio:.2f})" for net, ratio in ratios.items() if ratio < 1)
        words = f"ahead on {len(wins)} of {len(ratios)}" + (f", behind on {behind}" if behind else "")
        lines.append(f"- {rival}'s time over that of {OURS}: {mean:.2f} on average; {words}.")
    return lines


def markdown(rows: Sequence[Row], versions: str) -> str:
    times = {(row.net, row.runtime): row for row in rows}
    head = [
        "network",
        "images",
        *(f"{name}, ms" for name in RUNTIMES),
        *(f"{name} / ours" for name in RIVALS),
        "spread",
        "error",
    ]
    lines = []
    for net in dict.fromkeys(row.net for row in rows):
        found = [times[net, name] for name in RUNTIMES if (net, name) in times]
        by_name = {row.runtime: row for row in found}
        ours = by_name[OURS]
        ratios = [f"{by_name[name].median / ours.median:.2f}" for name in RIVALS]
        spread = max((max(row.seconds) - min(row.seconds)) / row.median for row in found)
        size = "x".join(map(str, (ours.batch, *NETWORKS[net].image)))
        cells = [report.milliseconds(row.median) for row in found]
        lines.append([net, size, *cells, *ratios, f"{spread:.0%}", f"{ours.error:.0e}"])
    text = (
        "Forward, float32, the same weights and image, each runtime in a process of its own, in turn; medians. "
        f"Threads: {', '.join(dict.fromkeys(str(row.threads) for row in rows))}. {versions}. The spread is that of the "
        "rounds, of the runtime where it is largest; the error is that of convext, fused, against float64."
    )
    parts = ["# Whole networks, forward, beside onnxruntime and OpenVINO", "", text, "", *report.table(head, lines), ""]
    return "\n".join([*parts, *standing(rows)]) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.runtimes", description=(__doc__ or "").splitlines()[0])
    names = f"of {', '.join(NETWORKS)} (default: all)"
    parser.add_argument("--net", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="X", help=names)
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="processes of each runtime (default: 3)")
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: bench/results (build/bench-quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long; the next run goes on")
    parser.add_argument("--again", action="store_true", help="discard what is measured already")
    parser.add_argument("--quick", action="store_true", help="LeNet-5 alone, one round: to see that it runs")
    parser.add_argument("--min-run-time", type=float, default=0.7, metavar="S", help="seconds a round (default: 0.7)")
    options = parser.parse_args()
    options.into = store.folder(options.quick, options.into)
    if options.quick:
        options.net, options.rounds, options.min_run_time = ["LeNet-5"], 1, 0.01
    return options


def main() -> int:
    options = arguments()
    if wanting := missing():
        print(f"bench.runtimes needs {', '.join(wanting)}: pip install -r requirements-runtimes.txt", file=sys.stderr)
        return 1
    path = options.into / "runtimes.json"
    settings = {"blocks": f"{options.rounds} rounds of {options.min_run_time} s", "threads": str(options.threads)}
    settings |= {name: importlib.metadata.version(name) for name in PACKAGES}
    results = store.resume(path, len(options.net) * len(RUNTIMES), settings, again=options.again)
    there = {key[0] for key in results.measured(["net"])}
    deadline = store.Deadline(options.seconds)
    for name in options.net:
        if name in there:
            continue
        if deadline.passed:
            print("Not all is measured: the same command again goes on.")
            break
        network = NETWORKS[name]
        rows = measured(network, network.batches[1], options.threads, options.rounds, options.min_run_time)
        results.rows += [dataclasses.asdict(row) for row in rows]
        store.save(path, results)
        print(name, *(f"{row.runtime} {report.milliseconds(row.median)} ms" for row in rows), sep="; ", flush=True)
    if results.rows:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *PACKAGES[2:]))
        text = markdown([Row(**row) for row in results.rows], versions)
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
