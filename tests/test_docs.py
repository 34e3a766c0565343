"""The documentation: it builds without a warning, has every public name; examples and figures are what is there."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import convext

ROOT = Path(convext.__file__).parent.parent
DOCS = ROOT / "docs"

needs_docs = pytest.mark.skipif(not DOCS.exists(), reason="an installed package has no docs")
needs_sphinx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="needs requirements-docs.txt",
)

MODULES = ("convext", "convext.functional", "convext.nn", "convext.inspect", "convext.backends", "convext.ops")


def public() -> Iterator[tuple[str, Any]]:
    """Full names and what they are."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            yield f"{module_name}.{name}", getattr(module, name)


NAMES = dict(public())
# described by hand, in docs/reference/ops.md
DOCUMENTED = {name: value for name, value in NAMES.items() if not name.startswith("convext.ops.")}
FUNCTIONS = {name: value for name, value in DOCUMENTED.items() if name.startswith("convext.functional.")}


@pytest.mark.parametrize("module_name", MODULES)
def test_dir_lists_public_names_alone(module_name: str) -> None:
    module = importlib.import_module(module_name)
    assert dir(module) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_a_docstring_of_its_own(name: str) -> None:
    value = DOCUMENTED[name]
    if isinstance(value, str):
        return
    text = value.__dict__.get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    assert text and len(text.strip()) > 20
    if inspect.isclass(value) and name.startswith("convext.nn."):
        assert re.search(r":(class|func):|Args:|20\d\d", text), "what it is computed by, or its arguments"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_shapes_errors_and_arguments(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    for part in ("Args:", "Returns:", "Raises:"):
        assert part in text, part
    arguments = text[text.index("Args:") : text.index("Returns:")]
    missing = [p for p in inspect.signature(FUNCTIONS[name]).parameters if not re.search(rf"\b{p}\b", arguments)]
    if "all up to padding_mode" in arguments:  # the fused convolutions refer to the plain one for those
        missing = [p for p in missing if p in ("residual", "activation", "negative_slope")]
    if re.search(r"as :func:`\w+`'s", arguments):
        missing = []
    assert not [p for p in missing if not p.startswith("_")]
    assert re.search(r"\(N, |any shape|of input's|As :func:", text), "a shape"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@needs_docs
@pytest.mark.parametrize("page", ("index.md", "layers.md", "arithmetic.md"))
def test_the_pages_code_runs(page: str) -> None:
    names: dict[str, Any] = {}
    found = blocks(page)
    assert found
    for code in found:
        exec(code, names)


@needs_docs
def test_the_pages_name_files_that_exist() -> None:
    text = (DOCS / "adding_a_kernel.md").read_text()
    for name in set(re.findall(r"`((?:csrc|convext|tests)/[\w/.]+)`", text)):
        if not name.startswith("csrc") or (ROOT / "csrc").exists():
            assert (ROOT / name).exists(), name
    for name in set(re.findall(r"`(\w+_(?:refusal|conv|wgrad|correlation|name|case))`", text)):
        if (ROOT / "csrc").exists():
            sources = "".join(path.read_text() for path in (ROOT / "csrc" / "cpu").glob("*.*"))
            assert name in sources or name in text, name


@needs_docs
def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        if name != "index" and not name.startswith("_"):
            assert re.search(rf"^{name}$", index, re.MULTILINE), name


@needs_docs
def test_the_figures_are_drawn_by_their_script(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "figures" / "draw.py"), str(tmp_path)], check=True, timeout=120)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: path.read_text() for path in (DOCS / "figures").glob("*.svg")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` has just built it, else built here."""
    made = DOCS / "_build" / "html"
    newest = max(path.stat().st_mtime for path in [*DOCS.rglob("*.md"), *(ROOT / "convext").rglob("*.py")])
    if (made / "objects.inv").exists() and (made / "objects.inv").stat().st_mtime >= newest:
        return made
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    return folder


@needs_docs
@needs_sphinx
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    data = getattr(inventory, "data", inventory)
    known = {name for kind in data for name in data[kind] if kind.startswith("py:")}
    assert not sorted(set(NAMES) - known)


@needs_docs
@needs_sphinx
def test_the_site_asks_nothing_of_others(site: Path) -> None:
    """No script, style, font or picture from another host."""
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag), f"{page.name}: {tag}"
