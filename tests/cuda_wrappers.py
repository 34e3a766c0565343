"""The functions of csrc/cuda/ptx.cuh, one by one, on the same words: emulated, and on a GPU.

Their kernels are in cuda_emulation/wrapper_test.cu.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths

from tests import cuda_emulation

SOURCE = cuda_emulation.HERE / "wrapper_test.cu"
THREADS = 64


@dataclass(frozen=True)
class Wrappers:
    """The kernels of wrapper_test.cu in a library, of which there is one for the emulator and one for a GPU."""

    library: ctypes.CDLL

    @property
    def names(self) -> tuple[str, ...]:
        self.library.convext_wrapper_kernels.restype = ctypes.c_char_p
        return tuple(self.library.convext_wrapper_kernels().decode().split())

    def __call__(self, name: str, words: Tensor, length: int, blocks: int = 1) -> Tensor:
        """`length` words that a kernel makes of these; int32, as bits.

        Raises:
            RuntimeError: the emulator's report, or CUDA's.
        """
        words, result = words.to(torch.int32).contiguous(), torch.empty(length, dtype=torch.int32)
        call = self.library.convext_wrapper_test
        call.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p(words.data_ptr()), words.numel(), ctypes.c_void_p(result.data_ptr()), length)
        message = call(name.encode(), blocks, *pointers).decode()
        if message:
            raise RuntimeError(f"{name}: {message}")
        return result


@functools.cache
def emulated() -> Wrappers:
    return Wrappers(cuda_emulation.library_of("wrapper_test", [cuda_emulation.HERE / "emulator.cpp", SOURCE]))


def nvcc() -> str | None:
    """Of CUDA_HOME, or on PATH."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None)


def compiled(capability: tuple[int, int]) -> Path:
    """The library for GPUs of this compute capability, compiled by nvcc unless it is there already.

    Raises:
        RuntimeError: there is no nvcc, or it reports an error.
    """
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("no nvcc in CUDA_HOME or on PATH")
    number = "{}{}".format(*capability)
    home = Path(os.path.realpath(compiler)).parent.parent
    includes = [*include_paths(), *([str(home / "include")] if (home / "include" / "cuda_runtime.h").exists() else [])]
    command = [
        *(compiler, "-shared", str(SOURCE), "-O3", "-std=c++20", "-DUSE_CUDA", "--expt-relaxed-constexpr"),
        *("-Werror=all-warnings", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"),
        *("-DTORCH_TARGET_VERSION=0x020b000000000000ULL", f"-gencode=arch=compute_{number},code=sm_{number}"),
        *(flag for path in includes for flag in ("-isystem", path)),
    ]
    key = cuda_emulation.headers() + SOURCE.read_bytes() + " ".join([*command, torch.__version__]).encode()
    made = cuda_emulation.BUILD / f"wrapper_test-sm_{number}-{hashlib.sha256(key).hexdigest()[:16]}.so"
    with cuda_emulation.only_process():
        if not made.exists():
            part = Path(f"{made}.part")
            result = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise RuntimeError(f"{shlex.join(command)}\n{result.stdout}{result.stderr}")
            part.rename(made)
    return made


@functools.cache
def on_gpu() -> Wrappers:
    return Wrappers(ctypes.CDLL(str(compiled(torch.cuda.get_device_capability()))))
