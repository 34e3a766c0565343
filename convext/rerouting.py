"""A block in which torch's own functions compute by convext: for models that call functions or subclass layers.

See docs/models.md for what is covered and what stays torch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convext import _checks, _coverage, _pool_checks, functional

__all__ = ["override"]

Function = Callable[..., Any]

_RANKS = (1, 2, 3)

# the functions that torch.nn.functional has by the same names, and the element types of their input
_TYPES: dict[str, frozenset[torch.dtype]] = {
    **{f"conv{rank}d": _checks.DTYPES for rank in _RANKS},
    **{f"conv_transpose{rank}d": _checks.DTYPES for rank in _RANKS},
    **{f"max_pool{rank}d": _pool_checks.FLOATS | _pool_checks.INTEGERS for rank in _RANKS},
    **{f"avg_pool{rank}d": _pool_checks.FLOATS | {torch.int64} for rank in _RANKS},
    **{f"lp_pool{rank}d": _pool_checks.FLOATS | _pool_checks.INTEGERS | {torch.bool} for rank in _RANKS},
    **{f"adaptive_max_pool{rank}d": _pool_checks.FLOATS for rank in _RANKS},
    **{f"adaptive_avg_pool{rank}d": _pool_checks.FLOATS for rank in _RANKS},
    **{f"max_unpool{rank}d": _pool_checks.FLOATS for rank in _RANKS},
    **{f"fractional_max_pool{rank}d": _pool_checks.FLOATS for rank in _RANKS[1:]},
    "unfold": _checks.DTYPES | {torch.bool},
    "fold": _checks.DTYPES | {torch.bool},
    "local_response_norm": _pool_checks.FLOATS,
}


class _Ours(NamedTuple):
    function: Function
    types: frozenset[torch.dtype]  # of the input


def _ours(name: str) -> _Ours:
    return _Ours(getattr(functional, name), _TYPES[name])


def _with_indices(name: str) -> _Ours:
    function = getattr(functional, name)

    def values_and_indices(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{**kwargs, "return_indices": True})

    return _Ours(values_and_indices, _TYPES[name])


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


def _functions() -> Iterator[tuple[Function, _Ours]]:
    """torch's functions, under every name that Python code calls them by, and convext's."""
    for name in _TYPES:
        yield getattr(F, name), _ours(name)
        if hasattr(F, f"{name}_with_indices"):
            yield getattr(F, f"{name}_with_indices"), _with_indices(name)
    for rank in _RANKS:  # the others are the same objects in both modules
        yield getattr(torch, f"max_pool{rank}d"), _ours(f"max_pool{rank}d")
    yield torch.max_pool1d_with_indices, _with_indices("max_pool1d")
    yield torch.adaptive_max_pool1d, _with_indices("adaptive_max_pool1d")
    yield torch.convolution, _Ours(_convolution, _checks.DTYPES)


def _operators() -> Iterator[tuple[str, _Ours]]:
    """The operators of torch.ops.aten with the same arguments, which exported programs call."""
    for rank in _RANKS:
        for name in ("conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_avg_pool"):
            yield f"{name}{rank}d", _ours(f"{name}{rank}d")
        yield f"max_pool{rank}d_with_indices", _with_indices(f"max_pool{rank}d")
        yield f"adaptive_max_pool{rank}d", _with_indices(f"adaptive_max_pool{rank}d")
    for rank in _RANKS[1:]:
        yield f"_adaptive_avg_pool{rank}d", _ours(f"adaptive_avg_pool{rank}d")
    yield "im2col", _ours("unfold")
    yield "col2im", _ours("fold")
    yield "convolution", _Ours(_convolution, _checks.DTYPES)


def _table() -> dict[Any, _Ours]:
    table: dict[Any, _Ours] = dict(_functions())
    for name, ours in _operators():
        packet = getattr(torch.ops.aten, name)
        table[packet] = ours
        for overload in packet.overloads():
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
    :class:`LeftToTorchWarning`, where a tensor is quantized, sparse, nested, of an element type that convext's function
    does not take or of a subclass with a ``__torch_function__`` of its own, and where it asks for ``out=``. Any other
    call is convext's, and raises what convext raises.
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
        why = _why_left(ours, tensors, kwargs)
        if why is None:
            return ours.function(*args, **kwargs)
        if not torch.compiler.is_compiling():  # which cannot warn without a break in its graph
            name = getattr(func, "__name__", str(func))
            warnings.warn(f"{name} is left to torch: {why}", _coverage.LeftToTorchWarning, stacklevel=2)
        return func(*args, **kwargs)


def _why_left(ours: _Ours, tensors: list[Tensor], kwargs: dict[str, Any]) -> str | None:
    if "out" in kwargs:
        return "it is asked for out="
    for t in tensors:
        why = _coverage.refusal(t)
        if why is not None:
            return f"one of its tensors {why}"
    if tensors and tensors[0].dtype not in ours.types:
        return f"its input has the type {tensors[0].dtype}"
    return None
