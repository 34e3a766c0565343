"""How a convolution of `convext.functional.conv` is called: by the shortest way where it may be, else checked, once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from convext import _C, _checks, _sizes, ops
from convext._checks import Configuration
from convext.ops import coded
from convext.ops._autograd import PLAIN

__all__ = ["CONV", "TRANSPOSED", "Form", "call", "checked_configuration", "is_empty", "operands_agree"]

_is_compiling = torch.compiler.is_compiling
_strided = torch.strided

# A network asks for the same few configurations at every step: this many are remembered for each form.
_REMEMBERED = 4096


class Form(NamedTuple):
    """A convolution or a transposed one, of any rank."""

    configure: Callable[..., Configuration]
    remembered: Callable[..., Configuration]  # the same
    operator: Callable[..., Tensor]
    code: Callable[..., tuple[int, ...] | None]  # of a rank and the arguments, if they are plain ints
    plain: Callable[..., Tensor | None]  # the operator with such a code; None where it refuses


CONV = Form(
    _checks.conv_configuration,
    functools.lru_cache(_REMEMBERED)(_checks.conv_configuration),
    ops.fprop,
    _C.conv_code,
    coded.fprop,
)
TRANSPOSED = Form(
    _checks.transposed_configuration,
    functools.lru_cache(_REMEMBERED)(_checks.transposed_configuration),
    ops.dgrad,
    _C.conv_transpose_code,
    coded.dgrad,
)


def _may_be_remembered(size: Sequence[Any], arguments: tuple[Any, ...]) -> bool:
    """Whether equal keys mean equal calls: 1, True and 1.0 are equal, and a traced size is a tensor."""
    if not size or type(size[0]) is not int:
        return False
    for value in arguments:
        kind = type(value)
        if kind is tuple:
            for v in value:
                if type(v) is not int and not (type(v) is tuple and len(v) == 2 and type(v[0]) is type(v[1]) is int):
                    return False
        elif kind is not int and kind is not str:
            return False
    return True


def checked_configuration(form: Form, name: str, rank: int, *sizes_and_arguments: Any) -> Configuration:
    """The checked configuration, remembered where it may be."""
    if not _is_compiling() and _may_be_remembered(sizes_and_arguments[0], sizes_and_arguments[3:]):
        try:
            return form.remembered(name, rank, *sizes_and_arguments)
        except TypeError:  # a symbolic size has no hash; or the call itself is wrong, and raises again
            pass
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        # sizes are tensors there, and no argument of an operator: "same" would become one
        shapes = [None if size is None else [int(s) for s in size] for size in sizes_and_arguments[:3]]
        return form.configure(name, rank, *shapes, *sizes_and_arguments[3:])
    return form.configure(name, rank, *sizes_and_arguments)


def operands_agree(input: Any, weight: Any, bias: Any) -> bool:
    """Whether all is well with the tensors; if not, `_checks.check_operands` says what is wrong."""
    return (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and input.dtype is weight.dtype
        and input.device == weight.device
        and input.layout is weight.layout is _strided
        and (bias is None or (isinstance(bias, Tensor) and bias.dtype is input.dtype and bias.device == input.device))
    )


def is_empty(input: Tensor) -> bool:
    """Whether it has no elements. A compiler is asked about pixels alone: it may not know the batch."""
    return 0 in input.shape[2:] if _is_compiling() else input.numel() == 0


def _on_empty(
    form: Form, input: Tensor, weight: Tensor, bias: Tensor | None, configuration: Configuration
) -> Tensor | None:
    """The result for an input without elements; None where the operator gives it.

    The operators take no axis of size 0. No pixel is summed, so that any image without elements will do: here one whose
    result has the right size.
    """
    stride, padding, dilation, groups, _ = configuration
    kernel, transposed = weight.shape[2:], form.operator is ops.dgrad
    formula = _sizes.transposed_size if transposed else _sizes.output_size
    result = [
        formula(size, k, stride[i], padding[2 * i], padding[2 * i + 1], dilation[i])
        for i, (size, k) in enumerate(zip(input.shape[2:], kernel, strict=True))
    ]
    if all(input.shape[2:]) and all(result):
        return None
    image = [1 for _ in kernel] if transposed else [size + k - 1 for size, k in zip(result, kernel, strict=True)]
    ones = (1,) * len(result)
    empty = input.reshape(*input.shape[:2], *image)
    y = form.operator(empty, weight, bias, ones, (0,) * 2 * len(result), ones, groups, 0)
    return y.reshape(*y.shape[:2], *result)


def _plainly(
    form: Form, rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> Tensor | None:
    """The result of a call that nobody observes, of plain tensors with plain ints; None for any other.

    It checks nothing: the operator refuses whatever is wrong, as well as much that is right.
    """
    if (
        type(input) in PLAIN
        and type(weight) in PLAIN
        and input.is_cpu
        and weight.is_cpu
        and (bias is None or (type(bias) in PLAIN and bias.is_cpu))
        and input.dim() == rank + 2
    ):
        code = form.code(rank, *arguments)
        if code is not None:
            return form.plain(input, weight, bias, *code)
    return None


def call(
    form: Form,
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *arguments: Any,
) -> Tensor:
    """The result of `function`, one of the form's, on these arguments in the order of its signature."""
    if has_torch_function_variadic(input, weight, bias):
        tensors = (input, weight, bias)
        overridden: Tensor = handle_torch_function(function, tensors, *tensors, *arguments)
        return overridden
    if not coded.is_observed():
        y = _plainly(form, rank, input, weight, bias, *arguments)
        if y is not None:
            return y
    name = function.__name__
    if not operands_agree(input, weight, bias):
        _checks.check_operands(name, input, weight, bias)
    sizes = (input.shape, weight.shape, None if bias is None else bias.shape)
    configuration = checked_configuration(form, name, rank, *sizes, *arguments)
    if input.dtype not in _checks.DTYPES:
        raise NotImplementedError(f"{name}: expected one of torch's float, complex or integer types, got {input.dtype}")
    if input.dim() == rank + 1:
        return _batched(form, input.unsqueeze(0), weight, bias, configuration).squeeze(0)
    return _batched(form, input, weight, bias, configuration)


def _batched(form: Form, input: Tensor, weight: Tensor, bias: Tensor | None, configuration: Configuration) -> Tensor:
    if is_empty(input):
        y = _on_empty(form, input, weight, bias, configuration)
        if y is not None:
            return y
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()  # the operators read it in place
    return form.operator(input, weight, bias, *configuration)
