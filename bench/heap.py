"""What malloc does with the memory of results that were freed: the same for both sides, and in every run."""

from __future__ import annotations

import ctypes
import functools
import sys

# of <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


@functools.cache
def keep_freed_memory() -> bool:
    """Lets glibc keep what is freed; whether there was a glibc to tell.

    Left alone it maps large results anew in every call, raises the size from which it does by what was freed, and gives
    the end of the heap back to the system whenever that is large enough. Whether a result is written to memory that is
    there or to pages that must be faulted in first, which takes ten times longer, then depends on what else the process
    has allocated: the same call of either side took 1 ms in one run and 11 to 16 ms in the next. Worse, a virtual
    machine may give free pages back to its host: 64 MiB on huge pages are written in 8 to 10 ms where they were freed a
    moment ago, in 100 to 220 ms where that was some seconds ago, as when the other side was timed in between.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
