"""What is wrong with an installation, and what is worth knowing of it: pure functions of its `Facts`."""

from __future__ import annotations

from convext import _faults
from convext._faults import Fault
from convext.cli.facts import Facts

__all__ = ["faults", "notes"]

_COMPILER = "install one: apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora), or set CXX to it"


def _compiler(facts: Facts) -> Fault | None:
    if facts.compiler is None:
        return Fault("no compiler", "no C++ compiler is found (CXX, c++, g++, clang++), which a build needs", _COMPILER)
    if facts.compiler.standard is False:
        what = f"{facts.compiler.path} ({facts.compiler.version}) does not take -std=c++20, which a build needs"
        return Fault("old compiler", what, f"GCC 11 or Clang 14 and later do; {_COMPILER}")
    return None


def _versions(facts: Facts) -> Fault | None:
    if facts.installed_version is None or facts.installed_version == facts.version:
        return None
    return Fault(
        "two versions",
        f"pip has installed convext {facts.installed_version}, but Python imports {facts.version} from {facts.package}",
        "start Python outside of the source checkout, or install anew: pip install --no-build-isolation "
        "--force-reinstall --no-deps .",
    )


def faults(facts: Facts) -> list[Fault]:
    """What keeps convext from working, or makes it another convext than was meant. The import's own comes first."""
    found = [facts.import_fault, _versions(facts)]
    if facts.import_fault is not None:
        found.append(_compiler(facts))
    return [fault for fault in found if fault is not None]


def _isa(facts: Facts) -> Fault | None:
    if facts.level is None or not facts.levels or facts.level == facts.levels[-1]:
        return None
    cap = f"CONVEXT_MAX_ISA={facts.level_cap}" if facts.level_cap else "a cap"
    return Fault(
        "capped",
        f"{cap} keeps the kernels at {facts.level}; this processor can run {facts.levels[-1]}",
        "unset CONVEXT_MAX_ISA, unless the bits of another machine are to be had",
    )


def _cuda(facts: Facts) -> Fault | None:
    if facts.torch_cuda is None:
        if facts.cuda_library is None:
            return None
        return Fault(
            "CUDA kernels idle",
            "the CUDA kernels are there, and this torch has no CUDA: they are not loaded",
            "install a torch with CUDA, if this machine has a GPU",
        )
    if facts.cuda_library is None:
        way = "build again (CONVEXT_CUDA=1 insists)" if facts.nvcc else "install the CUDA toolkit, then build again"
        without = "" if facts.nvcc else ", and no nvcc is found (CUDA_HOME, PATH)"
        return Fault(
            "no CUDA kernels",
            f"torch has CUDA {facts.torch_cuda}, the CUDA kernels were not built{without}: tensors on the GPU raise",
            way,
        )
    if not facts.cuda_library_loaded:
        return Fault(
            "CUDA kernels idle", f"{facts.cuda_library} was not loaded", "see the fault of the import, or rebuild"
        )
    return None


def _threads(facts: Facts) -> Fault | None:
    if facts.threads is None or facts.threads >= facts.cores:
        return None
    cause = "; ".join(f"{name}={value}" for name, value in facts.thread_variables.items() if name.endswith("THREADS"))
    return Fault(
        "few threads",
        f"torch runs on {facts.threads} of {facts.cores} cores{f' ({cause})' if cause else ''}",
        f"torch.set_num_threads({facts.cores}), if the others are free",
    )


def _newer_torch(facts: Facts) -> Fault | None:
    version = None if facts.torch is None else _faults.torch_version(facts.torch)
    if version is None or version <= _faults.TESTED_TORCH:
        return None
    tested = ".".join(map(str, _faults.TESTED_TORCH))
    return Fault(
        "new torch", f"torch {facts.torch} is newer than {tested}, the last that was tried", "run the self-test"
    )


def notes(facts: Facts) -> list[Fault]:
    """What works, and may not be what was meant. A missing compiler is one: only a build needs it."""
    found = [_isa(facts), _cuda(facts), _threads(facts)]
    if facts.import_fault is None:
        found += [_newer_torch(facts), _compiler(facts)]
    return [note for note in found if note is not None]
