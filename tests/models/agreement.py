"""What every network is held to: torch's results and gradients, by convext's operators alone."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor

import convext
from tests.layers import operators

FLOAT32 = 2e-5
FLOAT64 = 1e-10
GRADIENTS = 1e-8  # in float64


def _flat(result: Any) -> list[Tensor]:
    """The tensors of a network's result: one, a sequence or a dictionary."""
    if isinstance(result, Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result
    return [t for value in values for t in _flat(value)]


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|"""
    return float((a.double() - b.double()).norm() / b.double().norm())


def _run(model: torch.nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and the gradients to the input and all parameters of the mean of their squares."""
    x = x.clone().requires_grad_()
    results = _flat(model(x))
    loss = sum(t.square().mean() for t in results)
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [t.detach() for t in results], [g for g in gradients if g is not None]


def _agree(ours: list[Tensor], theirs: list[Tensor], bound: float) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
    distances = [distance(a, b) for a, b in zip(ours, theirs, strict=True) if float(b.norm()) > 0]
    assert distances and max(distances) <= bound, f"relative distances up to {max(distances):.1e}, expected {bound}"


def _is_by_convext(model: torch.nn.Module, x: Tensor) -> bool:
    ours, theirs = operators(model, x)
    assert ours
    return not theirs


def check(model: torch.nn.Module, x: Tensor, whole: bool = True, convert: bool = True) -> None:
    """A network by convext against itself by torch: float32, float64, gradients, the operators it runs, and back.

    Args:
        model: a network; its weights may be of any type.
        x: its input, float64.
        whole: whether convext.convert covers it. If not, it calls functions or has layers of its own, and runs inside
            convext.override().
        convert: whether to convert it at all; if not, convext.override() has to do alone.
    """
    model.eval().float()
    with torch.no_grad():
        single = _flat(model(x.float()))
    model.double()
    results, gradients = _run(model, x)

    if convert:
        with warnings.catch_warnings():
            warnings.simplefilter("error" if whole else "ignore", convext.LeftToTorchWarning)
            assert convext.convert(model) is model
        report = convext.conversion_report(model)
        assert report.converted and not report.convertible
        assert _is_by_convext(model, x) == whole
    with contextlib.nullcontext() if whole and convert else convext.override():
        assert _is_by_convext(model, x)
        ours, ours_gradients = _run(model, x)
        model.float()
        with torch.no_grad():
            ours_single = _flat(model(x.float()))
    _agree(ours, results, FLOAT64)
    _agree(ours_gradients, gradients, GRADIENTS)
    _agree(ours_single, single, FLOAT32)

    convext.revert(model)
    assert not convext.conversion_report(model).converted
    with torch.no_grad():
        _agree(_flat(model(x.float())), single, 0.0)
