"""AlexNet, layer by layer from the published table, on convext's layers.

Prints what every layer makes of an image and how many parameters it has, and holds the network against the same one of
torch.nn: same seed, same parameters, same scores. Exit code 0 if they agree, else 1.

Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, 2012. The paper's two
towers, one a GPU, are two groups here; its 224 pixels only fit its own table as 227.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

import convext

SIZE = 227
TOLERANCE = 1e-5  # ||scores - torch's|| / ||torch's||, float32


def alexnet(layers: ModuleType, classes: int = 1000) -> nn.Sequential:
    """(N, 3, 227, 227) images to (N, classes) scores. `layers`: convext.nn or torch.nn."""
    response = {
        "size": 5,
        "alpha": 5e-4,
        "beta": 0.75,
        "k": 2.0,
    }  # the paper's alpha, 1e-4, multiplies a sum, not a mean
    return nn.Sequential(
        layers.Conv2d(3, 96, 11, stride=4),
        nn.ReLU(),
        layers.LocalResponseNorm(**response),
        layers.MaxPool2d(3, stride=2),
        layers.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        layers.LocalResponseNorm(**response),
        layers.MaxPool2d(3, stride=2),
        layers.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        layers.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        layers.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        layers.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, classes),
    )


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def walk(net: nn.Sequential, image: Tensor) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Every layer with the size of what it makes of the image, the batch left out."""
    sizes = []
    with torch.no_grad():
        for layer in net:
            image = layer(image)
            sizes.append((layer, tuple(image.shape[1:])))
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the same: it takes a few seconds")
    parser.parse_args(arguments)
    torch.manual_seed(0)
    ours = alexnet(convext.nn).eval()
    theirs = alexnet(nn).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, SIZE, SIZE)
    print(f"{'layer':20} {'output':>14} {'parameters':>12}")
    for layer, size in walk(ours, image):
        print(f"{type(layer).__name__:20} {'x'.join(map(str, size)):>14} {parameters(layer) or '':>12}")
    print(f"{'in all':20} {'':14} {parameters(ours):12}")
    with torch.no_grad():
        scores, expected = ours(image), theirs(image)
    error = float((scores - expected).norm() / expected.norm())
    print(f"\nscores as torch.nn's: relative difference {error:.0e}, at most {TOLERANCE:.0e} wanted")
    return 0 if error <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
