"""What the examples learn from: digits and photographs that scikit-learn's package carries. Nothing is downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

TEST_DIGITS = 360


class Split(NamedTuple):
    """Images (N, 1, 8, 8) from 0 to 1 and their labels (N,), those to learn from and those to be tested on."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def require(module: str, package: str = "") -> Any:
    """The imported module. If it is not there, the program ends and says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"this example needs {module} ({error}): pip install {package or module}") from error


def digits() -> Split:
    """scikit-learn's 1797 scanned handwritten digits, always split in the same way."""
    data = require("sklearn.datasets", "scikit-learn").load_digits()
    images = torch.from_numpy(data.images).float().div_(16).unsqueeze(1)
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_DIGITS], order[TEST_DIGITS:]
    return Split(images[train], labels[train], images[test], labels[test])


def photograph(name: str) -> Tensor:
    """scikit-learn's photograph "china" (a pavilion) or "flower": (1, 3, 427, 640), from 0 to 1."""
    pixels = require("sklearn.datasets", "scikit-learn").load_sample_image(f"{name}.jpg")
    return torch.from_numpy(numpy.array(pixels)).movedim(2, 0)[None] / 255


def gray(image: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 1, H, W): luminance, by the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def picture_file(folder: Path, name: str) -> Path:
    """Where a picture goes; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def plotter() -> Any:
    """matplotlib.pyplot that draws into files: there may be no screen."""
    require("matplotlib").use("Agg")
    return importlib.import_module("matplotlib.pyplot")
