"""Times one layer, convext's and torch's turn by turn in one process, and says how far both are from float64."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import convext
from bench import cores
from bench.heap import keep_freed_memory
from bench.layer import Layer

WORKS = ("forward", "forward+backward")
LAYOUTS = ("contiguous", "channels_last")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a layer is run. ``work``: one of WORKS; ``layout``: of the input and the weight, one of LAYOUTS."""

    dtype: str = "float32"
    threads: int = 2
    layout: str = "contiguous"
    work: str = "forward"

    def __str__(self) -> str:
        return f"{self.work}, {self.dtype}, {self.layout}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """A case that both sides have run, turn by turn. Times are medians in seconds of one call."""

    our_seconds: float
    torch_seconds: float
    our_spread: float  # (slowest - fastest block) / median
    torch_spread: float
    elsewhere: float = 0.0  # share of the turns that were not taken where `bench.cores` wants them

    @property
    def ratio(self) -> float:
        """torch's time / convext's: above 1, convext is faster."""
        return self.torch_seconds / self.our_seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(Timed):
    """A case whose results were held against float64, too."""

    our_error: float  # ||out - ref|| / ||ref|| against torch in float64; the worst of output and gradients
    torch_error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Compared):
    """One line of the benchmark: a layer in a setting."""

    net: str
    layer: str
    shape: str
    family: str
    count: int  # how often the network has this layer
    batch: int
    dtype: str
    threads: int
    layout: str
    work: str
    algorithm: str  # of each operator that ran: fprop (or dgrad), then those of the backward pass
    flops: int
    bytes: int  # that its operators must at least read and write
    fma_pace: float | None = None  # GFLOP/s of each thread with the micro-kernel alone, in turn with the layer

    @property
    def gflops(self) -> float:
        """convext's billions of floating-point operations a second."""
        return self.flops / self.our_seconds * 1e-9

    @property
    def setting(self) -> Setting:
        return Setting(self.dtype, self.threads, self.layout, self.work)


@dataclasses.dataclass
class Operands:
    """A layer's input, weight, bias, and the gradient that comes back to its output."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    grad: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Operands:
        tensors = (self.input, self.weight, self.bias, self.grad)
        return Operands(*[None if t is None else change(t) for t in tensors])  # type: ignore[arg-type]


def operands(layer: Layer, dtype: torch.dtype) -> Operands:
    """Random numbers, the same for every setting; the weight's scale is that of a trained network."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    weight = draw(layer.weight_shape) / math.sqrt(math.prod(layer.weight_shape[1:]))
    bias = draw(layer.output_shape[1:2]) if layer.bias else None
    return Operands(draw(layer.input_shape), weight, bias, draw(layer.output_shape))


def laid_out(values: Operands, layout: str) -> Operands:
    """The same values in this layout; each tensor on its own, as `Module.to(memory_format=...)` leaves a model."""

    def change(t: Tensor) -> Tensor:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        wanted = formats.get(t.dim()) if layout == "channels_last" else None
        return t.clone(memory_format=torch.contiguous_format if wanted is None else wanted)

    return values.map(change)


def has_layout(layer: Layer, layout: str) -> bool:
    """1-D tensors know no channels_last."""
    return layout == "contiguous" or layer.dims > 1


def runner(functional: Any, layer: Layer, values: Operands, work: str) -> Callable[[], list[Tensor]]:
    """What is timed: the output; for "forward+backward" also gradients to input (unless it is data), weight, bias."""
    function, settings = getattr(functional, layer.function), layer.settings
    if work == "forward":

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [function(values.input, values.weight, values.bias, **settings)]

        return forward

    leaves = values.map(lambda t: t.detach().requires_grad_())
    wanted = [t for t in (None if layer.first else leaves.input, leaves.weight, leaves.bias) if t is not None]
    source = leaves.input.detach() if layer.first else leaves.input

    def both() -> list[Tensor]:
        output = function(source, leaves.weight, leaves.bias, **settings)
        return [output, *torch.autograd.grad(output, wanted, values.grad)]

    return both


def reference(layer: Layer, values: Operands, work: str) -> list[Tensor]:
    """The results in float64 by torch."""
    exact = laid_out(values.map(lambda t: t.double()), "contiguous")
    return [t.detach() for t in runner(torch.nn.functional, layer, exact, work)()]


def relative_error(results: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """The largest ||result - reference|| / ||reference||."""
    pairs = zip(results, references, strict=True)
    return max(float((a.detach().double() - b).norm() / b.norm()) for a, b in pairs)


@contextlib.contextmanager
def running_on(threads: int) -> Iterator[None]:
    """torch's number of threads, which is ours, inside a ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# seconds a call from which on it does not matter what ran before: caches are written over anyway, and time is short
LONG_CALL = 0.01
# times what the turns take, and the least time of one side's, after which turns are taken wherever the threads run
PATIENCE, LEAST_PATIENCE = 3, 20


@dataclasses.dataclass(frozen=True)
class Turns:
    """What `in_turn` measured. ``samples``: each function's turns, in seconds a call; ``elsewhere``: as in `Timed`."""

    samples: list[list[float]]
    elsewhere: float


def in_turn(
    functions: Sequence[Callable[[], object]],
    threads: int,
    min_run_time: float,
    turns: int,
    longest: float = math.inf,
) -> Turns:
    """Seconds a call for each function: one sample a turn, each over at least min_run_time / turns seconds.

    The order changes from turn to turn, and short calls are made twice before they are timed, so that neither always
    runs in what the other left in the caches. Where a turn of all takes so long that ``turns`` of them take more than
    ``longest`` seconds there are fewer, at least three. A turn before and after which the threads' cores are not as
    `bench.cores` wants them is taken again, until patience ends. Results get memory that was freed before.
    """
    keep_freed_memory()
    with running_on(threads):
        numbers, warm_ups, one_turn = [], [], 0.0
        for function in functions:
            once = timeit.timeit(function, number=1)  # the first call allocates, and starts threads
            if once < 10 * LONG_CALL:
                once = max(1e-9, timeit.timeit(function, number=1))
            numbers.append(max(1, math.ceil(min_run_time / turns / once)))
            warm_ups.append(2 if once < LONG_CALL else 0)
            one_turn += numbers[-1] * once
        order = list(range(len(functions)))
        samples: list[list[float]] = []  # of a turn, each
        elsewhere = 0
        turns = int(min(turns, max(3, longest / one_turn)))
        end = time.monotonic() + PATIENCE * turns * one_turn + LEAST_PATIENCE * min_run_time
        while len(samples) < turns:
            patient = time.monotonic() < end
            if patient and not cores.as_wanted(threads):
                continue
            sample = [0.0 for _ in functions]
            for i in order:
                for _ in range(warm_ups[i]):
                    functions[i]()
                sample[i] = timeit.timeit(functions[i], number=numbers[i]) / numbers[i]
            stayed = cores.as_wanted(threads)
            if stayed or not patient:
                samples.append(sample)
                order.reverse()
                elsewhere += not stayed
    return Turns([list(side) for side in zip(*samples, strict=True)], elsewhere / turns)


def spread(samples: Sequence[float]) -> float:
    return (max(samples) - min(samples)) / statistics.median(samples)


def algorithms(layer: Layer, setting: Setting) -> str:
    """The algorithm of every operator that the work takes, in the order in which they run."""
    image = layer.output_shape if layer.transposed else layer.input_shape  # the side that a convolution reads
    operators = ["dgrad" if layer.transposed else "fprop"]
    if setting.work != "forward":
        to_input = "fprop" if layer.transposed else "dgrad"
        operators += ["wgrad"] if layer.first else [to_input, "wgrad"]
    settings = {name: value for name, value in layer.settings.items() if name != "output_padding"}  # in image
    return " / ".join(
        convext.conv_plan(
            operator,
            image,
            layer.weight_shape,
            **settings,
            dtype=getattr(torch, setting.dtype),
            channels_last=setting.layout == "channels_last",
            num_threads=setting.threads,
        ).algorithm
        for operator in operators
    )


def measure(
    layer: Layer,
    setting: Setting,
    values: Operands,
    references: Sequence[Tensor],
    min_run_time: float = 0.2,
    turns: int = 5,
    longest: float = math.inf,
    with_pace: bool = False,
) -> Row:
    """Runs a layer in a setting. ``references``: what `reference` says of these values, for this work or both.

    ``min_run_time``, ``turns``, ``longest``: as `in_turn` has them. ``with_pace``: measures ``fma_pace``, too.
    """
    ready = laid_out(values, setting.layout)
    ours, theirs = (runner(f, layer, ready, setting.work) for f in (convext.functional, torch.nn.functional))
    errors = [relative_error(results := f(), references[: len(results)]) for f in (ours, theirs)]
    paces: list[float] = []

    def pace() -> None:
        paces.append(convext._C.measure_fma_pace(setting.dtype, setting.threads, min_run_time / turns) * 1e-9)

    sides = (ours, theirs, pace) if with_pace else (ours, theirs)
    timed = in_turn(sides, setting.threads, min_run_time, turns, longest)
    our_times, torch_times = timed.samples[:2]
    return Row(
        net=layer.net,
        layer=layer.name,
        shape=str(layer),
        family=layer.family,
        count=layer.count,
        batch=layer.batch,
        **dataclasses.asdict(setting),
        algorithm=algorithms(layer, setting),
        flops=layer.flops(setting.work != "forward"),
        bytes=layer.elements(setting.work != "forward") * getattr(torch, setting.dtype).itemsize,
        our_seconds=statistics.median(our_times),
        torch_seconds=statistics.median(torch_times),
        our_spread=spread(our_times),
        torch_spread=spread(torch_times),
        elsewhere=timed.elsewhere,
        our_error=errors[0],
        torch_error=errors[1],
        fma_pace=statistics.median(paces) if paces else None,
    )
