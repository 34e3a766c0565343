"""Builds convext._C: the operators (LibTorch stable ABI) and the introspection functions (pybind11).

Where torch has CUDA and nvcc is found, also convext/_C_cuda.so, the operators on CUDA (CONVEXT_CUDA=0 leaves it out,
CONVEXT_CUDA=1 insists). `python setup.py cuda_objects` only compiles it, under any torch and without a GPU, and lists
what each kernel takes of a multiprocessor.
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pybind11
import torch
from setuptools import Command, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

CUDA_SOURCES = sorted(Path("csrc/cuda").rglob("*.cu"))
SOURCES = sorted(str(path) for path in Path("csrc").rglob("*.cpp") if "cuda" not in path.parts)
# What both libraries are made of: plain C++, no operators.
SHARED_SOURCES = [*sorted(Path("csrc").glob("*contract.cpp")), Path("csrc/region.cpp"), Path("csrc/cuda/conv_plan.cpp")]

# One binary for torch 2.11 and later: the stable ABI of 2.11 is all that may be used.
TORCH_TARGET_VERSION = "0x020b000000000000ULL"

DEFINES_AND_INCLUDES = [
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
    # pybind11 first: torch has a copy of it among its headers, which in 2.11 refuses sources of the stable ABI
    *(flag for path in (pybind11.get_include(), *include_paths()) for flag in ("-isystem", path)),
]

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
    *DEFINES_AND_INCLUDES,
]

NVCC_FLAGS = [
    "-O3",
    "-std=c++20",
    "-DUSE_CUDA",  # the stable ABI's functions for streams
    "--expt-relaxed-constexpr",  # kernels call the constexpr functions of csrc/
    "-Werror=all-warnings",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra",
    "-Xptxas=-v",
    *DEFINES_AND_INCLUDES,
]


def find_nvcc() -> Path | None:
    """Of CUDA_HOME, or on PATH."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    return Path(found) if found else None


def cuda_home(nvcc: Path) -> Path:
    """The folder with include/ and lib64/, as nvcc itself says (it may be a link or a script)."""
    lines = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.*)$", lines, re.MULTILINE)
    return Path(top.group(1)).resolve() if top else nvcc.resolve().parent.parent


def architectures() -> list[str]:
    """TORCH_CUDA_ARCH_LIST as torch reads it ("8.0;9.0+PTX"); else 8.0, 9.0 and PTX for what comes later."""
    flags = []
    for name in re.split("[; ]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0+PTX"):
        if not (match := re.fullmatch(r"(\d+)\.(\d)(a?)(\+PTX)?", name)):
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected versions such as 8.0;9.0+PTX, got {name!r}")
        number = "".join(match.group(1, 2, 3))
        code = f"[sm_{number},compute_{number}]" if match.group(4) else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code={code}")
    return flags


def compile_cuda(nvcc: Path, folder: Path) -> tuple[list[str], str]:
    """The objects of CUDA_SOURCES, made anew where something they include is younger, and what ptxas says of them."""
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        report, listed = made.with_suffix(".txt"), made.with_suffix(".d")
        if made.exists() and report.exists() and listed.exists():
            included = listed.read_text().replace("\\\n", " ").split(": ", 1)[1].split()
            if all(os.path.exists(p) and os.path.getmtime(p) < made.stat().st_mtime for p in [*included, "setup.py"]):
                return report.read_text()
        command = [str(nvcc), "-c", str(source), "-o", str(made), *NVCC_FLAGS, *architectures()]
        command += ["-isystem", str(cuda_home(nvcc) / "include"), "-MD", "-MF", str(listed)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            made.unlink(missing_ok=True)
            raise SystemExit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
        report.write_text(result.stdout + result.stderr)
        return report.read_text()

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        reports = list(pool.map(compile_one, CUDA_SOURCES))
    return [str(folder / f"{source.stem}.o") for source in CUDA_SOURCES], "".join(reports)


def kernel_table(report: str) -> str:
    """One line for each kernel and architecture: registers, bytes of shared memory that are fixed, bytes of spills."""
    entry = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'.*?"
        r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
        r"ptxas info\s*: Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?",
        re.DOTALL,
    )
    rows = [m.groupdict("0") for m in entry.finditer(report)]
    names = subprocess.run(
        ["c++filt", "-p"], input="\n".join(r["name"] for r in rows), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    lines = ["architecture  registers  static shared  spilled  kernel"]
    for row, name in zip(rows, names, strict=True):
        spilled = int(row["stores"]) + int(row["loads"])
        name = name.replace("convext::cuda::", "").replace("(anonymous namespace)::", "").replace("convext::", "")
        lines.append(
            f"{row['architecture']:<12}  {row['registers']:>9}  {row['shared']:>13}  {spilled:>7}  {name.strip()}"
        )
    return "\n".join([lines[0], *sorted(lines[1:])])


class CudaObjects(Command):
    """Compiles the CUDA sources and prints the table of kernels."""

    description = "compile the CUDA sources without linking them"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        nvcc = find_nvcc()
        if nvcc is None:
            raise SystemExit("cuda_objects: no nvcc in CUDA_HOME or on PATH")
        _, report = compile_cuda(nvcc, Path("build/cuda_objects"))
        print(kernel_table(report))


def check_compiler() -> None:
    """Says in one line what a build without a compiler, or with an old one, would say in pages."""
    compiler = os.environ.get("CXX", "c++").split()
    expected = "convext: expected a C++20 compiler, got"
    if not compiler or shutil.which(compiler[0]) is None:
        raise SystemExit(
            f"{expected} none: {' '.join(compiler) or 'an empty CXX'} is not on PATH. Install one, e.g. apt-get "
            "install g++ (Debian, Ubuntu) or dnf install gcc-c++ (Fedora), or set CXX to one."
        )
    command = [*compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(command, input="", capture_output=True, text=True, check=False).returncode != 0:
        raise SystemExit(
            f"{expected} {' '.join(compiler)}, which does not take -std=c++20. GCC 11, Clang 14 and later do; "
            "set CXX to one."
        )


class Build(BuildExtension):
    """torch's BuildExtension refuses .cu files under a CPU-only torch: nvcc is run here, and its objects are linked."""

    cuda_library: Path | None = None

    def build_extensions(self) -> None:
        check_compiler()
        super().build_extensions()
        wanted = os.environ.get("CONVEXT_CUDA")
        nvcc = find_nvcc()
        if wanted == "0" or (wanted != "1" and (nvcc is None or torch.version.cuda is None)):
            return
        if nvcc is None:
            raise SystemExit("CONVEXT_CUDA=1: no nvcc in CUDA_HOME or on PATH")
        objects, _ = compile_cuda(nvcc, Path(self.build_temp) / "cuda")
        objects += self.compiler.compile(
            [str(path) for path in SHARED_SOURCES],
            output_dir=str(Path(self.build_temp) / "cuda"),
            extra_postargs=COMPILE_FLAGS,
        )
        torch_libraries = Path(torch.__file__).parent / "lib"
        link = ["-shared", *objects, f"-L{torch_libraries}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
        link += [f"-L{cuda_home(nvcc) / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        target = Path(self.get_ext_fullpath("convext._C")).parent / "_C_cuda.so"
        subprocess.run([os.environ.get("CXX", "c++"), *link, "-Wl,--exclude-libs,ALL", "-o", str(target)], check=True)
        self.cuda_library = target

    def copy_extensions_to_source(self) -> None:
        """What --inplace does after it has built elsewhere; of the extensions alone, unless it is told."""
        super().copy_extensions_to_source()
        if self.cuda_library is not None:
            shutil.copy2(self.cuda_library, "convext")


setup(
    ext_modules=[CppExtension("convext._C", SOURCES, extra_compile_args=COMPILE_FLAGS)],
    cmdclass={"build_ext": Build, "cuda_objects": CudaObjects},
)
