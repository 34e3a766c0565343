"""Builds convext._C: the operators (LibTorch stable ABI) and the introspection functions (pybind11)."""

from pathlib import Path

import pybind11
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

SOURCES = sorted(str(path) for path in Path("csrc").rglob("*.cpp"))

# One binary for torch 2.11 and later: the stable ABI of 2.11 is all that may be used.
TORCH_TARGET_VERSION = "0x020b000000000000ULL"

COMPILE_FLAGS = [
    "-O3",
    "-std=c++20",
    "-g0",
    "-fvisibility=hidden",
    # Multiplications and additions fuse wherever the ISA can, so that every instance of a kernel rounds the same way.
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    f"-ffile-prefix-map={Path.cwd()}/=",  # messages name files as they lie in the source archive
    "-Wno-psabi",  # vector types cross no binary interface: they stay inside anonymous namespaces
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
    *(flag for path in (*include_paths(), pybind11.get_include()) for flag in ("-isystem", path)),
]

setup(
    ext_modules=[CppExtension("convext._C", SOURCES, extra_compile_args=COMPILE_FLAGS)],
    cmdclass={"build_ext": BuildExtension},
)
