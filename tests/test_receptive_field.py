"""The receptive field that explain follows through a model, against where gradients of the model itself arrive."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convext
from convext.inspect.dataflow import Dataflow
from convext.inspect.receptive_field import Axis, Field, resized, shifted, spread, windows

CF, C = convext.functional, convext.nn


class Net(nn.Module):
    """A function of the image and of modules with weights of one half, so that nothing cancels."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)
        for p in self.parameters():
            nn.init.constant_(p, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def chain(*modules: nn.Module) -> Net:
    return Net(lambda x, *parts: nn.Sequential(*parts)(x), *modules)


def field_of(net: nn.Module, x: Tensor) -> Field:
    flow = Dataflow()
    flow.begin(x)
    with torch.no_grad(), flow:
        field = flow.field(net(x))
    assert field is not None
    return field


def reached(net: nn.Module, x: Tensor, dim: int, axis: int) -> list[tuple[int, int] | None]:
    """For each element of the output along `dim` the first and last of the input along `axis` that it depends on."""
    x = x.clone().requires_grad_()
    y, found = net(x), []
    for o in range(y.shape[dim]):
        (g,) = torch.autograd.grad(y.select(dim, o).sum(), x, retain_graph=True)
        places = (g != 0).movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        found.append((places[0], places[-1]) if places else None)
    return found


def check(net: nn.Module, size: tuple[int, ...], first: int = 2) -> None:
    """Every element sees exactly what its gradient reaches, but for what lies in the padding."""
    x = torch.rand(size, dtype=torch.float64) + 0.5
    net = net.double()
    field = field_of(net, x)
    for axis in range(first, len(size)):
        seen = field.seen[axis]
        assert seen.dim is not None and seen.axis is not None, (axis, field)
        for o, interval in enumerate(reached(net, x, seen.dim, axis)):
            low, high = seen.axis.at(seen.element(o))
            said = (max(low, 0), min(high, size[axis] - 1))
            assert interval is None or interval == said, (axis, o, interval, seen)


def unet(m: Any) -> Net:
    def function(x: Tensor, a: Any, b: Any, c: Any, up1: Any, d: Any, up2: Any, e: Any, pool: Any) -> Tensor:
        top = a(x)
        middle = b(pool(top))
        y = d(torch.cat([up1(c(pool(middle))), middle], 1))
        return e(torch.cat([up2(y), top], 1))

    return Net(
        function,
        m.Conv2d(2, 2, 3, padding=1),
        m.Conv2d(2, 3, 3, padding=1),
        m.Conv2d(3, 4, 3, padding=1),
        m.ConvTranspose2d(4, 3, 2, stride=2),
        m.Conv2d(6, 3, 3, padding=1),
        m.ConvTranspose2d(3, 2, 4, stride=2, padding=1),
        m.Conv2d(4, 1, 3, padding=1),
        m.AvgPool2d(2),
    )


IMAGE = (1, 2, 24, 20)

# of torch.nn and of convext.nn alike
NETS: dict[str, tuple[Callable[[Any], nn.Module], tuple[int, ...]]] = {
    "U-Net": (unet, IMAGE),
    "dilated and pooled": (lambda m: chain(m.Conv2d(2, 2, 3, dilation=2, padding=2), m.AvgPool2d(3, 2, 1)), IMAGE),
    "strided there and back": (
        lambda m: chain(
            m.Conv2d(2, 2, 3, stride=2, padding=1),
            m.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1),
            m.Conv2d(2, 2, 2),
        ),
        IMAGE,
    ),
    "transposed, stride beyond the kernel": (
        lambda m: chain(m.ConvTranspose2d(2, 2, 1, stride=2), m.Conv2d(2, 2, 3, stride=3)),
        IMAGE,
    ),
    "adaptive": (lambda m: chain(m.Conv2d(2, 2, 3), m.AdaptiveAvgPool2d((5, 7))), IMAGE),
    "reflected": (lambda m: chain(m.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), IMAGE),
    "1-D": (lambda m: chain(m.Conv1d(2, 2, 3, dilation=4), m.AvgPool1d(2), m.Conv1d(2, 1, 5)), (1, 2, 60)),
    "3-D": (lambda m: chain(m.Conv3d(2, 2, (1, 3, 3)), m.AvgPool3d(2)), (1, 2, 6, 8, 9)),
    "Lp": (lambda m: chain(m.LPPool2d(3, 2), m.LPPool2d(2, 2)), IMAGE),
    "response norm": (lambda m: chain(m.Conv2d(2, 4, 3), m.LocalResponseNorm(3), m.Conv2d(4, 2, 3)), IMAGE),
}


@pytest.mark.parametrize("module", (nn, C), ids=("torch", "convext"))
@pytest.mark.parametrize("name", NETS)
def test_layers(name: str, module: Any) -> None:
    make, size = NETS[name]
    check(make(module), size)


def test_an_image_without_batch() -> None:
    check(chain(C.Conv2d(2, 2, 3), nn.AvgPool2d(2)), (2, 12, 10), first=1)


@pytest.mark.parametrize(
    "layer",
    (
        C.LocallyConnected2d(2, 3, (22, 18), 3, stride=2),
        C.StochasticPool2d(3, 2).eval(),
        C.Maxout(2),
        C.AvgPool2d(2, dilation=3),
    ),
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_torch_lacks(layer: nn.Module) -> None:
    check(chain(nn.Conv2d(2, 2, 3), layer), IMAGE)


def test_a_pooling_that_draws_and_one_that_takes_the_least() -> None:
    net = chain(C.StochasticPool2d(3, 2), C.MinPool2d(2))
    assert [seen.axis and seen.axis.size for seen in field_of(net, torch.rand(IMAGE)).seen[2:]] == [5, 5]


def test_convexts_padding() -> None:
    check(chain(C.Conv2d(2, 2, 4, stride=2, padding="same"), C.ConvTranspose2d(2, 2, 3, 2, padding="causal")), IMAGE)


def written_in_parts(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    y = x.new_empty(1, 4, 20, 16)
    y[:, :2] = a(x)
    y[:, 2:] = b(x)[..., 1:-1, 1:-1]
    return y


def patches(x: Tensor, embed: nn.Module, linear: nn.Module, conv: nn.Module) -> Tensor:
    tokens = linear(embed(x).flatten(2).transpose(1, 2))
    return conv(tokens.transpose(1, 2).reshape(1, 3, 12, 10))


def depth_to_space(x: Tensor, conv: nn.Module, after: nn.Module) -> Tensor:
    y = conv(x).view(1, 2, 2, 2, 22, 18).permute(0, 1, 4, 2, 5, 3)
    return after(y.reshape(1, 2, 44, 36))


ONES = torch.ones(3, 2, dtype=torch.float64)
FUNCTIONS: dict[str, Net] = {
    "residual, cropped": Net(
        lambda x, a, b: x.narrow(2, 2, 20)[..., 2:-2] + a(x) + b(x)[:, :, 1:-1, 1:-1],
        nn.Conv2d(2, 2, 5),
        nn.Conv2d(2, 2, 3),
    ),
    "dense": Net(
        lambda x, a, b: torch.cat([x, a(x), b(torch.cat([x, a(x)], 1))], 1),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(4, 2, 3, padding=1),
    ),
    "in place": Net(
        lambda x, a, b: torch.cat([F.silu(a(x)).mul_(2).add_(1), b(x)[..., 1:-1, 1:-1]], 1),
        nn.Conv2d(2, 2, 5),
        nn.Conv2d(2, 2, 3),
    ),
    "written in parts": Net(written_in_parts, nn.Conv2d(2, 2, 5), nn.Conv2d(2, 2, 3)),
    "channel shuffle": Net(
        lambda x, a: a(x.view(1, 2, 1, 24, 20).transpose(1, 2).reshape(1, 2, 24, 20)), nn.Conv2d(2, 2, 3)
    ),
    "channels last, linear": Net(
        lambda x, a, b: b(a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Conv2d(2, 2, 5), nn.Linear(2, 3)
    ),
    "patches and back": Net(patches, nn.Conv2d(2, 4, 2, 2), nn.Linear(4, 3), nn.Conv2d(3, 1, 3, padding=1)),
    "einsum": Net(lambda x, a: torch.einsum("nchw,kc->nkhw", a(x), ONES), nn.Conv2d(2, 2, 3)),
    "im2col": Net(lambda x: (torch.ones(3, 18).to(x) @ F.unfold(x, 3, stride=2)).view(1, 3, 11, 9)),
    "convext's im2col": Net(
        lambda x: (torch.ones(3, 18).to(x) @ CF.unfold(x, 3, padding="same", stride=2)).view(1, 3, 12, 10)
    ),
    "columns": Net(lambda x: F.unfold(x, 3)),
    "depth to space": Net(depth_to_space, nn.Conv2d(2, 8, 3), nn.Conv2d(2, 1, 3)),
    "pixel shuffle": Net(lambda x, a, b: b(F.pixel_shuffle(a(x), 2)), nn.Conv2d(2, 8, 3), nn.Conv2d(2, 1, 3)),
    "pixel unshuffle": Net(lambda x, a: a(F.pixel_unshuffle(x, 2)), nn.Conv2d(8, 1, 3)),
    "every second pixel": Net(
        lambda x, a: a(torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2]], 1)), nn.Conv2d(6, 1, 3)
    ),
    "windows by Tensor.unfold": Net(lambda x, a: a(x.unfold(2, 3, 2).sum(-1)), nn.Conv2d(2, 2, 3)),
    "halves, one field": Net(lambda x, a: torch.cat([a(part) for part in x.chunk(2, 1)], 1), nn.Conv2d(1, 2, 3)),
    "nearest": Net(lambda x, a: a(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)), nn.Conv2d(2, 2, 3, padding=1)),
    "nearest-exact": Net(lambda x: F.interpolate(x, (15, 13), mode="nearest-exact")),
    "bilinear": Net(
        lambda x, a: a(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")), nn.Conv2d(2, 1, 3)
    ),
    "bilinear, corners aligned": Net(lambda x: F.interpolate(x, (47, 31), mode="bilinear", align_corners=True)),
    "bilinear, antialiased": Net(lambda x: F.interpolate(x, (9, 10), mode="bilinear", antialias=True)),
    "bicubic": Net(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    "some channels": Net(lambda x, a: a(x)[:, [2, 0]].repeat(1, 2, 1, 1), nn.Conv2d(2, 3, 3)),
    "padded": Net(lambda x: F.pad(x, (1, 2, 3, 0))[..., 1:, :-1]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    check(FUNCTIONS[name], IMAGE)


def test_a_pyramid_of_odd_sizes() -> None:
    """23 pixels to 12 and back to 23: the fields of neighbours are no regular distance apart, and all are right."""
    net = Net(
        lambda x, a, b: F.interpolate(b(x), size=x.shape[2:]) + a(x),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 3, stride=2, padding=1),
    )
    check(net, (1, 2, 23, 19))


WHOLE = {
    "flattened": Net(lambda x, a: a(x.flatten(1)), nn.Linear(960, 3)),
    "global average": Net(lambda x: x.mean((2, 3))),
    "squeeze and excite": Net(lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid()),
    "attention": Net(lambda x: (lambda t: F.scaled_dot_product_attention(t, t, t))(x.flatten(2).transpose(1, 2))),
    "recurrent": Net(lambda x, a: a(x.flatten(2))[0], nn.LSTM(480, 4, batch_first=True)),
    "an operator of nobody here": Net(lambda x: torch.fft.fft2(x).abs()),
    "reversed": Net(lambda x: x.flip(2, 3)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_everything_is_seen(name: str) -> None:
    x = torch.rand(IMAGE)
    assert [seen.axis for seen in field_of(WHOLE[name], x).seen[2:]] == [None, None]


def test_statistics_of_normalisations_do_not_count() -> None:
    net = chain(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Softmax2d())
    assert [seen.axis and seen.axis.size for seen in field_of(net, torch.rand(IMAGE)).seen[2:]] == [3, 3]


ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Identity,
    nn.Dropout,
    nn.AlphaDropout,
    nn.Dropout2d,
)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_see_what_they_are_given(kind: type[nn.Module]) -> None:
    field = field_of(chain(nn.Conv2d(2, 4, 3), kind()), torch.rand(IMAGE))
    assert [seen.axis and seen.axis.size for seen in field.seen[2:]] == [3, 3]


def test_what_does_not_depend_on_the_input() -> None:
    flow = Dataflow()
    x = torch.rand(IMAGE)
    flow.begin(x)
    with torch.no_grad(), flow:
        for y in (torch.ones(3), torch.zeros_like(x), x.new_empty(5), torch.empty_like(x).bernoulli_()):
            assert flow.field(y) is None
        assert flow.field((x * torch.ones_like(x)).unsqueeze(0)) is not None


@pytest.mark.parametrize(
    ("reads", "size", "jump"),
    [
        ([windows(3)] * 5, 11, 1),  # 1 + L (K - 1)
        ([windows(7, 2, 3), windows(3, 2, 1)], 11, 4),
        ([windows(3, dilation=2), windows(3, dilation=4)], 13, 1),
        ([windows(2, 2), spread(2, 2)], 2, 1),
        ([spread(2, 2), windows(3)], 2, Fraction(1, 2)),
        ([spread(3, 2), windows(2, 2)], 2, 1),
        ([windows(2, 2), resized(8, 16, "linear")], 4, 1),
        ([shifted(3), windows(5)], 5, 1),
    ],
)
def test_sizes_and_jumps(reads: list[Any], size: int, jump: Any) -> None:
    axis = Axis()
    for read in reads:
        axis = axis.read(read)
    assert (axis.size, axis.jump) == (size, jump)
