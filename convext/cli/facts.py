"""What `doctor` knows of an installation: gathered without assuming that torch or convext can be imported."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.machinery
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import convext
from convext import _faults

__all__ = ["Facts", "Tool", "gather", "import_fault"]

PACKAGE = Path(convext.__path__[0])


@dataclasses.dataclass(frozen=True)
class Tool:
    """A compiler that was found. ``standard`` is whether it takes -std=c++20; None where it was not asked."""

    path: str
    version: str
    standard: bool | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """An installation. What could not be learnt is None, or empty."""

    python: str
    executable: str
    system: str
    package: str
    version: str  # of the Python sources
    installed_version: str | None  # what the package's metadata say
    installed_at: str | None
    torch: str | None
    torch_folder: str | None
    torch_cuda: str | None  # the CUDA that torch was built with
    gpu: str | None  # the first one's name
    extension: str | None  # the file of the kernels that this Python loads
    import_fault: _faults.Fault | None
    built_by: str | None  # the compiler of the kernels
    built_for_torch: str | None  # the stable ABI's version
    levels: tuple[str, ...]  # that the processor can run
    level: str | None  # in use
    level_cap: str | None  # CONVEXT_MAX_ISA
    threads: int | None
    cores: int
    thread_variables: dict[str, str]
    cuda_library: str | None  # the file of the CUDA kernels
    cuda_library_loaded: bool
    compiler: Tool | None
    nvcc: Tool | None


def _first_line(command: list[str]) -> str | None:
    """What a program says first, or None where it cannot be run."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip().splitlines()[0] if result.returncode == 0 and result.stdout.strip() else None


def _takes_cpp20(compiler: str) -> bool | None:
    command = [compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    try:
        return (
            subprocess.run(command, input="", capture_output=True, text=True, timeout=20, check=False).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _compiler() -> Tool | None:
    """The C++ compiler that a build would take: CXX, else the system's names."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        path = shutil.which(name.split()[0])
        version = _first_line([path, "--version"]) if path else None
        if path and version:
            return Tool(path, version, _takes_cpp20(path))
    return None


def _nvcc() -> Tool | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    path = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if path is None:
        return None
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        text = ""
    release = re.search(r"release ([\d.]+)", text)
    return Tool(path, f"release {release[1]}" if release else "of an unknown release")


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except Exception:  # whatever torch raises, there is none to be asked
        return None


def _kernels() -> Any:
    """convext._C, if it can be loaded."""
    try:
        return importlib.import_module("convext._C")
    except Exception:  # `import_error` has said why
        return None


def _named(compiler: str | None) -> str | None:
    """GCC's __VERSION__ is a number alone; Clang's has its name."""
    return f"GCC {compiler}" if compiler and compiler[0].isdigit() else compiler


def _distribution() -> tuple[str | None, str | None]:
    """The version and the folder of the convext that pip installed."""
    try:
        found = importlib.metadata.distribution("convext")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    return found.version, str(found.locate_file("convext"))


def _gpu(torch: Any) -> str | None:
    try:
        return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    except Exception:  # of a driver that does not fit; that is torch's to tell
        return None


def import_fault(error: BaseException) -> _faults.Fault:
    """What the import of convext failed of."""
    torch = _torch()
    return _faults.of_import(error, PACKAGE, None if torch is None else str(getattr(torch, "__version__", "")))


def gather(import_error: BaseException | None = None) -> Facts:
    """All that can be learnt. `import_error` is what the import of convext raised, None where it went well."""
    torch = _torch()
    kernels = _kernels() if torch is not None else None
    info = kernels.build_info() if kernels is not None else {}
    target = info.get("torch_target_version")
    try:
        level = None if kernels is None else str(kernels.get_max_isa())
    except ValueError:  # CONVEXT_MAX_ISA; `import_error` has said so
        level = None
    installed_version, installed_at = _distribution()
    files = (PACKAGE / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    cuda_library = PACKAGE / "_C_cuda.so"
    loaded = torch is not None and str(cuda_library.resolve()) in map(str, torch.ops.loaded_libraries)
    thread_variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    return Facts(
        python=platform.python_version(),
        executable=sys.executable,
        system=f"{platform.system()} {platform.machine()}",
        package=str(PACKAGE),
        version=str(importlib.import_module("convext._version").__version__),
        installed_version=installed_version,
        installed_at=installed_at,
        torch=None if torch is None else str(torch.__version__),
        torch_folder=None if torch is None else str(Path(torch.__file__).parent),
        torch_cuda=None if torch is None else torch.version.cuda,
        gpu=None if torch is None else _gpu(torch),
        extension=next((str(path) for path in files if path.exists()), None),
        import_fault=None if import_error is None else import_fault(import_error),
        built_by=_named(info.get("compiler")),
        built_for_torch=None if target is None else f"{target >> 56}.{target >> 48 & 0xFF}",
        levels=tuple(info.get("isa_levels", ())),
        level=level,
        level_cap=os.environ.get("CONVEXT_MAX_ISA"),
        threads=None if torch is None else torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        thread_variables={name: os.environ[name] for name in thread_variables if name in os.environ},
        cuda_library=str(cuda_library) if cuda_library.exists() else None,
        cuda_library_loaded=loaded,
        compiler=_compiler(),
        nvcc=_nvcc(),
    )
