"""A convolution with its epilogue: every activation on every algorithm, type, layout and instruction set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
import convext.functional as CF
from convext import nn, ops
from tests.cases import CASES, MODES, ConvCase, lay_out
from tests.reference import (
    FLOATS,
    TOLERANCE,
    WINOGRAD_TOLERANCE,
    call,
    dgrad,
    error,
    error_scale,
    fprop,
    operands,
    runs_winograd,
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.25),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}
EXACT = ("none", "relu", "relu6", "leaky_relu")  # of small integers
SAME_BITS = (*EXACT, "hardswish")  # a few operations, which torch rounds the same way
LEVELS = convext.backends.cpu.isa_levels()
OPERATORS = ("fprop", "dgrad")

# Beside the cases of every other test: widths that end inside of vectors, tiles, bands; many and few blocks of the sum.
MORE = (
    ConvCase((1, 1), 1, (3, 5), batch=1),
    ConvCase((67, 67), 2, (3, 5), stride=65, layout="channels_last"),
    ConvCase((7, 7), 1, (24, 40), batch=3),
    ConvCase((7, 7), 3, (300, 20), batch=1, padding=1),
    ConvCase((5, 61), 3, (40, 33), batch=2, padding=1, layout="channels_last"),
    ConvCase((9, 40), 5, (8, 16), batch=2, padding=2),
    ConvCase((30, 29), 3, (17, 17), batch=2, padding=1, groups=17),
    ConvCase((7, 7), 3, (9, 9), batch=2, padding=1, groups=9),  # two planes a vector
    ConvCase((30, 29), 3, (12, 12), batch=2, padding=1, groups=12, stride=2),  # phases of rows
    ConvCase((30, 29), 3, (40, 40), batch=2, padding=1, groups=40, layout="channels_last", stride=2),
    ConvCase((9, 10), 3, (128, 136), batch=2, padding=1, groups=8),
    ConvCase((9, 10), 3, (128, 136), batch=2, padding=1, groups=8, layout="channels_last"),
    ConvCase((9, 10), 3, (128, 192), batch=2, padding=1, groups=8, stride=2, layout="channels_last"),
    ConvCase((6, 6), 6, (8, 24), batch=3),
    ConvCase((5, 5), 5, (40, 12), batch=13),  # inner products
    ConvCase((1, 1), 1, (333, 200), batch=17),  # combinations of rows
    ConvCase((4, 4), 3, (512, 128), batch=1, padding=1),
    ConvCase((300,), 9, (12, 70), batch=2, padding=4, stride=2),
    ConvCase((20, 21), 3, (64, 40), batch=2, padding=12, dilation=12),  # zones
    ConvCase((16, 15), 3, (32, 40), batch=2, padding=2, dilation=2),  # interleaved tiles
    ConvCase((40, 33), 1, (70, 3), batch=2),  # read where it lies
    ConvCase((257, 256), 1, (20, 2), batch=1),  # in streams
    ConvCase((4, 17, 16), (3, 1, 1), (96, 90), batch=2, padding=(1, 0, 0)),  # planes of a row
    ConvCase((9, 35), 3, (32, 3), batch=2, padding=1, layout="channels_last"),
)


def test_the_names_are_the_operators() -> None:
    assert tuple(ACTIVATIONS) == ops.ACTIVATIONS


def problem(operator: str, case: ConvCase) -> ConvCase:
    return case.transposed if operator == "dgrad" else case


def fused(operator: str, case: ConvCase, tensors: list[Tensor | None], residual: Tensor | None, name: str) -> Tensor:
    conf = (case.stride, case.flat_padding, case.dilation, case.groups, MODES.index(case.padding_mode))
    x, w, b = tensors
    number = ops.ACTIVATIONS.index(name)
    return torch.ops.convext.conv_fused(x, w, b, residual, *conf, number, 0.25, operator == "dgrad")


def every_case() -> Iterator[tuple[str, ConvCase, str, bool]]:
    """Operator and case with an activation and whether there is a residual: all of these in turn."""
    turn = itertools.cycle(itertools.product(ACTIVATIONS, (True, False)))
    for case in (*CASES[::2], *MORE):
        for operator in OPERATORS:
            yield operator, case, *next(turn)
    for case, operator, name in itertools.product(MORE, OPERATORS, ACTIVATIONS):
        yield operator, case, name, True


def residual_like(y: Tensor, layout: str = "contiguous") -> Tensor:
    return lay_out(torch.randint(-3, 4, y.shape).to(y.dtype), layout)


def algorithm(operator: str, case: ConvCase) -> str:
    conf: Any = {n: getattr(case, n) for n in ("stride", "padding", "dilation", "groups", "padding_mode")}
    last = case.layout == "channels_last"
    return convext.conv_plan(operator, case.input_shape, case.weight_shape, channels_last=last, **conf).algorithm


@pytest.mark.cpu_only("of the CPU's plans")
def test_every_algorithm_is_reached() -> None:
    taken = set()
    for level in LEVELS:
        with convext.backends.cpu.max_isa(level):
            taken |= {algorithm(operator, problem(operator, case)) for operator, case, _, _ in every_case()}
    assert taken >= {
        "packed",
        "banded",
        "col2im",
        "depthwise",
        "depthwise_rows",
        "depthwise_shifted",
        "grouped",
        "inner_product",
        "row_combination",
        "depthwise_channels_last",
        "narrow_channels_last",
        "direct",
        "winograd",
    }


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_bits_are_those_of_the_operators_one_by_one(operator: str, dtype: torch.dtype, isa: str) -> None:
    """The sum is the convolution's own, the rest rounded as torch does; the direct algorithm rounds only once."""
    wrong = []
    for op, case, name, adds in every_case():
        c = problem(op, case)
        if op != operator or name not in SAME_BITS or algorithm(op, c) == "direct":
            continue
        tensors = operands(op, c, dtype, "normal", 0)
        y = call(op, c, tensors)
        z = torch.randn_like(y) if adds else None
        want = ACTIVATIONS[name](y if z is None else y + z)
        got = fused(op, c, tensors, z, name)
        if got.stride() != y.stride() or not torch.equal(got, want):
            wrong.append(f"{op} {case} {name} residual={adds}: {error(got, want.double())}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_small_integers_are_exact(operator: str, dtype: torch.dtype, isa: str) -> None:
    wrong = []
    for op, case, name, adds in every_case():
        if op != operator or name not in EXACT:
            continue
        c = problem(op, case)
        tensors = operands(op, c, dtype, "integers", 0)
        y = (fprop if op == "fprop" else dgrad)(c, *tensors)  # type: ignore[arg-type]
        z = residual_like(y.to(dtype), case.layout) if adds and case.layout != "expanded" else None
        want = ACTIVATIONS[name](y if z is None else y + z.double()).to(dtype)
        got = fused(op, c, tensors, z, name)
        if runs_winograd(op, c, dtype):  # which is not exact on integers
            right = error(got, want.double(), error_scale(op, c, tensors, y, "normal")) <= WINOGRAD_TOLERANCE[dtype]
        else:
            right = torch.equal(got, want)
        if not right:
            wrong.append(f"{op} {case} {name} residual={adds}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_error_against_float64(dtype: torch.dtype, isa: str) -> None:
    """Rounded once: a half type is as near as the convolution alone."""
    wrong = []
    for op, case, name, adds in every_case():
        c = problem(op, case)
        tensors = operands(op, c, dtype, "normal", 0)
        y = (fprop if op == "fprop" else dgrad)(c, *tensors)  # type: ignore[arg-type]
        z = torch.randn(y.shape).to(dtype) if adds else None
        want = ACTIVATIONS[name](y if z is None else y + z.double())
        gap = error(fused(op, c, tensors, z, name), want, error_scale(op, c, tensors, y, "normal"))
        if gap > 1.5 * (WINOGRAD_TOLERANCE if runs_winograd(op, c, dtype) else TOLERANCE)[dtype]:
            wrong.append(f"{op} {case} {name} residual={adds}: {gap}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_special_values_are_torchs(name: str, dtype: torch.dtype, isa: str) -> None:
    """NaN, infinities, zeros, values where the exponential overflows; through every way to the result."""
    inf = float("inf")
    values = torch.tensor([float("nan"), inf, -inf, 0.0, -0.0, 1e-40, -1e3, 1e3, -1e30, 1e30, -3, 3, 6], dtype=dtype)
    x = values.repeat(5)[:64].view(1, 1, 8, 8)
    want = ACTIVATIONS[name](x)
    one = torch.ones(1, 1, 1, 1, dtype=dtype)
    got = [
        CF.fused_conv2d(x, one, activation=name, negative_slope=0.25),
        CF.fused_conv_transpose2d(x, one, activation=name, negative_slope=0.25),
    ]
    channels = torch.ones(64, 1, 1, 1, dtype=dtype)
    for layout in ("contiguous", "channels_last"):
        many = lay_out(x.expand(1, 64, 8, 8), layout)
        got.append(CF.fused_conv2d(many, channels, groups=64, activation=name, negative_slope=0.25)[:, 7:8])
        thin = lay_out(x, layout)
        got.append(CF.fused_conv2d(thin, channels, activation=name, negative_slope=0.25)[:, 33:34])
    for y in got:  # 1 + tanh loses digits below zero, ours does not
        torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6 if name == "gelu_tanh" else 0, equal_nan=True)


@pytest.mark.parametrize(("dtype", "least"), ((torch.float32, -87.0), (torch.float64, -708.0)), ids=str)
def test_the_exponential(dtype: torch.dtype, least: float, isa: str) -> None:
    """Within two units in the last place, seen through sigmoid(x), which is exp(x) (1 - exp(x) ...) far below zero."""
    x = torch.linspace(least, 40, 100_001, dtype=torch.float64).to(dtype).view(1, 1, -1)
    got = CF.fused_conv1d(x, torch.ones(1, 1, 1, dtype=dtype), activation="sigmoid")
    exact = 1 / (1 + torch.exp(-x.double()))
    assert ((got.double() - exact) / exact).abs().max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_half_types_are_rounded_once(dtype: torch.dtype, isa: str) -> None:
    """1 + 3 ulp/8 + 3 ulp/8 rounds up; rounded before the residual it would stay at 1."""
    part = 3 * torch.finfo(dtype).eps / 8
    x = torch.tensor([1.0, part], dtype=dtype).view(1, 2, 1)
    y = CF.fused_conv1d(x, torch.ones(1, 2, 1, dtype=dtype), residual=torch.full((1, 1, 1), part, dtype=dtype))
    assert y.item() == 1 + torch.finfo(dtype).eps


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced", "transposed", "expanded"))
@pytest.mark.parametrize("like", ("contiguous", "channels_last"))
def test_a_residual_of_any_layout(layout: str, like: str) -> None:
    x, w = lay_out(torch.randn(2, 6, 9, 7), like), torch.randn(5, 6, 3, 3)
    z = lay_out(torch.randn(2, 5, 7, 5), layout)
    got = CF.fused_conv2d(x, w, residual=z, activation="relu")
    plain = CF.conv2d(x, w)
    assert torch.equal(got, F.relu(plain + z)) and got.stride() == plain.stride()


@pytest.mark.parametrize("shape", ((5, 1, 1), (1, 5, 1, 1), (2, 1, 7, 5), (3, 2, 5, 7, 5), ()))
def test_a_residual_that_broadcasts_is_torchs_to_add(shape: tuple[int, ...]) -> None:
    x, w, z = torch.randn(2, 6, 9, 7), torch.randn(5, 6, 3, 3), torch.randn(shape)
    assert torch.equal(CF.fused_conv2d(x, w, residual=z, activation="relu"), F.relu(CF.conv2d(x, w) + z))


def test_a_residual_of_another_type_promotes() -> None:
    x, w, z = torch.randn(2, 6, 9), torch.randn(5, 6, 3), torch.randn(2, 5, 7, dtype=torch.float64)
    got = CF.fused_conv1d(x, w, residual=z)
    assert got.dtype is torch.float64 and torch.equal(got, CF.conv1d(x, w) + z)


def test_unbatched_empty_integer_and_complex() -> None:
    x, w, z = torch.randn(6, 9), torch.randn(5, 6, 3), torch.randn(5, 7)
    assert torch.equal(CF.fused_conv1d(x, w, residual=z, activation="relu"), F.relu(CF.conv1d(x, w) + z))
    assert CF.fused_conv1d(x.expand(0, 6, 9), w, activation="silu").shape == (0, 5, 7)
    xi, wi = torch.randint(-5, 5, (1, 6, 9)), torch.randint(-5, 5, (5, 6, 3))
    assert torch.equal(CF.fused_conv1d(xi, wi, activation="relu"), CF.conv1d(xi, wi).relu())
    xc, wc = torch.randn(1, 2, 9, dtype=torch.complex64), torch.randn(3, 2, 3, dtype=torch.complex64)
    assert torch.equal(CF.fused_conv1d(xc, wc, activation="sigmoid"), CF.conv1d(xc, wc).sigmoid())


def test_errors() -> None:
    x, w = torch.randn(2, 6, 9, 7), torch.randn(5, 6, 3, 3)
    with pytest.raises(ValueError, match="relu6"):
        CF.fused_conv2d(x, w, activation="softmax")
    with pytest.raises(TypeError, match="residual"):
        CF.fused_conv2d(x, w, residual=1.0)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        CF.fused_conv2d(x, w, residual=torch.randn(3, 5, 7, 5))
    with pytest.raises(RuntimeError, match="channels"):
        CF.fused_conv2d(x[:, :3], w)
    conf = ([1, 1], [0] * 4, [1, 1], 1, 0)
    for arguments, words in (
        ((torch.randn(2, 5, 7, 4), *conf, 1, 0.0, False), "residual"),
        ((torch.randn(2, 5, 7, 5).double(), *conf, 1, 0.0, False), "residual"),
        ((None, *conf, 99, 0.0, False), "activation"),
    ):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.convext.conv_fused(x, w, None, *arguments)
    with pytest.raises(RuntimeError, match="floating"):
        torch.ops.convext.conv_fused(x.long(), w.long(), None, None, *conf, 1, 0.0, False)
    with pytest.raises(TypeError, match="residual"):
        nn.FusedConv2d(6, 5, 3)(x, torch.randn(2, 5, 7, 5))
    with pytest.raises(ValueError, match="activation"):
        nn.FusedConv2d(6, 5, 3, activation="tanh")


def arguments_of(transposed: bool, residual: bool, grad: bool) -> tuple[Any, ...]:
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=grad)
    w = torch.randn(*((4, 3) if transposed else (6, 2)), 3, 2, dtype=torch.float64, requires_grad=grad)
    b = torch.randn(6, dtype=torch.float64, requires_grad=grad)
    conf = ([2, 1], [1, 1, 0, 1], [1, 1], 2, 0)
    operator: Any = ops.dgrad if transposed else ops.fprop
    z = torch.randn_like(operator(x, w, b, *conf).detach()).requires_grad_(grad) if residual else None
    return (x, w, b, z, *conf, 4, 0.0, transposed)


@pytest.mark.parametrize("grad", (False, True), ids=("plain", "requires grad"))
@pytest.mark.parametrize("residual", (False, True))
@pytest.mark.parametrize("transposed", (False, True))
def test_opcheck(transposed: bool, residual: bool, grad: bool) -> None:
    torch.library.opcheck(torch.ops.convext.conv_fused.default, arguments_of(transposed, residual, grad))


@pytest.mark.parametrize("transposed", (False, True))
def test_gradients(transposed: bool) -> None:
    *tensors, rest = *arguments_of(transposed, True, True)[:4], arguments_of(transposed, True, True)[4:]
    torch.autograd.gradcheck(lambda *t: torch.ops.convext.conv_fused(*t, *rest), tensors, check_forward_ad=True)


def test_vmap_and_autocast_and_flops() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x, w, z = torch.randn(3, 2, 4, 9), torch.randn(5, 4, 3), torch.randn(3, 2, 5, 7)

    def layer(x: Tensor, z: Tensor) -> Tensor:
        return CF.fused_conv1d(x, w, residual=z, activation="relu")

    want = torch.stack([layer(a, b) for a, b in zip(x, z, strict=True)])
    torch.testing.assert_close(torch.vmap(layer)(x, z), want)
    conf = ([1], [0, 0], [1], 1, 0, 1, 0.0, False)
    op = torch.ops.convext.conv_fused
    torch.testing.assert_close(torch.vmap(lambda a, b: op(a, w, None, b, *conf))(x, z), want)
    with torch.autocast("cpu", torch.bfloat16):
        y = CF.fused_conv1d(x[0], w, activation="relu")
        assert y.dtype is torch.bfloat16
        # the sum of a bfloat16 and a float32 tensor is float32, as it is unfused
        assert CF.fused_conv1d(x[0], w, residual=z[0]).dtype is torch.float32
    with FlopCounterMode(display=False) as counter:
        layer(x[0], z[0])
    assert counter.get_total_flops() == 2 * z[0].numel() * 4 * 3


@pytest.mark.parametrize("threads_and_batch", ((1, 3), (2, 1)))
def test_the_same_bits_for_threads_and_batch(threads_and_batch: tuple[int, int], threads: None) -> None:
    count, batch = threads_and_batch
    x, w, z = torch.randn(3, 24, 20, 21), torch.randn(40, 24, 3, 3), torch.randn(3, 40, 18, 19)
    want = CF.fused_conv2d(x, w, residual=z, activation="silu")
    torch.set_num_threads(count)
    assert torch.equal(CF.fused_conv2d(x[:batch], w, residual=z[:batch], activation="silu"), want[:batch])
