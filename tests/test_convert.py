"""convext.convert and revert: the same objects, another class, and everything that hangs on them."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import prune
from torch.testing import assert_close

import convext
from tests.layers import LAYERS, NAMES, Layer, is_by_convext, is_by_torch, shared_names, tensors


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Nothing is left to torch unless a test expects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", convext.LeftToTorchWarning)
        yield


class Net(torch.nn.Module):
    """Layers in a list, in a dict, as attributes, and one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList([torch.nn.Conv2d(8, 8, 3, padding=1, groups=4) for _ in range(2)])
        self.shared = self.blocks[0]
        self.norm = torch.nn.BatchNorm2d(8)
        self.pools = torch.nn.ModuleDict({"max": torch.nn.MaxPool2d(2), "mean": torch.nn.AdaptiveAvgPool2d(1)})
        self.up = torch.nn.Sequential(torch.nn.ConvTranspose2d(8, 8, 2, stride=2), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        for block in self.blocks:
            x = block(x)
        x = self.up(self.pools["max"](self.shared(x)))
        return self.head(self.pools["mean"](x).flatten(1))


def net() -> Net:
    torch.manual_seed(4)
    return Net().double()


def images() -> Tensor:
    return torch.randn(2, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def kinds(model: torch.nn.Module) -> set[str]:
    """The packages of the layers that convext has."""
    return {type(m).__module__.split(".")[0] for m in model.modules() if type(m).__name__ in shared_names()}


# --- every layer ------------------------------------------------------------------------------------------------------


def test_the_list_is_complete() -> None:
    families = (
        "Conv",
        "LazyConv",
        "MaxPool",
        "AvgPool",
        "LPPool",
        "AdaptiveMax",
        "AdaptiveAvg",
        "MaxUnpool",
        "Fractional",
        "Fold",
    )
    wanted = {n for n in dir(torch.nn) if n.startswith((*families, "Unfold", "LocalResponse"))}
    assert set(NAMES) == shared_names() == wanted


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layer(case: Layer) -> None:
    """The same object, convext's namesake; torch's result and gradients; and back, to the letter."""
    layer, twin = case.make(), case.make()
    state = dict(vars(layer))
    assert convext.convert(layer) is layer
    assert type(layer) is getattr(convext.nn, case.name)
    assert repr(layer) == repr(twin)
    assert vars(layer).keys() == state.keys() and all(vars(layer)[k] is state[k] for k in state)
    ours, theirs = ([t.requires_grad_(t.is_floating_point()) for t in case.inputs()] for _ in range(2))
    torch.manual_seed(1)
    y = tensors(layer(*ours))
    torch.manual_seed(1)
    z = tensors(twin(*theirs))
    for a, b in zip(y, z, strict=True):
        assert_close(a, b, rtol=1e-11, atol=1e-12)
    y[0].square().sum().backward()
    z[0].square().sum().backward()
    assert_close(ours[0].grad, theirs[0].grad, rtol=1e-10, atol=1e-11)
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-11)
    assert is_by_convext(layer, *case.inputs()) and not is_by_convext(twin, *case.inputs())
    assert convext.revert(layer) is layer
    assert type(layer) is type(twin) and repr(layer) == repr(twin)
    assert vars(layer).keys() == vars(twin).keys()
    assert not is_by_convext(layer, *case.inputs())


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_convexts_own_layer_becomes_torchs(case: Layer) -> None:
    """A layer that was written as convext's holds nothing afterwards that torch's lacks."""
    ours, theirs = case.make(convext.nn), case.make()
    convext.revert(ours)
    assert type(ours) is type(theirs) and vars(ours).keys() == vars(theirs).keys()
    for key, value in vars(theirs).items():
        if isinstance(value, (int, float, str, tuple, bool, type(None))):
            assert vars(ours)[key] == value, key


# --- models -----------------------------------------------------------------------------------------------------------


def test_model_in_place() -> None:
    model, twin = net(), net()
    before = {name: (id(m), [id(p) for p in m.parameters()]) for name, m in model.named_modules()}
    model.eval()
    model.blocks[1].train()
    assert convext.convert(model) is model
    assert kinds(model) == {"convext"} and type(model) is Net
    assert {name: (id(m), [id(p) for p in m.parameters()]) for name, m in model.named_modules()} == before
    assert model.shared is model.blocks[0]
    assert model.blocks[1].training and not model.stem.training
    assert_close(model(images()), twin.eval()(images()), rtol=1e-11, atol=1e-12)
    assert is_by_convext(model, images())
    assert kinds(convext.convert(model)) == {"convext"}, "twice is once"
    assert kinds(convext.revert(model)) == {"torch"}
    assert kinds(convext.revert(model)) == {"torch"}
    assert torch.equal(model(images()), twin(images())) and is_by_torch(model, images())


def test_training_goes_on() -> None:
    """Converted after some steps, under the same optimizer, which keeps its moments."""
    losses = []
    for convert_at in (None, 3):
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        curve = []
        for step in range(8):
            if step == convert_at:
                convext.convert(model)
            optimizer.zero_grad()
            loss = model(images()).square().mean()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        losses.append(torch.tensor(curve, dtype=torch.float64))
    assert_close(losses[0], losses[1], rtol=1e-8, atol=0)


def test_only_what_the_filter_takes() -> None:
    model = net()
    asked: list[str] = []

    def not_the_stem(layer: torch.nn.Module, name: str) -> bool:
        asked.append(name)
        return name != "stem" and isinstance(layer, torch.nn.Conv2d)

    convext.convert(model, filter_fn=not_the_stem)
    assert asked == ["stem", "blocks.0", "blocks.1", "pools.max", "pools.mean", "up.0"]
    report = convext.conversion_report(model)
    assert list(report.converted) == ["blocks.0", "blocks.1"]
    assert list(report.convertible) == ["stem", "pools.max", "pools.mean", "up.0"]


def test_report() -> None:
    model = net()
    report = convext.conversion_report(model)
    assert report.convertible == {
        "stem": "Conv2d",
        "blocks.0": "Conv2d",
        "blocks.1": "Conv2d",
        "pools.max": "MaxPool2d",
        "pools.mean": "AdaptiveAvgPool2d",
        "up.0": "ConvTranspose2d",
    }
    assert not report.converted and not report.left
    assert kinds(model) == {"torch"}, "a report changes nothing"
    text = str(convext.conversion_report(convext.convert(model)))
    assert text.splitlines() == [
        "by convext: 1 AdaptiveAvgPool2d, 3 Conv2d, 1 ConvTranspose2d, 1 MaxPool2d",
        "by torch, and can be converted: none",
        "left to torch: none",
    ]


@pytest.mark.parametrize("function", (convext.convert, convext.revert, convext.conversion_report))
def test_not_a_model(function: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got list"):
        function([torch.nn.Conv2d(1, 1, 1)])


# --- what hangs on a layer --------------------------------------------------------------------------------------------


def test_hooks_stay() -> None:
    model, seen = net(), []
    model.stem.register_forward_pre_hook(lambda m, args: seen.append("before"))
    model.stem.register_forward_hook(lambda m, args, out: seen.append("after"))
    model.stem.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    handle = model.stem.register_forward_hook(lambda m, args, out: out * 2)
    convext.convert(model)
    x = images()
    y = model.stem(x)
    assert_close(y, 2 * model.stem.forward(x))
    y.sum().backward()
    assert seen == ["before", "after", "backward"]
    handle.remove()
    assert_close(model.stem(x), model.stem.forward(x))


@pytest.mark.parametrize("wrap", ("weight_norm", "spectral_norm", "orthogonal"))
def test_parametrizations_stay(wrap: str) -> None:
    """Their class over the layer's is put over the new one; a deep copy, which shares it, is left as it was."""
    parametrizations = torch.nn.utils.parametrizations
    layer = torch.nn.Conv2d(4, 6, 3)
    getattr(parametrizations, wrap)(layer)
    torch.nn.utils.parametrize.register_parametrization(layer, "bias", torch.nn.Tanh())
    twin = copy.deepcopy(layer).eval()
    convext.convert(layer.eval())
    assert isinstance(layer, convext.nn.Conv2d) and not isinstance(twin, convext.nn.Conv2d)
    assert torch.nn.utils.parametrize.type_before_parametrizations(layer) is convext.nn.Conv2d
    assert type(layer).__name__ == "ParametrizedConv2d" and repr(layer) == repr(twin)
    x = torch.randn(2, 4, 6, 6)
    assert_close(layer(x), twin(x))
    assert is_by_convext(layer, x) and is_by_torch(twin, x)
    assert is_by_convext(copy.deepcopy(layer), x)
    assert list(layer.state_dict()) == list(twin.state_dict())
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules"):
        pickle.dumps(layer)
    assert convext.conversion_report(layer).converted == {"": "Conv2d"}
    convext.revert(layer)
    assert not isinstance(layer, convext.nn.Conv2d) and torch.equal(layer(x), twin(x))
    convext.convert(layer)
    for name in ("weight", "bias"):
        torch.nn.utils.parametrize.remove_parametrizations(layer, name)
    assert type(layer) is convext.nn.Conv2d
    assert_close(layer(x), twin(x))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize("convert_first", (True, False))
@pytest.mark.parametrize("wrap", ("weight_norm", "spectral_norm", "prune"))
def test_weights_made_by_hooks(wrap: str, convert_first: bool) -> None:
    """weight_norm and spectral_norm of old, and pruning, compute the weight in a hook before forward."""

    def wrapped(layer: torch.nn.Module) -> torch.nn.Module:
        torch.manual_seed(3)
        if wrap == "prune":
            return prune.l1_unstructured(layer, "weight", 0.5)
        return getattr(torch.nn.utils, wrap)(layer)

    torch.manual_seed(2)
    layer = torch.nn.ConvTranspose2d(4, 6, 3)
    twin = wrapped(copy.deepcopy(layer))
    layer = wrapped(convext.convert(layer)) if convert_first else convext.convert(wrapped(layer))
    x = torch.randn(2, 4, 6, 6)
    y, z = layer(x), twin(x)
    assert_close(y, z)
    y.sum().backward()
    z.sum().backward()
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)
    assert is_by_convext(layer, x)
    if wrap == "prune":
        prune.remove(layer, "weight")
    else:
        getattr(torch.nn.utils, f"remove_{wrap}")(layer)
    assert_close(layer(x), twin(x))


@pytest.mark.parametrize("name", ("LazyConv2d", "LazyConvTranspose2d"))
def test_lazy_layers_become_convexts(name: str) -> None:
    torch.manual_seed(7)
    model = torch.nn.Sequential(getattr(torch.nn, name)(6, 3), torch.nn.LazyBatchNorm2d())
    convext.convert(model)
    assert type(model[0]) is getattr(convext.nn, name)
    convext.revert(model)
    assert type(model[0]) is getattr(torch.nn, name)
    convext.convert(model)
    assert model(torch.randn(2, 4, 8, 8)).shape[1] == 6
    assert type(model[0]) is getattr(convext.nn, name[4:]) and model[0].in_channels == 4
    twin = torch.nn.Sequential(getattr(torch.nn, name)(6, 3), torch.nn.LazyBatchNorm2d())
    convext.convert(twin).load_state_dict(model.state_dict())
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(twin.eval()(x), model.eval()(x))


def test_fusing_with_a_norm() -> None:
    model = convext.convert(net().eval())
    fused = torch.nn.utils.fuse_conv_bn_eval(model.stem, model.norm)
    assert type(fused) is convext.nn.Conv2d
    assert_close(fused(images()), model.norm(model.stem(images())))


# --- copies and files -------------------------------------------------------------------------------------------------


def test_copies_of_a_converted_model() -> None:
    model = convext.convert(net()).eval()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    for twin in copies:
        assert kinds(twin) == {"convext"} and twin.shared is twin.blocks[0]
        assert torch.equal(twin(images()), model(images()))
    assert kinds(convext.revert(copies[0])) == {"torch"} and kinds(model) == {"convext"}


def test_state_dict_goes_both_ways() -> None:
    model, twin = convext.convert(net()).eval(), net().eval()
    assert list(model.state_dict()) == list(twin.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert_close(model(images()), twin(images()), rtol=1e-11, atol=1e-12)
    model.load_state_dict(net().state_dict())
    assert_close(model(images()), net().eval()(images()), rtol=1e-11, atol=1e-12)


def test_formats_and_types() -> None:
    model = convext.convert(net()).eval()
    wanted = model(images())
    model.to(memory_format=torch.channels_last)
    x = images().contiguous(memory_format=torch.channels_last)
    assert model.stem(x).is_contiguous(memory_format=torch.channels_last)
    assert_close(model(x), wanted, rtol=1e-11, atol=1e-12)
    assert model.float()(x.float()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert model.stem(x.float()).dtype == torch.bfloat16
    assert model.to("meta")(x.to("meta", torch.float32)).shape == (2, 5)


def test_vmap_over_converted_models() -> None:
    def one(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.ConvTranspose2d(4, 2, 3)
        return convext.convert(torch.nn.Sequential(*layers).double())

    models, x = [one(seed) for seed in range(3)], images()
    state = torch.func.stack_module_state(models)
    y = torch.vmap(lambda *params: torch.func.functional_call(models[0], params, (x,)))(*state)
    assert_close(y, torch.stack([model(x) for model in models]), rtol=1e-11, atol=1e-12)
