"""python -m convext: what the commands print, their exit status, and what they say of a wrong command line."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convext
from convext import cli
from convext.cli import networks, timed_calls

NETWORK = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2))

layer = nn.Conv1d(2, 2, 3)

def linear():
    return nn.Linear(4, 4)

def needs_one(x):
    return x

def no_module():
    return 1
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "some_nets", raising=False)


SMALL = ("some_nets:small", "--input", "2x3x8x8")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = cli.main(words)
    except SystemExit as stop:  # argparse
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_has_the_exit_status_and_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = run(capsys, *filter(None, [command, "--help"]))
    assert status == 0
    assert "exit status:" in out
    assert "python -m convext" in out
    if command in ("doctor", "bench", "explain", "verify"):
        assert "examples:" in out


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"convext {convext.__version__}\n", "")
    status, out, _ = run(capsys)
    assert status == 0 and "commands:" in out


def test_as_a_module() -> None:
    """The real entry; with a listener that stops listening."""
    result = subprocess.run(
        [sys.executable, "-m", "convext", "--version"],
        cwd=Path(convext.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, f"convext {convext.__version__}\n"), result.stderr


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "explain", *SMALL, "--no-time")
    assert status == 0
    expected = convext.explain(networks.network(parsed(SMALL)), torch.zeros(2, 3, 8, 8), time=False)
    assert str(expected) in out
    status, out, _ = run(capsys, "explain", *SMALL, "--meta", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["type"] for row in rows][:1] == ["Conv2d"]
    assert rows[0]["convext_seconds"] is None


def parsed(words: tuple[str, ...]) -> object:
    return cli._parser("explain").parse_args(["explain", *words])


@pytest.mark.parametrize(
    "more", ([], ["--gradients"], ["--dtype", "bfloat16"], ["--channels-last", "--train"]), ids=str
)
def test_verify(capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    status, out, _ = run(capsys, "verify", *SMALL, *more)
    assert status == 0
    assert "all within their bounds" in out
    status, out, _ = run(capsys, "verify", *SMALL, *more, "--json")
    assert status == 0 and all(row["ok"] for row in json.loads(out))


def test_verify_says_by_its_status_that_a_layer_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convext.inspect import layers

    right = layers.convext_call
    monkeypatch.setattr(layers, "convext_call", lambda name, a: right(name, a) * (1.01 if name == "conv2d" else 1))
    status, out, _ = run(capsys, "verify", *SMALL, "--failures")
    assert status == 1
    assert "FAIL" in out and "MaxPool2d" not in out


def test_a_module_itself_and_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "verify", "some_nets:layer", "--input", "1x2x9", "--seed", "3")
    assert status == 0 and "Conv1d" in out and "seed 3" in out


def test_bench_of_a_network(capsys: pytest.CaptureFixture[str], tmp_path: Path, threads: None) -> None:
    pytest.importorskip("matplotlib")
    words = ("--seconds", "0.01", "--threads", "1", "--json", "rows.json", "--plot", "plot.svg")
    status, out, _ = run(capsys, "bench", *SMALL, *words)
    assert status == 0
    assert "geometric mean" in out
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["layers"] for row in written["rows"]] == 2 * [["0"], ["2"], ["3"]]
    assert all(row["ratio"] > 0 for row in written["rows"])
    assert "<svg" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize(
    ("words", "function", "sizes"),
    (
        ("--conv 1x4x9x9 --padding 1", "conv2d", "1x4x9x9 * 4x4x3x3 p1"),
        ("--conv 1x4x9 --to 8 --groups 2 --stride 2", "conv1d", "1x4x9 * 8x2x3 s2 g2"),
        ("--conv 1x4x5x5x5 --kernel 2 --dilation 2", "conv3d", "1x4x5x5x5 * 4x4x2x2x2 d2"),
        ("--conv 1x4x9x9 --transposed --to 6", "conv_transpose2d", "1x4x9x9 * 4x6x3x3"),
        ("--conv 1x4x9x9 --pool max --kernel 2 --stride 2", "max_pool2d", "1x4x9x9 k2 s2"),
        ("--conv 1x4x9x9 --pool avg", "avg_pool2d", "1x4x9x9 k3 s1"),
    ),
)
def test_bench_of_a_shape(
    capsys: pytest.CaptureFixture[str], words: str, function: str, sizes: str, threads: None
) -> None:
    settings = "--seconds 0.001 --dtype float32 float64 --layout contiguous channels_last --json -"
    status, out, _ = run(capsys, "bench", *words.split(), *settings.split())
    assert status == 0
    rows = json.loads(out)["rows"]
    assert len(rows) == 8  # types, layouts, passes
    assert {row["function"] for row in rows} == {function}
    assert {row["sizes"] for row in rows} == {sizes}


def test_the_progress_bar_ends_with_a_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(timed_calls._progress([1, 2, 3])) == [1, 2, 3]
    err = capsys.readouterr().err
    assert "2/3" in err and "s left" in err and err.endswith(" \r")


# what is wrong -> the command line, its exit status, what the message names
WRONG: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "no such command": ("fly", 2, ("fly", "doctor")),
    "a size that is none": ("verify some_nets:small --input 3by3", 2, ("expected a size", "3by3")),
    "no such module": ("verify no_nets:small", 2, ("expected a module no_nets", "got none")),
    "no such name": ("verify some_nets:large", 2, ("expected large in some_nets", "got none")),
    "arguments wanted": ("verify some_nets:needs_one", 2, ("without arguments", "'x'")),
    "no network comes of it": ("verify some_nets:no_module", 2, ("expected", "torch.nn.Module", "got int")),
    "neither module nor callable": ("verify some_nets:NETWORK.x", 2, ("expected", "got none")),
    "the network fails": ("verify some_nets:small --input 1x1x8x8", 2, ("fails", "1x1x8x8", "channels", "--input")),
    "explained, the network fails": ("explain some_nets:small --input 1x1x8x8", 2, ("fails", "1x1x8x8")),
    "threads": ("verify some_nets:small --threads 0", 2, ("--threads", "1 or more", "got 0")),
    "nothing to bench": ("bench", 2, ("expected a network or --conv", "--help")),
    "two things to bench": ("bench some_nets:small --conv 1x2x3x3", 2, ("one of them",)),
    "nothing in it": ("bench some_nets:linear --input 1x4", 2, ("expected", "convolution or pooling", "got none")),
    "bench threads": ("bench --conv 1x2x3x3 --threads 0", 2, ("--threads", "1 or more")),
    "rank": ("bench --conv 1x2", 2, ("3 to 5 numbers", "1x2")),
    "groups": ("bench --conv 1x4x8x8 --groups 3", 2, ("divisor", "got 3")),
    "kernel too large": ("bench --conv 1x4x2x2", 2, ("hold the kernel [3, 3]", "got [2, 2]")),
    "plot of no such kind": ("bench --conv 1x2x3x3 --seconds 0.001 --plot a.xyz", 2, ("--plot", "xyz")),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_command_lines(capsys: pytest.CaptureFixture[str], what: str, threads: None) -> None:
    words, expected, parts = WRONG[what]
    status, _, err = run(capsys, *words.split())
    assert status == expected
    for part in parts:
        assert part in err, err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("package", "words"),
    (("torchvision", "verify resnet18"), ("matplotlib", "bench --conv 1x2x3x3 --plot a.png")),
)
def test_what_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str, words: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # import raises ModuleNotFoundError
    status, _, err = run(capsys, *words.split())
    assert status == 3
    assert f"{package} is not installed" in err
    assert f"pip install {package}" in err


def test_a_torchvision_that_does_not_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(networks.Missing, match="cannot be imported"):
        networks._of_torchvision("resnet18")


def test_names_of_torchvision(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import torchvision.models  # noqa: F401
    except Exception:
        pytest.skip("needs a torchvision that fits this torch")
    status, out, _ = run(capsys, "explain", "alexnet", "--meta")
    assert status == 0 and "61,100,840" in out
    status, _, err = run(capsys, "verify", "resnet81")
    assert status == 2 and "resnet18" in err


def test_every_command_has_a_module_of_the_convention() -> None:
    for name, command in cli.COMMANDS.items():
        module = importlib.import_module(f"convext.cli.{name}")
        assert callable(module.add_arguments) and callable(module.run), command


def test_interruption(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convext, "verify", interrupted)
    assert run(capsys, "verify", *SMALL)[0] == 130
