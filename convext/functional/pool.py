"""torch.nn.functional's max poolings: the same names, signatures and results, on convext's operators; and min poolings.

All take the larger padding language (docs/padding.md). A function here normalises its arguments, checks them, once, and
calls one operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.overrides import handle_torch_function, has_torch_function_unary

from convext import _C, _pool_checks
from convext.ops import coded
from convext.ops import pool as ops
from convext.ops._autograd import PLAIN

__all__ = [
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "min_pool1d",
    "min_pool2d",
    "min_pool3d",
]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]
Values = Tensor | tuple[Tensor, Tensor]

_MAX_TYPES = _pool_checks.FLOATS | _pool_checks.INTEGERS
_LOW_PRECISION = (torch.bfloat16, torch.float16)


def in_float32(input: Tensor, on: tuple[str, ...] = ("cpu",)) -> Tensor:
    """What torch's autocast makes of the input of a function that it computes in float32 on these types of device."""
    device = input.device.type
    low = input.dtype in _LOW_PRECISION and device in on and torch.is_autocast_enabled(device)
    return input.float() if low else input


def batched(input: Tensor, rank: int, keeps_type: bool = False) -> Tensor:
    """(N, C, *spatial), in the precision that torch's autocast asks for: on CPU float32 for three axes."""
    if rank == 3 and not keeps_type:
        input = in_float32(input)
    if input.dim() == rank + 2:
        return input
    batch = input.unsqueeze(0)
    # torch's result is contiguous where there is no batch, whatever its strides say
    return batch if suggest_memory_format(batch) is torch.contiguous_format else batch.contiguous()


def unbatched(y: Tensor, input: Tensor, rank: int) -> Tensor:
    return y if input.dim() == rank + 2 else y.squeeze(0)


def max_of(input: Tensor, rank: int, geometry: Any, output_size: Any, minimum: bool, return_indices: bool) -> Values:
    x = batched(input, rank, keeps_type=return_indices and not ops.is_adaptive(geometry[0]))
    if not return_indices:
        return unbatched(ops.max_pool(x, *geometry, output_size, minimum), input, rank)
    values, offsets = ops.max_pool_with_offsets(x, *geometry, output_size, minimum)
    indices = ops.max_pool_indices(offsets, *geometry, _pool_checks.pixels_of(x, rank))
    return unbatched(values, input, rank), unbatched(indices, input, rank)


def plain_code(input: Tensor, rank: int, *window: Any) -> tuple[int, ...] | None:
    """The code of a window's (kernel_size, stride, padding, dilation), if they are plain ints and so is the image."""
    if type(input) in PLAIN and input.is_cpu and input.dim() == rank + 2:
        return _C.pool_code(rank, *window)
    return None


def _max_pool(
    function: Callable[..., Values],
    rank: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Padding,
    dilation: Ints,
    ceil_mode: bool,
    return_indices: bool,
    minimum: bool = False,
) -> Values:
    if has_torch_function_unary(input):
        arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        overridden: Values = handle_torch_function(function, (input,), input, *arguments)
        return overridden
    if return_indices is False and type(ceil_mode) is bool and not coded.is_observed():
        code = plain_code(input, rank, kernel_size, stride, padding, dilation)
        y = None if code is None else coded.max_pool(input, *code, ceil_mode, minimum)
        if y is not None:
            return y
    name = function.__name__
    _pool_checks.check_image(name, input, rank, _MAX_TYPES)
    *geometry, output_size = _pool_checks.configuration(
        name, _pool_checks.pixels_of(input, rank), kernel_size, stride, padding, dilation, ceil_mode
    )
    return max_of(input, rank, geometry, output_size, minimum, bool(return_indices))


def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Values:
    """:func:`torch.nn.functional.max_pool1d`, with the larger padding language.

    Args:
        input: (N, C, L) or (C, L); floats or 8- to 64-bit integers.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md. It
            holds nothing: a window that touches no input gives -inf, or the type's minimum, and passes no gradient.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output) or (C, *output), with
        output = (size + before + after - dilation * (kernel_size - 1) - 1) / stride + 1, rounded down, or up by
        ceil_mode. With return_indices a pair of it and, as int64, the place of each element in its plane of the input
        (of equal ones the first; -1 where the window is empty).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool(max_pool1d, 1, input, *arguments)


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Values:
    """:func:`torch.nn.functional.max_pool2d`, with the larger padding language.

    Args:
        input: (N, C, H, W) or (C, H, W); floats or 8- to 64-bit integers.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md. It
            holds nothing: a window that touches no input gives -inf, or the type's minimum, and passes no gradient.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output) or (C, *output), with
        output = (size + before + after - dilation * (kernel_size - 1) - 1) / stride + 1, rounded down, or up by
        ceil_mode. With return_indices a pair of it and, as int64, the place of each element in its plane of the input
        (of equal ones the first; -1 where the window is empty).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool(max_pool2d, 2, input, *arguments)


def max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Values:
    """:func:`torch.nn.functional.max_pool3d`, with the larger padding language.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W); floats or 8- to 64-bit integers.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md. It
            holds nothing: a window that touches no input gives -inf, or the type's minimum, and passes no gradient.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output) or (C, *output), with
        output = (size + before + after - dilation * (kernel_size - 1) - 1) / stride + 1, rounded down, or up by
        ceil_mode. With return_indices a pair of it and, as int64, the place of each element in its plane of the input
        (of equal ones the first; -1 where the window is empty).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool(max_pool3d, 3, input, *arguments)


def min_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Values:
    """The smallest element of each window; all else as :func:`max_pool1d`.

    Args:
        input: (N, C, L) or (C, L); floats or 8- to 64-bit integers.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md. It
            holds nothing: a window that touches no input gives inf, or the type's maximum, and passes no gradient.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        return_indices: whether to return the places of the smallest elements, too.

    Returns:
        (N, C, *output) or (C, *output), with
        output = (size + before + after - dilation * (kernel_size - 1) - 1) / stride + 1, rounded down, or up by
        ceil_mode. With return_indices a pair of it and, as int64, the place of each element in its plane of the input
        (of equal ones the first; -1 where the window is empty).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool(min_pool1d, 1, input, *arguments, minimum=True)


def min_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Values:
    """The smallest element of each window; all else as :func:`max_pool2d`.

    Args:
        input: (N, C, H, W) or (C, H, W); floats or 8- to 64-bit integers.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md. It
            holds nothing: a window that touches no input gives inf, or the type's maximum, and passes no gradient.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        return_indices: whether to return the places of the smallest elements, too.

    Returns:
        (N, C, *output) or (C, *output), with
        output = (size + before + after - dilation * (kernel_size - 1) - 1) / stride + 1, rounded down, or up by
        ceil_mode. With return_indices a pair of it and, as int64, the place of each element in its plane of the input
        (of equal ones the first; -1 where the window is empty).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool(min_pool2d, 2, input, *arguments, minimum=True)


def min_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Values:
    """The smallest element of each window; all else as :func:`max_pool3d`.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W); floats or 8- to 64-bit integers.
        kernel_size, stride, dilation: in pixels, one int or one for each axis; stride None is kernel_size.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md. It
            holds nothing: a window that touches no input gives inf, or the type's maximum, and passes no gradient.
        ceil_mode: whether a last window that reaches beyond the padding counts.
        return_indices: whether to return the places of the smallest elements, too.

    Returns:
        (N, C, *output) or (C, *output), with
        output = (size + before + after - dilation * (kernel_size - 1) - 1) / stride + 1, rounded down, or up by
        ceil_mode. With return_indices a pair of it and, as int64, the place of each element in its plane of the input
        (of equal ones the first; -1 where the window is empty).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _max_pool(min_pool3d, 3, input, *arguments, minimum=True)
