"""What every layer of a model is, costs and sees, which algorithm runs it, and how long it takes."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from convext.inspect.explanation_text import html, text
from convext.introspection import Plan

__all__ = ["ExplainedLayer", "Explanation"]


@dataclasses.dataclass(frozen=True)
class ExplainedLayer:
    """One call of a layer, or of a function that is called outside of one."""

    name: str  # of the module, as named_modules gives it, or of the module and the function that it calls
    type: str  # the module's class, or the function's name
    call: int  # 1 for the layer's first call in the run, 0 for a module that was never called
    input_size: tuple[int, ...] = ()  # of the first tensor
    output_size: tuple[int, ...] = ()
    parameters: int = 0  # of its own, counted once: 0 in further calls, or where another layer has them already
    multiply_adds: int = 0  # for the whole batch; padding counts as data
    bias_adds: int = 0  # the additions of the bias, which are no multiply-adds
    # For each spatial axis of the input how many elements of it an element of the output sees, None: all. The tuple is
    # empty where the output does not depend on the input, or the model has no convolution or pooling.
    receptive_field: tuple[int | None, ...] = ()
    jump: tuple[
        Fraction | None, ...
    ] = ()  # how far apart in the input two neighbours' fields are; 1/2 after upsampling
    function: str | None = None  # convext's function that does it, if there is one
    plan: Plan | None = None  # how convext runs it on CPU; convolutions have one
    torch_seconds: float | None = None  # a call, the median; None if not measured, or the other one lacks the function
    convext_seconds: float | None = None

    @property
    def algorithm(self) -> str:
        """convext's, "" where there is no plan."""
        return "" if self.plan is None else self.plan.algorithm

    @property
    def declined(self) -> tuple[tuple[str, str], ...]:
        """The algorithms that would have come first, each with the reason why it does not run."""
        return () if self.plan is None else self.plan.declined

    @property
    def workspace_bytes(self) -> int | None:
        return None if self.plan is None else self.plan.workspace_bytes


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
    """What `explain` found, in the order in which the layers end; ``print`` shows the table, notebooks draw it."""

    rows: tuple[ExplainedLayer, ...]
    threads: int  # that torch and convext run on

    @property
    def parameters(self) -> int:
        """Of the model; shared ones are counted once."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)

    @property
    def bias_adds(self) -> int:
        return sum(row.bias_adds for row in self.rows)

    def __getitem__(self, name: str) -> ExplainedLayer:
        """The row of the first call of a layer.

        Raises:
            KeyError: no layer of this name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"expected one of {', '.join(dict.fromkeys(r.name for r in self.rows))}, got {name!r}")

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html(self)
