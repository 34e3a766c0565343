"""One call of an operator, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from convext.inspect.receptive_field import Field
from convext.inspect.recording import tensors_in

__all__ = ["OpCall"]


class OpCall:
    """One call of an operator: its arguments by the names of its schema, and its result."""

    def __init__(
        self,
        op: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        field: Callable[[Tensor], Field | None],
        windowed: set[int],
    ) -> None:
        self.op, self.args, self.kwargs, self.output, self.windowed = op, args, kwargs, output, windowed
        self._field = field
        schema = op._schema.arguments
        self._values = {a.name: a.default_value for a in schema if a.has_default_value()}
        self._values |= dict(zip([a.name for a in schema], args, strict=False)) | kwargs
        self.name = op._schema.name
        self.in_place = bool(schema) and schema[0].alias_info is not None and schema[0].alias_info.is_write
        # its storage is new, although the operator returns its argument
        self.fresh = {t.untyped_storage()._cdata for t in tensors_in(args)} if "lift_fresh" in self.name else set()

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    @property
    def source(self) -> Tensor:
        """The first tensor among the arguments."""
        return tensors_in(self.args)[0]

    def field(self, t: Any) -> Field | None:
        return self._field(t) if isinstance(t, Tensor) else None

    @property
    def size(self) -> tuple[int, ...]:
        """Of the first result."""
        return tuple(tensors_in(self.output)[0].shape)

    def everything(self) -> Field | None:
        """Every element of the result reads all of the arguments."""
        result = None
        for t in tensors_in((self.args, self.kwargs)):
            field = self.field(t)
            if field is not None:
                field = field.whole(*range(t.dim()))
                result = field if result is None else result.joined(field, self.size)
        return result
