"""One convolution problem as a dataclass, the shapes that follow from it, and the layouts of its tensors."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MODES = ("zeros", "reflect", "replicate", "circular")
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded", "offset", "weight_last")


@dataclass(frozen=True)
class ConvCase:
    """One problem. Integers stand for every axis; padding may be an int, a pair an axis, and negative (it then crops).

    output_padding None means: the one with which dgrad gives back exactly `size`.
    """

    size: Any
    kernel: Any
    channels: tuple[int, int] = (3, 4)
    batch: int = 2
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    output_padding: Any = None
    padding_mode: str = "zeros"
    layout: str = "contiguous"
    bias: bool = True

    def __post_init__(self) -> None:
        def axes(value: Any) -> tuple[Any, ...]:
            return tuple(value) if isinstance(value, Sequence) else (value,) * self.dims

        for name in ("kernel", "stride", "dilation", "padding"):
            object.__setattr__(self, name, axes(getattr(self, name)))
        pairs = tuple((p, p) if isinstance(p, int) else tuple(p) for p in self.padding)
        object.__setattr__(self, "padding", pairs)
        if self.output_padding is not None:
            object.__setattr__(self, "output_padding", axes(self.output_padding))

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def id(self) -> str:
        c, k = self.channels
        text = f"{self.dims}d-n{self.batch}-{'x'.join(map(str, self.size))}x{c}-k{'x'.join(map(str, self.kernel))}x{k}"
        for name in ("stride", "dilation", "output_padding"):
            value = getattr(self, name)
            if value is not None and value != (1,) * self.dims:
                text += f"-{name[0]}{'x'.join(map(str, value))}"
        if any(any(p) for p in self.padding):
            text += "-p" + "x".join(str(p[0]) if p[0] == p[1] else f"{p[0]}:{p[1]}" for p in self.padding)
        text += f"-g{self.groups}" if self.groups != 1 else ""
        text += "" if self.padding_mode == "zeros" else f"-{self.padding_mode}"
        text += "" if self.layout == "contiguous" else f"-{self.layout}"
        return text + ("" if self.bias else "-nobias")

    def __str__(self) -> str:
        fields = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return "ConvCase(" + ", ".join(f"{name}={value!r}" for name, value, default in fields if value != default) + ")"

    @property
    def remainder(self) -> tuple[int, ...]:
        """How many trailing padded pixels the last window leaves untouched, an axis."""
        return tuple(
            (i + sum(p) - d * (k - 1) - 1) % s
            for i, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(
            (i + sum(p) - d * (k - 1) - 1) // s + 1
            for i, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def transposed(self) -> ConvCase:
        """The problem whose dgrad has exactly `size`: the padding less output_padding at the end."""
        extra = self.remainder if self.output_padding is None else self.output_padding
        size = tuple(i - r + e for i, r, e in zip(self.size, self.remainder, extra, strict=True))
        padding = tuple((lo, hi - e) for (lo, hi), e in zip(self.padding, extra, strict=True))
        return dataclasses.replace(self, size=size, padding=padding, output_padding=None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[0], *self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.channels[1], self.channels[0] // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[1], *self.output_size)

    @property
    def multiply_adds(self) -> int:
        """Of one of the three operators."""
        return math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    @property
    def flat_padding(self) -> list[int]:
        """(lo0, hi0, lo1, hi1, ...), as the operators take it."""
        return [side for pair in self.padding for side in pair]

    def repro(self, operator: str, dtype: torch.dtype, draw: str, seed: int, isa: str | None = None) -> str:
        """One shell line, run in the repository root, that runs this very case again."""
        call = f"check({operator!r}, {self}, {str(dtype)[6:]!r}, {draw!r}, seed={seed}, isa={isa!r})"
        code = f"from tests.reference import check; from tests.cases import ConvCase; print({call})"
        return f'python -c "{code}"'


def seed_of(*parts: object) -> int:
    """A seed that depends on the case alone, so that a failure comes back when the case is run by itself."""
    return zlib.crc32(repr(parts).encode())


def lay_out(t: Tensor, layout: str, weight: bool = False) -> Tensor:
    """The values of t behind other strides ('expanded' also repeats some values).

    Gaps hold NaN, so that a stray read shows.
    """
    filler = float("nan") if t.is_floating_point() or t.is_complex() else 77
    if layout == "weight_last":
        layout = "channels_last" if weight else "contiguous"
    if layout == "contiguous":
        return t.contiguous()
    if layout == "channels_last":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        room = t.new_full((*t.shape[:-2], t.shape[-2] + 3, 2 * t.shape[-1] + 1), filler)
        view = room[..., 2 : 2 + t.shape[-2], 1::2]
        view.copy_(t)
        return view
    if layout == "expanded":
        return (t[..., :1] if weight else t[:1]).expand_as(t)
    if layout == "offset":
        start = 3  # no vector is aligned, and NaN stands on both sides
        room = t.new_full((t.numel() + 2 * start,), filler)
        view = room[start : start + t.numel()].view(t.shape)
        view.copy_(t)
        return view
    raise ValueError(f"expected a layout among {LAYOUTS}, got {layout!r}")
