"""The operators of convext with their derivatives, for batched tensors; arguments are checked by convext.functional."""

from convext.ops import places, pool
from convext.ops.conv import dgrad, fprop, wgrad

__all__ = ["dgrad", "fprop", "places", "pool", "wgrad"]
