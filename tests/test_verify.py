"""convext.verify: every layer of a model against float64, on its own inputs, with the model left as it is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convext
from convext.inspect import layers


def image(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size).to(dtype)


# of torch.nn and of convext.nn alike: (layer, input size)
LAYERS: list[tuple[Callable[[Any], nn.Module], tuple[int, ...]]] = [
    (lambda m: m.Conv1d(4, 6, 3, padding=1), (2, 4, 20)),
    (lambda m: m.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 8)),
    (lambda m: m.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (2, 4, 9, 8)),
    (lambda m: m.Conv2d(4, 4, 4, padding="same", bias=False), (4, 9, 8)),
    (lambda m: m.Conv3d(2, 3, 3, dilation=2), (1, 2, 7, 6, 5)),
    (lambda m: m.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 9)),
    (lambda m: m.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 8)),
    (lambda m: m.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 4, 3, 5)),
    (lambda m: m.MaxPool1d(3, 2), (2, 4, 20)),
    (lambda m: m.MaxPool2d(3, 2, padding=1, return_indices=True), (2, 4, 9, 8)),
    (lambda m: m.MaxPool3d(2, ceil_mode=True), (1, 2, 5, 6, 7)),
    (lambda m: m.AvgPool1d(3), (2, 4, 20)),
    (lambda m: m.AvgPool2d(3, count_include_pad=False, padding=1), (2, 4, 9, 8)),
    (lambda m: m.AvgPool3d(2), (1, 2, 4, 6, 8)),
    (lambda m: m.AdaptiveMaxPool2d((3, 2)), (2, 4, 9, 8)),
    (lambda m: m.AdaptiveAvgPool1d(3), (2, 4, 20)),
    (lambda m: m.AdaptiveAvgPool2d(1), (2, 4, 9, 8)),
    (lambda m: m.AdaptiveAvgPool3d(2), (1, 2, 4, 6, 8)),
    (lambda m: m.LPPool2d(2, 3), (2, 4, 9, 8)),
    (lambda m: m.FractionalMaxPool2d(2, output_size=4), (2, 4, 9, 8)),
    (lambda m: m.LocalResponseNorm(3), (2, 4, 9, 8)),
    (lambda m: m.Unfold(3, padding=1), (2, 4, 9, 8)),
    (lambda m: m.Fold((9, 8), 3), (2, 36, 42)),
]


@pytest.mark.parametrize("module", (nn, convext.nn), ids=("torch", "convext"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize(("make", "size"), LAYERS, ids=lambda v: type(v(nn)).__name__ if callable(v) else None)
def test_every_layer(
    make: Callable[[ModuleType], nn.Module], size: tuple[int, ...], dtype: torch.dtype, module: ModuleType
) -> None:
    layer = make(module).to(dtype)
    x = image(*size, dtype=dtype)
    if module is nn and dtype is torch.bfloat16:
        try:
            layer(x)
        except (NotImplementedError, RuntimeError):
            pytest.skip("torch has no such layer of this type")
    report = convext.verify(layer, x, gradients=True)
    (row,) = report.rows
    assert report.ok, str(report)
    assert row.name == row.type == type(layer).__name__ and row.call == 1 and row.dtype is dtype
    output = layer(x)
    assert row.output_size == (output[0] if isinstance(output, tuple) else output).shape
    assert row.output.bound == {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 8e-3}[dtype]
    assert row.input_gradient is not None
    assert (row.weight_gradient is not None) == hasattr(layer, "weight")
    if dtype is not torch.bfloat16:  # torch has no local response normalisation of this type
        assert row.output.torch is not None and row.output.torch <= row.output.bound


class Net(nn.Module):
    """Layers, functions, a branch, in-place operations, a layer that is called twice."""

    def __init__(self, m: ModuleType, f: Any) -> None:
        super().__init__()
        self.f = f
        self.first = m.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.twice = m.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        x = self.norm(self.first(x)).relu_()
        x = x + self.twice(self.twice(x).relu_())
        x = self.drop(self.f.max_pool2d(x, 2))
        if scale is not None:
            x.mul_(scale)
        return {"scores": self.head(self.f.adaptive_avg_pool2d(x, 1).flatten(1))}


@pytest.mark.parametrize(("module", "functions"), [(nn, F), (convext.nn, convext.functional)], ids=("torch", "convext"))
def test_rows_of_a_model(module: ModuleType, functions: Any) -> None:
    report = convext.verify(Net(module, functions), image(2, 3, 8, 8), scale=torch.tensor(2.0))
    assert [(row.name, row.type, row.call) for row in report.rows] == [
        ("first", "Conv2d", 1),
        ("twice", "Conv2d", 1),
        ("twice", "Conv2d", 2),
        ("max_pool2d", "max_pool2d", 1),
        ("adaptive_avg_pool2d", "adaptive_avg_pool2d", 1),
    ]
    assert report.ok and not report.failures
    assert all(row.input_gradient is None and row.weight_gradient is None for row in report.rows)
    assert "twice (2)" in str(report) and "FAIL" not in str(report)


def test_a_subclass_with_a_forward_of_its_own() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(input, weight, self.bias, self.stride, self.padding)

    report = convext.verify(nn.Sequential(nn.ReLU(), Standardised(3, 4, 3)), image(1, 3, 8, 8))
    assert [(row.name, row.type) for row in report.rows] == [("1", "Standardised")] and report.ok


def test_the_model_stays_as_it_is() -> None:
    model = Net(convext.nn, convext.functional)
    model.twice.register_forward_hook(lambda *_: None)
    model({"x": image(2, 3, 8, 8)}["x"])["scores"].sum().backward()
    before = {k: (v, v.clone(), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    hooks = [list(m._forward_hooks) + list(m._forward_pre_hooks) for m in model.modules()]
    anywhere = nn.modules.module
    states = torch.get_rng_state(), random.getstate()
    x = image(2, 3, 8, 8)
    torch.set_rng_state(states[0])
    kept = x.clone()
    assert convext.verify(model, x, gradients=True).ok
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert torch.equal(x, kept) and x.grad is None
    assert all(m.training for m in model.modules())
    for key, value in model.state_dict(keep_vars=True).items():
        old, copy, version = before[key]
        assert value is old and value._version == version and torch.equal(value, copy), key
    assert len(gradients) == len(list(model.parameters()))
    for (gradient, copy), p in zip(gradients, model.parameters(), strict=True):
        assert p.grad is gradient and torch.equal(gradient, copy)
    assert hooks == [list(m._forward_hooks) + list(m._forward_pre_hooks) for m in model.modules()]
    assert not anywhere._global_forward_hooks and not anywhere._global_forward_pre_hooks
    assert torch.is_grad_enabled()


def test_the_models_own_error_comes_through_and_nothing_is_left_behind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 2))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        convext.verify(model, image(1, 3, 8, 8))
    assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks


def test_arguments() -> None:
    with pytest.raises(TypeError, match=r"verify: expected model to be a torch\.nn\.Module, got function"):
        convext.verify(lambda x: x, image(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="verify: expected gradients to be a bool, got int"):
        convext.verify(nn.ReLU(), image(1), gradients=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a model that has seen an input once, got 0\.weight without a size"):
        convext.verify(nn.Sequential(nn.LazyConv2d(4, 3)), image(1, 3, 8, 8))
    with pytest.raises(ValueError, match="expected a model on the CPU, got a tensor on meta"), torch.device("meta"):
        convext.verify(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8))
    report = convext.verify(nn.Linear(3, 2), image(1, 3))
    assert report.ok and report.rows == () and "no convolution" in str(report)


def test_equal_runs_give_equal_reports_and_the_model_draws_as_alone() -> None:
    net = nn.Sequential(convext.nn.Conv2d(3, 4, 3), nn.Dropout(), convext.nn.AvgPool2d(2))
    x = image(1, 3, 9, 9)
    assert convext.verify(net, x, gradients=True) == convext.verify(net, x, gradients=True)
    state = torch.get_rng_state()
    alone = net(x)
    kept: list[Tensor] = []
    handle = net.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    torch.set_rng_state(state)
    convext.verify(net, x, gradients=True)
    handle.remove()
    assert torch.equal(kept[0], alone)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = convext.functional.conv2d

    def wrong(*args: Any, **kwargs: Any) -> Tensor:
        return right(*args, **kwargs) * (1 + 1e-5)

    monkeypatch.setattr(convext.functional, "conv2d", wrong)
    report = convext.verify(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), image(1, 3, 8, 8), gradients=True)
    assert not report.ok
    (failure,) = report.failures
    assert failure.name == "0" and 1e-6 < failure.output.convext < 1.2e-5
    assert failure.output.torch is not None and failure.output.torch < 1e-7
    assert [errors.ok for _, errors in failure.errors] == [False, False, False]
    assert "FAIL" in str(report) and "1 beyond their bounds" in str(report)


def test_error_of_a_convolution_is_relative_to_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """||out - ref|| / || |x| * |w| + |b| ||: cancellation does not count against the layer."""
    layer = nn.Conv2d(1, 1, 2, bias=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[3.0, -3.0], [1.0, -1.0]]]]))
        layer.bias.fill_(-2.0)
    monkeypatch.setattr(convext.functional, "conv2d", lambda *_, **__: torch.ones(1, 1, 4, 4))
    (row,) = convext.verify(layer, torch.ones(1, 1, 5, 5)).rows
    assert row.output.convext == pytest.approx(3 / 10)  # 1 for -2; the terms are 3, 3, 1, 1 and 2


def test_an_average_that_cancels() -> None:
    """The average of a million numbers is a thousandth of them: its error is that of the numbers."""
    (row,) = convext.verify(convext.nn.AdaptiveAvgPool2d(1), image(1, 1, 1024, 1024), gradients=True).rows
    assert row.ok and row.output.convext < 1e-7


def test_values_that_are_not_finite() -> None:
    x = image(1, 2, 9, 9)
    x[0, 0, 4, 4] = math.inf
    x[0, 1, 2, 2] = math.nan
    report = convext.verify(nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)), x)
    assert report.ok, str(report)


@pytest.mark.parametrize("dtype", (torch.int32, torch.uint8), ids=str)
def test_integers_must_agree_exactly(dtype: torch.dtype) -> None:
    class Integers(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return F.max_pool2d(F.conv2d(x, w), 2) if dtype is torch.uint8 else F.conv2d(x, w)

    x, w = torch.randint(0, 9, (1, 3, 9, 9)).to(dtype), torch.randint(0, 9, (2, 3, 2, 2)).to(dtype)
    report = convext.verify(Integers(), x, w, gradients=True)
    assert report.ok and all(row.output.bound == 0 == row.output.convext for row in report.rows)


def test_what_torch_lacks_is_held_against_convext_in_float64() -> None:
    net = nn.Sequential(
        convext.nn.LocallyConnected2d(2, 3, 8, 3),
        convext.nn.LocalContrastNorm(3),
        convext.nn.AvgPool2d(2, dilation=2),
        convext.nn.MinPool2d(2),  # torch has it: the maximum of the opposite
    )
    report = convext.verify(net, image(2, 2, 8, 8), gradients=True)
    assert report.ok, str(report)
    assert [row.output.torch is None for row in report.rows] == [True, True, True, False]
    assert [row.note.split(":")[0] for row in report.rows] == [
        "torch has no locally_connected",
        "torch has no local_contrast_norm",
        "torch's avg_pool2d has no dilation",
        "",
    ]


PADDINGS: tuple[Any, ...] = (0, 1, "same", "same_lower", "causal", ((2, 0), (0, 1)), ((-1, 2), "same"))


@pytest.mark.parametrize("mode", ("zeros", "reflect", "replicate", "circular"))
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("name", ("conv2d", "conv_transpose2d"))
def test_torch_computes_the_whole_padding_language(name: str, padding: Any, mode: str) -> None:
    """What verify compares with is torch's even where torch's own function does not take the arguments."""
    x, w, b = (torch.randn(size, dtype=torch.float64) for size in ((2, 4, 7, 8), (4, 2, 3, 2), (4,)))
    kwargs = {"stride": 2, "padding": padding, "groups": 2, "padding_mode": mode}
    arguments = layers.bound_arguments(name, (x, w, b), kwargs)
    assert arguments is not None
    torch.testing.assert_close(
        layers.torch_call(name, arguments), layers.convext_call(name, arguments), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", ("conv2d", "conv_transpose2d"))
def test_torch_computes_what_is_fused(name: str) -> None:
    x, w, b = (torch.randn(size, dtype=torch.float64) for size in ((2, 4, 7, 8), (4, 4, 3, 3), (4,)))
    arguments = layers.bound_arguments(name, (x, w, b), {"padding": 1})
    assert arguments is not None
    y = layers.convext_call(name, arguments)
    z = torch.randn_like(y)
    fused = arguments | {"residual": z, "activation": "leaky_relu", "negative_slope": 0.2}
    torch.testing.assert_close(layers.torch_call(f"fused_{name}", fused), F.leaky_relu(y + z, 0.2), rtol=0, atol=1e-12)
    fused = arguments | {"residual": None, "activation": "gelu_tanh", "negative_slope": 0.2}
    torch.testing.assert_close(
        layers.torch_call(f"fused_{name}", fused), F.gelu(y, approximate="tanh"), rtol=0, atol=1e-12
    )
    plan = layers.plan_of(f"fused_{name}", fused, torch.float64)
    assert plan is not None and plan == layers.plan_of(name, arguments, torch.float64)


def test_a_compiled_model_and_a_parametrized_layer() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.MaxPool2d(2))
    report = convext.verify(torch.compile(net, backend="eager"), image(1, 3, 8, 8))  # type: ignore[arg-type]
    assert [row.type for row in report.rows] == ["ParametrizedConv2d", "MaxPool2d"] and report.ok


def test_inference_mode_and_frozen_parameters() -> None:
    net = nn.Sequential(convext.nn.Conv2d(3, 4, 3), convext.nn.AvgPool2d(2)).requires_grad_(False)
    with torch.inference_mode():
        report = convext.verify(net, image(1, 3, 8, 8), gradients=True)
    assert report.ok and all(row.input_gradient is not None for row in report.rows)


def test_autocast() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), convext.nn.Conv2d(4, 4, 3))
    with torch.autocast("cpu", torch.bfloat16):
        report = convext.verify(net, image(1, 3, 12, 12), gradients=True)
    assert report.ok and all(row.output.bound == 8e-3 for row in report.rows), str(report)
