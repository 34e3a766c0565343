"""Convolutions for PyTorch on kernels of their own: torch.nn's layers and functions, the same numbers."""

# torch first: the kernels link against its libraries
import torch  # noqa: F401, I001

from convext import _C  # noqa: F401  registers torch.ops.convext
from convext import backends, functional, nn, ops
from convext._version import __version__
from convext.introspection import Plan, conv_plan, workspace_bytes

__all__ = ["Plan", "__version__", "backends", "conv_plan", "functional", "nn", "ops", "workspace_bytes"]
