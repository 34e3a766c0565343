"""torch.nn.functional's average poolings on convext's operators, with a dilation and the larger padding language."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convext import _pool_checks
from convext.functional.pool import Ints, Padding, batched, plain_code, unbatched
from convext.ops import coded
from convext.ops import pool as ops

__all__ = ["avg_pool1d", "avg_pool2d", "avg_pool3d"]

_AVG_TYPES = _pool_checks.FLOATS | {torch.int64}


def avg_pool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    dilation: Ints,
) -> Tensor:
    if has_torch_function_unary(input):
        arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad)
        if rank > 1:
            arguments += (divisor_override,)  # type: ignore[assignment]
        overridden: Tensor = handle_torch_function(function, (input,), input, *arguments, dilation)
        return overridden
    if type(ceil_mode) is type(count_include_pad) is bool and not coded.is_observed():
        divisor = 0 if divisor_override is None else divisor_override
        code = plain_code(input, rank, kernel_size, stride, padding, dilation)
        if code is not None and type(divisor) is int and (divisor != 0 or divisor_override is None):
            y = coded.avg_pool(input, *code, ceil_mode, count_include_pad, divisor)
            if y is not None:
                return y
    name = function.__name__
    _pool_checks.check_image(name, input, rank, _AVG_TYPES)
    *geometry, output_size = _pool_checks.configuration(
        name, _pool_checks.pixels_of(input, rank), kernel_size, stride, padding, dilation, ceil_mode
    )
    count_include_pad = _pool_checks.check_flag(name, "count_include_pad", count_include_pad)
    divisor = _pool_checks.divisor_of(name, divisor_override)
    x = batched(input, rank)
    if divisor == -1 and not x.is_floating_point():  # which the operator refuses: the least integer has no quotient
        return unbatched(-ops.avg_pool(x, *geometry, output_size, count_include_pad, 1), input, rank)
    return unbatched(ops.avg_pool(x, *geometry, output_size, count_include_pad, divisor), input, rank)


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool1d`, with a dilation and the larger padding language.

    Args:
        input: (N, C, L) or (C, L); floats, or int64, whose quotient is truncated.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: zeros: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        count_include_pad: whether the divisor counts the padding; if not, a window of padding alone gives 0.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool1d`'s.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, None, dilation)
    return avg_pool(avg_pool1d, 1, input, *arguments)


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool2d`, with a dilation and the larger padding language.

    Args:
        input: (N, C, H, W) or (C, H, W); floats, or int64, whose quotient is truncated.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: zeros: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        count_include_pad: whether the divisor counts the padding; if not, a window of padding alone gives 0.
        divisor_override: what to divide by instead of the count; not 0.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool2d`'s.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation)
    return avg_pool(avg_pool2d, 2, input, *arguments)


def avg_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    dilation: Ints = 1,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool3d`, with a dilation and the larger padding language.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W); floats, or int64, whose quotient is truncated.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: zeros: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        count_include_pad: whether the divisor counts the padding; if not, a window of padding alone gives 0.
        divisor_override: what to divide by instead of the count; not 0.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool3d`'s.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation)
    return avg_pool(avg_pool3d, 3, input, *arguments)
