"""What the package says of itself in several places must be one thing: versions, Pythons, files, licence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import convext

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="an installed package has no sources")


def pyproject() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {convext.__version__}\n" in citation
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0].startswith((f"[{convext.__version__}]", "[Unreleased]"))
    for heading in headings:
        assert re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|unreleased)", heading), heading


def test_changelog_sections() -> None:
    """Of keepachangelog.com, and no others."""
    sections = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_one_list_of_pythons() -> None:
    project = pyproject()
    declared = [c.rsplit(" ", 1)[1] for c in project["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert tuple(declared) == PYTHONS
    assert project["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert project["tool"]["ruff"]["target-version"] == "py310" and project["tool"]["mypy"]["python_version"] == "3.10"
    wheels = [name.removesuffix("-*") for name in project["tool"]["cibuildwheel"]["build"]]
    assert wheels == [f"cp{version.replace('.', '')}" for version in PYTHONS]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    listed = ", ".join(f'"{version}"' for version in PYTHONS)
    assert f"python: [{listed}]" in workflow


def test_every_package_is_listed() -> None:
    found = {str(p.parent.relative_to(ROOT)).replace("/", ".") for p in (ROOT / "convext").rglob("__init__.py")}
    assert found == set(pyproject()["tool"]["setuptools"]["packages"])


def test_data_files_are_listed() -> None:
    """Whatever is not Python in the package is named, or it would be left out of the wheel."""
    data = pyproject()["tool"]["setuptools"]["package-data"]
    listed = {p for package, names in data.items() for n in names for p in (ROOT / package.replace(".", "/")).glob(n)}
    kinds = (".py", ".pyc", ".so", ".pyd")
    found = {p for p in (ROOT / "convext").rglob("*") if p.is_file() and p.suffix not in kinds}
    assert found == listed


def test_the_licence_is_what_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("BSD 3-Clause License") and "Neither the name of the copyright holder" in text
    assert pyproject()["project"]["license"] == "BSD-3-Clause"
    assert "\nlicense: BSD-3-Clause\n" in (ROOT / "CITATION.cff").read_text()


def test_the_archive_has_what_contributors_read() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text().split()
    for name in [*sorted(path.name for path in ROOT.glob("*.md")), "CITATION.cff", "LICENSE"]:
        assert name in manifest or name == "README.md", name  # setuptools takes that by itself
    for path in ROOT.glob("requirements-*.txt"):
        assert path.name in manifest, path.name


def test_workflows_run_what_is_there() -> None:
    """Each make target that a workflow or .ci/run calls exists."""
    makefile = (ROOT / "Makefile").read_text()
    for path in (*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".ci" / "run"):
        for target in re.findall(r"(?:run: |step '.*' )make ([a-z.-]+)", path.read_text()):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{path.name}: {target}"


def test_the_check_of_wheels_computes(tmp_path: Path) -> None:
    """.ci/wheel_check.py up to what only an installed wheel has."""
    code = (ROOT / ".ci" / "wheel_check.py").read_text().split("# what is not code")[0]
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
