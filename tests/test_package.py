"""The package itself: what it links and includes, the private names of torch, that it imports anywhere."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import convext

PACKAGE = Path(convext.__file__).parent
ROOT = PACKAGE.parent
SOURCES = ROOT / "csrc"


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", convext.__version__)
    changelog = ROOT / "CHANGELOG.md"
    if changelog.exists():
        assert convext.__version__ in changelog.read_text()


def test_public_names() -> None:
    for name in ("nn", "functional", "ops", "backends", "conv_plan", "workspace_bytes", "fuse", "__version__"):
        assert hasattr(convext, name), name
    assert (PACKAGE / "py.typed").exists()


def test_imports_with_no_compiler_in_sight(tmp_path: Path) -> None:
    """A bare PATH: no nvcc, no C++ compiler, no ninja; the first call works too."""
    code = "import convext, torch; print(tuple(convext.nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 8, 8)).shape))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA", "CXX", "CC"))}
    environment |= {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout.strip() == "(1, 8, 6, 6)", result.stderr


def test_import_starts_no_compiler_and_no_test_tool() -> None:
    """Importing the package must not drag in torch's compiler (a second) or anything for tests only."""
    code = "import torch, sys; a = set(sys.modules); import convext; print(*sorted(set(sys.modules) - a))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    added = result.stdout.split()
    heavy = [
        n for n in added if n.split(".")[0] in ("pytest", "hypothesis", "expecttest", "matplotlib", "scipy", "sklearn")
    ]
    assert not heavy, heavy
    assert "torch._inductor.compile_fx" not in added


def shared_object() -> Path:
    return Path(importlib.import_module("convext._C").__file__ or "")


def symbols() -> list[str]:
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    output = subprocess.run(["nm", "-D", str(shared_object())], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in output.splitlines()]


def test_no_blas_and_no_torch_convolution_underneath() -> None:
    """The kernels are the project's own: no matrix library and no ATen operator behind them."""
    forbidden = re.compile(
        r"gemm|gemv|mkldnn|dnnl|cblas|openblas|convolution|matmul|GOMP|omp_get|_ZN2at|_ZNK2at", re.IGNORECASE
    )
    # the stable interface names every memory layout that torch knows, mkldnn's too
    found = [n for n in symbols() if forbidden.search(n) and not n.startswith("aoti_torch_layout")]
    assert not found, found


def test_only_the_module_entry_is_exported() -> None:
    """Hidden visibility: no kernel's name can clash with another library's."""
    output = subprocess.run(
        ["nm", "-D", "--defined-only", str(shared_object())], capture_output=True, text=True, check=False
    )
    if output.returncode:
        pytest.skip("needs nm")
    names = [line.split()[-1] for line in output.stdout.splitlines()]
    assert "PyInit__C" in names
    strange = [n for n in names if "convext" in n.lower() or "conv_" in n]
    assert not strange, strange


def test_needs_no_gpu_library() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    text = subprocess.run(["readelf", "-d", str(shared_object())], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(cuda|cudnn|cublas|mkl|blas|gomp)", text, re.IGNORECASE), text


needs_sources = pytest.mark.skipif(not SOURCES.exists(), reason="an installed package has no csrc")


@needs_sources
def test_sources_use_the_stable_interface_only() -> None:
    for path in SOURCES.rglob("*"):
        if path.suffix not in (".cpp", ".h", ".cu", ".cuh", ".inc"):
            continue
        text = path.read_text()
        for line in re.findall(r'^\s*#\s*include\s*[<"]([^">]+)', text, re.MULTILINE):
            assert not line.startswith(("ATen/", "c10/", "torch/extension", "torch/torch", "torch/all", "omp.h")), (
                f"{path.name}: {line}"
            )
        assert "#pragma omp" not in text, path.name


@needs_sources
def test_the_build_is_portable() -> None:
    text = (ROOT / "setup.py").read_text()
    assert "-march=native" not in text and "-mtune=native" not in text
    assert "TORCH_TARGET_VERSION" in text


@needs_sources
def test_no_file_is_too_long() -> None:
    for path in (
        *SOURCES.rglob("*.*"),
        *PACKAGE.rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "bench").rglob("*.py"),
    ):
        assert len(path.read_text().splitlines()) <= 450, path


def private_names(path: Path) -> Iterator[str]:
    """Dotted names under torch with a part that starts by one underscore: imported ones and attribute chains."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "torch":
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.insert(0, inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id == "torch":
                yield ".".join(["torch", *parts])


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def exists(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_private_names_of_torch_exist() -> None:
    """Fails, and names them, on a torch that renamed what the autograd layer leans on."""
    names = {n for n in private_names(PACKAGE / "ops" / "_autograd.py") if is_private(n)}
    assert names, "the autograd layer is known to lean on private names"
    missing = sorted(n for n in names if not exists(n))
    assert not missing, f"torch {torch.__version__} lacks {missing}"


# semi-public: documented for writers of operators
ALLOWED = re.compile(r"torch\._check|torch\._prims_common\.\w+")


def test_private_names_of_torch_stay_in_one_file() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name == "_autograd.py":
            continue
        names = sorted(n for n in set(private_names(path)) if is_private(n) and not ALLOWED.match(n))
        assert not names, f"{path.name}: {names}"


def test_build_info_says_what_was_built() -> None:
    info = importlib.import_module("convext._C").build_info()
    assert isinstance(info, dict) and info
    assert all(isinstance(key, str) for key in info)


def test_operators_and_their_schemas() -> None:
    """The table of contents: three operators, of which nothing is in place and no output aliases an input."""
    assert {n for n in ("conv_fprop", "conv_dgrad", "conv_wgrad") if hasattr(torch.ops.convext, n)} == {
        "conv_fprop",
        "conv_dgrad",
        "conv_wgrad",
    }
    for name in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
        schema = getattr(torch.ops.convext, name).default._schema
        assert not schema.is_mutable and all(r.alias_info is None for r in schema.returns)


def test_operators_without_a_cuda_kernel_say_so() -> None:
    """In a process that believes its torch has CUDA; the kernel is called past the dispatcher's choice."""
    code = """
import torch
torch.version.cuda = "13.0"
import convext
keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
try:
    torch.ops.convext.place_gather.default.redispatch(keys, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1).long())
except NotImplementedError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.startswith("convext: place_gather is not implemented on CUDA in this build"), result.stderr
