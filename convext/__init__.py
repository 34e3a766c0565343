"""Convolutions for PyTorch on kernels of their own: torch.nn's layers and functions, the same numbers."""

from convext import _loading

with _loading.faults_explained():
    # torch first: the kernels link against its libraries
    import torch

    _loading.check_torch(torch.__version__)

    from convext import _C

    _C.get_max_isa()  # reads CONVEXT_MAX_ISA: an unknown level raises ValueError here, not at the first layer

    from convext import _cuda

    _cuda.load()

    from convext import backends, functional, inspect, nn, ops
    from convext._coverage import LeftToTorchWarning
    from convext._version import __version__
    from convext.conversion import ConversionReport, conversion_report, convert, revert
    from convext.fusion import fuse
    from convext.inspect import explain, verify
    from convext.introspection import Plan, conv_plan, workspace_bytes
    from convext.rerouting import override

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
    "inspect",
    "nn",
    "ops",
    "override",
    "revert",
    "verify",
    "workspace_bytes",
]


def __dir__() -> list[str]:
    return sorted(__all__)  # not the modules that serve the names
