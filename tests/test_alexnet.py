"""AlexNet from the published table: sizes, parameters, and torch.nn's scores and gradients."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import convext


@pytest.fixture(scope="module")
def example() -> Any:
    path = Path(__file__).parent.parent / "examples" / "alexnet.py"
    spec = importlib.util.spec_from_file_location("alexnet_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_table(example: Any) -> None:
    net = example.alexnet(convext.nn).eval()
    spatial = (torch.nn.Conv2d, torch.nn.MaxPool2d)
    sizes = [size for layer, size in example.walk(net, torch.zeros(1, 3, 227, 227)) if isinstance(layer, spatial)]
    assert [size[1] for size in sizes] == [55, 27, 27, 13, 13, 13, 13, 6]
    assert [size[0] for size in sizes] == [96, 96, 256, 256, 384, 384, 256, 256]
    counts = [example.parameters(layer) for layer in net if isinstance(layer, torch.nn.Conv2d)]
    assert counts == [34_944, 307_456, 885_120, 663_936, 442_624]  # CONV1: 35 K
    assert example.parameters(net) == 60_965_224


def test_layers_are_convexts_and_scores_torchs(example: Any) -> None:
    torch.manual_seed(3)
    ours = example.alexnet(convext.nn, classes=10)[:15].double()
    theirs = example.alexnet(torch.nn, classes=10)[:15].double()
    theirs.load_state_dict(ours.state_dict())
    kinds = (torch.nn.Conv2d, torch.nn.MaxPool2d, torch.nn.LocalResponseNorm)
    assert all(type(layer).__module__.startswith("convext.") for layer in ours if isinstance(layer, kinds))
    image = torch.randn(1, 3, 227, 227, dtype=torch.float64)
    a, b = ours(image), theirs(image)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    a.square().sum().backward()
    b.square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert float((p.grad - q.grad).norm() / q.grad.norm()) < 1e-12
