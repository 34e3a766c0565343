"""Times convext's CUDA operators against torch's (cuDNN) on a GPU, and writes a JSON and a page for each part.

``python -m bench.cuda`` takes under nine minutes and goes on where it was interrupted; ``--only REGEX`` names parts
(``--list`` shows them), ``--seconds S`` is what all of them may take, ``--report`` only writes the pages of what is
there. Without a GPU it says what is missing and ends with status 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convext
from bench import cuda_report, cuda_timing, measure, pool, store
from bench.cuda_parts import PARTS, Part, Row, bytes_moved
from bench.cuda_timing import Stopwatch, arithmetic_peak, copy_bandwidth, rotations
from bench.layer import Layer
from convext import _cuda

# what tells a part's rows apart
KEY = ("net", "layer", "work")
POOL_FAMILY = "beside convolution"

Runner = Callable[[], list[Tensor]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One line to be measured, whatever it computes. ``runners``: a side's call on fresh copies of the operands."""

    net: str
    layer: str
    shape: str
    family: str
    flops: int
    moved: int
    operand_bytes: int
    runners: Callable[[Any], Runner]  # of convext.functional or torch.nn.functional
    reference: Callable[[], list[Tensor]]


def drawn(layer: Layer, dtype: torch.dtype) -> measure.Operands:
    """As `measure.operands`, on the GPU."""
    generator = torch.Generator(cuda_timing.DEVICE).manual_seed(0)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, device=cuda_timing.DEVICE).to(dtype)

    weight = draw(layer.weight_shape) / float(torch.Size(layer.weight_shape[1:]).numel()) ** 0.5
    bias = draw(layer.output_shape[1:2]) if layer.bias else None
    return measure.Operands(draw(layer.input_shape), weight, bias, draw(layer.output_shape))


def convolution(part: Part, layer: Layer, values: measure.Operands, work: str) -> Problem:
    backward = work != "forward"
    moved = bytes_moved(layer, part.dtype, backward)
    return Problem(
        layer.net,
        layer.name,
        str(layer),
        layer.family,
        layer.flops(backward),
        moved,
        bytes_moved(layer, part.dtype, False),
        lambda functional: measure.runner(functional, layer, measure.laid_out(values, part.layout), work),
        lambda: measure.reference(layer, values, work),
    )


def pooling(part: Part, case: pool.Case, x: Tensor, grad: Tensor, work: str) -> Problem:
    def runner(functional: Any) -> Runner:
        image, back = (pool.laid_out(t, part.layout) for t in (x, grad))
        return pool.runner(functional, case, image, back, work)

    def reference() -> list[Tensor]:
        return [t.detach() for t in pool.runner(torch.nn.functional, case, x.double(), grad.double(), work)()]

    moved = (x.nbytes + grad.nbytes) * (1 if work == "forward" else 2)
    return Problem("pool", case.name, str(case), POOL_FAMILY, 0, moved, x.nbytes + grad.nbytes, runner, reference)


def measured(problem: Problem, work: str, stopwatch: Stopwatch, budget: float) -> Row:
    copies = rotations(problem.operand_bytes, stopwatch.l2_bytes, stopwatch.memory_bytes)
    sides = [[problem.runners(f) for _ in range(copies)] for f in (convext.functional, torch.nn.functional)]
    let_cudnn_search(False)  # of the reference there is one call
    wanted = problem.reference()
    let_cudnn_search(True)
    errors = [measure.relative_error(side[0](), wanted) for side in sides]
    del wanted
    ours, theirs = stopwatch.in_turn(sides, budget)
    return Row(
        net=problem.net,
        layer=problem.layer,
        shape=problem.shape,
        family=problem.family,
        work=work,
        flops=problem.flops,
        moved=problem.moved,
        our_seconds=statistics.median(ours),
        torch_seconds=statistics.median(theirs),
        our_spread=(max(ours) - min(ours)) / statistics.median(ours),
        torch_spread=(max(theirs) - min(theirs)) / statistics.median(theirs),
        our_error=errors[0],
        torch_error=errors[1],
    )


def problems(part: Part, there: set[tuple[Any, ...]]) -> Any:
    """What is still to be measured, a case's operands alive for as long as it is its turn: (work, Problem)."""
    dtype = getattr(torch, part.dtype)
    for layer in part.layers():
        works = [work for work in part.works if (layer.net, layer.name, work) not in there]
        values = drawn(layer, dtype) if works else None
        for work in works:
            assert values is not None
            yield work, convolution(part, layer, values, work)
    for case in part.pools():
        works = [work for work in part.works if ("pool", case.name, work) not in there]
        if works:
            x = torch.randn(case.shape, device=cuda_timing.DEVICE).to(dtype)
            grad = torch.randn(case.call(torch.nn.functional, x).shape, device=cuda_timing.DEVICE).to(dtype)
            for work in works:
                yield work, pooling(part, case, x, grad, work)


def allow_tf32(allowed: bool) -> None:
    """For torch's convolutions and products, and for convext's kernels, which ask torch."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def let_cudnn_search(wanted: bool) -> None:
    """Whether torch's side tries its algorithms at the first call of a shape, and keeps the fastest."""
    torch.backends.cudnn.benchmark = wanted


def identity() -> dict[str, str]:
    """What must be the same for two results to stand in one table, beside `machine.identity`."""
    return {
        "GPU": torch.cuda.get_device_name(),
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "CUDA kernels": hashlib.sha256(_cuda.LIBRARY.read_bytes()).hexdigest()[:12],
    }


def run(part: Part, options: argparse.Namespace, stopwatch: Stopwatch, seconds: float) -> store.Results:
    """Measures what is not there yet, saving after each row, and stops after so many seconds."""
    allow_tf32(part.tf32)
    deadline = store.Deadline(seconds)

    def facts() -> dict[str, Any]:
        return {
            "TF32": "allowed" if part.tf32 else "off",
            "arithmetic_peak": arithmetic_peak(stopwatch, part.dtype),
            "bandwidth_peak": copy_bandwidth(stopwatch),
        }

    planned = (len(part.layers()) + len(part.pools())) * len(part.works)
    path = options.into / f"{part.name}.json"
    results = store.resume(path, planned, {**identity(), "seconds a side": options.budget}, facts, options.again)
    for work, problem in problems(part, results.measured(KEY)):
        if deadline.passed:
            break
        row = measured(problem, work, stopwatch, options.budget)
        results.rows.append(dataclasses.asdict(row))
        store.save(path, results)
        print(f"[{len(results.rows)}/{planned}] {cuda_report.line(row)}", flush=True)
        torch.cuda.empty_cache()
    return results


def write_page(part: Part, folder: Path) -> Path | None:
    """The page of a part, from its JSON; None where nothing of it has been measured."""
    results = store.load(folder / f"{part.name}.json")
    if results is None or not results.rows:
        return None
    rows = [Row(**row) for row in results.rows]
    machine = dict(results.machine)
    if not results.complete:
        machine["**not finished**"] = f"{results.planned - len(rows)} of {results.planned} to go"
    page = folder / f"{part.name}.md"
    page.write_text(cuda_report.markdown(part, rows, machine), encoding="utf-8")
    print(cuda_report.text(part, rows))
    return page


def shares(seconds: float, parts: int) -> float:
    """What the next of so many parts may take of the seconds that are left."""
    return seconds / max(1, parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="only the parts whose name matches")
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: bench/results (build/bench-quick)")
    parser.add_argument("--seconds", type=float, default=480.0, metavar="S", help="for all parts (default: 480)")
    parser.add_argument("--budget", type=float, default=0.05, metavar="S", help="seconds a side (default: 0.05)")
    parser.add_argument("--again", action="store_true", help="discard what is measured already")
    parser.add_argument("--quick", action="store_true", help="short, into a folder of its own: to see that it runs")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the pages of what is there")
    parser.add_argument("--list", action="store_true", help="list the parts and stop")
    options = parser.parse_args()
    options.into = store.folder(options.quick, options.into)
    if options.quick:
        options.seconds, options.budget = min(options.seconds, 60.0), 0.005
    return options


def main() -> int:
    options = arguments()
    chosen = [part for part in PARTS.values() if re.search(options.only, part.name)]
    if options.list:
        print("\n".join(f"{p.name:28} {len(p.layers()) + len(p.pools()):3} cases  {p.title}" for p in chosen))
        return 0
    if not options.report:
        absent = _cuda.absence()
        if absent is not None:
            print(f"bench.cuda: there is no GPU to measure on: {absent}", file=sys.stderr)
            return 2
        whole, stopwatch = store.Deadline(options.seconds), Stopwatch()
        for i, part in enumerate(chosen):
            print(f"== {part.title}", flush=True)
            run(part, options, stopwatch, shares(whole.left or 0.0, len(chosen) - i))
    pages = [write_page(part, options.into) for part in chosen]
    print("\n".join(f"wrote {page}" for page in pages if page is not None) or "nothing has been measured yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
