"""``demo PICTURE``: a small trained network reads a handwritten digit, and shows what each of its layers sees in it."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convext.cli import digit_reader

__all__ = ["add_arguments", "run"]

_DONE, _USAGE, _MISSING = 0, 2, 3  # exit status, as ``python -m convext --help`` lists them
SAMPLE = Path(__file__).with_name("digit.png")

_EXAMPLES = """\
examples:
  python -m convext demo                    # the sample drawing in the package
  python -m convext demo my_seven.png --output seven_seen.png

The picture has one digit, dark on light or light on dark, of any size. Reading it needs pillow, drawing the activations
matplotlib (pip install matplotlib has both).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "picture", nargs="?", type=Path, default=SAMPLE, help="a digit drawn by hand (default: a sample)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("digit_activations.png"), help="the picture that is written"
    )
    parser.add_argument("--no-picture", action="store_true", help="print the answer alone")


def read(path: Path) -> Tensor:
    """A picture file as luminance (H, W) from 0 to 1; what is transparent is white.

    Raises:
        ImportError: no pillow.
        OSError: no such file, or not a picture.
    """
    images: Any = importlib.import_module("PIL.Image")
    with images.open(path) as file:
        picture = file.convert("RGBA")
    paper = images.new("RGBA", picture.size, "white")
    gray = images.alpha_composite(paper, picture).convert("L")
    pixels = torch.frombuffer(bytearray(gray.tobytes()), dtype=torch.uint8)
    return pixels.reshape(gray.height, gray.width) / 255


def save_picture(image: Tensor, seen: dict[str, Tensor], chances: Tensor, path: Path) -> None:
    """Writes the digit as it was read, the maps of every convolution after ReLU, and the chances of the ten digits.

    Raises:
        ImportError: no matplotlib.
    """
    importlib.import_module("matplotlib").use("Agg")  # files only: there may be no screen
    plt: Any = importlib.import_module("matplotlib.pyplot")
    shown = {name: maps for name, maps in seen.items() if name.startswith("relu")}
    heights = [2.2, *(0.4 + 0.6 * -(-len(maps) // 16) for maps in shown.values())]  # inches
    figure = plt.figure(figsize=(9, sum(heights)), layout="constrained")
    top, *rows = figure.subfigures(len(heights), 1, height_ratios=heights)
    digit, bars = top.subplots(1, 2, width_ratios=[1, 3])
    digit.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
    digit.set_title("as it is read", fontsize=9)
    digit.axis("off")
    bars.bar(range(10), chances.tolist())
    bars.set_xticks(range(10))
    bars.set_ylim(0, 1)
    bars.set_title(f"the answer: {int(chances.argmax())}", fontsize=9)
    for row, (name, maps) in zip(rows, shown.items(), strict=True):
        size = "x".join(map(str, maps.shape))
        row.suptitle(f"conv{name[-1]} and ReLU: {size}, bright where the filter answers", fontsize=9)
        for i, axes in enumerate(row.subplots(-(-len(maps) // 16), 16, squeeze=False).flat):
            axes.axis("off")
            if i < len(maps):
                axes.imshow(maps[i].numpy(), cmap="viridis", vmin=0, vmax=float(maps.max()))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def run(args: argparse.Namespace) -> int:
    try:
        digit = digit_reader.coarse(read(args.picture))
    except ImportError as error:
        print(f"reading a picture needs pillow ({error}): pip install pillow", file=sys.stderr)
        return _MISSING
    except (OSError, ValueError) as error:
        print(f"{args.picture}: {error}", file=sys.stderr)
        return _USAGE
    image = digit_reader.framed(digit[None, None])
    net = digit_reader.trained_network()
    seen = digit_reader.activations(net, image)
    chances = seen["linear"].softmax(0)
    likely = chances.topk(3)
    print(f"{args.picture.name}: this is a {int(likely.indices[0])}")
    odds = (f"{i} {p:.1%}" for p, i in zip(likely.values.tolist(), likely.indices.tolist(), strict=True))
    print(f"chances: {', '.join(odds)}")
    for name, maps in seen.items():
        print(f"  {name:8} {type(net.get_submodule(name)).__name__:10} -> {'x'.join(map(str, maps.shape))}")
    if args.no_picture:
        return _DONE
    try:
        save_picture(image[0, 0], seen, chances, args.output)
    except ImportError as error:
        print(f"the picture of the activations needs matplotlib ({error}): pip install matplotlib", file=sys.stderr)
        return _MISSING
    except (OSError, ValueError) as error:  # ValueError: a suffix that matplotlib does not write
        print(f"{args.output}: {error}", file=sys.stderr)
        return _USAGE
    print(f"activations: {args.output}")
    return _DONE
