"""Follows a run of a model operator by operator, below Python: what each tensor sees of the input, and multiply-adds.

Here a layer, a function, a method or compiled code that calls operators all look alike, and only a few dozen operators
move data between places. Tensors are told apart by where they lie in memory, not as Python objects: a view of a view is
another object that lies in the same storage.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from convext.inspect.dataflow_call import OpCall
from convext.inspect.dataflow_rules import field_of_result
from convext.inspect.receptive_field import Field
from convext.inspect.recording import tensors_in
from convext.ops._autograd import TorchDispatchMode

__all__ = ["Dataflow"]

_Place = tuple[int, tuple[int, ...], tuple[int, ...]]  # offset, size, stride


def _place(t: Tensor) -> _Place:
    return int(t.storage_offset()), tuple(t.shape), tuple(t.stride())


def _has_storage(t: Tensor) -> bool:
    return t.layout is torch.strided


class Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active it knows the field of every tensor that depends on the inputs, and counts multiply-adds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = 0
        self.windowed: set[int] = set()  # the axes of the input along which a convolution or pooling has moved
        self._fields: dict[int, dict[_Place, Field]] = {}  # by storage
        self._opaque = False

    def begin(self, inputs: Any) -> None:
        """Names the model's inputs: all tensors in lists, tuples and dicts."""
        for t in tensors_in(inputs):
            self.set_field(t, Field.of_input(t.dim()))

    def field(self, t: Tensor) -> Field | None:
        """What a tensor sees of the input; None where it does not depend on it."""
        if not _has_storage(t):
            return None
        places = self._fields.get(t.untyped_storage()._cdata)
        if not places:
            return None
        field = places.get(_place(t))
        if field is None:  # only views of it were written: it depends on what they do
            for place, other in places.items():
                other = _in_another_view(other, place[1], t.shape)
                field = other if field is None else field.joined(other, t.shape)
        return field

    def set_field(self, t: Tensor, field: Field | None) -> None:
        if not _has_storage(t):
            return
        places = self._fields.setdefault(t.untyped_storage()._cdata, {})
        if field is None:
            places.pop(_place(t), None)
        else:
            places[_place(t)] = field

    @contextlib.contextmanager
    def opaque(self) -> Iterator[None]:
        """Operators in here are counted, but what they see is not followed: the caller says it of the result."""
        before, self._opaque = self._opaque, True
        try:
            yield
        finally:
            self._opaque = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.multiply_adds += formula(*args, **kwargs, out_val=output) // 2
        elif func._schema.name in _FORMULAS:
            self.multiply_adds += _FORMULAS[func._schema.name](*args[:3])
        self._follow(OpCall(func, args, kwargs, output, self.field, self.windowed))
        return output

    def _follow(self, call: OpCall) -> None:
        inputs, outputs = tensors_in((call.args, call.kwargs)), tensors_in(call.output)
        known = {t.untyped_storage()._cdata for t in inputs if _has_storage(t)} - call.fresh
        for t in outputs:
            if _has_storage(t) and t.untyped_storage()._cdata not in known:
                self._fields.pop(t.untyped_storage()._cdata, None)  # an earlier tensor lay there
        if self._opaque or all(self.field(t) is None for t in inputs):
            return
        fields = field_of_result(call, outputs)
        for t, field in zip(outputs, fields, strict=True):
            if field is not None:
                self.set_field(t, field)
        if call.in_place and outputs and fields[0] is not None:
            self._written(outputs[0], fields[0])

    def _written(self, t: Tensor, field: Field) -> None:
        """Other views of a tensor that was written into depend on what was written."""
        if not _has_storage(t):
            return
        places = self._fields[t.untyped_storage()._cdata]
        for place, other in list(places.items()):
            if place != _place(t):
                places[place] = other.joined(_in_another_view(field, t.shape, place[1]), place[1])


def _in_another_view(field: Field, size: Sequence[int], to: Sequence[int]) -> Field:
    """What another view sees of a view of this size: the same where they differ in batch and channels alone."""
    return field if len(size) == len(to) and size[2:] == to[2:] else field.whole(*range(len(size)))


# --- multiply-adds of operators on CPU that torch's own table of formulas lacks ---------------------------------------


def _attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Query times key, then times value."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(input: Tensor, of_input: Tensor, of_state: Tensor) -> int:
    """Every weight once for each element of the sequence and the batch."""
    return math.prod(input.shape[:-1]) * (of_input.numel() + of_state.numel())


_FORMULAS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::mkldnn_rnn_layer": _recurrent,
}
