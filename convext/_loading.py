"""The import of the package: its errors say what is wrong and what to do, and ``python -m convext`` outlives them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convext import _faults

__all__ = ["check_torch", "faults_explained"]


def _version_of_torch() -> str | None:
    return getattr(sys.modules.get("torch"), "__version__", None)


def check_torch(version: str) -> None:
    """Raises ImportError under a torch that lacks what the kernels link to; the loader would say so in symbols."""
    found = _faults.torch_version(version)
    if found is not None and found < _faults.LEAST_TORCH:
        raise ImportError(f"torch {version}")


def _runs_as_command() -> bool:
    """Whether this import is the first step of ``python -m convext``: Python puts "-m" there meanwhile."""
    words = sys.orig_argv
    return sys.argv[:1] == ["-m"] and "-m" in words and words[words.index("-m") + 1 :][:1] == ["convext"]


@contextmanager
def faults_explained() -> Iterator[None]:
    """Around the imports of the package.

    Raises:
        ImportError: in place of any error of theirs; names the fault and its remedy. But an unknown level in
            CONVEXT_MAX_ISA stays the ValueError that it is.
        SystemExit: in ``python -m convext``, whose `doctor` works all the same.
    """
    try:
        yield
    except Exception as error:
        if _runs_as_command():
            from convext import cli

            raise SystemExit(cli.main(import_error=error)) from None
        if isinstance(error, ValueError):
            raise
        package = Path(__file__).parent
        fault = _faults.of_import(error, package, _version_of_torch())
        raise ImportError(
            f"convext's compiled extension cannot be loaded from {package}: {fault.what}.\n"
            f"To repair it: {fault.remedy}.\n'python -m convext doctor' tells more.",
            name="convext",
        ) from error
