"""convext in ONNX: each operator in its corners, run by onnxruntime and by ONNX's own reference. `make test-onnx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import convext.functional as CF
from convext import nn as cnn
from tests.transforms.columns import OURS
from tests.transforms.onnx import exported, run

pytestmark = pytest.mark.slow


class Call(torch.nn.Module):
    def __init__(self, function: Callable[..., Tensor], *tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        self.tensors = torch.nn.ParameterList(tensors)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.tensors)


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def names(model: Any) -> set[str]:
    return {node.op_type for node in model.graph.node}


def convolution(function: str, *shape: int, channels: int, **settings: Any) -> Call:
    return Call(lambda x, w, b: getattr(CF, function)(x, w, b, **settings), weight(*shape), weight(channels))


def pooling(function: str, *args: Any, **settings: Any) -> Call:
    return Call(lambda x: getattr(CF, function)(x, *args, **settings))


def places(x: Tensor) -> Tensor:
    values, indices = CF.max_pool2d(x, 2, return_indices=True)
    assert isinstance(indices, Tensor)
    return values + indices


# What is exported, and a node that must be there.
CASES: dict[str, tuple[Call, str]] = {
    "pairs": (convolution("conv2d", 4, 3, 3, 2, channels=4, padding=((1, 2), (0, 1)), stride=2), "Conv"),
    "crop": (convolution("conv2d", 4, 3, 3, 3, channels=4, padding=((-1, 2), (1, -2))), "Conv"),
    "same, stride 2": (convolution("conv2d", 4, 3, 4, 4, channels=4, padding="same", stride=2), "Conv"),
    "reflect": (convolution("conv2d", 4, 3, 3, 3, channels=4, padding=(2, 1), padding_mode="reflect"), "Pad"),
    "replicate": (convolution("conv2d", 4, 3, 3, 3, channels=4, padding=2, padding_mode="replicate"), "Pad"),
    "circular": (
        convolution("conv2d", 4, 3, 3, 3, channels=4, padding=((2, 0), (1, -1)), padding_mode="circular"),
        "Conv",
    ),
    "transposed": (
        convolution("conv_transpose2d", 3, 4, 3, 3, channels=4, stride=2, padding=1, output_padding=1),
        "ConvTranspose",
    ),
    "transposed, extended": (
        convolution("conv_transpose2d", 3, 4, 2, 2, channels=4, stride=3, padding=((-1, 0), (0, -2))),
        "ConvTranspose",
    ),
    "max, dilated": (pooling("max_pool2d", 2, 1, ((1, 0), (0, 1)), 2), "MaxPool"),
    "max, ceil": (pooling("max_pool2d", 3, 2, 1, ceil_mode=True), "MaxPool"),
    "max, wide padding": (pooling("max_pool2d", 3, 2, ((2, 2), (2, 1))), "MaxPool"),
    "min": (pooling("min_pool2d", 3, 2, "same"), "MaxPool"),
    "indices": (Call(places), "MaxPool"),
    "average, uncounted": (pooling("avg_pool2d", 3, 2, 1, count_include_pad=False), "AveragePool"),
    "average, ceil": (pooling("avg_pool2d", 3, 2, 1, ceil_mode=True), "AveragePool"),
    "average, ceil, uncounted": (pooling("avg_pool2d", 3, 3, 1, True, False), "AveragePool"),
    "average, divisor": (pooling("avg_pool2d", 3, 2, 1, divisor_override=5), "AveragePool"),
    "average, dilated": (pooling("avg_pool2d", 2, 1, 1, dilation=2, count_include_pad=False), "Conv"),
    "average, wide padding": (pooling("avg_pool2d", 2, 2, ((1, 0), (0, 1)), count_include_pad=False), "AveragePool"),
    "global": (pooling("adaptive_avg_pool2d", 1), "GlobalAveragePool"),
    "global maximum": (pooling("adaptive_max_pool2d", 1), "GlobalMaxPool"),
    "uneven": (pooling("adaptive_avg_pool2d", (3, 4)), "ReduceMean"),
    "uneven maximum": (pooling("adaptive_max_pool2d", (5, None)), "ReduceMax"),
    "l2, ceil": (pooling("lp_pool2d", 2, 3, 2, ceil_mode=True), "Sqrt"),
    "l3": (pooling("lp_pool2d", 3.0, 2, abs=True), "Pow"),
    "unfold": (pooling("unfold", (2, 3), 2, ((1, 0), (2, 1)), (2, 1)), "Slice"),
    "norm": (pooling("local_response_norm", 3, 0.5, 0.75, 2.0), "LRN"),
    "norm, even": (pooling("local_response_norm", 2, 0.5, 0.75, 2.0), "AveragePool"),
}


@pytest.mark.parametrize("name", CASES)
def test_runs_like_ours(name: str) -> None:
    call, node = CASES[name]
    x = weight(2, 3, 8, 7)
    model = exported(call, x, OURS, ({0: torch.export.Dim("batch", min=1, max=64)},))
    assert node in names(model)
    with torch.no_grad():
        for image in (x, weight(5, 3, 8, 7)):
            assert_close(run(model, image), call(image), rtol=1e-4, atol=1e-5)


def test_a_network_and_the_reference_evaluator() -> None:
    from onnx.reference import ReferenceEvaluator

    net = torch.nn.Sequential(
        cnn.Conv2d(3, 8, 3, padding="same", stride=2),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
        cnn.AvgPool2d(2),
        cnn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 10),
    ).eval()
    x = weight(2, 3, 16, 16)
    model = exported(net, x, OURS)
    assert {"Conv", "Relu", "MaxPool", "ConvTranspose", "AveragePool", "GlobalAveragePool", "Gemm"} <= names(model)
    wanted = net(x).detach()
    assert_close(run(model, x), wanted, rtol=1e-4, atol=1e-5)
    (y,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    assert_close(torch.from_numpy(y), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (
            convolution("conv_transpose2d", 3, 4, 3, 3, channels=4, padding=1, padding_mode="circular"),
            "of a padding_mode",
        ),
        (pooling("adaptive_max_pool2d", (3, 4), return_indices=True), "uneven adaptive windows"),
        (pooling("stochastic_pool2d", 2, training=True), "stochastic_pool_offsets"),
    ),
    ids=("transposed padding_mode", "uneven indices", "random"),
)
def test_what_has_no_translation_says_so(call: Call, message: str) -> None:
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        exported(call, weight(2, 3, 8, 7), OURS)
    causes, cause = "", error.value.__cause__
    while cause is not None:
        causes, cause = causes + str(cause), cause.__cause__
    assert message in causes
