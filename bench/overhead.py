"""What a call costs beside its arithmetic: tiny problems, ours and torch's in turn. ``python -m bench.overhead``.

An image of 1x1x8x8 has next to nothing to compute: the time of the call is that of checking arguments, choosing a
kernel, allocating the result and recording the gradient.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convext
from bench import measure

WORKS = ("forward", "forward, recorded", "forward+backward")
KINDS = ("function", "layer")


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of torch.nn.functional with its arguments after the tensors, and the layer that does the same."""

    function: str
    layer: str
    arguments: tuple[Any, ...]
    parameters: tuple[tuple[int, ...], ...] = ()  # shapes
    # The most of our time over torch's, forward and forward+backward.
    targets: tuple[float, float] | None = None

    def tensors(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator) for shape in ((1, 1, 8, 8), *self.parameters)]

    def calls(self, ours: bool, kind: str) -> tuple[Callable[[], Tensor], list[Tensor]]:
        """The call, and the tensors that it is derived by."""
        functional, layers = (convext.functional, convext.nn) if ours else (torch.nn.functional, torch.nn)
        tensors = [t.requires_grad_() for t in self.tensors()]
        if kind == "function":
            function, arguments = getattr(functional, self.function), (*tensors, *self.arguments)
            return (lambda: function(*arguments)), tensors
        channels = (1, 1) if self.parameters else ()
        kernel = tuple(self.parameters[0][2:]) if self.parameters else ()
        settings = self.arguments if not self.parameters else (kernel, *self.arguments)
        layer, image = getattr(layers, self.layer)(*channels, *settings), tensors[0]
        return (lambda: layer(image)), [image, *layer.parameters()]


CASES = (
    Case("conv2d", "Conv2d", (1, 1), ((1, 1, 3, 3), (1,)), targets=(2.5, 2.0)),
    Case("conv_transpose2d", "ConvTranspose2d", (1, 1), ((1, 1, 3, 3), (1,)), targets=(2.5, 2.0)),
    Case("max_pool2d", "MaxPool2d", (2, 2)),
    Case("avg_pool2d", "AvgPool2d", (2, 2)),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line: medians in microseconds of one call."""

    case: Case
    kind: str
    work: str
    ours: float
    torchs: float

    @property
    def ratio(self) -> float:
        """Our time over torch's."""
        return self.ours / self.torchs

    @property
    def target(self) -> float | None:
        return dict(zip(("forward", "forward+backward"), self.case.targets or (), strict=False)).get(self.work)


def runner(case: Case, ours: bool, kind: str, work: str) -> Callable[[], Any]:
    call, tensors = case.calls(ours, kind)
    if work != "forward+backward":
        return call
    grad = torch.ones_like(call())
    return lambda: torch.autograd.grad(call(), tensors, grad)


def measured(case: Case, kind: str, work: str, turns: int, seconds: float) -> Row:
    runs = [runner(case, ours, kind, work) for ours in (True, False)]
    with torch.set_grad_enabled(work != "forward"):
        for run in runs * 200:  # the first calls fill caches, and would make a block too short
            run()
        ours, torchs = measure.in_turn(runs, 1, seconds, turns).samples
    return Row(case, kind, work, statistics.median(ours) * 1e6, statistics.median(torchs) * 1e6)


def rows(turns: int, seconds: float, filter: str) -> Iterator[Row]:
    for case in CASES:
        if filter in case.function:
            for kind in KINDS:
                for work in WORKS:
                    yield measured(case, kind, work, turns, seconds)


def line(row: Row) -> str:
    target = "" if row.target is None else f"{row.target:g}"
    missed = " **missed**" if row.target is not None and row.ratio > row.target else ""
    cells = (row.case.function, row.kind, row.work, f"{row.ours:.1f}", f"{row.torchs:.1f}", f"{row.ratio:.2f}", target)
    return f"| {' | '.join(cells)}{missed} |"


HEADER = (
    "| | called as | pass | convext, us | torch, us | ratio | target at most |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overhead", description="Times calls on tiny problems, ours and torch's in turn."
    )
    parser.add_argument("--filter", default="", metavar="TEXT", help="only functions whose name contains it")
    parser.add_argument("--turns", type=int, default=9, metavar="N", help="turns that each side gets (default: 9)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, metavar="S", help="for each side of a line (default: 0.5)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = (
        f"convext {convext.__version__}, kernels for {convext.backends.cpu.get_max_isa()}; torch {torch.__version__}; "
        f"1 thread; an image of 1x1x8x8, float32; medians of {options.turns} turns."
    )
    report = ["# Call overhead", "", facts, "", *HEADER]
    print(facts, *HEADER, sep="\n")
    for row in rows(options.turns, options.seconds, options.filter):
        report.append(line(row))
        print(report[-1], flush=True)
    if options.markdown is not None:
        options.markdown.write_text("\n".join(report) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
