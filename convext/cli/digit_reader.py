"""The network of ``python -m convext demo``: 11,146 trained weights that read a handwritten digit, and what it reads.

Its weights, digit_reader.pt, are a state_dict made by examples/train_digit_reader.py, from the 1797 digits that
scikit-learn carries (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, CC BY 4.0). Those are coarse, 8 x 8 pixels, so a drawing is made as coarse before it is read.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convext import functional
from convext import nn as cnn

__all__ = ["SIZE", "WEIGHTS", "activations", "coarse", "framed", "network", "trained_network"]

SIZE = 32
WEIGHTS = Path(__file__).with_name("digit_reader.pt")
_COARSE, _DIGIT = 8, 24  # pixels a side: of what the training digits hold, and of a digit in its frame
_LEAST_CONTRAST = 0.1  # between a picture's ink and its paper, of the full range
_INK = 0.3  # of the darkest ink: what is part of the digit


def network() -> nn.Sequential:
    """(N, 1, 32, 32) images, ink 1 on paper 0, to (N, 10) scores."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", cnn.Conv2d(1, 8, 5, padding="same")),
        ("relu1", nn.ReLU()),
        ("pool1", cnn.MaxPool2d(2)),
        ("conv2", cnn.Conv2d(8, 16, 3, padding="same")),
        ("relu2", nn.ReLU()),
        ("pool2", cnn.MaxPool2d(2)),
        ("conv3", cnn.Conv2d(16, 32, 3, padding="same")),
        ("relu3", nn.ReLU()),
        ("pool3", cnn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(32 * 4 * 4, 10)),
    ]
    return nn.Sequential(OrderedDict(layers))


def trained_network() -> nn.Sequential:
    """The network with the weights that are in the package, in eval mode."""
    net = network()
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net.eval()


def coarse(picture: Tensor) -> Tensor:
    """A drawing (H, W) of one digit, dark on light or light on dark, as 8 x 8 pixels from 0 (paper) to 1 (ink).

    As the training digits were made: the box around the ink, widened to a square, in 8 x 8 cells, each the share of it
    that is ink; here also scaled so that a thin pen counts as much as a broad one.

    Raises:
        ValueError: not two axes, or no ink to be seen.
    """
    if picture.dim() != 2 or picture.numel() == 0:
        raise ValueError(f"expected a picture (height, width), got one of size {list(picture.shape)}")
    border = torch.cat([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ink = (picture.float() - border.float().median()).abs()
    darkest = float(ink.max())
    if darkest < _LEAST_CONTRAST:
        raise ValueError(f"no digit in sight: the picture differs from its border by at most {darkest:.2g} of 1")
    rows, columns = ((ink > _INK * darkest).any(axis).nonzero() for axis in (1, 0))
    box = ink[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1] / darkest
    short = [max(box.shape) - n for n in box.shape]
    square = F.pad(box, (short[1] // 2, short[1] - short[1] // 2, short[0] // 2, short[0] - short[0] // 2))
    cells = functional.adaptive_avg_pool2d(square[None], _COARSE)[0]
    return (cells / cells.quantile(0.9)).clamp(0, 1) if float(cells.quantile(0.9)) > 0 else cells / cells.max()


def framed(digits: Tensor) -> Tensor:
    """Coarse digits (N, 1, 8, 8) as the network takes them: enlarged to 24 x 24, in a frame, (N, 1, 32, 32)."""
    frame = (SIZE - _DIGIT) // 2
    return F.pad(F.interpolate(digits, size=(_DIGIT, _DIGIT), mode="bilinear"), (frame,) * 4)


@torch.no_grad()
def activations(net: nn.Sequential, image: Tensor) -> dict[str, Tensor]:
    """What each layer makes of an image (1, 1, 32, 32), by the layer's name, the batch axis left out."""
    found = {}
    for name, layer in net.named_children():
        image = layer(image)
        found[name] = image[0]
    return found
