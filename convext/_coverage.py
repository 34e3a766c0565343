"""Which tensors convext's operators take: asked before a layer is converted and before a call is rerouted.

What is asked here are properties of a tensor, never whether a call went well: a call that convext takes and that fails
raises, and torch is not tried in its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from convext import _checks, _cuda

__all__ = ["DEVICES", "LeftToTorchWarning", "elsewhere", "refusal"]

# Where there are kernels of ours; on meta there is nothing to compute. On CUDA there is every operator, or none.
DEVICES = frozenset({"cpu", "meta", "cuda"} if _cuda.loaded() else {"cpu", "meta"})

_DTYPES = _checks.DTYPES | {torch.bool}

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_INHERITED = torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
_DISABLED = torch.nn.Parameter.__torch_function__


class LeftToTorchWarning(UserWarning):
    """A layer or call stays torch's that could be expected to become convext's; the message says which one and why."""


def _speaks_for_itself(kind: type) -> bool:
    """Whether a tensor subclass says itself what torch's functions mean on it, as quantized weights do."""
    function = kind.__torch_function__  # type: ignore[attr-defined]
    return function is not _DISABLED and getattr(function, "__func__", None) is not _INHERITED


def elsewhere(tensors: Iterable[Tensor]) -> str | None:
    """The first device without kernels of ours that one of the tensors lies on."""
    for t in tensors:
        if t.device.type not in DEVICES:
            return t.device.type
    return None


def refusal(tensor: Tensor) -> str | None:
    """Why convext does not take a tensor, as the end of a sentence about it; None where it does."""
    kind = type(tensor)
    if kind not in _PLAIN and not is_lazy(tensor) and _speaks_for_itself(kind):
        return f"is a {kind.__name__}, which has a __torch_function__ of its own"
    if tensor.device.type not in DEVICES:
        return f"is on {tensor.device.type}, where convext has no kernels"
    if tensor.is_nested:
        return "is nested"
    if tensor.layout is not torch.strided:
        return f"has the layout {tensor.layout}"
    if tensor.dtype not in _DTYPES:
        return f"has the type {tensor.dtype}"
    return None
