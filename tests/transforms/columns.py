"""The columns: a transform each, as a function that raises where a row does not pass it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convext
from tests.transforms.rows import Function, Row


@dataclass(frozen=True, eq=False)
class Library:
    """What has functions and layers: convext, or torch, whose behaviour is the measure."""

    functional: Any
    nn: Any

    def function(self, row: Row) -> Function:
        function = row.in_(self.functional)
        if function is None:
            raise Missing(row.name)
        return function

    def layer(self, row: Row) -> torch.nn.Module:
        self.function(row)
        return row.layer(self.nn)

    @property
    def is_ours(self) -> bool:
        return self.functional is convext.functional


OURS, TORCHS = Library(convext.functional, convext.nn), Library(torch.nn.functional, torch.nn)


class Missing(Exception):
    """torch has no such function."""


class NotApplicable(Exception):
    """The transform has no meaning for the row."""


Check = Callable[[Row, Library], None]


@dataclass(frozen=True)
class Column:
    """``slow``: compiles C++, starts processes or needs packages that not everyone has: not in the default tests."""

    title: str
    check: Check
    slow: bool = False


COLUMNS: list[Column] = []


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """What serves all rows is done once for each arguments, also where it raises."""
    outcomes: dict[tuple[Any, ...], Any] = {}

    def call(*args: Any) -> Any:
        if args not in outcomes:
            try:
                outcomes[args] = function(*args)
            except Exception as error:
                outcomes[args] = error
        if isinstance(outcomes[args], Exception):
            raise outcomes[args]
        return outcomes[args]

    return call


def column(title: str, slow: bool = False) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        COLUMNS.append(Column(title, check, slow))
        return check

    return register


def same(actual: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, **tolerance)


def smooth(function: Function) -> Function:
    """A loss with derivatives of every order."""
    return lambda *args: function(*args).tanh().sum()


@contextmanager
def no_slow_vmap() -> Iterator[None]:
    """vmap may run an operator sample by sample, with this warning: then it has no rule of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*")
        torch._C._debug_only_display_vmap_fallback_warnings(True)
        try:
            yield
        finally:
            torch._C._debug_only_display_vmap_fallback_warnings(False)


class Applied(torch.nn.Module):
    """The row's function on an image that a parameter scales, the row's other tensors being parameters."""

    def __init__(self, row: Row, library: Library, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        image, *others = row.tensors(dtype)
        self.function = library.function(row)
        self.scale = torch.nn.Parameter(torch.ones(image.shape[1], *[1] * (image.dim() - 2), dtype=dtype))
        self.others = torch.nn.ParameterList(others)

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image * self.scale, *self.others)


class Before(torch.nn.Module):
    """The row's layer behind a parameter that scales its image."""

    def __init__(self, row: Row, library: Library) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = torch.nn.Parameter(torch.ones(row.shapes[0][1], *[1] * (len(row.shapes[0]) - 2)))
        self.layer = library.layer(row).eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image * self.scale)


def gradients(module: torch.nn.Module, *images: Tensor) -> list[Tensor]:
    """Of the output and the smooth loss: to the parameters."""
    y = module(*images)
    return [y.detach(), *torch.autograd.grad(y.tanh().sum(), list(module.parameters()))]


# --- derivatives -----------------------------------------------------------------------------------------------------


@column("backward")
def _backward(row: Row, library: Library) -> None:
    torch.autograd.gradcheck(library.function(row), row.tensors(grad=True), check_undefined_grad=True, fast_mode=True)


@column("double backward")
def _double_backward(row: Row, library: Library) -> None:
    torch.autograd.gradgradcheck(library.function(row), row.tensors(grad=True), fast_mode=True)


@column("forward mode")
def _forward_mode(row: Row, library: Library) -> None:
    checks = {"check_forward_ad": True, "check_backward_ad": False, "check_undefined_grad": False, "fast_mode": True}
    torch.autograd.gradcheck(library.function(row), row.tensors(grad=True), **checks)


@column("forward over reverse")
def _forward_over_reverse(row: Row, library: Library) -> None:
    function = smooth(library.function(row))
    tensors = row.tensors()

    def gradient(*args: Tensor) -> Any:
        return torch.func.grad(function, argnums=tuple(range(len(args))))(*args)

    _, ours = torch.func.jvp(gradient, tuple(tensors), tuple(t.cos() for t in tensors))
    _, wanted = torch.autograd.functional.hvp(function, tuple(tensors), tuple(t.cos() for t in tensors))
    same(ours, wanted if isinstance(wanted, tuple) else (wanted,))


# --- torch.func ------------------------------------------------------------------------------------------------------


@column("func.grad")
def _func_grad(row: Row, library: Library) -> None:
    function = smooth(library.function(row))
    wanted = torch.autograd.grad(function(*(given := row.tensors(grad=True))), given)
    same(torch.func.grad(function, argnums=tuple(range(len(given))))(*row.tensors()), wanted)


@column("vmap")
def _vmap(row: Row, library: Library) -> None:
    """Over the image alone, over everything, and over all but the image."""
    function, tensors = library.function(row), row.tensors()
    batches = [torch.stack([t, t.flip(0), t / 2]) for t in tensors]
    choices = [(True, *[False] * (len(tensors) - 1)), (True,) * len(tensors), (False, *[True] * (len(tensors) - 1))]
    for mapped in choices:
        if not any(mapped):
            continue
        dims = tuple(0 if m else None for m in mapped)
        args = [b if m else t for b, t, m in zip(batches, tensors, mapped, strict=True)]
        with no_slow_vmap():
            ours = torch.vmap(function, in_dims=dims, randomness="different")(*args)
        samples = [[b[i] if m else t for b, t, m in zip(batches, tensors, mapped, strict=True)] for i in range(3)]
        same(ours, torch.stack([function(*sample) for sample in samples]))


@column("per-sample gradients")
def _per_sample(row: Row, library: Library) -> None:
    function = smooth(library.function(row))
    image, *others = row.tensors()
    images = torch.stack([image, image.flip(0), image / 2])
    argnums = tuple(range(1 + len(others)))
    gradient = torch.func.grad(function, argnums=argnums)
    with no_slow_vmap():
        ours = torch.vmap(gradient, (0, *[None] * len(others)), randomness="different")(images, *others)
    loop = [gradient(sample, *others) for sample in images]
    same(ours, tuple(torch.stack(g) for g in zip(*loop, strict=True)))


@column("jacrev, jacfwd")
def _jacobians(row: Row, library: Library) -> None:
    function, tensors = library.function(row), row.tensors()
    wanted = torch.autograd.functional.jacobian(function, tuple(tensors))
    argnums = tuple(range(len(tensors)))
    with no_slow_vmap():
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            same(transform(function, argnums=argnums, **_random(row))(*tensors), wanted)


def _random(row: Row) -> Any:
    if row.draws:
        raise NotApplicable("torch.func.jacrev has no randomness argument")
    return {}


@column("hessian")
def _hessian(row: Row, library: Library) -> None:
    function, tensors = smooth(library.function(row)), row.tensors()
    _random(row)
    last = len(tensors) - 1 if len(tensors) < 3 else 1  # the weight, where there is one
    wanted = torch.autograd.functional.hessian(
        lambda t: function(*tensors[:last], t, *tensors[last + 1 :]), tensors[last]
    )
    with no_slow_vmap():
        same(torch.func.hessian(function, argnums=last)(*tensors), wanted)


@column("functional_call, ensembles")
def _ensemble(row: Row, library: Library) -> None:
    """Three models with weights of their own as one vmap over their stacked parameters."""
    models = [Applied(row, library, torch.float64) for _ in range(3)]
    with torch.no_grad():
        for i, model in enumerate(models):
            for p in model.parameters():
                p.mul_(1 + i / 4)
    image = row.tensors()[0]
    parameters, buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]

    def call(p: Any, b: Any) -> Tensor:
        y: Tensor = torch.func.functional_call(models[0], (p, b), (image,))
        return y

    with no_slow_vmap():
        ours = torch.vmap(call, randomness="different")(parameters, buffers)
    same(ours, torch.stack([model(image) for model in models]))


@column("checkpoint")
def _checkpoint(row: Row, library: Library) -> None:
    from torch.utils.checkpoint import checkpoint

    model, image = Applied(row, library), row.tensors(torch.float32)[0]
    wanted = gradients(model, image)
    for reentrant in (True, False):
        images = image.clone().requires_grad_()
        y = checkpoint(model, images, use_reentrant=reentrant)
        for p in model.parameters():
            p.grad = None
        y.tanh().sum().backward()
        same([y, *[p.grad for p in model.parameters()]], wanted)


# --- types, layouts, counts ------------------------------------------------------------------------------------------


@contextmanager
def autocast_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """What torch.autocast sets, which for a device that this build lacks it would refuse."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    try:
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, dtype)
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def _dtypes(row: Row, library: Library, device: str) -> list[torch.dtype]:
    """Of the results under autocast, for tensors of several types; they have a device and no data."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    function = library.function(row)
    results = []
    with FakeTensorMode():
        for low in (torch.bfloat16, torch.float16):
            for dtype in (torch.float32, torch.float64, low):
                tensors = [torch.empty(shape, dtype=dtype, device=device) for shape in row.shapes]
                with autocast_on(device, low):
                    results.append(function(*tensors).dtype)
    return results


@column("autocast, CPU")
def _autocast_cpu(row: Row, library: Library) -> None:
    _same_types_as_torchs(row, library, "cpu")


@column("autocast, CUDA")
def _autocast_cuda(row: Row, library: Library) -> None:
    """The types alone, on tensors that have a device and no data."""
    try:
        _same_types_as_torchs(row, library, "cuda")
    except RuntimeError as error:
        if "not linked with support for cuda" not in str(error):
            raise
        raise NotApplicable("a build of torch without CUDA cannot be asked") from error


def _same_types_as_torchs(row: Row, library: Library, device: str) -> None:
    ours = _dtypes(row, library, device)
    if library.is_ours and row.in_(TORCHS.functional) is not None:
        same_types = _dtypes(row, TORCHS, device)
        if ours != same_types:
            raise AssertionError(f"types {ours}, torch's {same_types}")


@column("channels_last")
def _channels_last(row: Row, library: Library) -> None:
    """The result is the same and has the strides of torch's."""
    if row.rank < 2:
        raise NotApplicable("torch has no such format for one axis")
    memory_format = torch.channels_last if row.rank == 2 else torch.channels_last_3d
    tensors = row.tensors(torch.float32)
    last = [t.contiguous(memory_format=memory_format) if t.dim() == row.rank + 2 else t for t in tensors]
    function = library.function(row)
    y = function(*last)
    same(y, function(*tensors))
    if library.is_ours and row.in_(TORCHS.functional) is not None:
        wanted = TORCHS.function(row)(*last).stride()
        if y.stride() != wanted:
            raise AssertionError(f"strides {y.stride()}, torch's {wanted}")


@column("flop counter")
def _flops(row: Row, library: Library) -> None:
    """torch's numbers, forward and, but for our grouped convolutions, whose gradients torch miscounts, backward."""
    from torch.utils.flop_counter import FlopCounterMode

    def count(of: Library) -> int:
        with FlopCounterMode(display=False) as counter:
            tensors = row.tensors(torch.float32, grad=True)
            y = of.function(row)(*tensors)
            if "conv" not in row.name:
                y.sum().backward()
        return counter.get_total_flops()

    ours = count(library)
    if library.is_ours and row.in_(TORCHS.functional) is not None and ours != count(TORCHS):
        raise AssertionError(f"{ours} operations, torch's count {count(TORCHS)}")


@column("deterministic algorithms")
def _deterministic(row: Row, library: Library) -> None:
    model, image = Applied(row, library), row.tensors(torch.float32)[0]
    wanted = gradients(model, image)
    torch.use_deterministic_algorithms(True)
    try:
        again = gradients(model, image)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True)), "other bits"
