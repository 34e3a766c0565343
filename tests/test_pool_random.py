"""Max, min and average pooling against a reference in float64, at every level; exact where it can be."""

from __future__ import annotations

import pytest
import torch

from tests.pool_case import CASES, FLOATS, INTEGERS, PoolCase, reference_average, reference_max
from tests.reference import TOLERANCE, error

each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)


@each_case
@pytest.mark.parametrize("kind", ("max", "min"))
def test_largest_and_smallest(case: PoolCase, kind: str, isa: str) -> None:
    """Values and places are those of the reference, to the bit; without indices the values are the same."""
    for dtype in (*FLOATS, *INTEGERS):
        x = case.image(dtype, integers=dtype is torch.float32)  # small integers: many equal elements in a window
        values, places = case.maximum(x, kind, return_indices=True)
        wanted, at = reference_max(case, x, kind)
        assert values.dtype == dtype and places.dtype == torch.int64
        assert torch.equal(values, wanted), dtype
        assert torch.equal(places, at), dtype
        assert torch.equal(case.maximum(x, kind), wanted), dtype


@each_case
def test_average(case: PoolCase, isa: str) -> None:
    for dtype in FLOATS:
        x = case.image(dtype)
        y = case.average(x)
        scale = reference_average(case, x.abs())
        assert y.dtype == dtype and error(y, reference_average(case, x), scale) <= TOLERANCE[dtype]
    x = case.image(torch.int64)
    assert torch.equal(case.average(x), reference_average(case, x))


@each_case
def test_gradient_of_the_largest(case: PoolCase, isa: str) -> None:
    """Every gradient goes to the recorded place: by hand, an addition at it in float64."""
    for dtype in FLOATS:
        x = case.image(dtype).requires_grad_()
        y = case.maximum(x)
        g = torch.randn_like(y)
        (ours,) = torch.autograd.grad(y, x, g)
        _, at = reference_max(case, x.detach())
        wanted = torch.zeros((*x.shape[:2], x[0, 0].numel() + 1 if x.shape[0] else 1), dtype=torch.float64)
        last = wanted.shape[-1] - 1
        wanted.scatter_add_(2, torch.where(at < 0, last, at).flatten(2), g.double().flatten(2))
        assert ours.dtype == dtype and error(ours, wanted[..., :last].reshape(x.shape)) <= TOLERANCE[dtype]


@each_case
def test_gradient_of_the_average(case: PoolCase, isa: str) -> None:
    for dtype in FLOATS:
        x = case.image(dtype).requires_grad_()
        y = case.average(x)
        g = torch.randn_like(y)
        (ours,) = torch.autograd.grad(y, x, g)
        wide = x.detach().double().clone().requires_grad_()
        (wanted,) = torch.autograd.grad(reference_average(case, wide), wide, g.double())
        assert ours.dtype == dtype and error(ours, wanted) <= TOLERANCE[dtype]
