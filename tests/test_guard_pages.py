"""No kernel reads beyond its operands: they lie against pages without access (tests/guard_pages.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.guard_pages import FAMILIES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes access from pages by mprotect")

ROOT = Path(__file__).parents[1]


def run(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_read_beyond_the_operands(family: str) -> None:
    done = run("-m", "tests.guard_pages", family)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"exit status {done.returncode}; the last call was\n{lines[-1:]}\n{done.stderr}"
    assert lines[-1].endswith("none beyond its operands")


@pytest.mark.parametrize(("side", "offset"), [("end", 35 * 4), ("start", -4)])
def test_the_pages_guard(side: str, offset: int) -> None:
    """One element beyond either end cannot be read; the elements themselves can."""
    done = run(
        "-c",
        "import ctypes, torch; from tests.guard_pages import guarded\n"
        f"t = guarded(torch.arange(35.0).view(5, 7), {side!r}); print(t.sum().item(), flush=True)\n"
        f"ctypes.string_at(t.data_ptr() + {offset}, 4)",
    )
    assert done.stdout.strip() == "595.0" and done.returncode < 0
