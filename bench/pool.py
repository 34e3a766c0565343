"""The layers beside convolution: pooling, unfold and fold, normalisation. ``python -m bench.pool --help``.

They move memory and hardly compute, so their line says GB/s: the bytes that a perfect kernel moves (every tensor of the
call once), over the time, beside the measured copy bandwidth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convext
from bench import limits, machine, measure, report
from bench.measure import Setting


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of a function of torch.nn.functional: ``function(input of this shape, *args, **settings)``.

    ``targets``: the least ratio to torch that we aim at, contiguous, forward and forward+backward.
    """

    name: str
    function: str
    shape: tuple[int, ...]
    args: tuple[Any, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    targets: tuple[float, float] = (1.0, 1.0)

    def __str__(self) -> str:
        values = [*map(str, self.args), *(f"{key}={value}" for key, value in self.settings.items())]
        return f"{'x'.join(map(str, self.shape))} {' '.join(values)}"

    def call(self, functional: Any, x: Tensor) -> Tensor:
        result: Tensor = getattr(functional, self.function)(x, *self.args, **self.settings)
        return result


def cases(batch: int) -> list[Case]:
    """Maps of 64 x 112 x 112 and their peers in one and three dimensions."""
    image, line, volume = (batch, 64, 112, 112), (batch, 64, 12544), (batch, 32, 16, 56, 56)
    columns = (batch, 64 * 9, 112 * 112)
    return [
        Case("max_pool2d 3/2/1", "max_pool2d", image, (3, 2, 1), targets=(10, 5)),
        Case("max_pool2d 2/2", "max_pool2d", image, (2, 2), targets=(10, 5)),
        Case("max_pool2d 3/1/1", "max_pool2d", image, (3, 1, 1)),
        Case("avg_pool2d 3/1/1", "avg_pool2d", image, (3, 1, 1), targets=(5, 5)),
        Case("avg_pool2d 2/2", "avg_pool2d", image, (2, 2), targets=(2, 2)),
        Case("max_pool1d 3/2/1", "max_pool1d", line, (3, 2, 1), targets=(2, 2)),
        Case("max_pool1d 2/2", "max_pool1d", line, (2, 2), targets=(2, 2)),
        Case("avg_pool1d 2/2", "avg_pool1d", line, (2, 2), targets=(2, 2)),
        Case("max_pool3d 2/2", "max_pool3d", volume, (2, 2), targets=(2, 2)),
        Case("max_pool3d 3/2/1", "max_pool3d", volume, (3, 2, 1), targets=(2, 2)),
        Case("avg_pool3d 2/2", "avg_pool3d", volume, (2, 2), targets=(2, 2)),
        Case("adaptive_avg_pool2d 7", "adaptive_avg_pool2d", image, (7,)),
        Case("adaptive_avg_pool2d 1", "adaptive_avg_pool2d", image, (1,)),
        Case("adaptive_max_pool2d 7", "adaptive_max_pool2d", image, (7,)),
        Case("adaptive_max_pool2d 1", "adaptive_max_pool2d", image, (1,)),
        Case("lp_pool2d 2 3/2", "lp_pool2d", image, (2.0, 3, 2), targets=(5, 5)),
        Case("lp_pool2d 2 2/2", "lp_pool2d", image, (2.0, 2, 2), targets=(5, 5)),
        Case("local_response_norm 5", "local_response_norm", image, (5,), targets=(5, 5)),
        Case("unfold 3 p1", "unfold", image, (3,), {"padding": 1}, targets=(2, 1.5)),
        Case("unfold 2/2", "unfold", image, (2,), {"stride": 2}, targets=(2, 1.5)),
        Case("fold 3 p1", "fold", columns, ((112, 112), 3), {"padding": 1}, targets=(2, 1.5)),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(measure.Timed):
    """One line: a case in a setting."""

    name: str
    shape: str
    dtype: str
    threads: int
    layout: str
    work: str
    moved: int  # bytes of every tensor of the call, once
    our_error: float
    target: float | None

    @property
    def bandwidth(self) -> float:
        """GB/s."""
        return self.moved / self.our_seconds * 1e-9

    @property
    def setting(self) -> Setting:
        return Setting(self.dtype, self.threads, self.layout, self.work)


def runner(functional: Any, case: Case, x: Tensor, grad: Tensor, work: str) -> Callable[[], list[Tensor]]:
    """What is timed: the output, and for "forward+backward" the gradient to the input."""
    if work == "forward":

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [case.call(functional, x)]

        return forward

    leaf = x.detach().requires_grad_()

    def both() -> list[Tensor]:
        output = case.call(functional, leaf)
        return [output, *torch.autograd.grad(output, [leaf], grad)]

    return both


def laid_out(t: Tensor, layout: str) -> Tensor:
    wanted = {4: torch.channels_last, 5: torch.channels_last_3d}.get(t.dim()) if layout == "channels_last" else None
    return t.clone(memory_format=wanted or torch.contiguous_format)


def measured(case: Case, setting: Setting, options: argparse.Namespace) -> Row:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.shape, generator=generator).to(getattr(torch, setting.dtype))
    grad = torch.randn(case.call(torch.nn.functional, x).shape, generator=generator).to(x.dtype)
    exact = [t.detach() for t in runner(torch.nn.functional, case, x.double(), grad.double(), setting.work)()]
    x, grad = laid_out(x, setting.layout), laid_out(grad, setting.layout)
    ours, theirs = (runner(f, case, x, grad, setting.work) for f in (convext.functional, torch.nn.functional))
    error = measure.relative_error(ours(), exact)
    timed = measure.in_turn((ours, theirs), setting.threads, options.min_run_time, options.turns)
    our_times, torch_times = timed.samples
    both = setting.work != "forward"
    return Row(
        name=case.name,
        shape=str(case),
        **dataclasses.asdict(setting),
        moved=(x.nbytes + grad.nbytes) * (2 if both else 1),
        our_seconds=statistics.median(our_times),
        torch_seconds=statistics.median(torch_times),
        our_spread=measure.spread(our_times),
        torch_spread=measure.spread(torch_times),
        elsewhere=timed.elsewhere,
        our_error=error,
        target=case.targets[both] if setting.layout == "contiguous" else 1.0,
    )


def line(row: Row) -> str:
    """A row as one line of text."""
    missed = f"  below its target of {row.target:g}" if row.target and row.ratio < row.target else ""
    return (
        f"{row.name:24} {row.layout:14} {row.work:17} {report.milliseconds(row.our_seconds):>8} ms "
        f"(torch {report.milliseconds(row.torch_seconds):>8}) {row.bandwidth:6.1f} GB/s  x{row.ratio:6.2f} "
        f"{report.flag(row.ratio):2} error {row.our_error:.0e}{missed}"
    )


def markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The whole report, one table a setting."""
    parts = [
        ["# Pooling, unfold, fold and normalisation against torch"],
        [f"- {name}: {value}" for name, value in facts.items()],
        [
            "A ratio is torch's time / convext's, medians of blocks timed in turn in one process: above 1, convext is "
            "faster. GB/s counts every tensor of the call once."
        ],
    ]
    for setting in dict.fromkeys(row.setting for row in rows):
        group = [row for row in rows if row.setting == setting]
        head = ["case", "shape", "convext ms", "torch ms", "GB/s", "ratio", "aim", "error"]
        lines = [
            [
                row.name,
                row.shape,
                report.milliseconds(row.our_seconds),
                report.milliseconds(row.torch_seconds),
                f"{row.bandwidth:.1f}",
                f"{row.ratio:.2f} {report.flag(row.ratio)}".strip(),
                "" if row.target is None else f"{row.target:g}{'' if row.ratio >= row.target else ' missed'}",
                f"{row.our_error:.0e}",
            ]
            for row in group
        ]
        mean = report.geomean(row.ratio for row in group)
        parts += [[f"## {setting}: geometric mean {mean:.2f}"], report.table(head, lines)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def as_json(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    body = [{**dataclasses.asdict(row), "ratio": row.ratio, "bandwidth": row.bandwidth} for row in rows]
    return json.dumps({"machine": facts, "rows": body}, indent=1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pool", description="Times pooling, unfold, fold and normalisation against torch."
    )
    parser.add_argument("--filter", default="", metavar="TEXT", help="only cases whose name contains it")
    parser.add_argument("--batch", type=int, default=8, metavar="N")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=measure.DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()], metavar="N")
    parser.add_argument("--layout", nargs="+", default=list(measure.LAYOUTS), choices=measure.LAYOUTS)
    parser.add_argument("--pass", nargs="+", default=list(measure.WORKS), choices=measure.WORKS, dest="works")
    parser.add_argument("--min-run-time", type=float, default=0.5, metavar="S", help="seconds a side (default: 0.5)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns that each side gets (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report")
    options = parser.parse_args()
    if min(options.turns, options.batch, *options.threads) < 1:
        parser.error("--turns, --threads and --batch take numbers from 1 on")
    return options


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Every case in every setting, a line of progress each."""
    for case in cases(options.batch):
        if options.filter not in case.name:
            continue
        for dtype in options.dtype:
            for threads in options.threads:
                for layout in options.layout:
                    if layout == "channels_last" and len(case.shape) < 4:
                        continue
                    for work in options.works:
                        row = measured(case, Setting(dtype, threads, layout, work), options)
                        print(line(row), flush=True)
                        yield row


def main() -> int:
    options = arguments()
    bandwidths = {n: limits.copy_bandwidth(n, limits.COPIED[-1]) for n in options.threads}
    facts = {
        **machine.identity(),
        "copying within 256 MiB (read and written)": ", ".join(f"{b:.1f} GB/s on {n}" for n, b in bandwidths.items()),
        "blocks": machine.blocks(options.turns, options.min_run_time),
    }
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    rows = sorted(run(options), key=lambda row: (row.dtype, row.threads, row.layout, row.work))
    for path, content in ((options.json, as_json), (options.markdown, markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content(rows, facts), encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
