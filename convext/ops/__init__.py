"""The operators of convext with their derivatives, for batched tensors; arguments are checked by convext.functional."""

from convext.ops import places, pool
from convext.ops.conv import dgrad, fprop, wgrad
from convext.ops.fused import ACTIVATIONS, activate, conv_fused
from convext.ops.norm import local_response_norm, position_product
from convext.ops.unfold import fold, unfold

__all__ = [
    "ACTIVATIONS",
    "activate",
    "conv_fused",
    "dgrad",
    "fold",
    "fprop",
    "local_response_norm",
    "places",
    "pool",
    "position_product",
    "unfold",
    "wgrad",
]


def __dir__() -> list[str]:
    return sorted(__all__)  # not the modules that serve the names
