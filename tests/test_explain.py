"""convext.explain: the numbers that textbooks give for well-known networks, and tables that say nothing untrue."""

from __future__ import annotations

import dataclasses
import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import convext
from convext.inspect import ExplainedLayer, Explanation


def explain(model: nn.Module, *size: int, **kwargs: Any) -> Explanation:
    return convext.explain(model, torch.randn(size), time=False, **kwargs)


def of_type(explanation: Explanation, kind: str) -> list[Any]:
    return [row for row in explanation.rows if row.type == kind]


# --- networks -------------------------------------------------------------------------------------------------------


def lenet5() -> nn.Sequential:
    """LeCun et al. 1998, in the form that is usually taught: plain averages, no table of connections."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(),
        nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def vgg16() -> nn.Sequential:
    """Simonyan and Zisserman 2014, configuration D."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = (nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), *head)


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, m: Any) -> None:
        super().__init__()
        self.reduce = m.Conv2d(channels, width, 1, bias=False)
        self.conv = m.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.expand = m.Conv2d(width, 4 * width, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(c) for c in (width, width, 4 * width)])
        self.shortcut: nn.Module = nn.Identity()
        if channels != 4 * width:
            conv = m.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.reduce(x)))
        y = self.norms[2](self.expand(F.relu(self.norms[1](self.conv(y)))))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


def resnet50(m: Any) -> nn.Sequential:
    """He et al. 2015, with the stride in the 3x3 layers, as in torchvision."""
    layers = [m.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), m.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1, m))
            channels = 4 * width
    return nn.Sequential(*layers, m.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def test_lenet5() -> None:
    e = explain(lenet5(), 1, 1, 32, 32)
    assert [row.parameters for row in e.rows if row.parameters] == [156, 2416, 48120, 10164, 850]
    assert e.parameters == 61_706
    # connections as in the paper, which counts the bias among them; its third layer has fewer, by a table
    first, second, third = of_type(e, "Conv2d")
    assert first.multiply_adds + first.bias_adds == 122_304 and second.multiply_adds == 10 * 10 * 16 * 150
    assert third.multiply_adds + third.bias_adds == 48_120
    assert [row.receptive_field for row in of_type(e, "AvgPool2d")] == [(6, 6), (16, 16)]
    assert third.receptive_field == (32, 32) and third.output_size == (1, 120, 1, 1)
    assert [row.receptive_field for row in of_type(e, "Linear")] == [(32, 32), (32, 32)]  # of the one pixel


def test_alexnet() -> None:
    path = Path(__file__).parent.parent / "examples" / "alexnet.py"
    spec = importlib.util.spec_from_file_location("alexnet_to_explain", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    e = explain(module.alexnet(convext.nn), 1, 3, 227, 227)
    convs = of_type(e, "Conv2d")
    assert [row.parameters for row in convs] == [34_944, 307_456, 885_120, 663_936, 442_624]  # CONV1: 35 K
    assert [row.output_size[2] for row in convs] == [55, 27, 13, 13, 13]
    assert [row.receptive_field[0] for row in convs] == [11, 51, 99, 131, 163]
    assert of_type(e, "MaxPool2d")[-1].receptive_field == (195, 195)
    assert of_type(e, "MaxPool2d")[-1].jump == (32, 32)
    assert [row.receptive_field for row in of_type(e, "LocalResponseNorm")] == [(11, 11), (51, 51)]
    assert convs[0].multiply_adds == 105_415_200  # 96 filters of 11x11x3 on 55x55
    assert e.parameters == 60_965_224


def test_vgg16() -> None:
    with torch.device("meta"):
        e = convext.explain(vgg16(), torch.randn(1, 3, 224, 224))
    assert e.parameters == 138_357_544
    first, *_ = of_type(e, "Linear")
    assert first.parameters - 4096 == first.multiply_adds == 102_760_448
    assert sum(row.multiply_adds for row in of_type(e, "Conv2d")) == 15_346_630_656
    assert e.multiply_adds == 15_470_264_320
    assert of_type(e, "Conv2d")[-1].receptive_field == (196, 196)
    assert of_type(e, "MaxPool2d")[-1].receptive_field == (212, 212)
    assert all(row.torch_seconds is None and row.convext_seconds is None for row in e.rows)


@pytest.mark.parametrize("module", (nn, convext.nn), ids=("torch", "convext"))
def test_resnet50(module: Any) -> None:
    with torch.device("meta"):
        net, x = resnet50(module), torch.randn(1, 3, 224, 224)
    e = convext.explain(net, x)
    assert e.parameters == 25_557_032
    assert e.multiply_adds == 4_089_184_256  # 4.09 G
    assert of_type(e, "Conv2d")[-1].receptive_field == (427, 427) and of_type(e, "Conv2d")[-1].jump == (32, 32)
    assert of_type(e, "AdaptiveAvgPool2d")[-1].receptive_field == (None, None)
    # the shortcut of the first block sees less than the block; their sum sees as much as the block
    assert e["4.shortcut.0"].receptive_field == (11, 11) and e["4.expand"].receptive_field == (19, 19)
    assert e["5.reduce"].receptive_field == (19, 19)
    assert "53 BatchNorm2d with 53,120 parameters" in str(e)


@pytest.mark.parametrize(("layer", "size"), [(nn.Conv2d(3, 10, 5), 36), (nn.Conv2d(3, 10, 5, padding=2), 32)])
def test_ten_five_by_five_filters(layer: nn.Conv2d, size: int) -> None:
    """5x5x3 multiply-adds for each of 32x32x10 outputs, beside 32x32x10 additions of the bias."""
    e = explain(layer, 1, 3, size, size)
    (row,) = e.rows
    assert row.output_size == (1, 10, 32, 32) and row.parameters == 760
    assert e.multiply_adds == 768_000 and e.bias_adds == 10_240 and e.multiply_adds + e.bias_adds == 778_240
    assert "10,240 additions beside the multiply-adds, 778,240 with them" in str(e)


def test_the_same_layer_fully_connected() -> None:
    with torch.device("meta"):
        e = convext.explain(
            nn.Sequential(nn.Flatten(), nn.Linear(32 * 32 * 3, 32 * 32 * 10)), torch.randn(1, 3, 32, 32)
        )
    assert e.parameters == 31_467_520 and e.multiply_adds == 31_457_280 and e.bias_adds == 10_240


@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("depth", (1, 2, 6))
def test_receptive_field_of_a_stack(depth: int, kernel: int) -> None:
    e = explain(nn.Sequential(*(nn.Conv2d(2, 2, kernel, padding=1) for _ in range(depth))), 1, 2, 40, 30)
    assert e.rows[-1].receptive_field == (1 + depth * (kernel - 1),) * 2 and e.rows[-1].jump == (1, 1)


# --- rows -----------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Layers, functions, a shared layer, weights that no layer has, and a head that is not used."""

    def __init__(self, m: Any, f: Any) -> None:
        super().__init__()
        self.f = f
        self.wide = m.Conv2d(3, 4, 5, padding=2)
        self.narrow = m.Conv2d(3, 4, 1)
        self.shared = m.Conv2d(8, 8, 3, padding=1)
        self.up = m.ConvTranspose2d(8, 4, 2, stride=2)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.wide(x), self.narrow(x)], 1)
        x = self.f.max_pool2d(self.shared(self.shared(x)), 2)
        x = self.up(x) * self.scale
        return self.head(x.mean((2, 3))) @ x.new_ones(2, 5)


@pytest.mark.parametrize(("module", "functions"), [(nn, F), (convext.nn, convext.functional)], ids=("torch", "convext"))
def test_rows(module: Any, functions: Any) -> None:
    net = Branches(module, functions)
    e = explain(net, 2, 3, 16, 12)
    assert [(r.name, r.type, r.call) for r in e.rows] == [
        ("wide", "Conv2d", 1),
        ("narrow", "Conv2d", 1),
        ("shared", "Conv2d", 1),
        ("shared", "Conv2d", 2),
        ("max_pool2d", "max_pool2d", 1),
        ("up", "ConvTranspose2d", 1),
        ("head", "Linear", 1),
        ("Branches", "Branches", 1),
        ("unused", "Linear", 0),
    ]
    assert e.parameters == sum(p.numel() for p in net.parameters())
    assert [r.parameters for r in e.rows] == [304, 16, 584, 0, 0, 132, 10, 4, 24]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(2, 3, 16, 12))
    assert e.multiply_adds == counter.get_total_flops() // 2
    assert e["Branches"].multiply_adds == 2 * 2 * 5  # the product after the head is no layer's
    assert [r.receptive_field for r in e.rows[:-1]] == [(5, 5), (1, 1), (7, 7), (9, 9), (10, 10), (10, 10)] + [
        (None,) * 2
    ] * 2
    assert e["up"].jump == (1, 1) and e["max_pool2d"].jump == (2, 2) and e["head"].jump == (None, None)
    assert e["max_pool2d"].algorithm == "" and e["max_pool2d"].plan is None and e["max_pool2d"].declined == ()
    assert "1 Linear (never called) with 24 parameters" in str(e)
    with pytest.raises(KeyError, match="expected one of wide, narrow"):
        e["wider"]


def test_plans_are_those_of_conv_plan() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.Conv2d(6, 5, 1).double())
    net[2].register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    e = explain(net, 2, 8, 20, 18)
    first, second, third = e.rows
    assert first.plan == convext.conv_plan("fprop", (2, 8, 20, 18), (8, 1, 3, 3), groups=8)
    assert second.plan == convext.conv_plan("dgrad", (2, 6, 36, 32), (8, 6, 4, 4), stride=2, padding=1)
    assert third.plan == convext.conv_plan("fprop", (2, 6, 36, 32), (5, 6, 1, 1), dtype=torch.float64)
    assert first.plan is not None and first.declined == first.plan.declined
    assert first.workspace_bytes == first.plan.workspace_bytes
    for algorithm, _ in third.declined:
        assert f"not {algorithm}: " in str(e)


def test_a_layer_that_pads_a_copy_is_planned_as_the_layer_that_does_not() -> None:
    rows = [
        explain(m.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), 1, 3, 8, 8).rows[0]
        for m in (nn, convext.nn)
    ]
    assert rows[0] == rows[1] and rows[0].input_size == (1, 3, 8, 8) and rows[0].receptive_field == (3, 3)
    settings: dict[str, Any] = {"padding": (1, 2), "padding_mode": "circular"}
    assert rows[0].plan == convext.conv_plan("fprop", (1, 3, 8, 8), (4, 3, 3, 3), **settings)


def test_channels_last_and_padding_words() -> None:
    layer = convext.nn.Conv2d(4, 6, 3, stride=2, padding="same", padding_mode="reflect")
    x = torch.randn(1, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    (row,) = convext.explain(layer, x, time=False).rows
    settings: dict[str, Any] = {"stride": 2, "padding": "same", "padding_mode": "reflect", "channels_last": True}
    assert row.plan == convext.conv_plan("fprop", (1, 4, 9, 9), (6, 4, 3, 3), **settings)


def test_the_model_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.MaxPool2d(2))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.randn(2, 3, 8, 8)
    torch.set_rng_state(state)
    convext.explain(net, x)
    assert torch.equal(torch.get_rng_state(), state) and net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_times() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), convext.nn.LocallyConnected2d(4, 2, 5, 3), nn.ReLU())
    e = convext.explain(net, torch.randn(1, 3, 12, 12))
    conv, pool, local, relu = e.rows
    for row in (conv, pool):
        assert row.convext_seconds is not None and row.torch_seconds is not None
        assert 0 < row.convext_seconds < 1 and 0 < row.torch_seconds < 1
    assert local.convext_seconds is not None and local.torch_seconds is None
    assert relu.convext_seconds is None and relu.torch_seconds is None
    assert " ms" in str(e)


def test_attention_is_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.heads(x, x, x, need_weights=False)[0]

    net = Attention()
    e = explain(net, 2, 5, 8)
    assert e.parameters == sum(p.numel() for p in net.parameters())
    projections, products = 2 * 5 * 8 * 8 * 4, 2 * 2 * (2 * 5 * 5 * 4)
    assert e.multiply_adds == projections + products


def test_recurrent_layers_are_counted() -> None:
    lstm, gru = explain(nn.LSTM(4, 6), 5, 2, 4), explain(nn.GRU(4, 6), 5, 2, 4)
    assert lstm.multiply_adds == 5 * 2 * 4 * 6 * (4 + 6) and gru.multiply_adds == 5 * 2 * 3 * 6 * (4 + 6)


def test_reasons_that_differ_in_one_number_are_one() -> None:
    plan = convext.conv_plan("fprop", (1, 2, 9, 9), (4, 2, 3, 3))
    reasons = (
        ("F(4x4,3x3) takes 1,024 channels {at most}, not 2,048", "a 5x5 kernel"),
        ("F(4x4,3x3) takes 1,024 channels {at most}, not 10,240", "a 7x7 kernel"),
        ("F(4x4,3x3) takes 1,024 channels {at most}, not 4096", "a 5x5 kernel"),
    )
    rows = [
        ExplainedLayer(
            str(i), "Conv2d", 1, plan=dataclasses.replace(plan, declined=tuple(zip("ab", each, strict=True)))
        )
        for i, each in enumerate(reasons)
    ]
    rows = [dataclasses.replace(row, function="conv2d") for row in rows]
    assert str(Explanation(tuple(rows), 1)).splitlines()[-3:] == [
        "not a: F(4x4,3x3) takes 1,024 channels {at most}, not 2,048 to 10,240 (0, 1, 2)",
        "not b: a 5x5 kernel (0, 2)",
        "not b: a 7x7 kernel (1)",
    ]


def test_inputs_by_keyword_and_no_tensor() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3)

        def forward(self, *, size: int) -> Tensor:
            return self.conv(torch.ones(1, 2, size))

    e = convext.explain(Fixed(), size=9, time=False)
    assert e.rows[0].output_size == (1, 3, 7) and e.rows[0].receptive_field == ()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_arguments() -> None:
    with pytest.raises(TypeError, match=r"explain: expected model to be a torch\.nn\.Module, got int"):
        convext.explain(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="explain: expected time to be a bool, got Tensor; give the model's own"):
        convext.explain(nn.ReLU(), torch.ones(1), time=torch.ones(3))  # type: ignore[arg-type]
    scripted = nn.Sequential(torch.jit.script(nn.ReLU()))
    with pytest.raises(ValueError, match="explain: expected no scripted modules, got 0"):
        convext.explain(scripted, torch.ones(1))


def test_the_tables_of_the_documentation() -> None:
    """docs/inspect.md shows what the network beside it gives, but for times and what depends on the processor."""
    page = (Path(__file__).parent.parent / "docs" / "inspect.md").read_text()
    source = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
    exec(source, names)
    rows = convext.explain(names["net"], names["image"], time=False).rows
    for row in (row for row in rows if row.function is not None):
        sizes = ["x".join(map(str, size)) for size in (row.input_size, row.output_size)]
        numbers = [f"{n:,}" for n in (row.parameters, row.multiply_adds) if n]
        words = [row.name, row.type, *sizes, *numbers, str(row.receptive_field[0]), str(row.jump[0])]
        assert any(line.split()[: len(words)] == words for line in page.splitlines()), words
    assert all(row.name in page for row in convext.verify(names["net"], names["image"]).rows)


def test_html() -> None:
    html = explain(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 300, 3)), 1, 1, 8, 8)._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 4 and "Conv2d" in html


def test_jump_after_upsampling() -> None:
    e = explain(nn.Sequential(nn.ConvTranspose2d(1, 1, 2, 2), nn.Conv2d(1, 1, 3)), 1, 1, 8, 8)
    assert [row.jump for row in e.rows] == [(Fraction(1, 2),) * 2] * 2
    assert [row.receptive_field for row in e.rows] == [(1, 1), (2, 2)]
