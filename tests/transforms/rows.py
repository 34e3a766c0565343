"""The rows: each public function as a function of the tensors it is derived by, and its layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """A function of convext.functional in one configuration.

    ``of``: from convext.functional or torch.nn.functional to the function of the tensors of these ``shapes``, of which
    the first is the image. ``layer``: from convext.nn or torch.nn to a layer that takes the same image.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    of: Callable[[Any], Function]
    layer: Callable[[Any], torch.nn.Module]
    function: str = ""  # of convext.functional, where it is not the name
    fixed_size: bool = False  # its weights belong to an image of one size
    draws: bool = False  # random numbers

    @property
    def rank(self) -> int:
        return len(self.shapes[0]) - 2

    def in_(self, functional: Any) -> Function | None:
        """The function there, None where it does not exist."""
        return self.of(functional) if hasattr(functional, self.function or self.name) else None

    def tensors(self, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
        """Distinct numbers in (-1, 1), none near 0 or another: no maximum, root or positive part has a kink nearby."""
        generator = torch.Generator().manual_seed(0)

        def spread(shape: tuple[int, ...]) -> Tensor:
            n = torch.Size(shape).numel()
            values = (torch.randperm(n, generator=generator, dtype=torch.float64) + 0.5) / n * 2 - 1
            return values.reshape(shape).to(dtype).requires_grad_(grad)

        return [spread(shape) for shape in self.shapes]

    def image(self, batch: int = 2, larger: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """One of another size."""
        pixels = [size + larger for size in self.shapes[0][2:]]
        n = torch.Size((batch, self.shapes[0][1], *pixels)).numel()
        generator = torch.Generator().manual_seed(batch + larger)
        values = (torch.randperm(n, generator=generator, dtype=torch.float64) + 0.5) / n * 2 - 1
        return values.reshape(batch, self.shapes[0][1], *pixels).to(dtype)


_PIXELS: dict[int, tuple[int, ...]] = {1: (8,), 2: (6, 4), 3: (4, 3, 3)}


def _image(rank: int) -> tuple[int, ...]:
    return (2, 2, *_PIXELS[rank])


def _corners(y: Tensor) -> Tensor:
    """Places of an unpooling 2/2: the first pixel of each window."""
    places = torch.zeros((), dtype=torch.int64, device=y.device)
    for size in y.shape[2:]:
        places = places[..., None] * (2 * size) + 2 * torch.arange(size, device=y.device)
    return places.expand(y.shape)


class _Unpool(torch.nn.Module):
    """The layer with its places, so that it takes the image alone."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, _corners(x))


def _convolutions(rank: int) -> list[Row]:
    image, bias = _image(rank), (4,)
    conv, transposed = f"conv{rank}d", f"conv_transpose{rank}d"
    layer, transposed_layer = f"Conv{rank}d", f"ConvTranspose{rank}d"
    return [
        Row(
            conv,
            (image, (4, 1, *(3,) * rank), bias),
            lambda F: lambda x, w, b=None: getattr(F, conv)(x, w, b, stride=2, padding=1, groups=2),
            lambda nn: getattr(nn, layer)(2, 4, 3, stride=2, padding=1, groups=2),
        ),
        Row(
            transposed,
            (image, (2, 2, *(3,) * rank), bias),
            lambda F: lambda x, w, b=None: getattr(F, transposed)(x, w, b, stride=2, output_padding=1, groups=2),
            lambda nn: getattr(nn, transposed_layer)(2, 4, 3, stride=2, output_padding=1, groups=2),
        ),
    ]


def _pool(rank: int, name: str, layer: str, *args: Any, **settings: Any) -> Row:
    function, layer = f"{name}{rank}d", f"{layer}{rank}d"
    return Row(
        function,
        (_image(rank),),
        lambda F: lambda x: getattr(F, function)(x, *args, **settings),
        lambda nn: getattr(nn, layer)(*args, **settings),
    )


def _with_indices(rank: int, name: str, layer: str, *args: Any) -> Row:
    function, layer = f"{name}{rank}d", f"{layer}{rank}d"
    return Row(
        f"{function}, indices",
        (_image(rank),),
        lambda F: lambda x: getattr(F, function)(x, *args, return_indices=True)[0],
        lambda nn: getattr(nn, layer)(*args),
        function=function,
    )


def _unpool(rank: int) -> Row:
    function, layer = f"max_unpool{rank}d", f"MaxUnpool{rank}d"
    return Row(
        function,
        ((2, 2, *[2] * rank),),
        lambda F: lambda x: getattr(F, function)(x, _corners(x), 2),
        lambda nn: _Unpool(getattr(nn, layer)(2)),
    )


def _fractional(rank: int) -> Row:
    function, layer = f"fractional_max_pool{rank}d", f"FractionalMaxPool{rank}d"

    def samples(x: Tensor) -> Tensor:
        return x.detach().new_full((*x.shape[:2], rank), 0.3)

    size = (2, 2) if rank == 2 else (2, 1, 1)  # torch wants more input than the windows need

    def of(functional: Any) -> Function:
        pool = getattr(functional, function)
        return lambda x: pool(x, 2, output_size=size, _random_samples=samples(x))

    def make(nn: Any) -> Any:
        return getattr(nn, layer)(2, output_size=size, _random_samples=torch.full((2, 2, rank), 0.3))

    return Row(function, (_image(rank),), of, make)


def _stochastic(rank: int) -> list[Row]:
    function, layer = f"stochastic_pool{rank}d", f"StochasticPool{rank}d"

    def training(functional: Any) -> Function:
        # one element of each window is above 0, which is then drawn for certain
        def call(x: Tensor) -> Tensor:
            y: Tensor = getattr(functional, function)(
                torch.where(_first_of_window(x), x.square(), -1), 2, training=True
            )
            return y

        return call

    return [
        _pool(rank, "stochastic_pool", "StochasticPool", 2),
        Row(
            f"{function}, training",
            (_image(rank),),
            training,
            lambda nn: getattr(nn, layer)(2),
            function=function,
            draws=True,
        ),
    ]


def _first_of_window(x: Tensor) -> Tensor:
    first = torch.ones((), dtype=torch.bool, device=x.device)
    for size in x.shape[2:]:
        first = first[..., None] & (torch.arange(size, device=x.device) % 2 == 0)
    return first


def _locally_connected(rank: int) -> Row:
    pixels = _PIXELS[rank]
    output = [size - 1 for size in pixels]
    return Row(
        f"locally_connected, {rank}-D",
        (_image(rank), (2, 2, *[2] * rank, *output), (2, *output)),
        lambda F: lambda x, w, b=None: F.locally_connected(x, w, b),
        lambda nn: getattr(nn, f"LocallyConnected{rank}d")(2, 2, pixels, 2),
        function="locally_connected",
        fixed_size=True,
    )


def _others() -> list[Row]:
    image = _image(2)
    return [
        Row("unfold", (image,), lambda F: lambda x: F.unfold(x, 2, padding=1), lambda nn: nn.Unfold(2, padding=1)),
        Row(
            "fold",
            ((2, 8, 15),),
            lambda F: lambda x: F.fold(x, (4, 6), 2),
            lambda nn: nn.Fold((4, 6), 2),
            fixed_size=True,
        ),
        Row(
            "local_response_norm",
            ((2, 3, 4, 2),),
            lambda F: lambda x: F.local_response_norm(x, 3, alpha=0.5),
            lambda nn: nn.LocalResponseNorm(3, alpha=0.5),
        ),
        Row(
            "local_contrast_norm",
            (image,),
            lambda F: lambda x: F.local_contrast_norm(x, 3),
            lambda nn: nn.LocalContrastNorm(3),
        ),
        Row("maxout", ((2, 4, 3, 2),), lambda F: lambda x: F.maxout(x, 2), lambda nn: nn.Maxout(2)),
    ]


def _rows_of(rank: int) -> list[Row]:
    rows = [
        *_convolutions(rank),
        _pool(rank, "max_pool", "MaxPool", 2),
        _with_indices(rank, "max_pool", "MaxPool", 2),
        _pool(rank, "min_pool", "MinPool", 2),
        _pool(rank, "avg_pool", "AvgPool", 3, 2, 1),
        _pool(rank, "adaptive_max_pool", "AdaptiveMaxPool", 2),
        _with_indices(rank, "adaptive_max_pool", "AdaptiveMaxPool", 2),
        _pool(rank, "adaptive_avg_pool", "AdaptiveAvgPool", 2),
        _pool(rank, "lp_pool", "LPPool", 2, 2),
        _unpool(rank),
    ]
    if rank > 1:
        rows.append(_fractional(rank))
    return [*rows, *_stochastic(rank), _locally_connected(rank)]


def _in_order(rows: list[Row]) -> list[Row]:
    """Of all ranks together."""
    families = list(dict.fromkeys(family(row) for row in rows))
    return sorted(rows, key=lambda row: families.index(family(row)))


def family(row: Row) -> str:
    """The name without its number of axes."""
    for rank in (1, 2, 3):
        row_name = row.name.replace(f"{rank}d", "").replace(f", {rank}-D", "")
        if row_name != row.name:
            return row_name
    return row.name


ROWS = _in_order([row for rank in (1, 2, 3) for row in _rows_of(rank)]) + _others()
