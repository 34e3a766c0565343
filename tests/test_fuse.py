"""convext.fuse: what it finds in networks, what it must leave alone, and that results stay."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import convext
from convext import nn as cnn


def norm(channels: int, dims: int = 2) -> nn.Module:
    """Batch normalisation that has seen data."""
    layer = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels)
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.normal_(layer.bias)
    return layer


class Basic(nn.Module):
    """ResNet's basic block."""

    def __init__(self, c: int, k: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), norm(k)
        self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), norm(k)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), norm(k)) if c != k else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """ResNet's bottleneck, with convext's layers and functional activations."""

    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([cnn.Conv2d(c, k, 1), cnn.Conv2d(k, k, 3, padding="same"), cnn.Conv2d(k, c, 1)])
        self.norms = nn.ModuleList([norm(k), norm(k), norm(c)])

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.convs[0](x)))
        y = self.norms[1](self.convs[1](y)).relu()
        return torch.relu(torch.add(x, self.norms[2](self.convs[2](y))))


class Inverted(nn.Module):
    """MobileNetV2's block: its addition has no activation."""

    def __init__(self, c: int, k: int, stride: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        hidden = 3 * c
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(c, hidden, 1, bias=False), norm(hidden), act()),
            nn.Sequential(nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), norm(hidden), act()),
            nn.Conv2d(hidden, k, 1, bias=False),
            norm(k),
        )
        self.adds = stride == 1 and c == k

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.LeakyReLU(0.2))
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), norm(12), nn.SiLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(12, 8, 2, 2, groups=2), norm(8), nn.ReLU())
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return torch.sigmoid(self.last(torch.cat([skip, self.up(self.deep(skip))], 1)))


class Wave(nn.Module):
    """One axis, and a transposed convolution that is told its size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(4, 6, 3, dilation=2, padding=2, padding_mode="reflect"), norm(6, 1)
        self.up, self.bn2 = nn.ConvTranspose1d(6, 4, 3, 2), norm(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.bn(self.conv(x)))
        return F.gelu(self.bn2(self.up(y, [34])), approximate="tanh")


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(cnn.Conv3d(2, 3, 2, padding=(1, 0, (2, 1))), nn.Identity(), norm(3, 3), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def resnet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), norm(8), nn.ReLU(), Basic(8, 8), Basic(8, 12, 2), Bottleneck(12, 5))


def mobilenet(act: Callable[[], nn.Module] = nn.ReLU6) -> nn.Module:
    return nn.Sequential(Inverted(3, 8, 2, act), Inverted(8, 8, 1, act), Inverted(8, 10, 1, act))


# model, input shape, how many of its fused layers add, and their activations in the order of the layers
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, str]] = {
    "resnet": (resnet, (2, 3, 33, 30), 3, "relu relu relu relu none relu relu relu relu"),
    "mobilenetv2": (mobilenet, (2, 3, 32, 30), 1, "relu6 relu6 none relu6 relu6 none relu6 relu6 none"),
    "hardswish": (lambda: mobilenet(nn.Hardswish), (1, 3, 17, 19), 1, " ".join(3 * ["hardswish hardswish none"])),
    "unet": (UNet, (2, 3, 16, 20), 0, "leaky_relu silu relu sigmoid"),
    "wave": (Wave, (2, 4, 16), 0, "hardswish gelu_tanh"),
    "volume": (Volume, (2, 2, 4, 5, 6), 0, "relu6"),
}


def fused_layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if type(m).__name__.startswith("FusedConv")]


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("name", NETS)
def test_networks(name: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    make, shape, additions, activations = NETS[name]
    model = make().eval().to(dtype)
    x = torch.randn(shape, dtype=dtype)
    if len(shape) == 4:
        model, x = model.to(memory_format=layout), x.to(memory_format=layout)
    before = copy.deepcopy(model.state_dict())
    fused = convext.fuse(model)
    layers = fused_layers(fused)
    assert [layer.activation for layer in layers] == activations.split()
    assert sum(layer.add for layer in layers) == additions
    assert not any(
        isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Identity)) for m in fused.modules()
    )
    assert not any(p.requires_grad for p in fused.parameters()) and not fused.training
    for node in fused.graph.nodes:  # nothing is left to do after a convolution
        kind = type(fused.get_submodule(node.target)).__name__ if node.op == "call_module" else "Fused"
        assert kind.startswith("Fused") or kind == "MaxPool2d"
    with torch.no_grad():
        want, got = model(x), fused(x)
        assert got.shape == want.shape and got.stride() == want.stride()
        exact = copy.deepcopy(model).double()(x.double())
    # as near to float64 as the unfused model, within the spread of rounding errors
    assert gap(got.double(), exact) <= 4 * gap(want.double(), exact) + 2 * torch.finfo(dtype).eps
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("affine", (False, True))
def test_folding(transposed: bool, bias: bool, affine: bool) -> None:
    """Against torch's composition in float64; a float32 weight is the float64 one rounded once."""
    layer = nn.ConvTranspose2d if transposed else nn.Conv2d
    bn = norm(6) if affine else nn.BatchNorm2d(6, affine=False)
    model = nn.Sequential(layer(4, 6, 3, groups=2, bias=bias), bn).eval()
    double = copy.deepcopy(model).double()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    exact = convext.fuse(double)
    assert gap(exact(x), double(x).detach()) < 1e-14
    single = convext.fuse(model)
    assert all(torch.equal(a, b.float()) for a, b in zip(single.parameters(), exact.parameters(), strict=True))


class Net(nn.Module):
    """A convolution, its normalisation, and what `body` makes of them and of the input."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), norm(4)
        self.act = nn.ReLU(inplace=True)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def in_place_on_input(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    x = net.act(x)
    return y + x


def in_place_on_the_other(net: Any, x: Tensor) -> Tensor:
    other = x * 2
    y = net.conv(x)
    other += y
    return other * y.mean()


# what `body` computes -> activation, addition and whether normalisation is left
BODIES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, bool, bool]] = {
    "all of it": (lambda n, x: n.act(x + n.bn(n.conv(x))), "relu", True, False),
    "method add": (lambda n, x: n.bn(n.conv(x)).add(x).relu_(), "relu", True, False),
    "in place": (lambda n, x: n.bn(n.conv(x)).add_(x).sigmoid_(), "sigmoid", True, False),
    "keyword": (lambda n, x: torch.add(n.conv(x), other=x), "none", True, False),
    "broadcast": (lambda n, x: F.silu(n.conv(x) + x.mean((2, 3), keepdim=True)), "silu", True, False),
    "larger": (lambda n, x: F.silu(n.conv(x) + torch.stack([x, x])), "silu", True, False),
    "a number": (lambda n, x: F.relu(n.conv(x) + 1), "none", False, False),
    "alpha": (lambda n, x: F.relu(torch.add(n.conv(x), x, alpha=2)), "none", False, False),
    "itself": (lambda n, x: (lambda y: F.relu(y + y))(n.conv(x)), "none", False, False),
    "read twice": (lambda n, x: (lambda y: n.bn(y) + y.mean())(n.conv(x)), "none", False, True),
    "after the norm": (lambda n, x: (lambda y: F.relu(y) * y)(n.bn(n.conv(x))), "none", False, False),
    "activation first": (lambda n, x: F.relu(n.conv(x)) + x, "relu", False, False),
    "norm of the sum": (lambda n, x: n.bn(n.conv(x) + x), "none", True, True),
    "norm of the activation": (lambda n, x: n.bn(F.relu(n.conv(x))), "relu", False, True),
    "exact gelu": (lambda n, x: F.gelu(n.conv(x)), "none", False, False),
    "clamp": (lambda n, x: F.hardtanh(n.conv(x)), "none", False, False),
    "input changes in place": (in_place_on_input, "none", False, False),
    "the other changes in place": (in_place_on_the_other, "none", False, False),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_taken_and_what_is_left(name: str) -> None:
    body, activation, adds, norm_left = BODIES[name]
    model = Net(body).eval().double()
    fused = convext.fuse(model)
    (layer,) = fused_layers(fused)
    assert (layer.activation, layer.add) == (activation, adds)
    assert any(isinstance(m, nn.BatchNorm2d) for m in fused.modules()) == norm_left
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        want = model(x.clone())
        assert gap(fused(x.clone()), want) < 1e-13


def test_layers_that_are_called_twice() -> None:
    """One layer for equal calls; two where they differ in what follows."""

    def body(net: Any, x: Tensor) -> Tensor:
        y = net.act(net.bn(net.conv(x)))
        y = net.act(net.bn(net.conv(y)))
        return net.conv(y)

    model = Net(body).eval().double()
    fused = convext.fuse(model)
    assert sorted(layer.activation for layer in fused_layers(fused)) == ["none", "relu"]
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    assert gap(fused(x), model(x).detach()) < 1e-13


def test_hooks_subclasses_and_statistics_of_the_batch_are_left_alone() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hooked = nn.Conv2d(4, 4, 1)
    hooked.register_forward_hook(lambda module, args, y: y + 1)
    seen = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(Scaled(4, 4, 1), nn.ReLU(), hooked, nn.ReLU(), nn.Conv2d(4, 4, 1), seen).eval()
    x = torch.randn(2, 4, 5, 6)
    fused = convext.fuse(model)
    assert [layer.activation for layer in fused_layers(fused)] == ["none"]
    torch.testing.assert_close(fused(x), model(x))


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"eval"):
        convext.fuse(resnet())
    model = resnet().eval()
    model[3].bn2.train()
    with pytest.raises(RuntimeError, match=r"3\.bn2"):
        convext.fuse(model)
    with pytest.raises(TypeError, match="Module"):
        convext.fuse(torch.relu)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_traced_says_what_to_do() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = resnet()

        def forward(self, x: Tensor) -> Tensor:
            y = self.backbone(x)
            return y if y.sum() > 0 else -y

    model = Branching().eval()
    with pytest.raises(RuntimeError, match=r"Branching.*model\.backbone = convext\.fuse"):
        convext.fuse(model)
    x = torch.randn(1, 3, 20, 20)
    want = model(x).detach()
    model.backbone = convext.fuse(model.backbone)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


def test_the_fused_model_is_a_model() -> None:
    """repr, state_dict, pickle, copy, fusing again, gradients of the input."""
    model = resnet().eval()
    fused = convext.fuse(model)
    x = torch.randn(1, 3, 20, 20)
    want = fused(x)
    text = repr(fused)
    assert "activation=relu, add=True" in text and "BatchNorm" not in text
    other = convext.fuse(resnet().eval())
    other.load_state_dict(fused.state_dict())
    for again in (other, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), convext.fuse(fused)):
        assert torch.equal(again(x), want)
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), want)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(fused(x).sum(), x)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ("resnet", "unet"))
def test_compiled_and_exported(name: str) -> None:
    make, shape, _, _ = NETS[name]
    fused = convext.fuse(make().eval())
    x = torch.randn(shape)
    with torch.no_grad():
        want = fused(x)
        torch._dynamo.reset()
        compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), want)
        torch.testing.assert_close(compiled(torch.cat([x, x]))[: len(x)], want)
        exported = torch.export.export(fused, (x,))
        torch.testing.assert_close(exported.module()(x), want)
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert "convext.conv_fused.default" in called
    assert not any("relu" in target or "conv_fprop" in target for target in called)
    assert isinstance(fused, fx.GraphModule)
