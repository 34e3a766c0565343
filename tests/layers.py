"""Every layer that torch.nn and convext.nn both have, with an input, and which operators a call runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convext import nn

SIZES = (9, 8, 7)  # of the spatial axes, the last rank of them


class Layer(NamedTuple):
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rank: int
    channels: int = 4

    def __str__(self) -> str:
        return f"{self.name}({', '.join([*map(str, self.args), *(f'{k}={v}' for k, v in self.kwargs.items())])})"

    def make(self, package: Any = torch.nn) -> torch.nn.Module:
        """The layer in float64, of torch.nn or of convext.nn, with weights from the same seed."""
        torch.manual_seed(11)
        layer: torch.nn.Module = getattr(package, self.name)(*self.args, **self.kwargs)
        return layer.double()

    def inputs(self) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(12)
        spatial = SIZES[3 - self.rank :]
        if self.name == "Fold":
            return (torch.randn(2, self.channels * 9, spatial[0] * spatial[1], generator=generator).double(),)
        x = torch.randn(2, self.channels, *spatial, generator=generator).double()
        if "Unpool" not in self.name:
            return (x,)
        even = x[(..., *[slice(size - size % 2) for size in spatial])]
        values, indices = getattr(torch.nn.functional, f"max_pool{self.rank}d")(even, 2, return_indices=True)
        return values, indices


def _layers() -> list[Layer]:
    layers = []
    for rank in (1, 2, 3):
        for kind in ("Conv", "LazyConv"):
            name, channels = f"{kind}{rank}d", (4, 6) if kind == "Conv" else (6,)
            layers.append(Layer(name, (*channels, 3), {"padding": 1, "stride": 2}, rank))
            layers.append(Layer(name, (*channels, 3), {"padding": "same", "padding_mode": "circular"}, rank))
        for kind in ("ConvTranspose", "LazyConvTranspose"):
            channels = (4, 6) if kind == "ConvTranspose" else (6,)
            settings = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
            layers.append(Layer(f"{kind}{rank}d", (*channels, 3), settings, rank))
        layers += [
            Layer(f"MaxPool{rank}d", (3,), {"stride": 2, "padding": 1}, rank),
            Layer(f"MaxPool{rank}d", (2,), {"return_indices": True}, rank),
            Layer(f"AvgPool{rank}d", (3,), {"padding": 1, "ceil_mode": True, "count_include_pad": False}, rank),
            Layer(f"LPPool{rank}d", (2, 3), {"stride": 2}, rank),
            Layer(f"AdaptiveMaxPool{rank}d", (3,), {}, rank),
            Layer(f"AdaptiveAvgPool{rank}d", (3,), {}, rank),
            Layer(f"MaxUnpool{rank}d", (2,), {}, rank),
        ]
    layers += [Layer(f"FractionalMaxPool{rank}d", (2,), {"output_size": 4}, rank) for rank in (2, 3)]
    layers += [
        Layer("Unfold", (3,), {"padding": 1}, 2),
        Layer("Fold", (SIZES[1:], 3), {"padding": 1}, 2),
        Layer("LocalResponseNorm", (3,), {}, 2),
    ]
    return layers


LAYERS = _layers()
NAMES = sorted({layer.name for layer in LAYERS})


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


WORDS = ("conv", "pool", "im2col", "col2im", "response")


def operators(call: Callable[..., Any], *args: Any) -> tuple[list[str], list[str]]:
    """The operators of this library that a call runs, and torch's that convext has its own for."""
    with torch.no_grad(), Operators() as mode:
        call(*args)
    ours = sorted(name for name in mode.names if name.startswith("convext::"))
    theirs = sorted(n for n in mode.names if not n.startswith("convext::") and any(word in n for word in WORDS))
    return ours, theirs


def is_by_convext(call: Callable[..., Any], *args: Any) -> bool:
    """Whether a call computes by convext's operators, and by none of torch's in their place."""
    ours, theirs = operators(call, *args)
    return bool(ours) and not theirs


def is_by_torch(call: Callable[..., Any], *args: Any) -> bool:
    ours, theirs = operators(call, *args)
    return not ours and bool(theirs)


def tensors(result: Any) -> Sequence[Tensor]:
    return result if isinstance(result, tuple) else (result,)


def shared_names() -> set[str]:
    """The layers that both packages have."""
    return {name for name in nn.__all__ if hasattr(torch.nn, name)}
