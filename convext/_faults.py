"""What keeps convext from being imported: each known fault told from its error, in words, with what to do about it.

Nothing here imports torch or the kernels: it is asked when one of them cannot be.
"""

from __future__ import annotations

import importlib.machinery
import re
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["LEAST_TORCH", "TESTED_TORCH", "Fault", "of_import", "torch_version"]

LEAST_TORCH = (2, 11)  # whose stable ABI the kernels are compiled for: TORCH_TARGET_VERSION in setup.py
TESTED_TORCH = (2, 14)  # the last that they have been run under

_INSTALL_TORCH = "install torch 2.11 or later: pip install 'torch>=2.11'"


class Fault(NamedTuple):
    """``name`` is one word or two, for programs; ``what`` and ``remedy`` are sentences without the full stop."""

    name: str
    what: str
    remedy: str


def torch_version(text: str) -> tuple[int, int] | None:
    """(2, 13) of "2.13.0+cpu"; None of a text that begins otherwise."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _rebuild(package: Path) -> str:
    """How the kernels are compiled anew, from a checkout or from a package that is installed."""
    if (package.parent / "setup.py").exists():
        return "compile the kernels here: make build"
    return "compile the kernels here: pip install --no-build-isolation --force-reinstall --no-deps SOURCES"


def _no_extension(package: Path) -> Fault:
    """No _C file that this Python would load lies in the package."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    others = sorted(path.name for path in package.glob("_C.*") if path.suffix in (".so", ".pyd"))
    if others:
        expected = importlib.machinery.EXTENSION_SUFFIXES[0]
        return Fault(
            "another python",
            f"its kernels were compiled for another Python: expected _C{expected}, got {', '.join(others)}",
            f"{_rebuild(package)}, with this Python {python}",
        )
    if (package.parent / "setup.py").exists():
        return Fault(
            "not built",
            f"{package} is a source checkout whose kernels are not compiled",
            "run 'make build' there, or, if convext is installed as well, start Python in another directory",
        )
    return Fault("no kernels", f"no kernels (_C*.so) lie in {package}", _rebuild(package))


def _of_dynamic_loader(text: str, torch: str | None, package: Path) -> Fault | None:
    """What the system's loader says of a shared object."""
    if match := re.search(r"(\S+): undefined symbol: (\w+)", text):
        return Fault(
            "undefined symbol",
            f"{Path(match[1]).name} needs {match[2]}, which torch {torch} does not have: another version of torch "
            "than the kernels were compiled for",
            f"{_INSTALL_TORCH}; or {_rebuild(package)}",
        )
    if match := re.search(r"((?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found", text):
        return Fault(
            "older system",
            f"the kernels were compiled on a newer system: this one lacks {match[1]}",
            _rebuild(package),
        )
    if match := re.search(r"(lib(?:torch|c10)\w*\.so\S*): cannot open shared object file", text):
        return Fault("torch's libraries", f"torch's own {match[1]} is not found", f"torch is damaged; {_INSTALL_TORCH}")
    if re.search(r"wrong ELF class|invalid ELF header|file too short|cannot open shared object|not a mach-o", text):
        return Fault("damaged file", f"a shared object cannot be read: {text}", _rebuild(package))
    return None


def of_import(error: BaseException, package: Path, torch: str | None) -> Fault:
    """The fault behind an error of importing convext.

    Args:
        error: what was raised.
        package: the folder of convext.
        torch: the version of torch, None where it could not be imported.
    """
    text = str(error)
    if torch is None:
        if getattr(error, "name", None) == "torch":
            return Fault("no torch", "torch is not installed for this Python", _INSTALL_TORCH)
        return Fault("torch fails", f"torch cannot be imported: {text}", f"repair torch first; {_INSTALL_TORCH}")
    version = torch_version(torch)
    if version is not None and version < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        return Fault("old torch", f"expected torch {least} or later, got {torch}", _INSTALL_TORCH)
    if isinstance(error, ValueError) and "ISA level" in text:
        return Fault("unknown level", f"CONVEXT_MAX_ISA: {text}", "unset CONVEXT_MAX_ISA, or set it to one of these")
    if not any((package / f"_C{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        return _no_extension(package)
    if fault := _of_dynamic_loader(text, torch, package):
        return fault
    if isinstance(error, AttributeError) and re.search(r"'(?:_OpNamespace|convext\._C)|'convext'", text):
        return Fault("stale kernels", f"the kernels are older than the Python sources: {text}", _rebuild(package))
    tested = ".".join(map(str, TESTED_TORCH))
    if version is not None and version > TESTED_TORCH:
        return Fault(
            "new torch",
            f"torch {torch} is newer than {tested}, the last that convext was run under: {text}",
            f"install a torch from 2.11 to {tested}, or a newer convext",
        )
    return Fault("import error", f"{type(error).__name__}: {text}", _rebuild(package))
