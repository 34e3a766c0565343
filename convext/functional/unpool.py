"""torch.nn.functional's max unpooling and fractional max pooling, on convext's operators on places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from convext import _padding, _pool_checks
from convext.functional.pool import Ints, Values, in_float32
from convext.ops import places as ops

__all__ = ["fractional_max_pool2d", "fractional_max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d"]

_TYPES = _pool_checks.FLOATS


def _unpooled_size(
    name: str, sizes: Sequence[int], kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> list[int]:
    """What max_unpool's result measures: as asked for, or the smallest that this pooling would make `sizes` of.

    Raises:
        ValueError: an output_size of another length, or out of the pooling's reach.
    """
    rank = len(sizes)
    values = {"kernel_size": kernel_size, "stride": kernel_size if stride is None else stride, "padding": padding}
    kernel, steps, pads = (
        _padding.on_each_axis(name, key, _padding.int_or_ints(name, key, value), rank) for key, value in values.items()
    )
    if any(s < 1 for s in steps):
        raise RuntimeError(f"{name}: expected stride to be 1 or more, got {list(steps)}")
    own = [(size - 1) * s + k - 2 * p for size, s, k, p in zip(sizes, steps, kernel, pads, strict=True)]
    if output_size is None:
        wanted = own
    else:
        wanted = list(output_size)[2:] if len(output_size) == rank + 2 else list(output_size)
        if len(wanted) != rank:
            raise ValueError(f"{name}: expected output_size of {rank} or {rank + 2} elements, got {list(output_size)}")
        if any(not size - s < want < size + s for size, s, want in zip(own, steps, wanted, strict=True)):
            raise ValueError(f"{name}: expected output_size less than a stride {list(steps)} off {own}, got {wanted}")
    if any(size < 0 for size in wanted):
        raise ValueError(f"{name}: expected an output_size of 0 or more on each axis, got {wanted}")
    return wanted


def _max_unpool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    output_size: Sequence[int] | None,
) -> Tensor:
    if has_torch_function_unary(input):
        arguments: Any = (kernel_size, stride, padding, output_size)
        overridden: Tensor = handle_torch_function(function, (input,), input, indices, *arguments)
        return overridden
    name = function.__name__
    size = _unpooled_size(name, _pool_checks.pixels_of(input, rank), kernel_size, stride, padding, output_size)
    if not isinstance(indices, Tensor):
        raise TypeError(f"{name}: expected indices to be a Tensor, got {type(indices).__name__}")
    _pool_checks.check_image(name, input, rank, _TYPES)
    if indices.dtype is not torch.int64:
        raise RuntimeError(f"{name}: expected indices of type torch.int64, got {indices.dtype}")
    if indices.shape != input.shape:
        raise RuntimeError(f"{name}: expected indices of input's size {list(input.shape)}, got {list(indices.shape)}")
    input = in_float32(input)
    if input.dim() == rank + 2:
        return ops.place_scatter(input, indices, size, False)
    return ops.place_scatter(input.unsqueeze(0), indices.unsqueeze(0), size, False).squeeze(0)


def _window_begins(samples: Tensor, size: int, output: int, kernel: int) -> Tensor:
    """(N, C, output): where the windows of an axis begin, from one random number a plane, rounded as torch rounds."""
    last = samples.new_full((*samples.shape, 1), size - kernel, dtype=torch.int64)
    if output == 1:
        return last
    alpha = samples.new_full((), size - kernel) / samples.new_full((), output - 1)  # new_tensor takes no symbolic size
    steps = torch.arange(output - 1, device=samples.device).to(samples.dtype)
    shift = (samples * alpha).to(torch.int64)[..., None]
    return torch.cat([((steps + samples[..., None]) * alpha).to(torch.int64) - shift, last], -1)


def _fractional_size(name: str, sizes: Sequence[int], output_size: Any, output_ratio: Any) -> tuple[int, ...]:
    rank = len(sizes)
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name}: expected an output_size or an output_ratio, got neither")
    if output_size is not None:
        return _padding.on_each_axis(name, "output_size", _padding.int_or_ints(name, "output_size", output_size), rank)
    ratios = tuple(output_ratio) if isinstance(output_ratio, (list, tuple)) else (output_ratio,) * rank
    if len(ratios) != rank:
        raise ValueError(f"{name}: expected output_ratio to be one number or {rank}, got {output_ratio!r}")
    return tuple([int(size * ratio) for size, ratio in zip(sizes, ratios, strict=True)])


def _fractional_max_pool(
    function: Callable[..., Values],
    rank: int,
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None,
    output_ratio: Any,
    return_indices: bool,
    samples: Tensor | None,
) -> Values:
    if has_torch_function_variadic(input, samples):
        overridden: Values = handle_torch_function(
            function,
            (input, samples),
            input,
            kernel_size,
            output_size=output_size,
            output_ratio=output_ratio,
            return_indices=return_indices,
            _random_samples=samples,
        )
        return overridden
    name = function.__name__
    sizes = _pool_checks.pixels_of(input, rank)
    output = _fractional_size(name, sizes, output_size, output_ratio)
    _pool_checks.check_image(name, input, rank, _pool_checks.FLOATS)
    kernel = _padding.on_each_axis(name, "kernel_size", _padding.int_or_ints(name, "kernel_size", kernel_size), rank)
    if any(k < 1 or o < 1 or o + k - 1 > size for k, o, size in zip(kernel, output, sizes, strict=True)):
        raise RuntimeError(
            f"{name}: expected windows {list(kernel)} and output_size {list(output)} of 1 or more, together at most "
            f"the input's size and 1, got input of size {list(sizes)}"
        )
    x = input if input.dim() == rank + 2 else input.unsqueeze(0)
    if samples is None:
        samples = torch.rand(x.shape[0], x.shape[1], rank, dtype=x.dtype, device=x.device)
    if samples.dim() != 3 or samples.shape[0] < x.shape[0] or samples.shape[1:] != (x.shape[1], rank):
        raise RuntimeError(
            f"{name}: expected _random_samples of size {[x.shape[0], x.shape[1], rank]}, got {list(samples.shape)}"
        )
    if samples.dtype is not x.dtype:
        raise RuntimeError(f"{name}: expected _random_samples of type {x.dtype}, as input, got {samples.dtype}")
    x, samples = in_float32(x), in_float32(samples)
    order = (1, 0) if rank == 2 else (0, 1, 2)  # torch's first number is for the columns of an image
    begins = [_window_begins(samples[: x.shape[0], :, order[i]], sizes[i], output[i], kernel[i]) for i in range(rank)]
    places = ops.fractional_max_places(x, torch.cat(begins, -1), kernel, output)
    y = ops.place_gather(x, places)
    if input.dim() == rank + 1:
        y, places = y.squeeze(0), places.squeeze(0)
    return (y, places) if return_indices else y


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.max_unpool1d`: every element at its place in a plane of zeros.

    Args:
        input: (N, C, L) or (C, L).
        indices: of input's size, int64, the places that :func:`max_pool1d` gave. Of equal ones the last is kept.
        kernel_size, stride, padding: the pooling's, in pixels; stride None is kernel_size.
        output_size: the result's (*spatial) or whole size; None: the smallest that the pooling makes input's of.

    Returns:
        (N, C, *output_size) or (C, *output_size), zeros but for the elements of input.

    Raises:
        ValueError: an output_size out of the pooling's reach.
        TypeError, RuntimeError, NotImplementedError: as torch's function; RuntimeError also for a place outside.
    """
    return _max_unpool(max_unpool1d, 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.max_unpool2d`: every element at its place in a plane of zeros.

    Args:
        input: (N, C, H, W) or (C, H, W).
        indices: of input's size, int64, the places that :func:`max_pool2d` gave. Of equal ones the last is kept.
        kernel_size, stride, padding: the pooling's, in pixels; stride None is kernel_size.
        output_size: the result's (*spatial) or whole size; None: the smallest that the pooling makes input's of.

    Returns:
        (N, C, *output_size) or (C, *output_size), zeros but for the elements of input.

    Raises:
        ValueError: an output_size out of the pooling's reach.
        TypeError, RuntimeError, NotImplementedError: as torch's function; RuntimeError also for a place outside.
    """
    return _max_unpool(max_unpool2d, 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.max_unpool3d`: every element at its place in a plane of zeros.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        indices: of input's size, int64, the places that :func:`max_pool3d` gave. Of equal ones the last is kept.
        kernel_size, stride, padding: the pooling's, in pixels; stride None is kernel_size.
        output_size: the result's (*spatial) or whole size; None: the smallest that the pooling makes input's of.

    Returns:
        (N, C, *output_size) or (C, *output_size), zeros but for the elements of input.

    Raises:
        ValueError: an output_size out of the pooling's reach.
        TypeError, RuntimeError, NotImplementedError: as torch's function; RuntimeError also for a place outside.
    """
    return _max_unpool(max_unpool3d, 3, input, indices, kernel_size, stride, padding, output_size)


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Values:
    """:func:`torch.nn.functional.fractional_max_pool2d` (Graham 2014): windows at random steps, torch's own for a seed.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: of the windows, in pixels, one int or one for each axis.
        output_size, output_ratio: the result's size, or what part it is of the input's; one of them.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output_size) or (C, *output_size); with return_indices a pair of it and the int64 places.

    Raises:
        ValueError: neither output_size nor output_ratio.
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, output_size, output_ratio, return_indices, _random_samples)
    return _fractional_max_pool(fractional_max_pool2d, 2, input, *arguments)


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Values:
    """:func:`torch.nn.functional.fractional_max_pool3d` (Graham 2014): windows at random steps, torch's own for a seed.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        kernel_size: of the windows, in pixels, one int or one for each axis.
        output_size, output_ratio: the result's size, or what part it is of the input's; one of them.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output_size) or (C, *output_size); with return_indices a pair of it and the int64 places.

    Raises:
        ValueError: neither output_size nor output_ratio.
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    arguments = (kernel_size, output_size, output_ratio, return_indices, _random_samples)
    return _fractional_max_pool(fractional_max_pool3d, 3, input, *arguments)
