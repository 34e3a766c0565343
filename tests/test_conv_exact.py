"""Small integers, compared for equality: sums are exact, so any wrong or missing tap shows."""

from __future__ import annotations

import itertools

import pytest
import torch

import convext
from tests.cases import CASES, ConvCase
from tests.reference import COMPLEX, FLOATS, INTEGERS, OPERATORS, check


def faults(case: ConvCase, dtypes: tuple[torch.dtype, ...], draw: str, seed: int) -> str:
    """On every instruction set; the reference is computed once for all of them."""
    levels = convext.backends.cpu.isa_levels()
    lines = (check(op, case, dtype, draw, seed=seed, isa=levels) for op, dtype in itertools.product(OPERATORS, dtypes))
    return "\n".join(line for line in lines if line)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_floats(case: ConvCase, seed: int) -> None:
    wrong = faults(case, FLOATS + COMPLEX, "integers", seed)
    assert not wrong, wrong


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_integers_wrap_around(case: ConvCase, seed: int) -> None:
    wrong = faults(case, INTEGERS, "integers", seed)
    assert not wrong, wrong


@pytest.mark.parametrize("operator", OPERATORS)
def test_int64_wraps_as_python_integers_modulo_two_to_the_64(operator: str) -> None:
    """Values near the type's ends, where a detour over float64 would lose bits; summed with Python's own integers."""
    generator = torch.Generator().manual_seed(64)
    big = 2**62
    x, w, g = (torch.randint(-big, big, (n,), generator=generator) for n in (9, 4, 6))
    xs, ws, gs = x.tolist(), w.tolist(), g.tolist()
    conf = ([1], [0, 0], [1], 1, 0)
    if operator == "fprop":
        got = torch.ops.convext.conv_fprop(x.view(1, 1, -1), w.view(1, 1, -1), None, *conf)
        sums = [sum(xs[o + k] * ws[k] for k in range(4)) for o in range(6)]
    elif operator == "dgrad":
        got = torch.ops.convext.conv_dgrad(g.view(1, 1, -1), w.view(1, 1, -1), None, *conf)
        sums = [sum(gs[i - k] * ws[k] for k in range(4) if 0 <= i - k < 6) for i in range(9)]
    else:
        got = torch.ops.convext.conv_wgrad(g.view(1, 1, -1), x.view(1, 1, -1), [4], *conf)
        sums = [sum(gs[o] * xs[o + k] for o in range(6)) for k in range(4)]
    assert got.flatten().tolist() == [(s + 2**63) % 2**64 - 2**63 for s in sums]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("operator", OPERATORS)
def test_half_types_are_rounded_once_at_the_end(operator: str, dtype: torch.dtype, isa: str) -> None:
    """A sum of 2048 ones and 8: kept in the half type it would stop growing at 256 or 2048."""
    n = 2048
    many, one = torch.ones(1, n, 1, dtype=dtype), torch.ones(1, n, 1, dtype=dtype)
    conf = ([1], [0, 0], [1], 1, 0)
    if operator == "fprop":
        got = torch.ops.convext.conv_fprop(many, one, torch.full((1,), 8.0, dtype=dtype), *conf)
    elif operator == "dgrad":
        got = torch.ops.convext.conv_dgrad(many, one.transpose(0, 1), torch.full((1,), 8.0, dtype=dtype), *conf)
    else:
        got = torch.ops.convext.conv_wgrad(one.view(1, 1, n), many.view(1, 1, n), [1], *conf)
        got = got + torch.tensor(8.0)
    assert torch.equal(got, torch.full((1, 1, 1), n + 8.0).to(dtype)), got


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("operator", ("fprop", "dgrad"))
def test_half_bias_joins_before_the_rounding(operator: str, dtype: torch.dtype, isa: str) -> None:
    """1 + ulp/4 + 3 ulp/8 rounds up to 1 + ulp; rounded before the bias as well, it would stay at 1."""
    ulp = torch.finfo(dtype).eps
    values = torch.tensor([1.0, ulp / 4], dtype=dtype).view(1, 2, 1)
    weight = torch.ones(1, 2, 1, dtype=dtype)
    bias = torch.tensor([3 * ulp / 8], dtype=dtype)
    conf = ([1], [0, 0], [1], 1, 0)
    if operator == "fprop":
        got = torch.ops.convext.conv_fprop(values, weight, bias, *conf)
    else:
        got = torch.ops.convext.conv_dgrad(values, weight.transpose(0, 1), bias, *conf)
    assert got.item() == 1 + ulp
