"""The pooling layers beside torch.nn's: signature, text, attributes, isinstance, state and results."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import convext.functional as CF
import convext.nn as cnn
from tests.reference import error, wide

# layer, arguments of the constructor, more for the extra keywords of ours, and what its text then says
LAYERS: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = tuple(
    entry
    for d in (1, 2, 3)
    for entry in (
        (f"MaxPool{d}d", (3, 2, 1), {}),
        (f"MaxPool{d}d", (2,), {"dilation": 2, "ceil_mode": True}),
        (f"MaxPool{d}d", ((2,) * d,), {"stride": (1,) * d, "return_indices": True}),
        (f"AvgPool{d}d", (3, 2, 1), {}),
        (f"AvgPool{d}d", (2,), {"ceil_mode": True, "count_include_pad": False}),
        (f"AdaptiveMaxPool{d}d", (3,), {}),
        (f"AdaptiveMaxPool{d}d", (3,), {"return_indices": True}),
        (f"AdaptiveAvgPool{d}d", (2,), {}),
        (f"LPPool{d}d", (2, 3, 2), {}),
        (f"LPPool{d}d", (3, 2), {"ceil_mode": True}),
    )
)
EXTRA = {"AvgPool": ["dilation"], "LPPool": ["padding", "dilation", "abs"]}


def image(name: str) -> Tensor:
    return torch.rand(2, 3, *[9] * int(name[-2])) + 0.1


@pytest.mark.parametrize(("name", "args", "kwargs"), LAYERS, ids=str)
def test_is_torchs_layer(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    ours, torchs = getattr(cnn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert isinstance(ours, type(torchs)) and repr(ours) == repr(torchs)
    assert ours.state_dict() == torchs.state_dict()
    parameters = list(inspect.signature(type(ours)).parameters.values())
    wanted = list(inspect.signature(type(torchs)).parameters.values())
    assert [(p.name, p.default) for p in parameters[: len(wanted)]] == [(p.name, p.default) for p in wanted]
    assert [p.name for p in parameters[len(wanted) :]] == EXTRA.get(name[:-2], [])
    x = image(name)
    y, z = ours(x), torchs(x)
    if isinstance(z, tuple):
        assert torch.equal(y[1], z[1])
        y, z = y[0], z[0]
    assert y.shape == z.shape and error(y, wide(z)) <= 1e-6
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(again(x)[0], ours(x)[0]) and repr(again) == repr(ours)


@pytest.mark.parametrize("d", (2, 3))
def test_fractional(d: int) -> None:
    name, x = f"FractionalMaxPool{d}d", torch.randn(2, 3, *[9] * d)
    samples = torch.rand(2, 3, d)
    for kwargs in ({"output_size": 4}, {"output_ratio": (0.5,) * d, "return_indices": True}):
        ours = getattr(cnn, name)(2, _random_samples=samples, **kwargs)
        torchs = getattr(torch.nn, name)(2, _random_samples=samples, **kwargs)
        assert isinstance(ours, type(torchs)) and repr(ours) == repr(torchs)
        assert list(ours.state_dict()) == list(torchs.state_dict()) == ["_random_samples"]
        assert torch.equal(ours(x)[0], torchs(x)[0])
    for wrong in ({}, {"output_size": 2, "output_ratio": 0.5}, {"output_ratio": 1.5}):
        with pytest.raises(ValueError):
            getattr(cnn, name)(2, **wrong)


@pytest.mark.parametrize("d", (1, 2, 3))
def test_unpool(d: int) -> None:
    x = image(f"{d}d")[(..., *[slice(8)] * d)]  # even, so that the smallest size that fits is its own
    pool, ours = getattr(cnn, f"MaxPool{d}d")(2, return_indices=True), getattr(cnn, f"MaxUnpool{d}d")(2)
    torchs = getattr(torch.nn, f"MaxUnpool{d}d")(2)
    assert isinstance(ours, type(torchs)) and repr(ours) == repr(torchs)
    y, places = pool(x)
    assert torch.equal(ours(y, places, output_size=x.shape), torchs(y, places, output_size=x.shape))
    assert torch.equal(ours(y, places), torchs(y, places))


def test_what_torch_lacks() -> None:
    x = image("2d")
    layer = cnn.MinPool2d(3, 2, 1)
    assert torch.equal(layer(x), CF.min_pool2d(x, 3, 2, 1))
    assert repr(layer) == "MinPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)"
    assert not isinstance(layer, torch.nn.MaxPool2d)
    assert repr(cnn.AvgPool2d(3, dilation=2)) == "AvgPool2d(kernel_size=3, stride=3, padding=0, dilation=2)"
    assert torch.equal(cnn.AvgPool2d(3, dilation=2)(x), CF.avg_pool2d(x, 3, dilation=2))
    assert cnn.AvgPool1d(3, padding="same").padding == "same"
    assert cnn.AvgPool1d(3, 1, "same")(image("1d")).shape == (2, 3, 9)
    assert cnn.MaxPool2d(3, 2, "same")(x).shape == (2, 3, 5, 5)
    assert cnn.MaxPool3d(2, 1, ((1, 0), "causal", 1))(image("3d")).shape == (2, 3, 9, 9, 10)
    lp = cnn.LPPool2d(3, 3, 1, padding="same", abs=True)
    assert repr(lp) == ("LPPool2d(norm_type=3, kernel_size=3, stride=1, ceil_mode=False, padding=same, abs=True)")
    assert torch.equal(lp(x), CF.lp_pool2d(x, 3.0, 3, 1, padding="same", abs=True))


@pytest.mark.parametrize("d", (1, 2, 3))
def test_stochastic_pool_draws_in_training_alone(d: int) -> None:
    x, layer = image(f"{d}d"), getattr(cnn, f"StochasticPool{d}d")(3)
    assert repr(layer).endswith("(kernel_size=3, stride=3, padding=0, dilation=1, ceil_mode=False)")
    torch.manual_seed(0)
    drawn = layer(x)
    torch.manual_seed(1)
    assert not torch.equal(layer(x), drawn)
    layer.eval()
    assert torch.equal(layer(x), layer(x)) and torch.equal(layer(x), getattr(CF, f"stochastic_pool{d}d")(x, 3))


def test_maxout() -> None:
    layer = cnn.Maxout(3)
    assert repr(layer) == "Maxout(pieces=3, dim=1)"
    x = image("2d")
    assert torch.equal(layer(x), x.amax(1, keepdim=True))
    network = torch.nn.Sequential(torch.nn.Linear(4, 6), layer)
    assert network(torch.randn(5, 4)).shape == (5, 2)


def test_in_a_network_with_a_state() -> None:
    """Pooling layers change nothing about saving, loading and training a network."""
    network = torch.nn.Sequential(cnn.Conv2d(3, 4, 3), cnn.MaxPool2d(2), cnn.AdaptiveAvgPool2d(1))
    torchs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2), torch.nn.AdaptiveAvgPool2d(1))
    torchs.load_state_dict(network.state_dict())
    x = image("2d")
    torch.testing.assert_close(network(x), torchs(x))
    network(x).sum().backward()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    assert all(p.grad is not None for p in network.parameters())
