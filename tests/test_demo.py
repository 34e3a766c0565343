"""``demo``: digits drawn with a pen are read, whatever the paper, size and ink; and what goes wrong is said."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from convext.cli import demo, digit_reader
from tests.drawings import STROKES, drawing


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return demo.run(parser.parse_args(words))


def answers(**how: object) -> list[int]:
    """What the network says of the ten drawings."""
    net, found = digit_reader.trained_network(), []
    for digit in STROKES:
        pixels = torch.frombuffer(bytearray((picture := drawing(digit, **how)).tobytes()), dtype=torch.uint8)  # type: ignore[arg-type]
        coarse = digit_reader.coarse(pixels.reshape(picture.height, picture.width) / 255)
        with torch.no_grad():
            found.append(int(net(digit_reader.framed(coarse[None, None])).argmax()))
    return found


@pytest.mark.parametrize(
    "how",
    [{}, {"pen": 4}, {"pen": 16}, {"scale": 0.25}, {"scale": 3.0}, {"dark_ink": False}],
    ids=lambda how: "-".join(f"{k}={v}" for k, v in how.items()) or "plain",
)
def test_drawings_are_read(how: dict[str, object]) -> None:
    found = answers(**how)
    assert sum(a == b for a, b in zip(found, STROKES, strict=True)) >= 9, found


def test_paper_and_ink_may_be_exchanged() -> None:
    dark, light = (
        torch.frombuffer(bytearray(drawing(3, dark_ink=d).tobytes()), dtype=torch.uint8).reshape(200, 160) / 255
        for d in (True, False)
    )
    torch.testing.assert_close(digit_reader.coarse(dark), digit_reader.coarse(light), rtol=0, atol=1e-5)


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "seen.png"
    assert run("--output", str(output)) == 0
    assert output.stat().st_size > 10_000
    text = capsys.readouterr().out
    assert "this is a 5" in text and str(output) in text
    for name, layer in digit_reader.network().named_children():
        assert name in text and type(layer).__name__ in text


def test_the_answer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    drawing(7).save("seven.png")
    assert run("seven.png", "--no-picture") == 0
    assert "seven.png: this is a 7" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["seven.png"]


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        assert run("--output", str(tmp_path / "seen.png")) == 3
        assert "pip install matplotlib" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert run() == 3
    assert "pip install pillow" in capsys.readouterr().err


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank, text = tmp_path / "blank.png", tmp_path / "text.png"
    drawing(1, pen=1).point(lambda _: 255).save(blank)
    text.write_text("no picture")
    for path, message in (
        (blank, "no digit in sight"),
        (text, "cannot identify"),
        (tmp_path / "no.png", "No such file"),
    ):
        assert run(str(path)) == 2
        assert message in capsys.readouterr().err
    assert run("--output", str(tmp_path / "no" / "folder.png")) == 2


def test_transparent_paper_is_white(tmp_path: Path) -> None:
    gray = drawing(4)
    clear = gray.convert("RGBA")
    clear.putalpha(gray.point(lambda v: 255 - v))
    clear.save(tmp_path / "clear.png")
    gray.save(tmp_path / "gray.png")
    torch.testing.assert_close(demo.read(tmp_path / "clear.png"), demo.read(tmp_path / "gray.png"), rtol=0, atol=0.02)


@pytest.mark.parametrize("size", [(3,), (0, 4), (1, 2, 3)])
def test_a_picture_has_two_axes(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a picture"):
        digit_reader.coarse(torch.zeros(size))


def test_the_weights_are_small_and_plain() -> None:
    assert digit_reader.WEIGHTS.stat().st_size < 200_000
    state = torch.load(digit_reader.WEIGHTS, weights_only=True)
    assert sum(v.numel() for v in state.values()) == 11_146
    assert all(type(v) is torch.Tensor and v.dtype == torch.float32 for v in state.values())
