"""One pooling problem as a dataclass, the cases that drive the tests, and a reference made of nothing but indexing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convext.functional as CF
from tests.conv_case import lay_out

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded", "offset")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class PoolCase:
    """Integers stand for every axis; padding is an int, or a pair for each axis."""

    size: tuple[int, ...]
    kernel: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False
    batch: int = 2
    channels: int = 3
    layout: str = "contiguous"
    count_include_pad: bool = True
    divisor: int | None = None

    def axes(self, name: str) -> tuple[int, ...]:
        value = getattr(self, name)
        if name == "stride" and value is None:
            value = self.kernel
        return tuple(value) if isinstance(value, Sequence) else (value,) * self.dims

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return tuple((p, p) if isinstance(p, int) else tuple(p) for p in self.axes("padding"))

    @property
    def half_padded(self) -> bool:
        """Whether torch has this padding and, for an average, this dilation."""
        return isinstance(self.padding, int) or all(isinstance(p, int) for p in self.padding)

    @property
    def id(self) -> str:
        fields = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return "-".join(f"{name[:2]}{value}".replace(" ", "") for name, value, default in fields if value != default)

    def image(self, dtype: torch.dtype, integers: bool = False) -> Tensor:
        shape = (self.batch, self.channels, *self.size)
        if integers or not dtype.is_floating_point:
            least = 0 if dtype is torch.uint8 else -9
            x = torch.randint(least, 10, shape).to(dtype)
        else:
            x = torch.randn(shape, dtype=torch.float64).to(dtype)
        return lay_out(x, self.layout)

    @property
    def window(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "ceil_mode": self.ceil_mode,
        }

    def maximum(self, x: Tensor, kind: str = "max", **more: Any) -> Any:
        return getattr(CF, f"{kind}_pool{self.dims}d")(x, **self.window, **more)

    def average(self, x: Tensor) -> Tensor:
        more: dict[str, Any] = {"count_include_pad": self.count_include_pad}
        if self.dims > 1:
            more["divisor_override"] = self.divisor
        y: Tensor = getattr(CF, f"avg_pool{self.dims}d")(x, **self.window, **more)
        return y


def windows_of(case: PoolCase, x: Tensor, filler: float) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """(N, C, *output, *kernel) elements of every window, their places, which lie inside, and counts with padding."""
    taps, inside, counted = [], [], []
    settings = (case.size, case.axes("kernel"), case.axes("stride"), case.pairs, case.axes("dilation"))
    for size, k, s, (lo, hi), d in zip(*settings, strict=True):
        room = size + lo + hi - d * (k - 1) - 1
        out = (room + (s - 1 if case.ceil_mode else 0)) // s + 1
        if case.ceil_mode and (out - 1) * s >= size + lo:
            out -= 1
        at = torch.arange(out)[:, None] * s - lo + torch.arange(k)[None, :] * d
        taps.append(at)
        inside.append((at >= 0) & (at < size + min(hi, 0)))
        counted.append((at < size + hi).sum(1))
    d = case.dims
    elements, places = x, torch.zeros((), dtype=torch.int64)
    valid = torch.ones((), dtype=torch.bool)
    for axis in range(d):
        # windows so far (out.., k..) interleaved: index the spatial axis, append (out, k) at the end
        index = taps[axis].clamp(0, case.size[axis] - 1)
        elements = elements.movedim(2, -1)[..., index]
        places = places[..., None, None] * case.size[axis] + taps[axis]
        valid = valid[..., None, None] & inside[axis]
    order = [2 * i for i in range(d)] + [2 * i + 1 for i in range(d)]
    elements = elements.permute(0, 1, *[2 + i for i in order])
    places, valid = places.permute(order), valid.permute(order)
    return torch.where(valid, elements, torch.as_tensor(filler, dtype=x.dtype)), places, valid, counted


def reference_max(case: PoolCase, x: Tensor, kind: str = "max") -> tuple[Tensor, Tensor]:
    """Values, and places in the plane: the first of equal elements, -1 for an empty window."""
    sign = 1 if kind == "max" else -1
    wide = x.double() if x.is_floating_point() else x.long()
    least = -math.inf if x.is_floating_point() else -(1 << 62)
    elements, places, valid, _ = windows_of(case, sign * wide, least)
    d = case.dims
    flat, valid = elements.flatten(-d), valid.flatten(-d)
    # the first place with the largest element, among those inside
    best = flat.amax(-1, keepdim=True)
    first = ((flat == best) & valid).to(torch.int8).argmax(-1, keepdim=True)
    at = places.flatten(-d).expand_as(flat).gather(-1, first).squeeze(-1)
    some = valid.any(-1).expand_as(at)
    values = sign * best.squeeze(-1)
    if not x.is_floating_point():
        info = torch.iinfo(x.dtype)
        values = torch.where(some, values, torch.tensor(info.min if kind == "max" else info.max))
    return values.to(x.dtype), torch.where(some, at, -1)


def reference_average(case: PoolCase, x: Tensor) -> Tensor:
    """In float64, or the truncated quotients of int64."""
    wide = x.double() if x.is_floating_point() else x
    elements, _, valid, counted = windows_of(case, wide, 0)
    d = case.dims
    total = elements.flatten(-d).sum(-1)
    if case.divisor is not None:
        count = torch.tensor(case.divisor)
    elif case.count_include_pad:
        count = torch.ones((), dtype=torch.int64)
        for c in counted:
            count = count[..., None] * c
    else:
        count = valid.flatten(-d).sum(-1)
    count = count.clamp(min=1) if case.divisor is None else count
    return total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="trunc")


def pool_cases() -> Iterator[PoolCase]:
    yield PoolCase((23, 37), 3, 2, 1, channels=5)
    yield PoolCase((23, 37), 3, 2, 1, channels=35, layout="channels_last")
    yield PoolCase((24, 40), 2)
    yield PoolCase((24, 40), 2, channels=67, layout="channels_last")
    yield PoolCase((20, 21), 3, 1, 1)
    yield PoolCase((20, 21), 3, 1, 1, layout="channels_last", channels=17)
    yield PoolCase((17, 50), (2, 3), (3, 1), (1, 0), ceil_mode=True, layout="sliced")
    yield PoolCase((17, 19), 3, 2, 1, ceil_mode=True, count_include_pad=False, layout="transposed")
    yield PoolCase((17, 19), 3, 3, 1, dilation=2, count_include_pad=False, layout="offset")
    yield PoolCase((17, 19), (3, 2), (2, 3), dilation=(1, 3), padding=((2, 0), (0, 3)), divisor=5)
    yield PoolCase((9, 11), 3, 2, padding=((2, 2), (2, 1)), count_include_pad=False, ceil_mode=True)
    yield PoolCase((9, 11), 3, 2, padding=((-2, 1), (1, -3)), count_include_pad=False)
    yield PoolCase((9, 11), 2, 1, padding=((-1, -2), (0, -1)), layout="channels_last", channels=20)
    yield PoolCase((100,), 3, 2, 1)
    yield PoolCase((3001,), 5, 2, 2, layout="transposed", batch=1)
    yield PoolCase((9000,), 3, 4, 1, batch=1, channels=2)
    yield PoolCase((70,), 13, 5, 6, ceil_mode=True)
    yield PoolCase((70,), 3, 1, padding=((40, 0),), dilation=20)
    yield PoolCase((7, 9, 18), 2)
    yield PoolCase((7, 9, 18), 3, 2, 1, ceil_mode=True, count_include_pad=False)
    yield PoolCase((7, 9, 8), 3, 2, 1, layout="channels_last", channels=18)
    yield PoolCase((6, 5, 7), (2, 1, 3), (1, 2, 1), (1, 0, 1), divisor=-3)
    yield PoolCase((30, 31), 17, 3, 8, channels=2)  # offsets of two bytes
    yield PoolCase((20, 21), 17, 3, 8, channels=18, layout="channels_last")
    yield PoolCase((190, 191), 185, 3, channels=1, batch=1)  # offsets of four bytes
    yield PoolCase((5, 5), 5, channels=33)
    yield PoolCase((5, 5), 5, channels=33, layout="channels_last")
    yield PoolCase((8, 9), 3, 7, layout="expanded")
    yield PoolCase((1, 1), 1, channels=1, batch=1)
    yield PoolCase((4, 5), 3, 2, 1, batch=0)
    yield PoolCase((9, 10), 2, 1, ((1, 1), (1, 1)), dilation=(8, 9))
    # rows of some vectors, and what small windows do at their ends
    yield PoolCase((5, 64), 2, channels=2)
    yield PoolCase((6, 65), 2, ceil_mode=True, count_include_pad=False)
    yield PoolCase((7, 71), (3, 2), (2, 2), (1, 0), channels=2)
    yield PoolCase((4, 70), (2, 3), (1, 2), ((0, 1), (2, 0)), dilation=(3, 1), ceil_mode=True)
    yield PoolCase((5, 67), (1, 4), (1, 2), padding=((0, 0), (1, 2)), layout="sliced")
    yield PoolCase((5, 66), (2, 1), 2, layout="offset")
    yield PoolCase((4, 69), 2, 1, padding=((0, 0), (-3, -2)), channels=2)
    yield PoolCase((6, 72), 3, 1, 1, count_include_pad=False, channels=2)
    yield PoolCase((5, 48), (5, 5), 1, 2, divisor=7, channels=2)
    yield PoolCase((4, 5, 66), 2, channels=2)
    yield PoolCase((5, 4, 67), 3, 2, 1, channels=2)
    yield PoolCase((4, 3, 68), (3, 1, 2), (1, 2, 2), (1, 0, 0), dilation=(2, 1, 1), channels=2, batch=1)
    yield PoolCase((8300,), 2, 2, channels=1, batch=1)
    yield PoolCase((4150,), 3, 1, 1, channels=1, batch=1)
    yield PoolCase((1500,), 1100, 3, channels=2, batch=1)  # more taps than phases are made for


CASES = tuple(pool_cases())
