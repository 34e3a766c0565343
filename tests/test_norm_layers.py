"""Local contrast normalisation and the locally connected layers: by definition, gradients, transforms, errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convext
import convext.functional as CF
from convext import ops
from tests.norm_case import FLOATS
from tests.reference import TOLERANCE, error

nn = convext.nn


# --- local contrast normalisation -------------------------------------------------------------------------------------


def contrast_norm(x: Tensor, kernel: tuple[int, ...], sigma: float, eps: float) -> Tensor:
    """Pixel by pixel, in float64, over the part of the window that lies in the image."""
    x = x.double()
    n, c = x.shape[:2]
    pixels = list(itertools.product(*map(range, x.shape[2:])))
    weights = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    for (i, p), (j, q) in itertools.product(enumerate(pixels), enumerate(pixels)):
        away = [b - a for a, b in zip(p, q, strict=True)]
        if all(abs(d) <= k // 2 for d, k in zip(away, kernel, strict=True)):
            weights[i, j] = torch.tensor(-sum(d * d for d in away) / (2 * sigma**2), dtype=torch.float64).exp()
    weights /= weights.sum(1, keepdim=True) * c
    v = x - torch.einsum("ij,ncj->ni", weights, x.flatten(2)).view(n, 1, *x.shape[2:])
    deviation = torch.einsum("ij,ncj->ni", weights, v.flatten(2) ** 2).sqrt()
    least = deviation.mean(1, keepdim=True).clamp(min=eps)
    return v / torch.maximum(deviation, least).view(n, 1, *x.shape[2:])


@pytest.mark.parametrize(
    ("size", "kernel", "sigma"),
    (
        ((2, 3, 9, 8), (5, 5), 1.25),
        ((1, 1, 7, 9), (3, 7), 0.8),
        ((2, 4, 11), (5,), 2.0),
        ((1, 2, 4, 5, 3), (3, 3, 3), 1.0),
    ),
    ids=str,
)
def test_contrast_norm_by_definition(size: tuple[int, ...], kernel: tuple[int, ...], sigma: float, isa: str) -> None:
    x = torch.randn(size, dtype=torch.float64) * 3 + 5
    wanted = contrast_norm(x, kernel, sigma, 1e-4)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        narrow = x.to(dtype)
        y = CF.local_contrast_norm(narrow, kernel, sigma)
        assert y.dtype is dtype
        assert error(y, contrast_norm(narrow, kernel, sigma, 1e-4) if dtype is torch.bfloat16 else wanted) < tolerance


def test_contrast_norm_takes_brightness_and_contrast_away() -> None:
    """Away from a flat image, the result is the same for every gain and offset."""
    x = torch.randn(2, 3, 12, 13, dtype=torch.float64)
    y = CF.local_contrast_norm(x, 5)
    torch.testing.assert_close(CF.local_contrast_norm(7 * x + 100, 5), y)
    flat = torch.full((1, 3, 9, 9), 5.0, requires_grad=True)
    z = CF.local_contrast_norm(flat, 5)
    assert z.abs().max() < 0.1
    (g,) = torch.autograd.grad(z.sum(), flat)
    assert g.isfinite().all()


def test_contrast_norm_gradients_and_transforms() -> None:
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)

    def f(t: Tensor) -> Tensor:
        return CF.local_contrast_norm(t, 3, 1.0)

    assert gradcheck(f, x, check_forward_ad=True)
    assert gradgradcheck(f, x)
    batches = torch.randn(3, 2, 2, 5, 4)
    torch.testing.assert_close(torch.vmap(f)(batches), torch.stack([f(t) for t in batches]))
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batches[0]), f(batches[0]))


def test_contrast_norm_bits(threads: None) -> None:
    x = torch.randn(3, 4, 40, 41)
    torch.set_num_threads(1)
    alone = CF.local_contrast_norm(x)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        assert torch.equal(CF.local_contrast_norm(x), alone)
        assert torch.equal(CF.local_contrast_norm(x[1:2])[0], alone[1])


def test_contrast_norm_layer() -> None:
    layer = nn.LocalContrastNorm(7, sigma=1.5)
    assert repr(layer) == "LocalContrastNorm(kernel_size=7, sigma=1.5, eps=0.0001)"
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(layer(x), CF.local_contrast_norm(x, 7, 1.5))
    assert CF.local_contrast_norm(x[:0]).shape == (0, 3, 9, 9)


# --- the product at each position -------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", (1, 7, 16, 255, 257, 600))
@pytest.mark.parametrize("depth", (0, 1, 4, 5, 27))
def test_position_product(depth: int, positions: int, isa: str) -> None:
    for rows, columns in ((1, 1), (4, 4), (2, 9), (7, 3)):
        a, b = torch.randn(rows, depth, positions), torch.randn(columns, depth, positions)
        for dtype in FLOATS:
            x, w = a.to(dtype), b.to(dtype)
            wanted = torch.einsum("irp,jrp->ijp", x.double(), w.double())
            scale = torch.einsum("irp,jrp->ijp", x.double().abs(), w.double().abs()).norm()
            for left, right in ((x, w), (x.movedim(2, 0).contiguous().movedim(0, 2), w.mT.contiguous().mT)):
                y = ops.position_product(left, right)
                assert y.dtype is dtype and y.shape == wanted.shape
                assert (y.double() - wanted).norm() <= TOLERANCE[dtype] * scale


def test_position_product_gradients() -> None:
    a, b = (torch.randn(n, 3, 5, dtype=torch.float64, requires_grad=True) for n in (2, 4))
    assert gradcheck(ops.position_product, (a, b), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(ops.position_product, (a, b), check_fwd_over_rev=True, check_batched_grad=True)
    torch.library.opcheck(torch.ops.convext.position_product.default, (a, b))
    x, w = torch.randn(6, 2, 3, 5), torch.randn(6, 4, 3, 5)
    for dims, args in (
        ((0, 0), (x, w)),
        ((0, None), (x, w[0])),
        ((None, 0), (x[0], w)),
        ((2, 1), (x.movedim(0, 2), w.movedim(0, 1))),
    ):
        y = torch.vmap(ops.position_product, in_dims=dims)(*args)
        wanted = torch.einsum(
            "birp,bjrp->bijp",
            x if dims[0] is not None else x[:1].expand_as(x),
            w if dims[1] is not None else w[:1].expand_as(w),
        )
        torch.testing.assert_close(y, wanted)


def test_position_product_bits(isa: str, threads: None) -> None:
    for dtype in FLOATS:
        a, b = torch.randn(6, 30, 700).to(dtype), torch.randn(13, 30, 700).to(dtype)
        torch.set_num_threads(1)
        alone = ops.position_product(a, b)
        for count in (2, 3, 7):
            torch.set_num_threads(count)
            assert torch.equal(ops.position_product(a, b), alone)
            assert torch.equal(ops.position_product(a[2:3], b)[0], alone[2])


# --- locally connected layers -----------------------------------------------------------------------------------------


def by_definition(layer: Any, x: Tensor) -> Tensor:
    """Every output pixel is one convolution by its own kernel, of which that pixel is kept."""
    conv = {1: CF.conv1d, 2: CF.conv2d, 3: CF.conv3d}[len(layer.kernel_size)]
    outputs = []
    for at in itertools.product(*map(range, layer.output_size)):
        y = conv(x, layer.weight[(..., *at)], None, layer.stride, layer.padding, layer.dilation)[(..., *at)]
        outputs.append(y if layer.bias is None else y + layer.bias[(..., *at)])
    return torch.stack(outputs, -1).unflatten(-1, layer.output_size)


LAYERS: dict[str, Callable[..., Any]] = {
    "1d": lambda **k: nn.LocallyConnected1d(3, 4, 9, 3, **k),
    "1d, strided": lambda **k: nn.LocallyConnected1d(3, 4, 9, 2, stride=2, padding="same", bias=False, **k),
    "2d": lambda **k: nn.LocallyConnected2d(2, 3, (6, 5), 3, padding=1, **k),
    "2d, dilated": lambda **k: nn.LocallyConnected2d(2, 5, (7, 6), (2, 3), (1, 2), ((1, 0), (0, 2)), (2, 1), **k),
    "3d": lambda **k: nn.LocallyConnected3d(2, 3, (4, 3, 5), (2, 1, 3), **k),
}


@pytest.mark.parametrize("name", LAYERS)
def test_locally_connected_by_definition(name: str) -> None:
    layer = LAYERS[name](dtype=torch.float64)
    x = torch.randn(3, layer.in_channels, *layer.input_size, dtype=torch.float64)
    wanted = by_definition(layer, x)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x[0]), wanted[0])
    parameters = list(layer.parameters())
    x.requires_grad_()
    g = torch.randn_like(wanted)
    ours = torch.autograd.grad(layer(x), (x, *parameters), g)
    theirs = torch.autograd.grad(by_definition(layer, x), (x, *parameters), g)
    torch.testing.assert_close(ours, theirs)
    assert layer(x[:0]).shape == (0, *wanted.shape[1:])


@pytest.mark.parametrize("name", ("1d", "2d"))
def test_locally_connected_gradients_and_transforms(name: str) -> None:
    layer = LAYERS[name](dtype=torch.float64)
    x = torch.randn(2, layer.in_channels, *layer.input_size, dtype=torch.float64, requires_grad=True)
    settings = (layer.stride, layer.padding, layer.dilation)

    def f(*tensors: Tensor) -> Tensor:
        return CF.locally_connected(*tensors, *settings)

    inputs = (x, layer.weight, layer.bias)
    assert gradcheck(f, inputs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(f, inputs, check_fwd_over_rev=True, fast_mode=True)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, parameters, (x,))
        return y.pow(2).sum()

    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.detach())
    for i in range(2):
        for key, g in torch.func.grad(loss)(parameters, x[i].detach()).items():
            torch.testing.assert_close(per_sample[key][i], g)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_locally_connected_textbook_numbers() -> None:
    """200 x 200 pixels, 40 thousand units with 10 x 10 fields of their own: 4 million weights, not 100."""
    layer = nn.LocallyConnected2d(1, 1, 200, 10, padding="same", bias=False)
    assert layer(torch.zeros(1, 1, 200, 200)).numel() == 40_000
    assert sum(p.numel() for p in layer.parameters()) == 4_000_000
    assert sum(p.numel() for p in nn.Conv2d(1, 1, 10, padding="same", bias=False).parameters()) == 100


def test_equal_kernels_are_a_convolution(isa: str) -> None:
    w, x = torch.randn(6, 3, 3, 3), torch.randn(2, 3, 20, 21)
    weight = w[..., None, None].expand(6, 3, 3, 3, 20, 21)
    y = CF.locally_connected(x, weight, padding=1)
    assert error(y, F.conv2d(x.double(), w.double(), padding=1)) < 1e-6


def test_locally_connected_autocast() -> None:
    layer = LAYERS["2d"]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 2, 6, 5)).dtype is torch.bfloat16


def test_locally_connected_text() -> None:
    assert repr(LAYERS["2d, dilated"](bias=False)) == (
        "LocallyConnected2d(2, 5, input_size=(7, 6), kernel_size=(2, 3), stride=(1, 2), padding=((1, 0), (0, 2)), "
        "dilation=(2, 1), bias=False)"
    )
    assert repr(nn.LocallyConnected1d(3, 4, 9, 3)) == (
        "LocallyConnected1d(3, 4, input_size=(9,), kernel_size=(3,), stride=(1,))"
    )


X, W = torch.ones(2, 3, 6, 5), torch.ones(4, 3, 2, 2, 5, 4)
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "contrast: a list": (lambda: CF.local_contrast_norm([1.0]), TypeError),  # type: ignore[arg-type]
    "contrast: rank": (lambda: CF.local_contrast_norm(X[0]), RuntimeError),
    "contrast: even": (lambda: CF.local_contrast_norm(X, 4), ValueError),
    "contrast: sigma 0": (lambda: CF.local_contrast_norm(X, 3, 0.0), ValueError),
    "contrast: sigma a string": (lambda: CF.local_contrast_norm(X, 3, "1"), TypeError),  # type: ignore[arg-type]
    "contrast: integers": (lambda: CF.local_contrast_norm(X.long(), 3), NotImplementedError),
    "connected: a list": (lambda: CF.locally_connected([1.0], W), TypeError),  # type: ignore[arg-type]
    "connected: type": (lambda: CF.locally_connected(X, W.double()), RuntimeError),
    "connected: device": (lambda: CF.locally_connected(X, W.to("meta")), RuntimeError),
    "connected: integers": (lambda: CF.locally_connected(X.long(), W.long()), NotImplementedError),
    "connected: channels": (lambda: CF.locally_connected(X[:, :2], W), RuntimeError),
    "connected: weight's rank": (lambda: CF.locally_connected(X, W[0]), RuntimeError),
    "connected: input's rank": (lambda: CF.locally_connected(X[0, 0], W), RuntimeError),
    "connected: output": (lambda: CF.locally_connected(X, W, padding=1), RuntimeError),
    "connected: bias": (lambda: CF.locally_connected(X, W, torch.ones(4)), RuntimeError),
    "layer: input": (lambda: nn.LocallyConnected2d(3, 4, 6, 3)(X), RuntimeError),
    "layer: kernel": (lambda: nn.LocallyConnected2d(3, 4, 6, 7), ValueError),
    "layer: stride": (lambda: nn.LocallyConnected2d(3, 4, 6, 3, 0), ValueError),
    "layer: size": (lambda: nn.LocallyConnected2d(3, 4, (6, 6, 6), 3), RuntimeError),
}


@pytest.mark.parametrize(("call", "kind"), ERRORS.values(), ids=ERRORS)
def test_errors(call: Callable[[], Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"expected .* got ") as caught:
        call()
    assert caught.type is kind


@pytest.mark.parametrize(
    "call",
    (
        lambda op: op.local_response_norm(X, 0, 1.0, 0.75, 1.0),
        lambda op: op.local_response_norm(X.long(), 3, 1.0, 0.75, 1.0),
        lambda op: op.local_response_norm(X[0, 0, 0], 3, 1.0, 0.75, 1.0),
        lambda op: op.local_response_norm_backward(X[:1], X, 3, 1.0, 0.75, 1.0),
        lambda op: op.local_response_norm_backward(X.double(), X, 3, 1.0, 0.75, 1.0),
        lambda op: op.position_product(X[0], X[0, :, :4]),
        lambda op: op.position_product(X, X),
        lambda op: op.position_product(X[0], X[0].double()),
    ),
)
def test_operators_assert_before_touching_memory(call: Callable[[Any], Any]) -> None:
    with pytest.raises(RuntimeError):
        call(torch.ops.convext)
