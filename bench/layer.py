"""One convolution as the benchmark states it: its shape and settings, and what follows from them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution. Tuples have one entry an axis; an int in the constructor stands for every axis.

    ``size`` and ``channels[0]`` are the input's, also of a transposed convolution. ``first``: the input is data, and
    wants no gradient. ``count``: how often the network has this very layer.
    """

    net: str
    name: str
    size: tuple[int, ...]
    channels: tuple[int, int]  # input, output
    kernel: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    transposed: bool = False
    output_padding: Any = 0  # of a transposed convolution
    bias: bool = True
    first: bool = False
    batch: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        for field in ("kernel", "stride", "padding", "dilation", "output_padding"):
            value = getattr(self, field)
            object.__setattr__(self, field, (value,) * self.dims if isinstance(value, int) else tuple(value))

    @property
    def id(self) -> str:
        return f"{self.net}/{self.name}"

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def family(self) -> str:
        """The kind of problem, by which results are gathered: one of FAMILIES. Depthwise is grouped."""
        if self.transposed:
            return "transposed"
        if self.dims != 2:
            return f"{self.dims}-D"
        return "dense" if self.groups == 1 else "grouped"

    @property
    def function(self) -> str:
        """The function's name in torch.nn.functional and in convext.functional."""
        return f"conv_transpose{self.dims}d" if self.transposed else f"conv{self.dims}d"

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments of that function, beside the tensors."""
        names = ("stride", "padding", "dilation", "groups", *(("output_padding",) if self.transposed else ()))
        return {name: getattr(self, name) for name in names}

    @property
    def output_size(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.transposed:
            smallest = ((i - 1) * s - 2 * p + d * (k - 1) + 1 for i, k, s, p, d in axes)
            return tuple(map(sum, zip(smallest, self.output_padding, strict=True)))
        return tuple((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in axes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[0], *self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[1], *self.output_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(K, C / groups, *kernel), or (C, K / groups, *kernel) of a transposed convolution."""
        c, k = self.channels
        return (c, k // self.groups, *self.kernel) if self.transposed else (k, c // self.groups, *self.kernel)

    def flops(self, backward: bool) -> int:
        """Two a multiply-add; padding counts as data, the bias not at all; a gradient costs as much as the layer."""
        pixels = self.size if self.transposed else self.output_size
        forward = 2 * self.batch * math.prod(pixels) * math.prod(self.weight_shape)
        return forward * ((2 if self.first else 3) if backward else 1)

    def elements(self, backward: bool) -> int:
        """What must at least be moved: every operator touches input, weight and output, or their gradients, once."""
        image, result = math.prod(self.input_shape), math.prod(self.output_shape)
        operators = (1 if self.first else 2) + 1 if backward else 1
        return operators * (image + result + math.prod(self.weight_shape))

    def small(self, channels: int = 16, size: int = 12) -> Layer:
        """The same kind of layer with at most about so many channels a group and pixels an axis: for tests."""
        groups = min(self.groups, channels)
        per_group = [min(c // self.groups, max(1, channels // groups)) for c in self.channels]
        need = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(self.kernel, self.padding, self.dilation, strict=True)]
        axes = tuple(
            min(i, size if self.transposed else max(size, n + s))
            for i, n, s in zip(self.size, need, self.stride, strict=True)
        )
        return dataclasses.replace(
            self, size=axes, channels=(per_group[0] * groups, per_group[1] * groups), groups=groups
        )

    def __str__(self) -> str:
        def axes(values: tuple[int, ...]) -> str:
            return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

        c, k = self.channels
        text = (
            f"{self.batch}x{c}x{'x'.join(map(str, self.size))} k{axes(self.kernel)} {'T' if self.transposed else ''}{k}"
        )
        for letter, values, usual in (
            ("s", self.stride, 1),
            ("p", self.padding, 0),
            ("d", self.dilation, 1),
            ("o", self.output_padding, 0),
        ):
            text += "" if set(values) == {usual} else f" {letter}{axes(values)}"
        return text + ("" if self.groups == 1 else f" g{self.groups}")


FAMILIES = ("dense", "grouped", "transposed", "1-D", "3-D")
