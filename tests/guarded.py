"""Tensors that end where memory does: a kernel that reads or writes beyond them dies."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor


def guarded(t: Tensor) -> Tensor:
    """A contiguous copy of t whose last byte is followed by a page that may not be touched."""
    page = mmap.PAGESIZE
    size = t.numel() * t.element_size()
    room = (size + page - 1) // page * page
    memory = mmap.mmap(-1, room + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(page), 0):  # PROT_NONE
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=room - size).view(t.shape)
    return copy.copy_(t)
