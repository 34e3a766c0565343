"""The problems that drive the tests of unfold and fold, and both operators by their definition, in plain indexing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.conv_case import LAYOUTS

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = (*FLOATS, *COMPLEX, *INTEGERS, torch.bool)
# that torch has no kernels for
NOT_IN_TORCH = INTEGERS


@dataclass(frozen=True)
class UnfoldCase:
    """One problem; padding is a pair for each axis."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    channels: int = 3
    batch: int = 2
    dilation: tuple[int, ...] = (1, 1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0),) * 3
    stride: tuple[int, ...] = (1, 1, 1)
    layout: str = "contiguous"

    def __post_init__(self) -> None:
        for name in ("dilation", "padding", "stride"):
            object.__setattr__(self, name, getattr(self, name)[: self.dims])

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def conf(self) -> tuple[tuple[int, ...], tuple[int, ...], Any, tuple[int, ...]]:
        """kernel_size, dilation, padding, stride: the functions' order."""
        return self.kernel, self.dilation, self.padding, self.stride

    @property
    def blocks(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.dilation, self.padding, self.stride, strict=True)
        return tuple((n + lo + hi - d * (k - 1) - 1) // s + 1 for n, k, d, (lo, hi), s in axes)

    @property
    def id(self) -> str:
        def text(values: Sequence[Any]) -> str:
            return "x".join(map(str, values))

        pads = text([f"{lo}:{hi}" for lo, hi in self.padding])
        return (
            f"n{self.batch}-c{self.channels}-{text(self.size)}-k{text(self.kernel)}-d{text(self.dilation)}-p{pads}"
            f"-s{text(self.stride)}-{self.layout}"
        )


def index_map(case: UnfoldCase) -> Tensor:
    """(taps, blocks): the flat pixel that block reads at tap, or -1 for a zero."""
    axes = []
    for n, k, d, (lo, _), s, b in zip(case.size, *case.conf, case.blocks, strict=True):
        at = torch.arange(k).view(-1, 1) * d - lo + torch.arange(b) * s
        axes.append(torch.where((at >= 0) & (at < n), at, -1))
    taps = []
    for tap in itertools.product(*map(range, case.kernel)):
        flat, inside = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=torch.bool)
        for t, axis, n in zip(tap, axes, case.size, strict=True):
            flat = flat.unsqueeze(-1) * n + axis[t]
            inside = inside.unsqueeze(-1) & (axis[t] >= 0)
        taps.append(torch.where(inside, flat, -1).flatten())
    return torch.stack(taps)


def unfold(case: UnfoldCase, x: Tensor) -> Tensor:
    at = index_map(case)
    columns = x.flatten(2)[:, :, at.clamp(min=0).flatten()].unflatten(2, tuple(at.shape))
    return torch.where(at >= 0, columns, torch.zeros((), dtype=x.dtype)).flatten(1, 2)


def fold(case: UnfoldCase, columns: Tensor) -> Tensor:
    """In the columns' own type, so that integers wrap around."""
    at = index_map(case).flatten()
    flat = columns.reshape(columns.shape[0], case.channels, at.numel())
    pixels = 1
    for n in case.size:
        pixels *= n
    image = flat.new_zeros((*flat.shape[:2], pixels + 1))
    image.index_add_(2, torch.where(at >= 0, at, pixels), flat)
    return image[..., :pixels].reshape(columns.shape[0], case.channels, *case.size)


def draw(dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Small integers, so that sums in every type are exact; integer types over their whole range, so that they wrap."""
    if dtype is torch.bool:
        return torch.rand(tuple(shape)) < 0.2
    if dtype in INTEGERS:
        info = torch.iinfo(dtype)
        return torch.randint(info.min, info.max, tuple(shape), dtype=dtype)
    t = torch.randint(-3, 4, tuple(shape))
    return (t + 1j * torch.randint(-3, 4, tuple(shape))).to(dtype) if dtype.is_complex else t.to(dtype)


def _cases() -> Iterator[UnfoldCase]:
    one, two, three = ((1, 1),) * 3, ((2, 2),) * 3, ((3, 3),) * 3
    for layout in LAYOUTS[:-1]:
        yield UnfoldCase((7, 9), (3, 3), padding=one, layout=layout)
        yield UnfoldCase((8, 37), (2, 3), 18, padding=((0, 1), (2, 0)), stride=(1, 2, 1), layout=layout)
        yield UnfoldCase((23,), (4,), 17, padding=((3, 1),), stride=(2,), layout=layout)
        yield UnfoldCase((4, 5, 6), (2, 3, 2), 16, padding=one, stride=(1, 2, 1), layout=layout)
    for width in (1, 2, 15, 16, 17, 33, 70):
        yield UnfoldCase((5, width), (3, 3), padding=one)
        yield UnfoldCase((5, width), (3, 3), 33, padding=one, stride=(2, 2), layout="channels_last")
        yield UnfoldCase((3, width + 5), (2, 4), padding=two, stride=(1, 2))
        yield UnfoldCase((4, width + 9), (3, 4), padding=three, stride=(2, 3), dilation=(1, 3))
    for stride, dilation, kernel in itertools.product((1, 2, 3, 5, 17), (1, 2, 3), (1, 2, 5)):
        yield UnfoldCase((40,), (kernel,), 2, dilation=(dilation,), padding=((kernel, 0),), stride=(stride,))
    # padding beyond the kernel, cropping, a kernel as large as the image, strides that leave pixels without a block
    yield UnfoldCase((4, 5), (2, 2), padding=((4, 5), (6, 3)))
    yield UnfoldCase((4, 5), (2, 2), padding=((4, 5), (6, 3)), stride=(5, 7))
    yield UnfoldCase((6, 9), (3, 3), padding=((-1, 3), (4, -2)))
    yield UnfoldCase((3, 4, 5), (3, 3, 1), padding=((2, 2), (4, 0), (0, 0)), dilation=(2, 2, 1))
    yield UnfoldCase((9, 12), (3, 3), padding=((-2, -1), (-3, 1)), stride=(1, 2))
    yield UnfoldCase((7, 5), (7, 5))
    yield UnfoldCase((1, 1), (3, 3), padding=one)
    yield UnfoldCase((32, 32), (8, 8), stride=(8, 8))
    yield UnfoldCase((11, 10, 9), (1, 2, 1), stride=(3, 4, 2))
    yield UnfoldCase((6, 5, 7), (3, 1, 2), batch=1, channels=1, padding=((1, 0), (2, 1), (0, 1)), dilation=(2, 3, 1))
    yield UnfoldCase((5, 6), (3, 3), batch=0)
    # longer than a band of fold, with and without phases
    yield UnfoldCase((40_001,), (3,), 1, 1, padding=((1, 1),))
    yield UnfoldCase((30_002,), (4,), 1, 1, padding=((1, 2),), stride=(3,))
    yield UnfoldCase((300, 130), (3, 3), 1, 1, padding=one, stride=(2, 1))
    yield UnfoldCase((3, 20_000), (2, 2), 1, 1, stride=(1, 20))


CASES = list(dict.fromkeys(_cases()))
