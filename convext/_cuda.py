"""The operators on CUDA: a library of their own, loaded where this torch has CUDA."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NoReturn

import torch


def load() -> None:
    """Registers the operators that _C_cuda.so has; it could not be loaded under a torch without CUDA."""
    path = Path(__file__).with_name("_C_cuda.so")
    if torch.version.cuda is not None and path.exists():
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]


def _missing(name: str, *_: Any) -> NoReturn:
    raise NotImplementedError(
        f"convext: {name} is not implemented on CUDA in this build; expected tensors on the CPU "
        "(docs/cuda.md lists the operators that are)"
    )


def explain_missing() -> None:
    """Lets operators without a CUDA kernel say so in one sentence. Called when all operators have been looked up."""
    from convext.ops import _autograd  # which looks them up

    if torch.version.cuda is None:
        return
    for name in torch.ops.convext:
        op = getattr(torch.ops.convext, name).default
        _autograd.register_where_missing(op, "CUDA", functools.partial(_missing, name))
