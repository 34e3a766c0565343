"""torchvision's networks with random weights, on small images."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models as models

import convext
from tests.models.agreement import check


def _features(net: torch.nn.Module, width: int) -> torch.nn.Module:
    """With one small linear layer for the published three, which hold most of its weights and no convolution."""
    net.classifier = torch.nn.Linear(width, 10)
    return net


# what makes the network, and the size of one image
NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "AlexNet": (lambda: _features(models.alexnet(), 256 * 6 * 6), (3, 95, 95)),
    "VGG-16": (lambda: _features(models.vgg16(init_weights=False), 512 * 7 * 7), (3, 48, 48)),
    "GoogLeNet": (lambda: models.googlenet(aux_logits=False, init_weights=False), (3, 64, 64)),
    "Inception v3": (lambda: models.inception_v3(aux_logits=False, init_weights=False), (3, 107, 107)),
    "ResNet-50": (models.resnet50, (3, 64, 64)),
    "DenseNet-121": (models.densenet121, (3, 64, 64)),
    "MobileNetV2": (models.mobilenet_v2, (3, 64, 64)),
    "MobileNetV3": (models.mobilenet_v3_large, (3, 64, 64)),
    "ConvNeXt": (models.convnext_tiny, (3, 64, 64)),
    "EfficientNet": (models.efficientnet_b0, (3, 64, 64)),
    "DeepLabV3": (
        lambda: models.segmentation.deeplabv3_resnet50(weights_backbone=None, num_classes=5),
        (3, 64, 64),
    ),
    "R3D-18": (models.video.r3d_18, (3, 6, 32, 32)),
}


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    make, size = NETWORKS[name]
    return make(), torch.randn(2, *size, dtype=torch.float64)


# Inception v3 calls functions for its poolings; R3D's convolutions are subclasses.
NOT_WHOLE = ("Inception v3", "R3D-18")


@pytest.mark.parametrize("name", NETWORKS)
def test_converted(name: str) -> None:
    check(*network(name), whole=name not in NOT_WHOLE)


@pytest.mark.parametrize("name", ("GoogLeNet", "MobileNetV3"))
def test_overridden(name: str) -> None:
    check(*network(name), convert=False)


def test_the_report_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    report = str(convext.conversion_report(convext.convert(models.resnet50())))
    assert textwrap.indent(report, "    ") in text
