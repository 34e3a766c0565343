"""How far every layer of a model is from float64, by torch and by convext, on the inputs that it gets in the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convext import functional
from convext.inspect import layers, table
from convext.inspect.recording import Recorder, check_flag, map_tensors

__all__ = ["Errors", "Verification", "VerifiedLayer", "verify"]

Arguments = dict[str, Any]

# docs/numerics.md; what is not here must be exact
BOUNDS = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
    torch.complex64: 1e-6,
    torch.complex128: 1e-14,
}
_WINOGRAD_BOUND = 5e-6
_CONTRAST_BOUND = 1e-5  # local_contrast_norm, a chain of convolutions, in float32

_TENSORS = ("output", "input gradient", "weight gradient")
_SYMBOLS = {"output": "", "input gradient": "dx ", "weight gradient": "dw "}


@dataclasses.dataclass(frozen=True)
class Errors:
    """The relative errors of one tensor; ``torch`` is None where torch has no such function, or not for this type."""

    torch: float | None
    convext: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether convext's error is within the bound. torch's decides nothing."""
        return self.convext <= self.bound


@dataclasses.dataclass(frozen=True)
class VerifiedLayer:
    """One call of a layer's function."""

    name: str  # of the module, as named_modules gives it, or of the module and the function that it calls
    type: str  # the module's class, or the function's name
    call: int  # 1 for the layer's first call in the run
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    dtype: torch.dtype  # of the output
    output: Errors
    input_gradient: Errors | None = None  # None unless asked for
    weight_gradient: Errors | None = None  # None too where there is no weight
    note: str = ""

    @property
    def errors(self) -> list[tuple[str, Errors]]:
        """What was compared, by name."""
        found = (self.output, self.input_gradient, self.weight_gradient)
        return [(name, errors) for name, errors in zip(_TENSORS, found, strict=True) if errors is not None]

    @property
    def ok(self) -> bool:
        return all(errors.ok for _, errors in self.errors)


@dataclasses.dataclass(frozen=True, repr=False)
class Verification:
    """What `verify` found, one row a layer; ``print`` shows the table."""

    rows: tuple[VerifiedLayer, ...]

    @property
    def ok(self) -> bool:
        """Whether every layer is within its bound; also where there is none."""
        return all(row.ok for row in self.rows)

    @property
    def failures(self) -> tuple[VerifiedLayer, ...]:
        return tuple(row for row in self.rows if not row.ok)

    def __str__(self) -> str:
        if not self.rows:
            return "no convolution, pooling, unfold or local response normalisation was called"
        kinds = [kind for i, kind in enumerate(_TENSORS) if i == 0 or any(kind in dict(r.errors) for r in self.rows)]
        header = ["layer", "type", "output", "dtype"]
        for kind in kinds:
            header += [f"{_SYMBOLS[kind]}convext", f"{_SYMBOLS[kind]}torch"]
        lines = [_line(row, kinds) for row in self.rows]
        text = table.rendered([*header, "bound", "", "note"], lines, left=4)
        return f"{text}\n{self.summary}"

    __repr__ = __str__

    @property
    def summary(self) -> str:
        """The last line of the table."""
        failed = len(self.failures)
        verdict = "all within their bounds" if not failed else f"{failed} beyond their bounds"
        return f"relative errors against float64; {len(self.rows)} layer{'s' * (len(self.rows) != 1)}, {verdict}"


def _line(row: VerifiedLayer, kinds: Sequence[str]) -> list[str]:
    errors = dict(row.errors)
    cells = [row.name if row.call == 1 else f"{row.name} ({row.call})", row.type, table.size_text(row.output_size)]
    cells.append(str(row.dtype).removeprefix("torch."))
    for kind in kinds:
        found = errors.get(kind)
        cells += ["", ""] if found is None else [_error_text(found.convext), _error_text(found.torch)]
    bound = max(errors.bound for _, errors in row.errors)
    return [*cells, _error_text(bound), "ok" if row.ok else "FAIL", row.note]


def _error_text(error: float | None) -> str:
    return "-" if error is None else "0" if error == 0 else f"{error:.1e}"


def verify(model: nn.Module, *inputs: Any, gradients: bool = False, **kwargs: Any) -> Verification:
    """Runs a model and holds every layer in it that convext has, by torch and by convext, against torch in float64.

    Each convolution, transposed convolution, pooling, unfold, fold and local normalisation is computed on the very
    inputs that it gets in the model: whether it is a layer of torch.nn or of convext.nn (a subclass, too) or a call of
    ``torch.nn.functional`` or ``convext.functional``. So errors do not add up from layer to layer, and the model may
    have been converted or not. Stochastic pooling and Maxout, which torch lacks, have no row.

    The error is ||out - ref|| / ||scale||. Of sums (convolutions, averages, fold, and their gradients) scale is the
    same sum of the terms' magnitudes, |x| * |w| + |b|, so that cancellation does not count; of all else it is ref.
    Where ref is not finite nothing is compared; where out alone is not, the error is inf. Integers must agree exactly.

    Args:
        model: run once, in the mode (training or eval) it is in. Its parameters, buffers, gradients and hooks stay as
            they are, and so does the state of torch's and Python's random numbers.
        inputs, kwargs: what the model is called with; copied first.
        gradients: also compare the gradients to input and weight, for one random gradient of the output.

    Returns:
        The table: ``.ok`` whether every layer is within its bound (docs/numerics.md), ``.rows``, ``str()``.

    Raises:
        TypeError: model is not a torch.nn.Module, or gradients not a bool.
        ValueError: a lazy layer has not seen an input yet, a module is scripted, or the model is not on the CPU.
        Any error of the model's own run.
    """
    check_flag("verify", "gradients", gradients)
    recorder = _Verifier(model, gradients)
    recorder.run(inputs, kwargs)
    return Verification(tuple(recorder.rows))


class _Verifier(Recorder):
    def __init__(self, model: nn.Module, gradients: bool) -> None:
        super().__init__("verify", model)
        self.gradients = gradients
        self.rows: list[VerifiedLayer] = []
        self.seen: dict[str, int] = {}
        self.generator = torch.Generator().manual_seed(0)  # its own: the model draws what it would draw alone

    def called(self, name: str, arguments: Arguments, run: Callable[[], Any]) -> Any:
        if arguments["input"].device.type != "cpu":
            raise ValueError(f"verify: expected a model on the CPU, got a tensor on {arguments['input'].device}")
        if name.startswith("fractional") and arguments["_random_samples"] is None:
            arguments["_random_samples"] = self._random_samples(name, arguments["input"])
        result = run()
        label, kind = self.layer(name)
        self.seen[label] = self.seen.get(label, 0) + 1
        where = {"name": label, "type": kind, "call": self.seen[label]}
        self.rows.append(_compared(name, arguments, self.generator if self.gradients else None, where))
        return result

    def _random_samples(self, name: str, x: Tensor) -> Tensor:
        rank = layers.rank_of(name)
        batch = x.shape[0] if x.dim() == rank + 2 else 1
        return torch.rand(batch, x.shape[-rank - 1], rank, dtype=x.dtype, generator=self.generator)


def _compared(name: str, arguments: Arguments, generator: torch.Generator | None, where: Arguments) -> VerifiedLayer:
    """The row of one call; with gradients, if there is a generator to draw that of the output from."""
    x = arguments["input"]
    exact = _in_double(name, arguments)
    reference_of, note = layers.torch_call, ""
    ours = _first(layers.convext_call(name, arguments))
    try:
        reference = _first(layers.torch_call(name, exact))
    except NotImplementedError as error:
        reference_of, note = layers.convext_call, f"{error}: held against convext in float64"
        reference = _first(layers.convext_call(name, exact))
    scale = _first(reference_of(name, _magnitudes(exact))) if layers.is_sum(name) else reference
    theirs = _by_torch(name, arguments)
    output = Errors(
        None if theirs is None else _relative_error(theirs, reference, scale),
        _relative_error(ours, reference, scale),
        _bound(name, arguments, ours.dtype, 0),
    )
    found: Arguments = {}
    if generator is not None and ours.is_floating_point():
        cotangent = torch.randn(ours.shape, dtype=ours.dtype, generator=generator)
        found = _gradient_errors(name, arguments, reference_of, cotangent)
    return VerifiedLayer(
        **where,
        input_size=tuple(x.shape),
        output_size=tuple(ours.shape),
        dtype=ours.dtype,
        output=output,
        note=note,
        **found,
    )


def _by_torch(name: str, arguments: Arguments) -> Tensor | None:
    """torch's result; None where it has no such function, or not for this type."""
    try:
        return _first(layers.torch_call(name, arguments))
    except (NotImplementedError, RuntimeError):
        return None


def _bound(name: str, arguments: Arguments, dtype: torch.dtype, which: int) -> float:
    bound = BOUNDS.get(dtype, 0.0)
    if dtype is torch.float32:
        plan = layers.plan_of(name, arguments, dtype, which)
        if plan is not None and "winograd" in plan.algorithm.lower():
            return _WINOGRAD_BOUND
        if name == functional.local_contrast_norm.__name__:
            return _CONTRAST_BOUND
    return bound


# --- gradients -------------------------------------------------------------------------------------------------------


def _gradient_errors(name: str, arguments: Arguments, reference_of: Any, cotangent: Tensor) -> dict[str, Errors]:
    exact = _in_double(name, arguments)
    reference = _gradients(reference_of, name, exact, cotangent)
    scales = reference
    if layers.is_sum(name):
        scales = _gradients(reference_of, name, _magnitudes(exact), cotangent.abs())
    ours = _gradients(layers.convext_call, name, arguments, cotangent)
    try:
        theirs = _gradients(layers.torch_call, name, arguments, cotangent)
    except (NotImplementedError, RuntimeError):
        theirs = {}
    return {
        f"{key}_gradient": Errors(
            _relative_error(theirs[key], reference[key], scales[key]) if key in theirs else None,
            _relative_error(ours[key], reference[key], scales[key]),
            _bound(name, arguments, cotangent.dtype, which),
        )
        for which, key in enumerate(("input", "weight"), start=1)
        if key in reference
    }


def _gradients(call: Any, name: str, arguments: Arguments, cotangent: Tensor) -> dict[str, Tensor]:
    leaves = {
        key: arguments[key].detach().clone().requires_grad_()
        for key in ("input", "weight")
        if isinstance(arguments.get(key), Tensor)
    }
    with torch.enable_grad():
        result = _first(call(name, {**arguments, **leaves}))
    found = torch.autograd.grad(result, list(leaves.values()), cotangent.to(result.dtype))
    return dict(zip(leaves, found, strict=True))


# --- numbers ---------------------------------------------------------------------------------------------------------


def _first(result: Any) -> Tensor:
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.complex128) if t.is_complex() else t.double() if t.is_floating_point() else t


def _in_double(name: str, arguments: Arguments) -> Arguments:
    """The same values in float64 or complex128; integers as they are.

    Fractional pooling stays in its type, in which the places of its windows are rounded.
    """
    if name.startswith("fractional"):
        return arguments
    return {key: map_tensors(lambda t: _wide(t.detach()), value) for key, value in arguments.items()}


def _magnitudes(arguments: Arguments) -> Arguments:
    """The terms' magnitudes, which no activation bends."""
    found = {key: map_tensors(torch.abs, value) for key, value in arguments.items()}
    return found | {"activation": "none"} if "activation" in found else found


def _relative_error(out: Tensor, reference: Tensor, scale: Tensor) -> float:
    """||out - reference|| / ||scale|| where the reference is finite; inf where out alone is not; 0 of 0 is 0."""
    out, reference = _wide(out.detach()), _wide(reference.detach())
    if out.shape != reference.shape:
        return math.inf
    if not (out.is_floating_point() or out.is_complex()):
        return 0.0 if torch.equal(out, reference) else math.inf
    finite = reference.isfinite()
    whole = bool(finite.all())
    difference = out - reference if whole else (out - reference)[finite]
    error = float(torch.linalg.vector_norm(difference))
    scale = scale if whole else scale[finite]
    size = float(torch.linalg.vector_norm(scale[scale.isfinite()]))
    if math.isnan(error):
        return math.inf
    return 0.0 if error == 0 else error / size if size > 0 else math.inf
