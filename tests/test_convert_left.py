"""What convext.convert leaves to torch and how it says so, and what convext.revert cannot undo."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
from convext import nn
from tests.layers import is_by_convext, is_by_torch


class Standardised(torch.nn.Conv2d):
    """A subclass as networks have them: the weight is changed on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


class Scaled(Tensor):
    """A tensor that says itself what torch's functions mean on it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.conv2d:
            return super().__torch_function__(func, types, args, kwargs or {})
        plain = [2 * a.as_subclass(Tensor) if isinstance(a, Scaled) else a for a in args]
        return func(*plain, **(kwargs or {}))


def quantized() -> torch.nn.Module:
    return torch.ao.nn.quantized.Conv2d(3, 4, 3)


def scripted() -> torch.nn.Module:
    return torch.jit.script(torch.nn.Conv2d(3, 4, 3))


def with_weights_of_their_own() -> torch.nn.Module:
    layer = torch.nn.Conv2d(3, 4, 3)
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Scaled))
    return layer


def half_complex() -> torch.nn.Module:
    return torch.nn.Conv2d(3, 4, 3).to(torch.complex32)


def with_another_forward() -> torch.nn.Module:
    layer = torch.nn.MaxPool2d(2)
    layer.forward = types.MethodType(lambda self, x: x[..., ::2, ::2], layer)
    return layer


LEFT: dict[str, Callable[[], torch.nn.Module]] = {
    "Standardised, a subclass of torch.nn.Conv2d": lambda: Standardised(3, 4, 3),
    "torch.ao.nn.quantized.modules.conv.Conv2d, another layer of that name": quantized,
    "Conv2d, scripted: its code is compiled already": scripted,
    "Conv2d whose weight is a Scaled, which has a __torch_function__ of its own": with_weights_of_their_own,
    "Conv2d whose weight has the type torch.complex32": half_complex,
    "MaxPool2d whose forward was replaced on the object": with_another_forward,
}

ignored = pytest.mark.filterwarnings("ignore:`torch.jit.script`", "ignore:ComplexHalf", "ignore:.*quantiz.*")


@ignored
@pytest.mark.parametrize("why", LEFT)
def test_left_with_a_reason(why: str) -> None:
    layer = LEFT[why]()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), layer)
    kind = type(layer)
    assert convext.conversion_report(model).left == {"1": why}
    with pytest.warns(convext.LeftToTorchWarning) as caught:
        assert convext.convert(model) is model
    assert len(caught) == 1 and caught[0].filename == __file__
    message = str(caught[0].message)
    assert message.endswith(f"\n  1: {why}") and "convext.override()" in message
    assert type(model[0]) is nn.Conv2d and model[1] is layer and type(layer) is kind
    assert str(convext.conversion_report(model)).splitlines()[-2:] == ["left to torch: 1", f"  1: {why}"]


def test_the_model_itself_is_left() -> None:
    with pytest.warns(convext.LeftToTorchWarning, match="the model itself: Standardised"):
        assert type(convext.convert(Standardised(3, 4, 3))) is Standardised


def test_override_reaches_what_is_left() -> None:
    torch.manual_seed(0)
    layer, x = Standardised(3, 4, 3), torch.randn(1, 3, 6, 6)
    wanted = layer(x)
    assert is_by_torch(layer, x)
    with convext.override():
        torch.testing.assert_close(layer(x), wanted)
        assert is_by_convext(layer, x)


def test_layers_elsewhere_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without kernels of ours: the pooling, too, which has no tensor that would say so."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2))
    monkeypatch.setattr("convext._coverage.DEVICES", frozenset({"meta"}))
    with pytest.warns(convext.LeftToTorchWarning, match="is on cpu, where convext has no kernels"):
        convext.convert(model)
    assert convext.conversion_report(model).left.keys() == {"0", "1"}
    with pytest.warns(convext.LeftToTorchWarning, match="1: MaxPool2d in a model on cpu"):
        convext.convert(model)
    convext.convert(model.to("meta"))
    assert not convext.conversion_report(model).left


def test_other_layers_are_not_mentioned() -> None:
    layers = torch.nn.Linear(3, 4), torch.nn.BatchNorm2d(3), torch.nn.Upsample(2), torch.nn.ReflectionPad2d(1)
    report = convext.conversion_report(torch.nn.Sequential(*layers, torch.nn.CrossMapLRN2d(3), torch.nn.Flatten()))
    assert not report.left and not report.convertible


def test_subclasses_of_convexts_layers_are_convexts() -> None:
    class Mine(nn.Conv2d):
        pass

    model = torch.nn.Sequential(Mine(3, 4, 3), nn.MinPool2d(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convext.convert(model)
    assert convext.conversion_report(model).converted == {"0": "Mine", "1": "MinPool2d"}


# --- revert -----------------------------------------------------------------------------------------------------------

# a layer that torch can express, and what its padding becomes
EXPRESSIBLE: dict[str, tuple[torch.nn.Module, Any]] = {
    "pairs alike": (nn.Conv2d(3, 4, 3, padding=((1, 1), (2, 2))), (1, 2)),
    "full": (nn.Conv2d(3, 4, (3, 5), padding="full", dilation=(1, 2)), (2, 8)),
    "same among others": (nn.Conv2d(3, 4, 3, padding=(0, "same")), (0, 1)),
    "causal, one pixel": (nn.Conv1d(3, 4, 1, padding="causal", stride=2), (0,)),
    "same": (nn.Conv2d(3, 4, 4, padding="same"), "same"),
    "a mode": (nn.Conv2d(3, 4, 3, padding=((1, 1), (1, 1)), padding_mode="reflect"), (1, 1)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, padding="same", stride=1), (1, 1)),
    "lazy": (nn.LazyConv2d(4, 3, padding=((1, 1), (0, 0))), (1, 0)),
    "max pooling": (nn.MaxPool2d(3, 2, padding=((1, 1), (0, 0))), (1, 0)),
    "average": (nn.AvgPool2d(3, 1, padding="same"), (1, 1)),
    "unfold": (nn.Unfold(3, padding="same"), (1, 1)),
    "fold": (nn.Fold((6, 6), 3, padding=((1, 1), 1)), (1, 1)),
}


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_reverted_with_torchs_words(name: str) -> None:
    layer, padding = EXPRESSIBLE[name]
    x = torch.randn(1, 27 if name == "fold" else 3, *[6] * (1 if isinstance(layer, nn.Conv1d) else 2))
    x = x.flatten(2) if name == "fold" else x
    wanted = layer(x)
    convext.revert(layer)
    assert type(layer).__module__.startswith("torch.nn.") and layer.padding == padding
    torch.testing.assert_close(layer(x), wanted)
    assert is_by_torch(layer, x)


INEXPRESSIBLE: dict[str, torch.nn.Module] = {
    "Conv2d with padding=((1, 0), (0, 2))": nn.Conv2d(3, 4, 3, padding=((1, 0), (0, 2))),
    "Conv1d with padding='causal'": nn.Conv1d(3, 4, 3, padding="causal"),
    "Conv2d with padding='same'": nn.Conv2d(3, 4, 3, padding="same", stride=2),
    "Conv1d with padding='same_lower'": nn.Conv1d(3, 4, 4, padding="same_lower"),
    "LazyConv2d with padding='same'": nn.LazyConv2d(4, 3, padding="same", stride=2),
    "ConvTranspose2d with padding_mode='circular'": nn.ConvTranspose2d(3, 4, 3, padding_mode="circular"),
    "ConvTranspose2d with padding='same'": nn.ConvTranspose2d(3, 4, 4, padding="same"),
    "MaxPool2d with padding='same'": nn.MaxPool2d(3, padding="same"),
    "MaxPool2d with padding='full', more than half of the window": nn.MaxPool2d(3, padding="full"),
    "AvgPool2d with dilation=2": nn.AvgPool2d(3, dilation=2),
    "LPPool2d with abs=True": nn.LPPool2d(3, 2, abs=True),
    "LPPool2d with padding=1": nn.LPPool2d(3, 2, padding=1),
    "LPPool1d with dilation=2": nn.LPPool1d(3, 2, dilation=2),
    "Unfold with kernel_size=(3,), for 1 axes": nn.Unfold((3,)),
    "Fold with padding=((1, 0), (0, 0))": nn.Fold((6, 6), 3, padding=((1, 0), (0, 0))),
    "MinPool2d": nn.MinPool2d(2),
    "StochasticPool2d": nn.StochasticPool2d(2),
    "LocallyConnected1d": nn.LocallyConnected1d(3, 4, 6, 3),
    "Mine, a subclass of convext's": type("Mine", (nn.Conv2d,), {})(3, 4, 3),
}


@pytest.mark.parametrize("what", INEXPRESSIBLE)
def test_not_reverted(what: str) -> None:
    """Nothing is changed; the message names the layer and the setting."""
    layer = INEXPRESSIBLE[what]
    before = type(layer), dict(vars(layer))
    model = torch.nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    with pytest.raises(ValueError) as caught:
        convext.revert(model)
    assert str(caught.value).endswith(f"\n  1: {what}")
    assert type(model[0]) is nn.Conv2d and (type(layer), dict(vars(layer))) == before


def test_all_that_is_wrong_is_named() -> None:
    model = torch.nn.Sequential(nn.MinPool2d(2), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding="causal"))
    with pytest.raises(ValueError, match=r"(?s)\n  0: MinPool2d\n  2: Conv2d with padding='causal'$"):
        convext.revert(model)
