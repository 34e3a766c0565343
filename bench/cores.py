"""Where two threads run: on cores that share a cache, or far from each other.

What one core has written another gets several times as slowly where they share no cache: on a Zen 4 a line takes 0.11
microseconds to the other core and back, or 0.55, and kernels whose threads exchange much take up to twice as long. The
host of a virtual machine moves its processors from the one to the other every few seconds, so that a time is a mixture
of both unless it is known where it was taken.
"""

from __future__ import annotations

import convext

PLACEMENTS = ("near", "far", "any")
# The one that turns are to be taken in.
wanted = "near"

# Seconds that a line takes to the other core and back: on today's processors less than the first where two threads
# share one core, and more than the second where two cores share no cache.
ONE_CORE, FAR = 80e-9, 300e-9


def as_wanted(threads: int) -> bool:
    """Whether the first two of the pool's so many threads are as far apart as ``wanted``; one thread always is."""
    if threads < 2 or wanted == "any":
        return True
    trip = convext._C.measure_line_trip()  # 0 if the threads did not run at once
    return ONE_CORE < trip < FAR if wanted == "near" else trip > FAR


def said() -> str:
    """The placement in words, for the head of a table."""
    where = {"near": "while two cores share a cache", "far": "while two cores share none", "any": "wherever they run"}
    return f"several threads {where[wanted]}"
