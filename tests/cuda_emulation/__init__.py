"""The CUDA operators without a GPU: their sources compiled by the host's compiler against an emulator (emulator.h).

`load()` compiles what has changed into build/cuda_emulation and loads it; from then on the operators that exist in
csrc/cuda answer for CPU tensors, in place of the CPU kernels. The others stay as they are: `emulated_operators()` says
which are which.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "cuda_emulation"

SCHEDULES = ("ascending", "reversed", "random")

# The tests that hold operators against references: those that `--device emulated` runs.
TEST_FILES = (
    "test_conv_exact.py",
    "test_conv_random.py",
    "test_conv_autograd.py",
    "test_conv_transforms.py",
    "test_fused_conv.py",
    "test_textbook.py",
    "test_pool_random.py",
    "test_pool_corners.py",
    "test_pool_functional.py",
    "test_pool_autograd.py",
    "test_pool_others.py",
    "test_unfold.py",
    "test_unfold_autograd.py",
    "test_norm.py",
    "test_norm_layers.py",
    "test_cuda_operators.py",
    "test_cuda_tensor_cores.py",
    "test_cuda_memory_bound.py",
)

# What the kernels share with the CPU's: plain C++ that is part of both libraries.
SHARED = (CSRC / "contract.cpp", CSRC / "pool_contract.cpp", CSRC / "region.cpp")

COMPILER = shlex.split(os.environ.get("CXX", "g++"))
FLAGS = [
    *(
        "-x",
        "c++",
        "-std=c++20",
        "-O2",
        "-g0",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-strict-aliasing",
        "-ffp-contract=off",
    ),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas"),  # '#pragma unroll' is nvcc's
    *("-DCONVEXT_EMULATED", "-DTORCH_TARGET_VERSION=0x020b000000000000ULL", f"-I{HERE}"),
    *(flag for path in include_paths() for flag in ("-isystem", path)),
]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stderr}")


def _headers() -> bytes:
    paths = (p for folder in (CSRC, HERE) for p in sorted(folder.rglob("*")) if p.suffix in (".h", ".cuh"))
    return b"".join(p.read_bytes() for p in paths)


def _build(name: str, sources: list[Path]) -> Path:
    """The shared library of these sources; each is compiled again only when it, a header or the flags have changed."""
    BUILD.mkdir(parents=True, exist_ok=True)
    common = _headers() + " ".join([*COMPILER, *FLAGS, torch.__version__]).encode()

    def compile_one(source: Path) -> Path:
        key = hashlib.sha256(common + source.read_bytes()).hexdigest()[:16]
        made = BUILD / f"{source.stem}-{key}.o"
        if not made.exists():
            for old in BUILD.glob(f"{source.stem}-" + "?" * 16 + ".o"):
                old.unlink()
            _run([*COMPILER, *FLAGS, "-c", str(source), "-o", f"{made}.part"])
            Path(f"{made}.part").rename(made)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    key = hashlib.sha256(" ".join(o.name for o in objects).encode()).hexdigest()[:16]
    library = BUILD / f"{name}-{key}.so"
    if not library.exists():
        for old in BUILD.glob(f"{name}-*.so"):
            old.unlink()
        folder = Path(torch.__file__).parent / "lib"
        link = [
            "-shared",
            *map(str, objects),
            f"-L{folder}",
            "-ltorch",
            "-ltorch_cpu",
            "-lc10",
            "-o",
            f"{library}.part",
        ]
        _run([*COMPILER, *link])
        Path(f"{library}.part").rename(library)
    return library


class Emulator:
    """What a library with the emulator in it lets itself be told."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.convext_emulator_schedule.argtypes = [ctypes.c_int, ctypes.c_uint64]
        self.library.convext_emulator_narrow_offsets.argtypes = [ctypes.c_int64]
        self.library.convext_emulator_launches.restype = ctypes.c_int64

    def set_schedule(self, schedule: str, seed: int = 0) -> None:
        """The order in which blocks run, and the threads of each: one of SCHEDULES."""
        self.library.convext_emulator_schedule(SCHEDULES.index(schedule), seed)

    def launches(self) -> int:
        """How many kernels have been launched."""
        return int(self.library.convext_emulator_launches())

    @contextlib.contextmanager
    def wide_offsets(self) -> Iterator[None]:
        """Every tensor counts as one of more than 2^31 elements."""
        self.library.convext_emulator_narrow_offsets(0)
        try:
            yield
        finally:
            self.library.convext_emulator_narrow_offsets(2**31 - 1)


@functools.cache
def self_test_library() -> Emulator:
    """The emulator with kernels made to test it."""
    return Emulator(_build("self_test", [HERE / "emulator.cpp", HERE / "self_test.cu"]))


@functools.cache
def load() -> Emulator:
    """Compiles and loads the emulated operators. There is no way back to the CPU kernels in this process."""
    sources = sorted((CSRC / "cuda").rglob("*.cu")) + sorted((CSRC / "cuda").rglob("*.cpp"))
    path = _build("operators", [HERE / "emulator.cpp", HERE / "plan_report.cpp", *SHARED, *sources])
    torch.ops.load_library(str(path))
    return Emulator(path)


def emulated_operators() -> tuple[str, ...]:
    """The operators that csrc/cuda has."""
    sources = (path.read_text() for path in sorted((CSRC / "cuda").rglob("*.cu")))
    return tuple(name for text in sources for name in re.findall(r'm\.impl\("(\w+)"', text))
