"""Random values against float64 torch, within the tolerance of each type, on every instruction set."""

from __future__ import annotations

import itertools

import pytest
import torch

import convext
from tests.cases import CASES, ConvCase
from tests.reference import COMPLEX, FLOATS, OPERATORS, TOLERANCE, check, error, padded, wide


def faults(case: ConvCase, dtypes: tuple[torch.dtype, ...], draw: str, seed: int) -> str:
    """On every instruction set; the reference is computed once for all of them."""
    levels = convext.backends.cpu.isa_levels()
    lines = (check(op, case, dtype, draw, seed=seed, isa=levels) for op, dtype in itertools.product(OPERATORS, dtypes))
    return "\n".join(line for line in lines if line)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_normal(case: ConvCase, seed: int) -> None:
    wrong = faults(case, FLOATS, "normal", seed)
    assert not wrong, wrong


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_adversarial(case: ConvCase, seed: int) -> None:
    """Wide magnitudes and sums that cancel, measured against the sum of the absolute values."""
    wrong = faults(case, FLOATS, "adversarial", seed)
    assert not wrong, wrong


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_complex(case: ConvCase, seed: int) -> None:
    wrong = faults(case, COMPLEX, "normal", seed)
    assert not wrong, wrong


@pytest.mark.parametrize("mode", ("reflect", "replicate", "circular"))
@pytest.mark.parametrize("dims", (1, 2, 3))
def test_the_reference_pads_as_torch(dims: int, mode: str) -> None:
    """The reference's own padding is written from the definition; here it is held against F.pad."""
    x = torch.randn(2, 3, *(5, 4, 6)[:dims], dtype=torch.float64)
    pairs = ((1, 3), (3, 0), (2, 2))[:dims]
    flat = [side for pair in reversed(pairs) for side in pair]
    assert torch.equal(padded(x, pairs, mode), torch.nn.functional.pad(x, flat, mode=mode))


def test_the_reference_crops_as_torch() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    assert torch.equal(padded(x, ((-1, 2), (3, -4)), "zeros"), torch.nn.functional.pad(x, (3, -4, -1, 2)))


NONFINITE = (float("inf"), float("-inf"), float("nan"))


@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("padding_mode", ("zeros", "circular"))
def test_one_bad_pixel_reaches_only_the_outputs_that_see_it(value: float, padding_mode: str, isa: str) -> None:
    """Padding is not 0 * Inf, and a packed panel's spare rows and columns never leak into real outputs."""
    x = torch.randn(2, 17, 9, 35)
    x[1, 3, 4, 20] = value
    w, b = torch.randn(15, 17, 3, 3), torch.randn(15)
    y = convext.functional.conv2d(x, w, b, padding=1, padding_mode=padding_mode)
    bad = ~torch.isfinite(y)
    expected = torch.zeros_like(bad)
    expected[1, :, 3:6, 19:22] = True
    assert torch.equal(bad, expected)


@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("stride", (1, 2, 3))
def test_one_bad_weight_reaches_only_its_own_channels(value: float, stride: int, isa: str, on_cpu: bool) -> None:
    """And of those only the pixels that it would reach if the padding were real zeros (0 * Inf is NaN).

    On CUDA a tap that sees padding may be left out (docs/cuda.md): there the pixels whose tap sees the image are bad.
    """
    x = torch.randn(1, 6, 11, 12).abs() + 0.1
    w = torch.randn(8, 3, 3, 2)
    w[5, 1, 2, 0] = value
    for padding in (0, 2):
        y = convext.functional.conv2d(x, w, None, stride, padding, groups=2)
        bad = (~torch.isfinite(y)).flatten(2)[0]
        tap = torch.zeros(1, 1, 3, 2)
        tap[0, 0, 2, 0] = 1
        sees_the_image = torch.nn.functional.conv2d(torch.ones(1, 1, 11, 12), tap, None, stride, padding)[0, 0] > 0
        assert bad[5][sees_the_image.flatten()].all() and not bad[:5].any() and not bad[6:].any()
        assert bad[5].all() or not on_cpu
    g = torch.randn(1, 8, 4, 5).abs() + 0.1
    back = convext.functional.conv_transpose2d(g, w, None, stride, groups=2)
    surrounded = torch.nn.functional.pad(g, (2, 2, 2, 2)).double()
    whole = torch.nn.functional.conv_transpose2d(surrounded, w.double(), None, stride, groups=2)
    allowed = ~torch.isfinite(whole[..., 2 * stride : -2 * stride, 2 * stride : -2 * stride])
    torchs = ~torch.isfinite(torch.nn.functional.conv_transpose2d(g.double(), w.double(), None, stride, groups=2))
    bad = ~torch.isfinite(back)
    assert (bad >= torchs).all() and (bad <= allowed).all() and bad.flatten(2).any(2).sum() == 1


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_inf_in_the_gradient_stays_in_its_channel_of_wgrad(dtype: torch.dtype, isa: str) -> None:
    x, g = torch.rand(2, 5, 9, 9, dtype=dtype) + 0.1, torch.randn(2, 33, 7, 7, dtype=dtype)
    g[1, 30, 6, 6] = float("inf")
    out = torch.ops.convext.conv_wgrad(g, x, [3, 3], [1, 1], [0] * 4, [1, 1], 1, 0)
    bad = (~torch.isfinite(out)).flatten(1)
    assert bad[30].all() and not bad[:30].any() and not bad[31:].any()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_tiny_and_huge_values(dtype: torch.dtype, isa: str) -> None:
    """Subnormals of the half types are numbers, and a sum beyond the largest one is Inf."""
    info = torch.finfo(dtype)
    x = torch.full((1, 4, 5), info.tiny / 4, dtype=dtype)
    w = torch.ones(2, 4, 3, dtype=dtype)
    if dtype is not torch.float32:
        y = convext.functional.conv1d(x, w)
        # The dot product of bfloat16 pairs takes subnormals for zero (docs/numerics.md).
        paired = dtype is torch.bfloat16 and isa == "avx512_bf16"
        expected = torch.nn.functional.conv1d(x.double(), w.double()) * (not paired)
        assert torch.equal(y.double(), expected)
    y = convext.functional.conv1d(torch.full((1, 4, 5), info.max, dtype=dtype), w)
    assert torch.isinf(y).all()


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=str)
def test_fortran_ordered_and_broadcast_weights(dtype: torch.dtype, isa: str) -> None:
    x = torch.randn(2, 4, 6, 7, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)
    w = torch.randn(3, 3, dtype=x.dtype if dtype.is_complex else torch.float64).to(dtype).expand(5, 4, 3, 3)
    b = torch.randn((), dtype=wide(w).dtype).to(dtype).expand(5)
    y = convext.functional.conv2d(x, w, b)
    assert error(y, torch.nn.functional.conv2d(wide(x), wide(w), wide(b))) <= TOLERANCE[dtype]
    bias = torch.randn(10, dtype=wide(w).dtype).to(dtype)[::2]
    y = convext.functional.conv2d(x, w.transpose(2, 3), bias)
    assert error(y, torch.nn.functional.conv2d(wide(x), wide(w).transpose(2, 3), wide(bias))) <= TOLERANCE[dtype]
