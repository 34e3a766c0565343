"""The layers that the transform tests run: as convext computes each and as torch does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convext.functional as CF


@dataclass(frozen=True)
class Form:
    name: str
    ours: Callable[..., Tensor]
    torchs: Callable[..., Tensor]
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    channels: int  # of the output

    def tensors(
        self, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x, w, b = (
            torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)
            for shape in (self.input_shape, self.weight_shape, (self.channels,))
        )
        return x, w, b

    @property
    def channel_axis_of_output(self) -> int:
        return 1 if "transpose" not in self.name else 0


def both(function: str, **settings: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    ours, torchs = getattr(CF, function), getattr(F, function)
    return (lambda x, w, b=None: ours(x, w, b, **settings)), (lambda x, w, b=None: torchs(x, w, b, **settings))


def circular_in_torch(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return F.conv1d(F.pad(x, (2, 1), mode="circular"), w, b, stride=2)


def circular(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return CF.conv1d(x, w, b, stride=2, padding=((2, 1),), padding_mode="circular")


FORMS = {
    form.name: form
    for form in (
        Form("conv2d", *both("conv2d", stride=(2, 1), padding=(1, 2), groups=2), (2, 4, 6, 5), (6, 2, 3, 3), 6),
        Form(
            "conv_transpose2d",
            *both("conv_transpose2d", stride=(2, 1), padding=(1, 0), output_padding=(1, 0), groups=2),
            (2, 4, 4, 5),
            (4, 3, 3, 2),
            6,
        ),
        Form("conv1d-circular", circular, circular_in_torch, (2, 3, 6), (6, 3, 3), 6),
        Form("conv3d", *both("conv3d", padding=(1, 0, 1), dilation=(1, 1, 2)), (2, 2, 3, 3, 4), (6, 2, 2, 2, 2), 6),
    )
}


class Net(torch.nn.Module):
    """A convolution, a nonlinearity, a mean over pixels and a linear layer, for any image size."""

    def __init__(self, form: Form, ours: bool = True) -> None:
        super().__init__()
        _, w, b = form.tensors(seed=1)
        self.weight, self.bias = torch.nn.Parameter(w), torch.nn.Parameter(b)
        self.function = form.ours if ours else form.torchs
        self.head = torch.nn.Linear(form.channels, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x, self.weight, self.bias)
        return self.head(y.relu().flatten(2).mean(2))


def pair_of_nets(form: Form) -> tuple[Net, Net]:
    """The same network twice, with convext's convolution and with torch's."""
    ours, torchs = Net(form), Net(form, ours=False)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs
