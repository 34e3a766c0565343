"""What `bench` times: calls of functions that torch and convext both have, alone or collected from a network's run."""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import convext
from convext.cli.failures import Usage
from convext.inspect import layers
from convext.inspect.recording import Recorder, map_tensors, tensors_in
from convext.inspect.table import rendered, size_text

__all__ = ["LAYOUTS", "PASSES", "Call", "Row", "Setting", "machine", "measured", "of_network", "of_shape", "table"]

LAYOUTS = ("contiguous", "channels_last")
PASSES = ("forward", "forward+backward")

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a call is run: ``layout`` is one of LAYOUTS, ``work`` one of PASSES."""

    dtype: str
    threads: int
    layout: str
    work: str

    def __str__(self) -> str:
        return f"{self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}, {self.layout}, {self.work}"


@dataclasses.dataclass
class Call:
    """A call of a function without its tensors' values; ``names`` are the layers that make it."""

    function: str
    arguments: tuple[tuple[str, Any], ...]  # a tensor as its size
    names: list[str]

    def __str__(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"{self.names[0]}{more}"

    @property
    def sizes(self) -> str:
        """The input's size, the weight's, and what differs from a function's defaults."""
        given = dict(self.arguments)
        text = size_text(given["input"].size)
        if isinstance(given.get("weight"), _Sized):
            text += f" * {size_text(given['weight'].size)}"
        elif "kernel_size" in given:
            text += f" k{_short(given['kernel_size'])}"
        stride = None if "kernel_size" in given else 1  # a pooling's is always said
        for key, letter, usual in (
            ("stride", "s", stride),
            ("padding", "p", 0),
            ("dilation", "d", 1),
            ("groups", "g", 1),
        ):
            if key in given and given[key] is not None and _short(given[key]) != str(usual):
                text += f" {letter}{_short(given[key])}"
        return text

    def drawn(self, setting: Setting) -> dict[str, Any]:
        """The arguments with random tensors, the weight scaled as in a network."""
        generator = torch.Generator().manual_seed(0)

        def draw(t: Any) -> Any:
            if not isinstance(t, _Sized):
                return t
            value = torch.randn(t.size, generator=generator).to(getattr(torch, setting.dtype))
            formats = _FORMATS if setting.layout == "channels_last" else {}
            return value.contiguous(memory_format=formats.get(value.dim(), torch.contiguous_format))

        arguments = {key: draw(value) for key, value in self.arguments}
        if isinstance(arguments.get("weight"), Tensor):
            arguments["weight"] /= math.sqrt(max(1, math.prod(arguments["weight"].shape[1:])))
        return arguments


@dataclasses.dataclass(frozen=True)
class _Sized:
    """A tensor of floating type, of which the size alone is kept."""

    size: tuple[int, ...]


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(set(map(str, value))) == 1:
        return _short(value[0])
    return "x".join(map(_short, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclasses.dataclass(frozen=True)
class Row:
    """A call in a setting; seconds are medians."""

    call: Call
    setting: Setting
    algorithm: str  # "" of what has no plan
    convext_seconds: float
    torch_seconds: float

    @property
    def ratio(self) -> float:
        return self.torch_seconds / self.convext_seconds

    def as_dict(self) -> dict[str, Any]:
        return {
            "layers": self.call.names,
            "function": self.call.function,
            "sizes": self.call.sizes,
            **dataclasses.asdict(self.setting),
            "algorithm": self.algorithm,
            "convext_seconds": self.convext_seconds,
            "torch_seconds": self.torch_seconds,
            "ratio": self.ratio,
        }


def _call(function: str, arguments: dict[str, Any], name: str) -> Call:
    sized = {key: map_tensors(lambda t: _Sized(tuple(t.shape)), value) for key, value in arguments.items()}
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in sized.items()}
    return Call(function, tuple(frozen.items()), [name])


class _Collector(Recorder):
    """The calls of a run that torch and convext can both repeat on random numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__("bench", model)
        self.found: dict[Any, Call] = {}

    def called(self, name: str, arguments: dict[str, Any], run: Callable[[], Any]) -> Any:
        repeatable = "indices" not in arguments and not name.startswith("fractional")
        if repeatable and all(t.is_floating_point() for t in tensors_in(arguments)):
            call = _call(name, arguments, self.layer(name)[0])
            known = self.found.setdefault((call.function, call.arguments), call)
            if known is not call:
                known.names += call.names
        return run()


def of_network(model: nn.Module, inputs: Sequence[Tensor]) -> list[Call]:
    """Every distinct call of a convolution, pooling, unfold or normalisation that a run of the network makes."""
    collector = _Collector(model)
    collector.run(tuple(inputs), {})
    return list(collector.found.values())


def of_shape(options: argparse.Namespace) -> Call:
    """The one call that the command line describes."""
    size, rank = options.conv, len(options.conv) - 2
    if rank not in (1, 2, 3):
        raise Usage(f"--conv: expected a size of 3 to 5 numbers, batch and channels first, got {size_text(size)}")
    if options.to is not None and options.to < 1:
        raise Usage(f"--to: expected 1 or more, got {options.to}")
    if options.pool is not None and (options.transposed or options.to is not None or options.groups != 1):
        raise Usage("--pool: expected no --transposed, --to or --groups: those are a convolution's")
    x = torch.empty(size, device="meta")
    if options.pool is not None:
        name = f"{options.pool}_pool{rank}d"
        settings = {"kernel_size": options.kernel, "stride": options.stride, "padding": options.padding}
        if options.dilation != 1:
            settings["dilation"] = options.dilation
        positional: tuple[Tensor, ...] = (x,)
    else:
        name = f"conv_transpose{rank}d" if options.transposed else f"conv{rank}d"
        channels, outputs = size[1], options.to or size[1]
        first, second = (channels, outputs) if options.transposed else (outputs, channels)
        if options.groups < 1 or second % options.groups:
            raise Usage(f"--groups: expected a divisor of the channels {channels} and {outputs}, got {options.groups}")
        weight = torch.empty(first, second // options.groups, *[options.kernel] * rank, device="meta")
        settings = {key: getattr(options, key) for key in ("stride", "padding", "dilation", "groups")}
        positional = (x, weight, torch.empty(outputs, device="meta"))
    try:
        getattr(convext.functional, name)(*positional, **settings)
    except (RuntimeError, TypeError, ValueError) as error:
        raise Usage(str(error)) from error
    arguments = layers.bound_arguments(name, positional, settings)
    assert arguments is not None, "the call itself has just succeeded"
    return _call(name, arguments, name)


def _runner(call: Callable[..., Any], function: str, arguments: dict[str, Any], work: str) -> Callable[[], Any]:
    if work == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return call(function, arguments)

        return forward
    leaves = {key: t.detach().requires_grad_() for key, t in arguments.items() if isinstance(t, Tensor)}
    result = tensors_in(call(function, {**arguments, **leaves}))[0]
    cotangent = torch.ones_like(result)

    def both() -> Any:
        output = tensors_in(call(function, {**arguments, **leaves}))[0]
        return torch.autograd.grad(output, list(leaves.values()), cotangent)

    return both


def _in_turn(runs: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """The median time of each, one call a turn in an order that changes; three turns at least."""
    samples: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    end, turn = time.perf_counter() + seconds, 0
    while turn < 3 or (time.perf_counter() < end and turn < 10_000):
        for i in range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs))):
            start = time.perf_counter()
            runs[i]()
            samples[i].append(time.perf_counter() - start)
        turn += 1
    return [statistics.median(times) for times in samples]


def _progress(steps: Sequence[Any]) -> Iterator[Any]:
    """A bar on the terminal, where standard error is one."""
    shown, start = sys.stderr.isatty(), time.monotonic()
    for i, step in enumerate(steps):
        if shown:
            filled = 30 * i // len(steps)
            left = (time.monotonic() - start) / i * (len(steps) - i) if i else math.nan
            text = f"{left:.0f} s left" if i else ""
            print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {i}/{len(steps)} {text:12}", end="", file=sys.stderr)
        yield step
    if shown:
        print(f"\r{'':60}\r", end="", file=sys.stderr)


def measured(calls: Sequence[Call], settings: Sequence[Setting], seconds: float) -> list[Row]:
    """A row for every call in every setting that torch can run, too; torch's number of threads is as before."""
    before, rows = torch.get_num_threads(), []
    try:
        for setting, call in _progress([(setting, call) for setting in settings for call in calls]):
            torch.set_num_threads(setting.threads)
            arguments = call.drawn(setting)
            try:
                torchs = _runner(layers.torch_call, call.function, arguments, setting.work)
            except (NotImplementedError, RuntimeError):
                continue  # torch has no such kernel for this type: there is nothing to compare with
            ours = _runner(layers.convext_call, call.function, arguments, setting.work)
            plan = layers.plan_of(call.function, arguments, getattr(torch, setting.dtype))
            times = _in_turn((ours, torchs), seconds)
            rows.append(Row(call, setting, "" if plan is None else plan.algorithm, *times))
    finally:
        torch.set_num_threads(before)
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line a row under a header for each setting, and the geometric mean of the ratios."""
    parts = []
    for setting in dict.fromkeys(row.setting for row in rows):
        group = [row for row in rows if row.setting == setting]
        lines = [
            [
                str(row.call),
                row.call.function,
                row.call.sizes,
                row.algorithm,
                f"{row.convext_seconds * 1e3:.3f}",
                f"{row.torch_seconds * 1e3:.3f}",
                f"{row.ratio:.2f}",
                "<" if row.ratio < 1 else "",
            ]
            for row in group
        ]
        mean = math.exp(statistics.fmean(math.log(row.ratio) for row in group))
        header = ["layer", "function", "sizes", "algorithm", "convext ms", "torch ms", "ratio", ""]
        footer = [["geometric mean", "", "", "", "", "", f"{mean:.2f}", ""]] if len(group) > 1 else []
        parts.append(f"{setting}\n{rendered(header, lines, 4, footer)}")
    return "\n\n".join(parts) or "torch has none of these for these types"


def machine() -> dict[str, str]:
    """What the times were measured on."""
    return {
        "convext": f"{convext.__version__} ({convext.backends.cpu.get_max_isa()})",
        "torch": str(torch.__version__),
        "processor": platform.processor() or platform.machine(),
    }
