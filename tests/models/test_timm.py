"""timm's networks with layers of their own, which pad as TensorFlow's or standardise weights: override covers them."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch

import convext
from tests.models.agreement import check

IMAGES = (2, 3, 64, 64)


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    return timm.create_model(name, num_classes=10), torch.randn(*IMAGES, dtype=torch.float64)


# the layers of their own that these networks have
LEFT = {
    "tf_efficientnet_lite0": {"Conv2dSame": 5},
    "tf_mobilenetv3_small_minimal_100": {"Conv2dSame": 5},
    "tf_mixnet_s": {"Conv2dSame": 13},
    "nf_resnet26": {"ScaledStdConv2d": 29},
    "regnety_002": {},
}


@pytest.mark.parametrize("name", LEFT)
def test_converted(name: str) -> None:
    model, x = network(name)
    left = Counter(type(model.get_submodule(layer)).__name__ for layer in convext.conversion_report(model).left)
    assert left == LEFT[name]
    check(model, x, whole=not left)


@pytest.mark.parametrize("name", ["tf_efficientnet_b0"])
def test_overridden(name: str) -> None:
    check(*network(name), convert=False)
