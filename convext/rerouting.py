"""A block in which torch's own functions compute by convext: for models that call functions or subclass layers.

See docs/models.md for what is covered and what stays torch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convext import _coverage, functional

__all__ = ["override"]

Function = Callable[..., Any]

_ALIKE = (
    *(f"{name}{rank}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool") for rank in (1, 2, 3)),
    *(f"{name}{rank}d" for name in ("adaptive_max_pool", "adaptive_avg_pool", "lp_pool") for rank in (1, 2, 3)),
    *(f"max_unpool{rank}d" for rank in (1, 2, 3)),
    *(f"fractional_max_pool{rank}d" for rank in (2, 3)),
    "unfold",
    "fold",
    "local_response_norm",
)


def _with_indices(function: Function) -> Function:
    def values_and_indices(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{**kwargs, "return_indices": True})

    return values_and_indices


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    """torch.convolution, what exported programs call once they are decomposed."""
    rank = weight.dim() - 2
    if transposed:
        function: Function = getattr(functional, f"conv_transpose{rank}d")
        y: Tensor = function(input, weight, bias, stride, padding, output_padding, groups, dilation)
    else:
        y = getattr(functional, f"conv{rank}d")(input, weight, bias, stride, padding, dilation, groups)
    return y


def _functions() -> Iterator[tuple[Function, Function]]:
    """torch's functions, under every name that Python code calls them by, and convext's."""
    for name in _ALIKE:
        yield getattr(F, name), getattr(functional, name)
        with_indices = getattr(F, f"{name}_with_indices", None)
        if with_indices is not None:
            yield with_indices, _with_indices(getattr(functional, name))
    for rank in (1, 2, 3):
        yield getattr(torch, f"max_pool{rank}d"), getattr(functional, f"max_pool{rank}d")
    yield torch.max_pool1d_with_indices, _with_indices(functional.max_pool1d)
    yield torch.adaptive_max_pool1d, _with_indices(functional.adaptive_max_pool1d)
    yield torch.convolution, _convolution


def _operators() -> Iterator[tuple[Function, Function]]:
    """torch.ops.aten's operators of the same arguments, which exported programs call."""
    for rank in (1, 2, 3):
        for name in ("conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_avg_pool"):
            yield getattr(torch.ops.aten, f"{name}{rank}d"), getattr(functional, f"{name}{rank}d")
        for name in ("max_pool", "adaptive_max_pool"):
            pool = _with_indices(getattr(functional, f"{name}{rank}d"))
            yield getattr(torch.ops.aten, f"{name}{rank}d" + "_with_indices" * (name == "max_pool")), pool
    for rank in (2, 3):
        yield getattr(torch.ops.aten, f"_adaptive_avg_pool{rank}d"), getattr(functional, f"adaptive_avg_pool{rank}d")
    yield torch.ops.aten.im2col, functional.unfold
    yield torch.ops.aten.col2im, functional.fold
    yield torch.ops.aten.convolution, _convolution


def _table() -> dict[Any, Function]:
    table = dict(_functions())
    for packet, ours in _operators():
        table[packet] = ours
        for overload in packet.overloads():  # type: ignore[attr-defined]
            if overload != "out":
                table[getattr(packet, overload)] = ours
    return table


_OURS = _table()


class override(TorchFunctionMode, ContextDecorator):
    """In a ``with convext.override():`` block torch's convolutions, poolings, unfold, fold and LRN are convext's.

    It covers torch.nn.functional's functions, their names in ``torch`` and ``torch.ops.aten``, and all layers that call
    them, in eager mode and under torch.compile. It is a :class:`torch.overrides.TorchFunctionMode`: it holds for the
    thread that entered it, may be nested, and decorates functions, too: ``@convext.override()``.

    A call stays torch's, unchanged, where one of its tensors lies on a device without kernels of ours; also, with a
    :class:`LeftToTorchWarning`, where a tensor is quantized, sparse, nested, of a type that no kernel takes or of a
    subclass with a ``__torch_function__`` of its own, and where it asks for ``out=``. Any other call is convext's, and
    raises what convext raises.
    """

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = _OURS.get(func)
        if ours is None:
            return func(*args, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if _coverage.elsewhere(tensors) is not None:
            return func(*args, **kwargs)
        why = _why_left(tensors, kwargs)
        if why is None:
            return ours(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        warnings.warn(f"{name} is left to torch: {why}", _coverage.LeftToTorchWarning, stacklevel=2)
        return func(*args, **kwargs)


def _why_left(tensors: list[Tensor], kwargs: dict[str, Any]) -> str | None:
    if "out" in kwargs:
        return "it is asked for out="
    for t in tensors:
        why = _coverage.refusal(t)
        if why is not None:
            return f"one of its tensors {why}"
    return None
