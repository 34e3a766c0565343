"""Whole networks in training: forward + loss + backward of a converted model beside the unconverted.

``python -m bench.models`` takes LeNet-5, AlexNet, VGG-16, ResNet-50, MobileNetV2 and U-Net. The two models, of the same
weights, run in turn in one process. How much `convext.convert` can gain is bounded by the share of the time that the
converted layers have in torch's model: the report puts Amdahl's bound beside the ratio.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import convext
from bench import machine, measure, report, store
from bench.networks import NETWORKS, Network
from bench.targets import LAYERS_AIM, NETWORK_AIM

# The outermost profiler events of the layers that `convert` takes over, forward and backward, torch's and convext's.
CONVERTED = re.compile(
    r"aten::(conv2d|conv_transpose2d|max_pool2d|adaptive_avg_pool2d)"
    r"|convext_\w+(?<!Backward)"
    r"|autograd::engine::evaluate_function: (Convolution|MaxPool|convext_)\w+"
)
# seconds for all turns of both models
LONGEST = 12.0
# steps that are profiled, of whose shares the median counts
PROFILED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(measure.Timed):
    """One network, forward + loss + backward.

    ``torch_share``, ``our_share``: the converted layers' part of that time in either model.
    """

    net: str
    batch: int
    size: int
    threads: int
    our_share: float
    torch_share: float
    error: float  # the loss against that of the unconverted model, relative

    @property
    def bound(self) -> float:
        """Amdahl: the ratio if the converted layers took no time at all."""
        return 1 / (1 - self.torch_share)

    @property
    def layers_ratio(self) -> float:
        """The ratio of the converted layers alone."""
        return self.torch_share * self.torch_seconds / (self.our_share * self.our_seconds)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """What is timed: the loss, and the gradients of all parameters."""

    def run() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach()

    return run


def steps(network: Network, batch: int) -> list[Callable[[], Tensor]]:
    """The step of the converted model and that of the unconverted, of the same weights and images."""
    torch.manual_seed(0)
    plain = network.make(nn).train()
    ours = convext.convert(copy.deepcopy(plain))
    images = torch.randn(batch, *network.image)
    with torch.no_grad():
        shape = copy.deepcopy(plain).eval()(images[:1]).shape
    labels = torch.randint(network.classes, (batch, *shape[2:]))
    return [step(model, images, labels) for model in (ours, plain)]


def share(run: Callable[[], object], threads: int) -> float:
    """The converted layers' part of a step: the median of PROFILED steps."""
    return statistics.median(_share(run, threads) for _ in range(PROFILED))


def _share(run: Callable[[], object], threads: int) -> float:
    """The same of one step, by torch's profiler."""
    with (
        measure.running_on(threads),
        profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen,
        record_function("step"),
    ):
        run()
    times = {event.key: event.cpu_time_total for event in seen.key_averages()}
    return sum(time for key, time in times.items() if CONVERTED.fullmatch(key)) / times["step"]


def measured(network: Network, batch: int, threads: int, min_run_time: float, turns: int) -> Row:
    ours, theirs = steps(network, batch)
    losses = [float(run()) for run in (ours, theirs)]
    timed = measure.in_turn((ours, theirs), threads, min_run_time, turns, LONGEST)
    our_times, torch_times = timed.samples
    return Row(
        net=network.name,
        batch=batch,
        size=network.image[1],
        threads=threads,
        our_seconds=statistics.median(our_times),
        torch_seconds=statistics.median(torch_times),
        our_spread=measure.spread(our_times),
        torch_spread=measure.spread(torch_times),
        elsewhere=timed.elsewhere,
        our_share=share(ours, threads),
        torch_share=share(theirs, threads),
        error=abs(losses[0] - losses[1]) / abs(losses[1]),
    )


def table(rows: Sequence[Row]) -> list[str]:
    head = ["network", "images", "threads", "convext ms", "torch ms", "ratio", "spread"]
    head += ["converted layers in torch's time", "in convext's", "their ratio", "Amdahl's bound"]
    return report.table(
        head,
        (
            [
                row.net,
                f"{row.batch}x{row.size}x{row.size}",
                row.threads,
                report.milliseconds(row.our_seconds),
                report.milliseconds(row.torch_seconds),
                f"**{row.ratio:.2f}** {report.flag(row.ratio)}".strip(),
                f"{max(row.our_spread, row.torch_spread):.0%}",
                f"{row.torch_share:.0%}",
                f"{row.our_share:.0%}",
                f"{row.layers_ratio:.2f}",
                f"{row.bound:.1f}",
            ]
            for row in rows
        ),
    )


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "# Whole networks: forward + loss + backward",
        "",
        "`convext.convert(model)` against the same model unconverted, float32, contiguous, in turn in one process; "
        "medians. No optimiser. The share of the converted layers (convolution, transposed convolution, pooling) is "
        "torch's profiler's; Amdahl's bound is the ratio if they took no time.",
        "",
        *table(rows),
    ]
    for threads in dict.fromkeys(row.threads for row in rows):
        group = [row for row in rows if row.threads == threads]
        mean, layers = report.geomean(row.ratio for row in group), report.geomean(row.layers_ratio for row in group)
        under = [row.net for row in group if row.ratio < NETWORK_AIM]
        lines += [
            "",
            f"Geometric mean on {threads} thread{'s' if threads > 1 else ''}: {mean:.2f}, of the converted layers "
            f"alone {layers:.2f} (aim: {LAYERS_AIM}, {'met' if layers >= LAYERS_AIM else 'missed'}); networks under "
            f"{NETWORK_AIM:g}: {', '.join(under) or 'none'}.",
        ]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=(__doc__ or "").splitlines()[0])
    names = f"of {', '.join(NETWORKS)} (default: all)"
    parser.add_argument("--net", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="X", help=names)
    parser.add_argument("--batch", type=int, metavar="N", help="for all networks (default: each network's own)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], metavar="N", help="default: 2 1")
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: bench/results (build/bench-quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long; the next run goes on")
    parser.add_argument("--again", action="store_true", help="discard what is measured already")
    parser.add_argument("--quick", action="store_true", help="LeNet-5 alone, short: to see that it runs")
    parser.add_argument("--min-run-time", type=float, default=1.0, metavar="S", help="seconds a model (default: 1)")
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="turns that each model gets (default: 7)")
    options = parser.parse_args()
    options.into = store.folder(options.quick, options.into)
    if options.quick:
        options.net, options.batch, options.min_run_time = ["LeNet-5"], 2, 0.01
    return options


def main() -> int:
    options = arguments()
    planned = [(NETWORKS[net], threads) for threads in options.threads for net in options.net]
    path = options.into / "models.json"
    settings = {"blocks": machine.blocks(options.turns, options.min_run_time)}
    results = store.resume(path, len(planned), settings, again=options.again)
    there = results.measured(("net", "batch", "threads"))
    deadline = store.Deadline(options.seconds)
    for network, threads in planned:
        batch = options.batch or network.batches[0]
        if (network.name, batch, threads) in there:
            continue
        if deadline.passed:
            print("Not all is measured: the same command again goes on.")
            break
        row = measured(network, batch, threads, options.min_run_time, options.turns)
        results.rows.append(dataclasses.asdict(row))
        store.save(path, results)
        print(table([row])[-1], flush=True)
    text = markdown([Row(**row) for row in results.rows])
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
