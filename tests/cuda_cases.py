"""What the tests of the CUDA operators share: convolutions for every kernel and tile, and all that is beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import convext.functional as CF
from convext.functional import fused_conv2d
from tests.cases import ConvCase

CONVOLUTIONS = (
    ConvCase((9, 10), 3, (5, 37), padding=1),
    ConvCase((9, 10), 3, (20, 70), padding=1, stride=2, layout="channels_last"),
    ConvCase((8, 9), 3, (12, 80), batch=3, padding=1, groups=2),
    ConvCase((17, 16), 5, (6, 6), padding=2, groups=6, layout="channels_last"),
    ConvCase((9, 8), 3, (6, 12), padding=1, stride=2, groups=6, layout="sliced"),
    ConvCase((4, 5, 6), (2, 3, 1), (7, 9), padding=((1, 0), (2, 1), (0, 1)), dilation=(1, 2, 1)),
    ConvCase((700,), 4, (2, 35), batch=2, stride=3, layout="transposed"),
    ConvCase((7, 8), 3, (5, 36), padding=1, padding_mode="circular"),
    ConvCase((40, 41), 3, (3, 5), batch=2, padding=1),  # wgrad in slices
)


def image(dtype: torch.dtype, channels_last: bool) -> Tensor:
    x = torch.randint(-9, 10, (2, 5, 11, 14)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


CONSTANTS = {
    "samples": torch.tensor([0.3, 0.8]).expand(2, 5, 2),
    "weight": torch.linspace(-1, 1, 7 * 5 * 9).view(7, 5, 3, 3),
    "unshared weight": torch.linspace(-1, 1, 3 * 5 * 9 * 11 * 14).view(3, 5, 3, 3, 11, 14),
}


def constant(name: str, x: Tensor) -> Tensor:
    """In the type and on the device of x, and made once: in a CUDA graph nothing is copied from the CPU."""
    return _constant(name, x.dtype, x.device)


@functools.cache
def _constant(name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    return CONSTANTS[name].to(device, dtype)


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "max pool": lambda x: CF.max_pool2d(x, 3, 2, 1),
    "max pool, adaptive": lambda x: CF.adaptive_max_pool2d(x, (4, 3)),
    "min pool, dilated": lambda x: CF.min_pool2d(x, 2, 1, ((1, 0), (2, 1)), dilation=(2, 3)),
    "average pool": lambda x: CF.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average pool, adaptive": lambda x: CF.adaptive_avg_pool2d(x, (4, 5)),
    "L2 pool": lambda x: CF.lp_pool2d(x, 2, 3, 2),
    "unfold": lambda x: CF.unfold(x, 3, padding=1, stride=2),
    "fold": lambda x: CF.fold(CF.unfold(x, 3, padding=1), (11, 14), 3, padding=1),
    "stochastic pool": lambda x: CF.stochastic_pool2d(x.abs(), 3, 2, training=True),
    "locally connected": lambda x: CF.locally_connected(x, constant("unshared weight", x), padding=1),
    "response norm": lambda x: CF.local_response_norm(x, 3, 0.5),
    "fractional pool": lambda x: CF.fractional_max_pool2d(x, 3, (5, 6), _random_samples=constant("samples", x)),
    "unpool": lambda x: CF.max_unpool2d(*CF.max_pool2d(x, 3, 2, return_indices=True), 3, 2, output_size=(11, 14)),
    "convolution with an epilogue": lambda x: fused_conv2d(x, constant("weight", x), padding=1, activation="silu"),
}


def there_and_back(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function's result and the gradient to x of a weighted sum of it, in one vector; the same for the same x."""
    torch.manual_seed(0)  # stochastic pooling draws
    leaf = x.detach().requires_grad_()
    y = function(leaf)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y)
    (back,) = torch.autograd.grad(y, leaf, weights)
    return torch.cat((y.detach().flatten(), back.flatten()))
