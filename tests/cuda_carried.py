"""The operators on a GPU, for tests whose tensors lie on the CPU: what ``--device cuda`` runs the test-suite by.

`load()` puts a kernel into the place of each of the CPU's, as the emulator does (tests/cuda_emulation). It carries the
operator's tensors to the GPU, with their strides and all that lies between their elements, calls the operator there,
and carries its results back. References, finite differences and transforms stay on the CPU, where torch has all of
them in every type: the same tests hold the same kernels against the same numbers on a GPU, emulated, and on a CPU.

What has to be seen on tensors of the device itself (streams, graphs, autocast, threads of the backward pass) is in
test_cuda_device.py.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from convext._cuda import absence

__all__ = ["absence", "calls", "carrying", "load", "to_device"]

# Operators that only calls on the CPU take (convext/ops/coded.py); their overloads of others are no defaults.
OF_PLAIN_CALLS = ("conv_fprop_backward", "conv_dgrad_backward")

# How often each operator has been carried to the GPU, for the report.
calls: Counter[str] = Counter()


def to_device(t: Tensor, device: torch.device) -> Tensor:
    """t on the device, with its sizes, strides and offset, in a copy of its whole storage."""
    storage = torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage()).to(device, copy=True)  # type: ignore[call-overload]
    return torch.empty(0, dtype=t.dtype, device=device).set_(  # type: ignore[call-overload]
        storage.untyped_storage(), t.storage_offset(), t.size(), t.stride()
    )


def carrying(name: str, operator: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The operator, on the device, as a function of tensors that lie on the CPU."""

    def kernel(*arguments: Any) -> Any:
        calls[name] += 1
        with torch._C._AutoDispatchBelowAutograd():  # it has been dealt with, above this kernel
            there = tree_map_only(Tensor, lambda t: to_device(t, device), arguments)
            return tree_map_only(Tensor, lambda t: t.cpu(), operator(*there))

    return kernel


@functools.cache
def load() -> torch.library.Library:
    """Lets the GPU answer for tensors on the CPU. There is no way back to the CPU's kernels in this process.

    Raises:
        RuntimeError: no CUDA kernel can run here.
    """
    absent = absence()
    if absent is not None:
        raise RuntimeError(f"no GPU to carry tensors to: {absent}")
    library, device = torch.library.Library("convext", "IMPL"), torch.device("cuda")
    for name in torch.ops.convext:
        if name in OF_PLAIN_CALLS:
            continue
        operator = getattr(torch.ops.convext, name).default
        library.impl(name, carrying(name, operator, device), "CPU", allow_override=True)
    return library
