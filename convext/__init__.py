"""Convolutions for PyTorch on kernels of their own: torch.nn's layers and functions, the same numbers."""

# torch first: the kernels link against its libraries
import torch  # noqa: F401

try:
    from convext import _C
except ImportError as error:
    raise ImportError(
        f"convext's compiled extension cannot be loaded from {__path__[0]}. In a source checkout run 'make build', "
        "or, if convext is installed, start Python in another directory."
    ) from error

_C.get_max_isa()  # reads CONVEXT_MAX_ISA: an unknown level raises ValueError here, not at the first layer

from convext import _cuda  # noqa: E402

_cuda.load()

from convext import backends, functional, nn, ops  # noqa: E402
from convext._coverage import LeftToTorchWarning  # noqa: E402
from convext._version import __version__  # noqa: E402
from convext.conversion import ConversionReport, conversion_report, convert, revert  # noqa: E402
from convext.fusion import fuse  # noqa: E402
from convext.inspect import explain, verify  # noqa: E402
from convext.introspection import Plan, conv_plan, workspace_bytes  # noqa: E402
from convext.rerouting import override  # noqa: E402

_cuda.explain_missing()

__all__ = [
    "ConversionReport",
    "LeftToTorchWarning",
    "Plan",
    "__version__",
    "backends",
    "conv_plan",
    "conversion_report",
    "convert",
    "explain",
    "functional",
    "fuse",
    "nn",
    "ops",
    "override",
    "revert",
    "verify",
    "workspace_bytes",
]
