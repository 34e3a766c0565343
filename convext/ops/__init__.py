"""The operators of convext with their derivatives, for batched tensors."""

from .conv import dgrad, fprop, wgrad

__all__ = ["dgrad", "fprop", "wgrad"]
