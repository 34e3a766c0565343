"""The operators on CUDA: a library of their own, loaded where this torch has CUDA. And what other devices are told."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NoReturn

import torch

LIBRARY = Path(__file__).with_name("_C_cuda.so")


def load() -> None:
    """Registers the operators that _C_cuda.so has; it could not be loaded under a torch without CUDA."""
    if torch.version.cuda is not None and LIBRARY.exists():
        torch.ops.load_library(LIBRARY)  # type: ignore[no-untyped-call]
        read_tf32_switch(ctypes.CDLL(str(LIBRARY)))


@ctypes.CFUNCTYPE(ctypes.c_int)  # type: ignore[untyped-decorator]
def _tf32_allowed() -> int:
    # what cudnn's convolutions follow; it inherits from torch.backends.cudnn and torch.backends, and allow_tf32 sets it
    return int(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def read_tf32_switch(library: ctypes.CDLL) -> None:
    """Lets the convolutions of a library of CUDA operators ask whether torch allows TF32, at every call.

    The stable ABI cannot. Asking when an operator runs, and not in the Python layer above it, makes the switch hold in
    compiled and exported graphs and in backward passes too. It costs 2 microseconds and takes the GIL.
    """
    library.convext_cuda_read_tf32_by(_tf32_allowed)


def loaded() -> bool:
    """Whether the CUDA kernels are in this process: on a machine without a GPU, too."""
    return str(LIBRARY.resolve()) in map(str, torch.ops.loaded_libraries)


def absence() -> str | None:
    """Why no CUDA kernel can run in this process, as a clause; None where they can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    if not LIBRARY.exists():
        return "the CUDA kernels were not built (with nvcc in CUDA_HOME or on PATH, CONVEXT_CUDA=1 insists)"
    if not loaded():
        return f"{LIBRARY.name} was not loaded"
    if not torch.cuda.is_available():
        return f"the CUDA kernels are loaded, and torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU"
    return None


# Dispatch keys of devices for which nothing is written.
_ELSEWHERE = ("MPS", "XPU", "HPU", "MTIA")


def _missing_elsewhere(name: str, device: str, *_: Any) -> NoReturn:
    raise NotImplementedError(
        f"convext: {name} has no kernel on {device.lower()}; expected tensors on the CPU: move model and inputs by "
        ".to('cpu'), or leave the layer to torch (convext.revert(model) makes it torch's again)"
    )


def _missing(name: str, *_: Any) -> NoReturn:
    raise NotImplementedError(
        f"convext: {name} is not implemented on CUDA in this build; expected tensors on the CPU "
        "(docs/cuda.md lists the operators that are)"
    )


def explain_missing() -> None:
    """Lets operators say in one sentence where they have no kernel. Called when all of them have been looked up."""
    from convext.ops import _autograd  # which looks them up

    for name in torch.ops.convext:
        op = getattr(torch.ops.convext, name).default
        for device in _ELSEWHERE:
            _autograd.register_where_missing(op, device, functools.partial(_missing_elsewhere, name, device))
        if torch.version.cuda is not None:
            _autograd.register_where_missing(op, "CUDA", functools.partial(_missing, name))
