"""Poolings from the textbooks that torch lacks: stochastic pooling, and Maxout's pooling across channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convext import _padding, _pool_checks
from convext.functional.pool import Ints, Padding, batched, unbatched
from convext.ops import places, pool

__all__ = ["maxout", "stochastic_pool1d", "stochastic_pool2d", "stochastic_pool3d"]


def _stochastic_pool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Padding,
    dilation: Ints,
    ceil_mode: bool,
    training: bool,
    generator: torch.Generator | None,
) -> Tensor:
    if has_torch_function_unary(input):
        arguments = (kernel_size, stride, padding, dilation, ceil_mode, training, generator)
        overridden: Tensor = handle_torch_function(function, (input,), input, *arguments)
        return overridden
    name = function.__name__
    _pool_checks.check_image(name, input, rank, _pool_checks.FLOATS)
    *geometry, output_size = _pool_checks.configuration(
        name, _pool_checks.pixels_of(input, rank), kernel_size, stride, padding, dilation, ceil_mode
    )
    x = batched(input, rank)
    if training:
        drawn: Any = {} if generator is None else {"generator": generator}  # symbolic sizes know no generator
        uniform = torch.rand((*x.shape[:2], *output_size), dtype=torch.float64, device=x.device, **drawn)
        offsets = places.stochastic_pool_offsets(x, uniform, *geometry)
        return unbatched(pool.max_pool_gather(x, offsets, *geometry), input, rank)
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    positive = wide.clamp(min=0)
    conf: Any = (*geometry, output_size, True, 1)
    total = pool.avg_pool(positive, *conf)
    empty = total == 0
    weighted = pool.avg_pool(positive * positive, *conf)
    y = torch.where(empty, torch.zeros_like(total), weighted / torch.where(empty, torch.ones_like(total), total))
    return unbatched(y.to(x.dtype), input, rank)


def stochastic_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stochastic pooling (Zeiler & Fergus 2013): one element of each window, drawn in proportion to its activation.

    Args:
        input: (N, C, L) or (C, L); activations. A negative one is never drawn beside a positive one.
        kernel_size, stride, padding, dilation, ceil_mode: as :func:`max_pool1d`'s.
        training: whether to draw, with torch's generator; if not, the mean under the same probabilities, which is
            sum of a * a / sum of a over the positive a, and 0 where there is none.
        generator: the generator to draw with; None: torch's own.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool1d`'s. A window without a positive element gives, in
        training, its first. The gradient goes to the elements drawn.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as :func:`max_pool1d`.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, training, generator)
    return _stochastic_pool(stochastic_pool1d, 1, input, *arguments)


def stochastic_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stochastic pooling (Zeiler & Fergus 2013): one element of each window, drawn in proportion to its activation.

    Args:
        input: (N, C, H, W) or (C, H, W); activations. A negative one is never drawn beside a positive one.
        kernel_size, stride, padding, dilation, ceil_mode: as :func:`max_pool2d`'s.
        training: whether to draw, with torch's generator; if not, the mean under the same probabilities, which is
            sum of a * a / sum of a over the positive a, and 0 where there is none.
        generator: the generator to draw with; None: torch's own.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool2d`'s. A window without a positive element gives, in
        training, its first. The gradient goes to the elements drawn.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as :func:`max_pool2d`.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, training, generator)
    return _stochastic_pool(stochastic_pool2d, 2, input, *arguments)


def stochastic_pool3d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Padding = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stochastic pooling (Zeiler & Fergus 2013): one element of each window, drawn in proportion to its activation.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W); activations. A negative one is never drawn beside a positive one.
        kernel_size, stride, padding, dilation, ceil_mode: as :func:`max_pool3d`'s.
        training: whether to draw, with torch's generator; if not, the mean under the same probabilities, which is
            sum of a * a / sum of a over the positive a, and 0 where there is none.
        generator: the generator to draw with; None: torch's own.

    Returns:
        (N, C, *output) or (C, *output), sized as :func:`max_pool3d`'s. A window without a positive element gives, in
        training, its first. The gradient goes to the elements drawn.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as :func:`max_pool3d`.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode, training, generator)
    return _stochastic_pool(stochastic_pool3d, 3, input, *arguments)


def maxout(input: Tensor, pieces: int, dim: int = 1) -> Tensor:
    """Maxout (Goodfellow et al. 2013), or max pooling across channels: the largest of each run of `pieces` along `dim`.

    Args:
        input: any shape whose axis `dim` is a multiple of `pieces`.
        pieces: how many neighbours along `dim` are one unit's linear pieces.

    Returns:
        Of input's shape, but 1 / pieces as long along `dim`. The gradient goes to the one winner, the first of equals.

    Raises:
        TypeError: an argument of a wrong type.
        RuntimeError: pieces below 1, or no divisor of the axis.
        IndexError: no such axis.
        NotImplementedError: a type that no kernel takes.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(maxout, (input,), input, pieces, dim)
        return overridden
    if not isinstance(input, Tensor):
        raise TypeError(f"maxout: expected input to be a Tensor, got {type(input).__name__}")
    pieces = _padding.plain_int("maxout: pieces", pieces)
    sizes = _pool_checks.pixels_of(input, input.dim())
    size = sizes[dim]
    dim = dim % input.dim()
    if pieces < 1 or size % pieces != 0:
        raise RuntimeError(f"maxout: expected pieces to be a divisor of axis {dim} of size {size}, got {pieces}")
    if input.dtype not in _pool_checks.FLOATS | _pool_checks.INTEGERS:
        raise NotImplementedError(f"maxout: expected a float or an integer type, got {input.dtype}")
    shape = (*input.shape[:dim], size // pieces, *input.shape[dim + 1 :])
    if input.numel() == 0:
        return input.reshape(*input.shape[:dim], size // pieces, pieces, *input.shape[dim + 1 :]).select(dim + 1, 0)
    inner = math.prod(sizes[dim + 1 :])
    # the pieces are the rows of a window, or its columns where nothing follows them
    kernel, planes = ((pieces, 1), (-1, pieces, inner)) if inner > 1 else ((1, pieces), (1, -1, pieces))
    image = input.reshape(1, *planes)
    height, width = _pool_checks.pixels_of(image, 2)
    output = (height // kernel[0], width // kernel[1])
    return pool.max_pool(image, kernel, kernel, (0, 0, 0, 0), (1, 1), output, False).reshape(shape)
