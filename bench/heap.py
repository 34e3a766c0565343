"""What malloc does with the memory of results that were freed: the same for both sides, and in every run."""

from __future__ import annotations

import ctypes
import functools
import sys

# of <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no larger one


@functools.cache
def keep_freed_memory() -> bool:
    """Lets glibc keep what is freed, up to results of 32 MiB; whether there was a glibc to tell.

    Left alone it raises its threshold for fresh mappings to the largest block that was freed, and gives the end of the
    heap back to the system whenever that is large enough. Whether a result of some MiB is written to memory that is
    there or to pages that must be faulted in first, which takes ten times longer, then depends on what else the process
    has allocated: the same call of either side took 1 ms in one run and 11 to 16 ms in the next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
