"""torch.nn.functional's Lp poolings, on convext's average pooling: the p-th root of a sum of p-th powers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convext import _padding, _pool_checks
from convext.functional import pool
from convext.functional.avg_pool import avg_pool
from convext.functional.pool import Ints, Padding, batched, in_float32, unbatched
from convext.ops import pool as ops

__all__ = ["lp_pool1d", "lp_pool2d", "lp_pool3d"]


def _power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent with the gradient 0 at 0, where an exponent below 1 would make it infinite."""
    if not 0 < exponent < 1 or not x.is_floating_point():
        return x.pow(exponent)
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).pow(exponent))


def _lp_pool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None,
    ceil_mode: bool,
    padding: Padding,
    dilation: Ints,
    abs: bool,
) -> Tensor:
    if has_torch_function_unary(input):
        arguments = (norm_type, kernel_size, stride, ceil_mode, padding, dilation, abs)
        overridden: Tensor = handle_torch_function(function, (input,), input, *arguments)
        return overridden
    name = function.__name__
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: expected input to be a Tensor, got {type(input).__name__}")
    window: dict[str, Any] = {"padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    if isinstance(norm_type, (int, float)) and math.isinf(norm_type):
        pooled = getattr(pool, f"{'max' if norm_type > 0 else 'min'}_pool{rank}d")
        extreme: Tensor = pooled(input.abs(), kernel_size, stride, **window)
        return extreme
    input = in_float32(input, ("cuda",))
    if norm_type == 2 and input.is_floating_point():
        return _l2_pool(name, rank, input, kernel_size, stride, ceil_mode, padding, dilation)
    # sums of low-precision types stay float32 to the end
    wide = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
    powers = _power(wide.abs() if abs else wide, norm_type)
    # a window that ceil_mode lets reach beyond the padding counts by its mean; any other is a plain sum
    divisor = None if ceil_mode or not powers.is_floating_point() else 1
    total = avg_pool(function, rank, powers, kernel_size, stride, padding, ceil_mode, True, divisor, dilation)
    if divisor is None:
        kernel = _padding.int_or_ints(name, "kernel_size", kernel_size)
        total = total * math.prod(_padding.on_each_axis(name, "kernel_size", kernel, rank))
    y = _power(total, 1.0 / norm_type)
    return y if wide is input or (rank == 3 and in_float32(input) is not input) else y.to(input.dtype)


def _l2_pool(
    name: str,
    rank: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    ceil_mode: bool,
    padding: Padding,
    dilation: Ints,
) -> Tensor:
    """The norm that networks use, in one pass."""
    _pool_checks.check_image(name, input, rank, _pool_checks.FLOATS)
    *geometry, output_size = _pool_checks.pool_configuration(
        name, _pool_checks.pixels_of(input, rank), kernel_size, stride, padding, dilation, ceil_mode
    )
    x = batched(input, rank)
    return unbatched(ops.l2_pool(x, *geometry, output_size), input, rank)


def lp_pool1d(
    input: Tensor,
    norm_type: int | float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    padding: Padding = 0,
    dilation: Ints = 1,
    abs: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.lp_pool1d`, with padding, a dilation, and a gradient that is finite at 0.

    Args:
        input: (N, C, L) or (C, L).
        norm_type: the p of the norm; infinity gives the largest magnitude, minus infinity the smallest.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        ceil_mode: whether a last window that reaches beyond the padding counts; by its mean power.
        padding: zeros: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.
        abs: whether to take powers of magnitudes. As torch, without it an odd p sums signed powers.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool1d`'s: (sum of x ** p) ** (1 / p).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (norm_type, kernel_size, stride, ceil_mode, padding, dilation, abs)
    return _lp_pool(lp_pool1d, 1, input, *arguments)


def lp_pool2d(
    input: Tensor,
    norm_type: int | float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    padding: Padding = 0,
    dilation: Ints = 1,
    abs: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.lp_pool2d`, with padding, a dilation, and a gradient that is finite at 0.

    Args:
        input: (N, C, H, W) or (C, H, W).
        norm_type: the p of the norm; infinity gives the largest magnitude, minus infinity the smallest.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        ceil_mode: whether a last window that reaches beyond the padding counts; by its mean power.
        padding: zeros: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.
        abs: whether to take powers of magnitudes. As torch, without it an odd p sums signed powers.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool2d`'s: (sum of x ** p) ** (1 / p).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (norm_type, kernel_size, stride, ceil_mode, padding, dilation, abs)
    return _lp_pool(lp_pool2d, 2, input, *arguments)


def lp_pool3d(
    input: Tensor,
    norm_type: int | float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
    padding: Padding = 0,
    dilation: Ints = 1,
    abs: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.lp_pool3d`, with padding, a dilation, and a gradient that is finite at 0.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        norm_type: the p of the norm; infinity gives the largest magnitude, minus infinity the smallest.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        ceil_mode: whether a last window that reaches beyond the padding counts; by its mean power.
        padding: zeros: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.
        abs: whether to take powers of magnitudes. As torch, without it an odd p sums signed powers.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool3d`'s: (sum of x ** p) ** (1 / p).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (norm_type, kernel_size, stride, ceil_mode, padding, dilation, abs)
    return _lp_pool(lp_pool3d, 3, input, *arguments)
