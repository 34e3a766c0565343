"""convext.fuse on models that look into their layers, change them or compute numbers: results stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convext


class Block(nn.Module):
    """A convolution, a normalisation that has seen data and an activation, called as a test says."""

    def __init__(self, call: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.identity = nn.ReLU(), nn.Identity()
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


CALLS: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "weight read elsewhere": lambda m, x: m.norm(m.conv(x)) + m.conv.weight.sum(),
    "weight of two convolutions": lambda m, x: m.norm(m.conv(x)) + F.conv2d(x, m.conv.weight, padding=1),
    "bias read elsewhere": lambda m, x: F.relu(m.norm(m.conv(x))) * m.conv.bias.view(1, -1, 1, 1),  # type: ignore[union-attr]
    "called on its own result": lambda m, x: m.conv(m.norm(m.conv(x))),
    "called twice in a row": lambda m, x: m.norm(m.conv(m.conv(x))),
    "a size is added": lambda m, x: F.relu(m.conv(x) + x.size(0)),
    "computed from sizes": lambda m, x: F.relu(m.conv(x) + x.shape[2] // 3),
    "slope from a size": lambda m, x: F.leaky_relu(m.conv(x), 0.1 * x.size(0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_models_that_look_into_their_layers(name: str) -> None:
    torch.manual_seed(0)
    model = Block(CALLS[name]).eval()
    x = torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(convext.fuse(model)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["conv", "norm", "relu", "identity"])
@pytest.mark.parametrize("how", ["hook", "forward"])
def test_changed_layers_are_left_alone(layer: str, how: str) -> None:
    torch.manual_seed(0)
    model = Block(lambda m, x: m.relu(m.identity(m.norm(m.conv(x))))).eval()
    if how == "hook":
        getattr(model, layer).register_forward_hook(lambda module, args, result: 2 * result - 1)
    else:
        getattr(model, layer).forward = lambda x: 2 * x - 1
    x = torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(convext.fuse(model)(x), model(x), rtol=1e-5, atol=1e-5)
