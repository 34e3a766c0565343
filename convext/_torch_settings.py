"""What torch's layer of the same name would hold in place of a convext layer's settings, where it can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from convext import _padding

__all__ = ["SURPLUS", "torch_settings"]

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
_MAX_POOLS = (torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d)
_AVG_POOLS = (torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d)
_LP_POOLS = (torch.nn.LPPool1d, torch.nn.LPPool2d, torch.nn.LPPool3d)
_FOLDS = (torch.nn.Unfold, torch.nn.Fold)

# Attributes that torch's layer of the name does not have.
SURPLUS = dict.fromkeys(_AVG_POOLS, ("dilation",)) | dict.fromkeys(_LP_POOLS, ("padding", "dilation", "abs"))


def _is_plain(padding: Any) -> bool:
    """Whether torch's functions take it: an int, or some."""
    values = padding if isinstance(padding, (list, tuple)) else (padding,)
    return not any(isinstance(v, (str, list, tuple)) for v in values)


def _rank(layer: Any) -> int:
    return int(type(layer).__name__[-2])


def _on_axes(layer: Any, argument: str, rank: int) -> tuple[int, ...]:
    value = getattr(layer, argument, 1)
    if value is None:  # the stride of a pooling
        value = layer.kernel_size
    name = type(layer).__name__
    return _padding.on_each_axis(name, argument, _padding.int_or_ints(name, argument, value), rank)


def _both_sides(layer: Any, rank: int, transposed: bool = False) -> tuple[int, ...]:
    """The pixels on both sides of each axis.

    Raises:
        ValueError: torch cannot say it: the sides differ, or depend on the image.
    """
    unsaid = ValueError(f"padding={layer.padding!r}")
    entries = _padding.parse(type(layer).__name__, layer.padding, rank)
    geometry = [_on_axes(layer, argument, rank) for argument in ("kernel_size", "stride", "dilation")]
    if transposed:
        pairs: Sequence[_padding.Pair] = _padding.transposed_pairs(type(layer).__name__, entries, *geometry)
    elif any(e in ("same", "same_lower") and s != 1 for e, s in zip(entries, geometry[1], strict=True)):
        raise unsaid
    else:
        pairs = _padding.conv_pairs(type(layer).__name__, entries, (0,) * rank, *geometry)
    if any(lo != hi or lo < 0 for lo, hi in pairs):
        raise unsaid
    return tuple([lo for lo, _ in pairs])


def _conv(layer: Any) -> dict[str, Any]:
    if _is_plain(layer.padding):
        return {}
    if layer.padding == "valid" or (layer.padding == "same" and all(s == 1 for s in layer.stride)):
        return {}
    return {"padding": _both_sides(layer, _rank(layer))}


def _conv_transpose(layer: Any) -> dict[str, Any]:
    if layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode={layer.padding_mode!r}")
    return {} if _is_plain(layer.padding) else {"padding": _both_sides(layer, _rank(layer), transposed=True)}


def _pool(layer: Any) -> dict[str, Any]:
    if _is_plain(layer.padding):
        return {}
    rank = _rank(layer)
    padding = _both_sides(layer, rank)
    if any(2 * p > k for p, k in zip(padding, _on_axes(layer, "kernel_size", rank), strict=True)):
        raise ValueError(f"padding={layer.padding!r}, more than half of the window")
    return {"padding": padding}


def _avg_pool(layer: Any) -> dict[str, Any]:
    if any(d != 1 for d in _on_axes(layer, "dilation", _rank(layer))):
        raise ValueError(f"dilation={layer.dilation!r}")
    return _pool(layer)


def _lp_pool(layer: Any) -> dict[str, Any]:
    if any(d != 1 for d in _on_axes(layer, "dilation", _rank(layer))):
        raise ValueError(f"dilation={layer.dilation!r}")
    if layer.abs:
        raise ValueError(f"abs={layer.abs!r}")
    if any(_both_sides(layer, _rank(layer))):
        raise ValueError(f"padding={layer.padding!r}")
    return {}


def _fold(layer: Any) -> dict[str, Any]:
    rank = len(layer.kernel_size) if isinstance(layer.kernel_size, (list, tuple)) else 2
    if rank != 2:
        raise ValueError(f"kernel_size={layer.kernel_size!r}, for {rank} axes")
    return {} if _is_plain(layer.padding) else {"padding": _both_sides(layer, rank)}


_RULES = (
    (_TRANSPOSED, _conv_transpose),
    (_CONVOLUTIONS, _conv),
    (_MAX_POOLS, _pool),
    (_AVG_POOLS, _avg_pool),
    (_LP_POOLS, _lp_pool),
    (_FOLDS, _fold),
)


def torch_settings(layer: torch.nn.Module) -> dict[str, Any]:
    """The attributes that have to change before `layer`, of a convext.nn type, can become torch's.

    Raises:
        ValueError: a setting that torch's layer does not have, as the end of a sentence.
    """
    for kinds, rule in _RULES:
        if isinstance(layer, kinds):
            return rule(layer)
    return {}
