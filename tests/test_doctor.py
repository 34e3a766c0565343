"""python -m convext doctor: each fault that it knows is made, or made believe, and must be named with its remedy."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import convext
from convext import _faults, cli
from convext.cli import doctor, self_test
from convext.cli import facts as facts_module
from convext.cli.facts import Facts, Tool, gather
from convext.cli.faults import faults, notes

PACKAGE = Path(convext.__file__).parent
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


def sources(folder: Path) -> Path:
    """A copy of the package without what was compiled."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(PACKAGE, folder / "convext", ignore=ignored))


def python(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


FAKE_TORCH = "__version__ = '2.10.0'\nclass version: cuda = None\ndef get_num_threads(): return 1\nfrom . import ops\n"


def not_built(folder: Path) -> None:
    (folder / "setup.py").touch()


def of_another_python(folder: Path) -> None:
    (folder / "convext" / "_C.cpython-27-x86_64-linux-gnu.so").touch()


def damaged(folder: Path) -> None:
    (folder / "convext" / f"_C{SUFFIX}").write_text("no shared object")


def no_torch(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")


def failing_torch(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")


def old_torch(folder: Path) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(FAKE_TORCH)
    (folder / "torch" / "ops.py").write_text("loaded_libraries = set()")


def undefined_symbol(folder: Path) -> None:
    """A Python file stands for the kernels, and fails as the loader does."""
    text = f"raise ImportError('{folder}/convext/_C{SUFFIX}: undefined symbol: torch_call_dispatcher')"
    (folder / "convext" / f"_C{SUFFIX}").unlink(missing_ok=True)
    (folder / "convext" / "_C.py").write_text(text)


def stale(folder: Path) -> None:
    (folder / "convext" / "_C.py").write_text("def get_max_isa(): return 'baseline'\ndef build_info(): return {}\n")


# the fault -> how it is made, and what doctor and the ImportError say
BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no kernels": (lambda folder: None, ("no kernels", "--no-build-isolation")),
    "not built": (not_built, ("source checkout", "make build")),
    "another python": (of_another_python, ("another Python", "cpython-27", SUFFIX)),
    "damaged file": (damaged, ("cannot be read", "--no-build-isolation")),
    "no torch": (no_torch, ("torch is not installed", "pip install 'torch>=2.11'")),
    "torch fails": (failing_torch, ("torch cannot be imported", "libcudart")),
    "old torch": (old_torch, ("expected torch 2.11 or later, got 2.10.0", "pip install 'torch>=2.11'")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_package_that_cannot_be_imported(tmp_path: Path, name: str) -> None:
    sources(tmp_path)
    make, parts = BROKEN[name]
    make(tmp_path)

    plain = python(tmp_path, "-c", "import convext")
    assert plain.returncode == 1
    last = plain.stderr[plain.stderr.rindex("\nImportError: ") :]
    for part in (*parts, "python -m convext doctor"):
        assert part in last, plain.stderr

    doctor = python(tmp_path, "-m", "convext", "doctor", "--json")
    assert doctor.returncode == 1, doctor.stderr
    report = json.loads(doctor.stdout)
    assert report["faults"][0]["name"] == name
    said = " ".join(report["faults"][0].values())
    for part in parts:
        assert part in said
    assert report["self_test"] == []

    other = python(tmp_path, "-m", "convext", "verify", "resnet18")
    assert other.returncode == 3
    assert "python -m convext doctor" in other.stderr


def test_an_unknown_level_in_the_environment() -> None:
    doctor = python(PACKAGE.parent, "-m", "convext", "doctor", CONVEXT_MAX_ISA="sse9")
    assert doctor.returncode == 1, doctor.stderr
    assert "sse9" in doctor.stdout and "unset CONVEXT_MAX_ISA" in doctor.stdout


def test_no_fault_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("no fault\n")
    for level in convext.backends.cpu.isa_levels():
        assert f"{level} ok" in out


# --- faults of the import, told from their errors ----------------------------------------------------------------


ERRORS: dict[str, tuple[BaseException, str | None, tuple[str, ...]]] = {
    "undefined symbol": (
        ImportError("/a/_C.so: undefined symbol: torch_call_dispatcher"),
        "2.13.0",
        ("_C.so needs torch_call_dispatcher", "2.13.0"),
    ),
    "older system": (
        ImportError("/lib/libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by /a/_C.so)"),
        "2.13.0",
        ("newer system", "GLIBCXX_3.4.30", "compile"),
    ),
    "torch's libraries": (
        ImportError("libtorch_cpu.so: cannot open shared object file: No such file or directory"),
        "2.13.0",
        ("libtorch_cpu.so is not found",),
    ),
    "damaged file": (OSError("/a/_C_cuda.so: invalid ELF header"), "2.13.0", ("cannot be read",)),
    "stale kernels": (
        AttributeError("'_OpNamespace' 'convext' object has no attribute 'conv_fused'"),
        "2.13.0",
        ("older than the Python sources", "conv_fused"),
    ),
    "new torch": (
        ImportError("cannot import name '_Single' from 'torch.autograd.function'"),
        "3.1.0",
        ("newer than 2.14", "_Single"),
    ),
    "import error": (ImportError("something else"), "2.13.0", ("something else",)),
    "unknown level": (ValueError("expected an ISA level, got sse9"), "2.13.0", ("CONVEXT_MAX_ISA", "got sse9")),
}


@pytest.mark.parametrize("name", ERRORS)
def test_faults_told_from_errors(tmp_path: Path, name: str) -> None:
    error, torch, parts = ERRORS[name]
    (tmp_path / f"_C{SUFFIX}").touch()
    fault = _faults.of_import(error, tmp_path, torch)
    assert fault.name == name
    assert fault.remedy
    for part in parts:
        assert part in f"{fault.what} {fault.remedy}"


@pytest.mark.parametrize(("text", "version"), (("2.13.0+cpu", (2, 13)), ("3.0.0a0+git", (3, 0)), ("unknown", None)))
def test_versions_of_torch(text: str, version: tuple[int, int] | None) -> None:
    assert _faults.torch_version(text) == version


def test_the_least_torch_is_the_one_that_is_built_for() -> None:
    from convext import _C

    target = _C.build_info()["torch_target_version"]
    assert (target >> 56, target >> 48 & 0xFF) == _faults.LEAST_TORCH


# --- faults and notes of an installation that can be imported, or not -------------------------------------------------


@pytest.fixture(scope="module")
def sound() -> Facts:
    """Facts of a sound installation with everything in it."""
    return dataclasses.replace(
        gather(),
        installed_version=convext.__version__,
        torch="2.13.0",
        torch_cuda="13.0",
        levels=("baseline", "avx2"),
        level="avx2",
        level_cap=None,
        threads=4,
        cores=4,
        thread_variables={},
        cuda_library="_C_cuda.so",
        cuda_library_loaded=True,
        compiler=Tool("/usr/bin/c++", "12", True),
        nvcc=Tool("/usr/bin/nvcc", "13"),
    )


def test_a_sound_installation(sound: Facts) -> None:
    assert faults(sound) == [] and notes(sound) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    (
        ({"gpu": None}, "_C_cuda.so (loaded); GPU: none found"),
        ({"gpu": "H200"}, "_C_cuda.so (loaded); GPU: H200"),
        ({"gpu": None, "cuda_library_loaded": False}, "_C_cuda.so (not loaded); GPU: none found"),
        ({"gpu": None, "cuda_library": None}, "not built; GPU: none found"),
        ({"gpu": None, "cuda_library": None, "torch_cuda": None}, "not built"),
    ),
)
def test_the_line_of_the_cuda_kernels(sound: Facts, changes: dict[str, object], said: str) -> None:
    assert dict(doctor._rows(dataclasses.replace(sound, **changes)))["CUDA kernels"] == said  # type: ignore[arg-type]


BROKEN_IMPORT = _faults.Fault("not built", "no kernels", "make build")

# the fault, what makes it, and what is said of it
FAULTS: list[tuple[str, dict[str, object], tuple[str, ...]]] = [
    ("two versions", {"installed_version": "0.0.1"}, ("0.0.1", convext.__version__)),
    ("not built", {"import_fault": BROKEN_IMPORT}, ("make build",)),
    ("no compiler", {"import_fault": BROKEN_IMPORT, "compiler": None}, ("no C++ compiler", "apt-get install g++")),
    ("old compiler", {"import_fault": BROKEN_IMPORT, "compiler": Tool("c++", "9", False)}, ("-std=c++20", "GCC 11")),
]
NOTES: list[tuple[str, dict[str, object], tuple[str, ...]]] = [
    ("capped", {"level": "baseline", "level_cap": "baseline"}, ("CONVEXT_MAX_ISA=baseline", "can run avx2", "unset")),
    ("no CUDA kernels", {"cuda_library": None, "nvcc": None}, ("no nvcc", "CUDA toolkit")),
    ("no CUDA kernels", {"cuda_library": None}, ("were not built", "build again")),
    ("CUDA kernels idle", {"cuda_library_loaded": False}, ("not loaded",)),
    ("CUDA kernels idle", {"torch_cuda": None}, ("has no CUDA",)),
    ("few threads", {"threads": 1, "thread_variables": {"OMP_NUM_THREADS": "1"}}, ("1 of 4", "OMP_NUM_THREADS=1")),
    ("new torch", {"torch": "2.99.0"}, ("2.99.0", "newer than 2.14")),
    ("no compiler", {"compiler": None}, ("no C++ compiler",)),
]


@pytest.mark.parametrize(("name", "changes", "parts"), FAULTS, ids=lambda v: v if isinstance(v, str) else "")
def test_faults(sound: Facts, name: str, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    found = {fault.name: fault for fault in faults(dataclasses.replace(sound, **changes))}  # type: ignore[arg-type]
    for part in parts:
        assert part in " ".join(found[name])


@pytest.mark.parametrize(("name", "changes", "parts"), NOTES, ids=lambda v: v if isinstance(v, str) else "")
def test_notes(sound: Facts, name: str, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    changed = dataclasses.replace(sound, **changes)  # type: ignore[arg-type]
    assert faults(changed) == []
    (note,) = notes(changed)
    assert note.name == name
    for part in parts:
        assert part in " ".join(note)


def test_tools_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts_module._compiler() is None and facts_module._nvcc() is None
    for name, text in (
        ("old-c++", 'case "$1" in --version) echo "c++ 9.1";; *) exit 1;; esac'),
        ("nvcc", "echo release 12.9,"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("CXX", "old-c++")
    assert facts_module._compiler() == Tool(str(tmp_path / "old-c++"), "c++ 9.1", False)
    assert facts_module._nvcc() == Tool(str(tmp_path / "nvcc"), "release 12.9")


def test_a_self_test_that_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    results = [self_test.LevelResult("avx2", 2, 0.1, ("Conv2d, output, float32: expected 1e-06, got 1",))]
    monkeypatch.setattr(self_test, "run", lambda: results)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "avx2 FAIL" in out and "fault: avx2: Conv2d, output, float32" in out


def test_a_self_test_that_raises(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(self_test, "run", stop)
    assert cli.main(["doctor"]) == 1
    assert "RuntimeError: out of order" in capsys.readouterr().out


def test_the_self_test_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from convext.inspect import layers

    right = layers.convext_call
    monkeypatch.setattr(layers, "convext_call", lambda name, a: right(name, a) * (1.1 if name == "conv2d" else 1))
    level = convext.backends.cpu.get_max_isa()
    results = self_test.run()
    assert all("Conv2d, output, float32: expected" in " ".join(result.failures) for result in results)
    assert convext.backends.cpu.get_max_isa() == level
