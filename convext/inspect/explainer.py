"""Explains a model: a recorder that makes a row of every layer, with the data's flow for what it costs and sees."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convext.inspect import layers, timing
from convext.inspect.dataflow import Dataflow
from convext.inspect.explanation import ExplainedLayer, Explanation
from convext.inspect.receptive_field import Field, shifted
from convext.inspect.recording import Recorder, Visit, check_flag, is_layer, tensors_in

__all__ = ["explain"]

Arguments = dict[str, Any]


def explain(model: nn.Module, *inputs: Any, time: bool = True, **kwargs: Any) -> Explanation:
    """Runs a model and says of every layer what it is, what it costs, what it sees and what runs it.

    Of every module without modules in it, and of every convolution, pooling, unfold and normalisation that the model
    calls as a function: sizes, parameters, multiply-adds, receptive field; and of convext's convolutions (of torch's:
    of what they would be in convext) algorithm, workspace, and why no other algorithm runs.

    The receptive field follows the data itself through the run: branches, views, concatenation, any code that calls
    torch's operators. Statistics of batch, layer and group normalisation do not count for it.

    Args:
        model: run once, in the mode (training or eval) it is in. Its parameters, buffers, gradients and hooks stay as
            they are, and so does the state of torch's and Python's random numbers. On the meta device nothing is
            computed, and nothing measured.
        inputs, kwargs: what the model is called with; copied first.
        time: whether to measure torch's and convext's functions, turn by turn, on random tensors of the layers' sizes:
            about 0.2 seconds for each kind of layer.

    Returns:
        The table: ``.rows``, ``explanation[name]``, totals, ``str()``.

    Raises:
        TypeError: model is not a torch.nn.Module, or time not a bool.
        ValueError: a lazy layer has not seen an input yet, or a module is scripted.
        Any error of the model's own run.
    """
    check_flag("explain", "time", time)
    explainer = _Explainer(model)
    explainer.run(inputs, kwargs)
    explainer.add_rest()
    measurements = timing.Measurements() if time else None
    return Explanation(tuple(explainer.rows(measurements)), torch.get_num_threads())


@dataclasses.dataclass
class _Call:
    """One call of a function of convext's, or of torch's that convext has."""

    function: str
    arguments: Arguments
    result: Any
    field: Field | None
    multiply_adds: int

    @property
    def bias_adds(self) -> int:
        return tensors_in(self.result)[0].numel() if self.arguments.get("bias") is not None else 0

    def facts(self) -> Arguments:
        """What a row says of the call, beside multiply-adds."""
        result = tensors_in(self.result)[0]
        plan = None
        if result.dtype in layers.DTYPES:
            plan = layers.plan_of(self.function, self.arguments, result.dtype)
        return {"function": self.function, "plan": plan, "bias_adds": self.bias_adds}


@dataclasses.dataclass
class _Open:
    """A module that has been entered and not yet left."""

    multiply_adds: int  # of the run so far
    listed: int  # those of them that have a row
    calls: list[_Call] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Row:
    layer: ExplainedLayer
    field: Field | None = None
    probe: timing.Probe | None = None


class _Explainer(Recorder):
    def __init__(self, model: nn.Module) -> None:
        super().__init__("explain", model)
        self.flow = Dataflow()
        self.found: list[_Row] = []
        self.open: list[_Open] = []
        self.listed = 0
        self.counted: set[nn.Parameter] = set()
        self.seen: dict[str, int] = {}

    @contextlib.contextmanager
    def surroundings(self, inputs: Any) -> Iterator[None]:
        self.flow.begin(inputs)
        with self.flow:
            yield

    def entered(self, visit: Visit) -> None:
        self.open.append(_Open(self.flow.multiply_adds, self.listed))

    def left(self, visit: Visit, output: Any) -> None:
        opened, module = self.open.pop(), visit.module
        single = is_layer(module)
        call = opened.calls[0] if single and len(opened.calls) == 1 else None
        for other in opened.calls if call is None else ():
            self._list_call(other, *self._named(visit, other.function))
        own = self.flow.multiply_adds - opened.multiply_adds - (self.listed - opened.listed)
        parameters = self._parameters_of(module)
        if not (single or own or parameters):
            return
        inputs, outputs = tensors_in(visit.inputs), tensors_in(output)
        facts = {"bias_adds": _bias_adds(module, outputs)} if call is None else call.facts()
        self._list(
            ExplainedLayer(
                name=visit.name or type(module).__name__,
                type=type(module).__name__,
                call=visit.number,
                input_size=tuple(inputs[0].shape) if inputs else (),
                output_size=tuple(outputs[0].shape) if outputs else (),
                parameters=parameters,
                multiply_adds=own,
                **facts,
            ),
            self.flow.field(outputs[0]) if outputs else None,
            call,
        )

    def called(self, name: str, arguments: Arguments, run: Callable[[], Any]) -> Any:
        before = self.flow.multiply_adds
        if name == "local_response_norm":  # torch composes it of an average over the channels
            with self.flow.opaque():
                result = run()
            self.flow.set_field(result, self.flow.field(arguments["input"]))
        else:
            result = run()
        field = self.flow.field(tensors_in(result)[0])
        call = _Call(name, arguments, result, field, self.flow.multiply_adds - before)
        if self.stack and is_layer(self.stack[-1].module):
            self.open[-1].calls.append(call)
        else:
            self._list_call(call, *self.layer(name))
        return result

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.pad:
            return self._padded(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def _padded(self, input: Tensor, pad: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Every mode of padding moves its input by so much; torch composes the circular one of copies."""
        with self.flow.opaque():
            result = F.pad(input, pad, *args, **kwargs)
        field = self.flow.field(input)
        for i, before in enumerate(pad[::2]):
            field = None if field is None else field.read(input.dim() - 1 - i, shifted(-before))
        self.flow.set_field(result, field)
        return result

    def _named(self, visit: Visit, function: str) -> tuple[str, str]:
        return f"{visit.name}.{function}" if visit.name else function, function

    def _list_call(self, call: _Call, name: str, kind: str) -> None:
        self.seen[name] = self.seen.get(name, 0) + 1
        layer = ExplainedLayer(
            name=name,
            type=kind,
            call=self.seen[name],
            input_size=tuple(call.arguments["input"].shape),
            output_size=tuple(tensors_in(call.result)[0].shape),
            multiply_adds=call.multiply_adds,
            **call.facts(),
        )
        self._list(layer, call.field, call)

    def _list(self, layer: ExplainedLayer, field: Field | None, call: _Call | None) -> None:
        self.listed += layer.multiply_adds
        probe = None if call is None else timing.Probe.of(call.function, call.arguments)
        self.found.append(_Row(layer, field, probe))

    def _parameters_of(self, module: nn.Module) -> int:
        """Those of its own that no row has yet; a layer's own are also those that its weights are made of."""
        fresh = {p for p in module.parameters(recurse=is_layer(module)) if p not in self.counted}
        self.counted |= fresh
        return sum(p.numel() for p in fresh)

    def add_rest(self) -> None:
        """Rows for modules that have parameters and were never called."""
        for module, name in self.names.items():
            parameters = self._parameters_of(module)
            if parameters:
                kind = type(module).__name__
                self.found.append(_Row(ExplainedLayer(name or kind, kind, call=0, parameters=parameters)))

    def rows(self, measurements: timing.Measurements | None) -> Iterator[ExplainedLayer]:
        """The rows, now that it is known which axes of the input are spatial."""
        axes = sorted(self.flow.windowed)
        for row in self.found:
            layer = row.layer
            if row.field is not None:
                seen = [row.field.seen[i] for i in axes if i < len(row.field.seen)]
                layer = dataclasses.replace(
                    layer,
                    receptive_field=tuple(None if s.axis is None else s.axis.size for s in seen),
                    jump=tuple(None if s.axis is None or s.dim is None else s.axis.jump for s in seen),
                )
            if measurements is not None and row.probe is not None:
                seconds, torchs = measurements.of(row.probe)
                layer = dataclasses.replace(layer, convext_seconds=seconds, torch_seconds=torchs)
            yield layer


def _bias_adds(module: nn.Module, outputs: list[Tensor]) -> int:
    return outputs[0].numel() if isinstance(module, nn.Linear) and module.bias is not None and outputs else 0
