"""Whole networks at inference: convext.fuse against the unfused model, and torch. ``python -m bench.fuse --help``.

The networks have random weights: only their shapes matter to the time.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse as torch_fuse

import convext
from bench import measure
from bench.networks import mobilenet_v2, resnet50

# The models that are timed, in the order of the table's columns.
MODELS = ("torch", "torch, BN folded", "convext", "convext, fused")


NETS: dict[str, Callable[[Any], nn.Module]] = {"ResNet-50": resnet50, "MobileNetV2": mobilenet_v2}


@dataclasses.dataclass(frozen=True)
class Row:
    """A network in a setting. Seconds are medians of one call, an entry for each of MODELS."""

    net: str
    batch: int
    size: int
    threads: int
    layout: str
    seconds: tuple[float, ...]
    error: float  # of the fused model: ||out - ref|| / ||ref|| against the unfused model in float64

    @property
    def over_unfused(self) -> float:
        """The unfused model's time over the fused one's, both convext's: above 1, fusing is worth its name."""
        return self.seconds[2] / self.seconds[3]

    @property
    def over_torch(self) -> float:
        """The time of torch's model with folded normalisation over ours."""
        return self.seconds[1] / self.seconds[3]


def models(make: Callable[[Any], nn.Module], layout: str) -> dict[str, nn.Module]:
    """One network, with the same weights, as each of MODELS."""
    torch.manual_seed(0)
    plain = make(nn).eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2)
    ours = make(convext.nn).eval()
    ours.load_state_dict(plain.state_dict())
    all_four = (plain, torch_fuse(copy.deepcopy(plain)), ours, convext.fuse(ours))
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return {name: model.to(memory_format=wanted) for name, model in zip(MODELS, all_four, strict=True)}  # type: ignore[call-overload]


def measured(net: str, batch: int, size: int, threads: int, layout: str, min_run_time: float, turns: int) -> Row:
    all_four = models(NETS[net], layout)
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(memory_format=wanted)
    with torch.no_grad():
        exact = copy.deepcopy(all_four["torch"]).double()(x.double())
        error = measure.relative_error([all_four["convext, fused"](x)], [exact])
        calls = [lambda model=model: model(x) for model in all_four.values()]
        samples = measure.in_turn(calls, threads, min_run_time, turns).samples
    return Row(net, batch, size, threads, layout, tuple(statistics.median(s) for s in samples), error)


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/fuse.md; times in milliseconds."""
    head = ["network", "batch", "layout", "threads", *(f"{name}, ms" for name in MODELS)]
    head += ["fused over unfused", "over torch, BN folded", "error"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        times = [f"{1e3 * s:.1f}" for s in row.seconds]
        ratios = [f"{row.over_unfused:.2f}", f"{row.over_torch:.2f}", f"{row.error:.1e}"]
        lines.append(
            [f"{row.net}, {row.size}x{row.size}", str(row.batch), row.layout, str(row.threads), *times, *ratios]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fuse", description="Times fused networks at inference.")
    parser.add_argument(
        "--net", nargs="+", choices=NETS, default=list(NETS), metavar="X", help=f"of {', '.join(NETS)} (default: all)"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="height and width of the image")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], metavar="N")
    parser.add_argument("--layout", nargs="+", choices=measure.LAYOUTS, default=list(measure.LAYOUTS))
    parser.add_argument("--min-run-time", type=float, default=1.0, metavar="S", help="seconds a model (default: 1)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns that each model gets (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    options = parser.parse_args()
    if min(options.turns, options.batch, options.size, *options.threads) < 1:
        parser.error("--turns, --threads, --size and --batch take numbers from 1 on")
    return options


def run(options: argparse.Namespace) -> Iterator[Row]:
    for net in options.net:
        for threads in options.threads:
            for layout in options.layout:
                yield measured(net, options.batch, options.size, threads, layout, options.min_run_time, options.turns)


def main() -> int:
    options = arguments()
    rows = list(run(options))
    print(markdown(rows), end="")
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows), encoding="utf-8")
    if options.json is not None:
        options.json.write_text(
            json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
