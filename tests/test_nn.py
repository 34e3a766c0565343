"""The layers as drop-in replacements of torch.nn's: constructor, state, copies, hooks, lazy forms."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import convext.functional as CF
from convext import nn
from tests.cases import MODES
from tests.reference import padded

DIMS = (1, 2, 3)
KINDS = ("Conv", "ConvTranspose")
NAMES = [f"{kind}{d}d" for kind in KINDS for d in DIMS]

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "groups": 2, "bias": False},
    {"padding": 2, "dtype": torch.float64},
)


def pair(name: str, *args: Any, **kwargs: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """convext's layer and torch's, made from the same seed."""
    torch.manual_seed(3)
    ours = getattr(nn, name)(*args, **kwargs)
    torch.manual_seed(3)
    return ours, getattr(torch.nn, name)(*args, **kwargs)


def image(name: str, channels: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, channels, *(7, 8, 6)[: int(name[-2])], dtype=dtype)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_drop_in(name: str, settings: dict[str, Any]) -> None:
    """Same class tree, text, parameters from the same seed, result and gradients."""
    ours, torchs = pair(name, 4, 6, 3, **settings)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(torchs)
    mine, theirs = ours.state_dict(), torchs.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine)
    for attribute in (
        "stride",
        "padding",
        "dilation",
        "output_padding",
        "kernel_size",
        "groups",
        "transposed",
        "padding_mode",
    ):
        assert getattr(ours, attribute) == getattr(torchs, attribute)
    x = image(name, dtype=settings.get("dtype", torch.float32)).requires_grad_()
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    a, b = ours(x), torchs(x)
    assert_close(a, b, **tolerance)
    assert_close(
        torch.autograd.grad(a.pow(2).sum(), [x, *ours.parameters()]),
        torch.autograd.grad(b.pow(2).sum(), [x, *torchs.parameters()]),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_goes_both_ways(name: str) -> None:
    ours, torchs = getattr(nn, name)(4, 6, 3), getattr(torch.nn, name)(4, 6, 3)
    x = image(name)
    ours.load_state_dict(torchs.state_dict())
    assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        ours.weight.mul_(2)
    torchs.load_state_dict(ours.state_dict())
    assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    torchs.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("padding", (1, "same", ((1, 0), (0, 2))), ids=str)
def test_copies_are_equal(padding: Any) -> None:
    layer = nn.Conv2d(4, 6, 3, padding=padding, padding_mode="circular")
    x = image("Conv2d")
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert type(twin) is type(layer) and repr(twin) == repr(layer)
        assert torch.equal(twin(x), layer(x))
        assert twin.weight.data_ptr() != layer.weight.data_ptr()


@pytest.mark.parametrize("name", NAMES)
def test_hooks_run(name: str) -> None:
    layer, seen = getattr(nn, name)(4, 6, 3), []
    layer.register_forward_pre_hook(lambda m, args: seen.append("before"))
    layer.register_forward_hook(lambda m, args, out: out * 2)
    layer.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    x = image(name).requires_grad_()
    y = layer(x)
    assert_close(y, 2 * layer.forward(x))
    y.sum().backward()
    assert seen == ["before", "backward"]


def test_modes_moves_and_casts() -> None:
    layer = nn.Conv2d(4, 6, 3)
    x = image("Conv2d")
    assert layer.double()(x.double()).dtype == torch.float64
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert layer.to("meta")(x.to("meta", torch.bfloat16)).shape == (2, 6, 5, 6)
    assert nn.Conv2d(4, 6, 3, device="meta").weight.is_meta
    last = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    assert last(x).is_contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(4, 6, 3).eval().requires_grad_(False)
    assert not layer(x).requires_grad


def test_unbatched() -> None:
    for name in NAMES:
        layer = getattr(nn, name)(4, 6, 3)
        x = image(name)
        assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize(
    "attribute", ({"stride": (2, 2)}, {"padding": (1, 2)}, {"dilation": (2, 1)}, {"padding": "same"}), ids=str
)
def test_attributes_changed_after_construction(attribute: dict[str, Any]) -> None:
    """forward follows them, as torch's does."""
    ours, torchs = pair("Conv2d", 4, 6, 3)
    x = image("Conv2d")
    ours(x)
    for layer in (ours, torchs):
        for name, value in attribute.items():
            setattr(layer, name, value)
    assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)
    ours.weight = torch.nn.Parameter(torch.randn(6, 4, 1, 1))
    assert ours(x).shape == CF.conv2d(x, ours.weight, ours.bias, ours.stride, ours.padding, ours.dilation).shape
    ours.bias = None
    assert ours(x).requires_grad


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d"])
@pytest.mark.parametrize("mode", MODES)
def test_padding_modes_of_torch(name: str, mode: str) -> None:
    for padding in (1, "same", tuple(range(1, int(name[-2]) + 1))):
        ours, torchs = pair(name, 4, 6, 3, padding=padding, padding_mode=mode)
        assert repr(ours) == repr(torchs)
        x = image(name)
        assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
@pytest.mark.parametrize("mode", MODES[1:])
def test_padding_modes_of_the_transposed_layers(name: str, mode: str) -> None:
    """torch refuses them; here they are the adjoint of the same mode in the convolution."""
    with pytest.raises(ValueError):
        getattr(torch.nn, name)(4, 6, 3, padding=1, padding_mode=mode)
    layer = getattr(nn, name)(4, 6, 3, padding=1, padding_mode=mode, bias=False).double()
    y = torch.randn(2, 4, *(7, 8, 6)[: int(name[-2])], dtype=torch.float64)
    back = layer(y)
    x = torch.randn_like(back)
    convolution = getattr(torch.nn.functional, f"conv{name[-2:]}")
    forward = convolution(padded(x, ((1, 1),) * int(name[-2]), mode), layer.weight)
    assert_close((forward * y).sum(), (x * back).sum())
    assert mode in repr(layer)


@pytest.mark.parametrize("padding", ("causal", "full", "same_lower", ((1, 0), (0, 2)), ("same", 1)), ids=str)
def test_padding_language_in_the_constructor(padding: Any) -> None:
    layer = nn.Conv2d(4, 6, 3, padding=padding)
    x = image("Conv2d")
    assert torch.equal(layer(x), CF.conv2d(x, layer.weight, layer.bias, padding=padding))
    repr(layer)
    strided = nn.Conv2d(4, 6, 3, stride=2, padding="same")
    assert strided(x).shape == (2, 6, 4, 4)
    up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding="same")
    assert up(x).shape == (2, 6, 14, 16)


@pytest.mark.parametrize(
    "wrong",
    ({"padding": "sam"}, {"padding_mode": "mirror"}, {"groups": 3}, {"groups": 0}, {"kernel_size": "a"}),
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_constructor_arguments_raise_as_torchs(name: str, wrong: dict[str, Any]) -> None:
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3} | wrong

    def kind(module: Any) -> type[Exception] | None:
        try:
            getattr(module, name)(**arguments)
        except Exception as e:
            return type(e)
        return None

    torchs = kind(torch.nn)
    if torchs is not None:
        assert kind(nn) is torchs


@pytest.mark.parametrize("name", ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
def test_output_size(name: str) -> None:
    d = int(name[-2])
    ours, torchs = pair(name, 4, 6, 3, stride=3, padding=1)
    x = image(name)
    smallest = [(s - 1) * 3 - 2 + 3 for s in x.shape[2:]]
    for extra in range(3):
        size = [s + extra for s in smallest]
        a, b = ours(x, output_size=size), torchs(x, output_size=size)
        assert list(a.shape[2:]) == size
        assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert list(ours(x, [2, 6, *smallest]).shape[2:]) == smallest
    for wrong in ([s + 3 for s in smallest], [s - 1 for s in smallest], [5] * (d + 3)):
        with pytest.raises(ValueError):
            torchs(x, output_size=wrong)
        with pytest.raises(ValueError):
            ours(x, output_size=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_lazy_layers(name: str) -> None:
    torch.manual_seed(5)
    lazy = getattr(nn, "Lazy" + name)(6, 3, padding=1)
    assert isinstance(lazy, getattr(torch.nn, "Lazy" + name))
    assert repr(lazy) == repr(getattr(torch.nn, "Lazy" + name)(6, 3, padding=1))
    x = image(name)
    torch.manual_seed(5)
    y = lazy(x)
    assert type(lazy) is getattr(nn, name) and lazy.in_channels == 4
    torch.manual_seed(5)
    torchs = getattr(torch.nn, "Lazy" + name)(6, 3, padding=1)
    torch.manual_seed(5)
    torchs(x)
    assert_close(y, torchs(x), rtol=1e-5, atol=1e-5)
    other = getattr(nn, "Lazy" + name)(6, 3, padding=1)
    other.load_state_dict(lazy.state_dict())
    assert torch.equal(other(x), y)


def test_lazy_layer_with_a_padding_mode_and_a_word() -> None:
    layer = nn.LazyConv2d(6, 3, stride=2, padding="same", padding_mode="reflect")
    assert layer(image("Conv2d")).shape == (2, 6, 4, 4)
    layer = nn.LazyConvTranspose2d(6, 3, padding=1, padding_mode="reflect")
    assert layer(image("Conv2d")).shape == (2, 6, 7, 8)


def test_parametrizations() -> None:
    from torch.nn.utils import parametrize
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    x = image("Conv2d")
    for wrap in (weight_norm, spectral_norm):
        ours, torchs = pair("Conv2d", 4, 6, 3)
        torch.manual_seed(0)
        ours = wrap(ours)
        torch.manual_seed(0)
        torchs = wrap(torchs)
        a, b = ours(x), torchs(x)
        assert_close(a, b, rtol=1e-4, atol=1e-5)
        a.sum().backward()
        b.sum().backward()
        for p, q in zip(ours.parameters(), torchs.parameters(), strict=True):
            assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)

    class Symmetric(torch.nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return (w + w.flip(-1)) / 2

    layer = nn.Conv2d(4, 6, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert_close(layer(x), CF.conv2d(x, layer.weight, layer.bias))


def test_pruning_and_fusing_see_a_conv_layer() -> None:
    """Tools that look for torch.nn.Conv2d by isinstance find ours."""
    from torch.nn.utils import fuse_conv_bn_eval, prune

    layer, norm = nn.Conv2d(4, 6, 3).eval(), torch.nn.BatchNorm2d(6).eval()
    norm.running_mean.uniform_()
    norm.running_var.uniform_(0.5, 2)
    x = image("Conv2d")
    fused = fuse_conv_bn_eval(layer, norm)
    assert type(fused) is nn.Conv2d
    assert_close(fused(x), norm(layer(x)), rtol=1e-4, atol=1e-5)
    prune.l1_unstructured(layer, "weight", 0.5)
    assert (layer.weight == 0).sum() == layer.weight.numel() // 2
    layer(x)


def test_a_network_trains_as_torchs_does() -> None:
    """Same seed, same data, float64: the loss curves agree to rounding."""

    def curve(module: Any) -> list[float]:
        torch.manual_seed(1)
        net = torch.nn.Sequential(
            module.Conv2d(1, 4, 3, padding=1),
            torch.nn.Tanh(),
            module.Conv2d(4, 4, 3, stride=2, groups=2),
            torch.nn.Tanh(),
            module.ConvTranspose2d(4, 1, 3, stride=2, output_padding=1),
        ).double()
        x = torch.randn(8, 1, 10, 10, dtype=torch.float64)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            loss = (net(x) - x).pow(2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    ours, torchs = curve(nn), curve(torch.nn)
    assert_close(torch.tensor(ours), torch.tensor(torchs), rtol=1e-6, atol=0)
    assert ours[-1] < ours[0]


def test_every_layer_of_torch_nn_has_its_own() -> None:
    wanted = {n for n in dir(torch.nn) if n.startswith(("Conv", "LazyConv"))}
    assert wanted <= set(dir(nn)), wanted - set(dir(nn))


@pytest.mark.parametrize("padding", ("same", "valid", 1, (1, 0)), ids=str)
def test_the_text_says_the_padding_as_torch_says_it(padding: Any) -> None:
    """Without quotes, as torch prints words: a converted model prints as the model did."""
    assert str(nn.Conv2d(3, 4, 3, padding=padding)) == str(torch.nn.Conv2d(3, 4, 3, padding=padding))
