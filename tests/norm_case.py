"""Local response normalisation by its definition in float64, for inputs of any rank and layout."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# name -> a tensor of (N, C, *): every order of axes and every blocking that the kernel has
INPUTS = {
    "nchw": lambda: torch.randn(2, 7, 9, 11),
    "channels_last": lambda: torch.randn(2, 9, 11, 7).permute(0, 3, 1, 2),
    "channels_last, many": lambda: torch.randn(3, 30, 31, 20).permute(0, 3, 1, 2),
    "large plane": lambda: torch.randn(2, 40, 70, 71),
    "many channels": lambda: torch.randn(2, 700, 5, 41),
    "one pixel": lambda: torch.randn(3, 33, 1, 1),
    "one channel": lambda: torch.randn(3, 1, 5, 6),
    "3 dimensions": lambda: torch.randn(3, 8, 17),
    "3 dimensions, channels last": lambda: torch.randn(3, 17, 8).transpose(1, 2),
    "5 dimensions": lambda: torch.randn(2, 6, 3, 4, 5),
    "6 dimensions": lambda: torch.randn(2, 3, 2, 2, 3, 5),
    "channels first of all": lambda: torch.randn(6, 3, 5, 7).transpose(0, 1),
    "swapped spatial axes": lambda: torch.randn(2, 6, 5, 7).transpose(2, 3),
    "sliced": lambda: torch.randn(2, 12, 9, 22)[:, ::2, 1:8, ::2],
    "sliced channels_last": lambda: torch.randn(2, 9, 22, 6).permute(0, 3, 1, 2)[..., ::3],
    "expanded": lambda: torch.randn(1, 6, 1, 7).expand(3, 6, 5, 7),
    "offset": lambda: torch.randn(2 * 5 * 33 + 3)[3:].view(2, 5, 33),
}


def window_sum(t: Tensor, before: int, after: int) -> Tensor:
    c = torch.arange(t.shape[1])
    inside = (c[None] >= c[:, None] - before) & (c[None] <= c[:, None] + after)
    return torch.einsum("cd,nd...->nc...", inside.to(t.dtype), t)


def reference(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Differentiable, in float64."""
    x = x.double()
    return x / (k + alpha / size * window_sum(x * x, size // 2, (size - 1) // 2)).pow(beta)
