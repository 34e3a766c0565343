"""docs/errors.md: every message on the page is what the code above it, or the fault, really says."""

from __future__ import annotations

import importlib.machinery
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import convext
from convext import _faults

ROOT = Path(convext.__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="an installed package has no docs")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return [(kind, text.rstrip("\n")) for kind, text in _BLOCK.findall(PAGE.read_text())] if PAGE.exists() else []


def examples() -> list[tuple[str, str]]:
    """Code, and the text that follows it."""
    found = blocks()
    return [(a, b) for (one, a), (two, b) in itertools.pairwise(found) if (one, two) == ("python", "text")]


def texts() -> str:
    return "\n".join(text for kind, text in blocks() if kind == "text")


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    """What the first block of the page defines."""
    names: dict[str, Any] = {}
    exec(blocks()[0][1], names)
    return names


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize(("code", "expected"), examples(), ids=lambda text: text.splitlines()[0][:60])
def test_code_says_what_the_page_says(namespace: dict[str, Any], code: str, expected: str) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        exec(code, namespace)
    assert f"{caught.type.__name__}: {caught.value}" == expected


def test_the_page_has_the_examples() -> None:
    assert len(examples()) >= 14


def test_the_message_of_another_device() -> None:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.MPS)
    x, w = torch.zeros(1, 1, 5), torch.zeros(1, 1, 3)
    with pytest.raises(NotImplementedError) as caught:
        torch.ops.convext.conv_fprop.default.redispatch(keys, x, w, None, [1], [0, 0], [1], 1, 0)
    assert f"NotImplementedError: {caught.value}" in texts()


def shown(fault: _faults.Fault, folder: Path) -> str:
    """The error of the import, as the page abbreviates it."""
    text = (
        f"ImportError: convext's compiled extension cannot be loaded from {folder}: {fault.what}.\n"
        f"To repair it: {fault.remedy}.\n'python -m convext doctor' tells more."
    )
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        text.replace(str(folder), "FOLDER")
        .replace(f"_C{suffix}", "_C.SUFFIX")
        .replace(f"Python {version}", "Python VERSION")
    )


def test_messages_of_the_import(tmp_path: Path) -> None:
    folder = tmp_path / "convext"
    folder.mkdir()
    (tmp_path / "setup.py").touch()
    assert shown(_faults.of_import(ImportError("no _C"), folder, "2.13.0"), folder) in texts()
    assert shown(_faults.of_import(ImportError("torch"), folder, "2.10.0"), folder) in texts()
    (folder / "_C.cpython-27-x86_64-linux-gnu.so").touch()
    assert shown(_faults.of_import(ImportError("no _C"), folder, "2.13.0"), folder) in texts()
    (folder / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    for error in (
        ImportError("/a/_C.so: undefined symbol: torch_call_dispatcher"),
        ImportError("/lib/libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by /a/_C.so)"),
        AttributeError("'_OpNamespace' 'convext' object has no attribute 'conv_fused'"),
    ):
        assert _faults.of_import(error, folder, "2.11.0").what in texts()


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="an installed package has no setup.py")
@pytest.mark.parametrize("there_is_one", (False, True))
def test_messages_of_the_build(tmp_path: Path, there_is_one: bool) -> None:
    """setup.py with no compiler, or an old one, on PATH. Nothing is compiled."""
    pytest.importorskip("setuptools", minversion="77.0.3")
    pytest.importorskip("pybind11")
    if there_is_one:
        (tmp_path / "c++").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "c++").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("CXX", "CC")}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-temp", "b", "--build-lib", "b"]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if line.startswith("convext: expected a C++20 compiler")]
    assert said and said[0] in texts(), result.stderr
