"""torch.nn.functional's adaptive poolings on convext's operators: windows that divide an image into a given number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convext import _pool_checks
from convext.functional.pool import Values, batched, max_of, unbatched
from convext.ops import pool as ops

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
]

OutputSize = int | None | Sequence[int | None]

_WINDOWS = (ops.ADAPTIVE,) * 4  # in place of kernel_size, stride, padding, dilation


def _adaptive_sizes(name: str, rank: int, input: Tensor, output_size: OutputSize) -> tuple[int, ...]:
    listed = rank > 1 and isinstance(output_size, (list, tuple)) and isinstance(input, Tensor)
    if listed and input.dim() <= len(output_size):  # type: ignore[arg-type]
        # torch looks at this first, and with another type of exception
        raise ValueError(
            f"{name}: expected input of more dimensions than output_size {output_size}, "
            f"got one of size {list(input.shape)}"
        )
    _pool_checks.check_image(name, input, rank, _pool_checks.FLOATS, empty_channels="avg" in name)
    return _pool_checks.adaptive_sizes(name, _pool_checks.pixels_of(input, rank), output_size)


def _adaptive_max_pool(
    function: Callable[..., Values], rank: int, input: Tensor, output_size: OutputSize, return_indices: bool
) -> Values:
    if has_torch_function_unary(input):
        overridden: Values = handle_torch_function(function, (input,), input, output_size, return_indices)
        return overridden
    sizes = _adaptive_sizes(function.__name__, rank, input, output_size)
    some = tuple([size or 1 for size in sizes])  # the operators take no axis of size 0
    y = max_of(input, rank, _WINDOWS, some, False, bool(return_indices))
    if some == sizes:
        return y
    return (_nothing(y[0], sizes), _nothing(y[1], sizes)) if isinstance(y, tuple) else _nothing(y, sizes)


def _nothing(y: Tensor, sizes: Sequence[int]) -> Tensor:
    """The part of y with these spatial sizes, of which one is 0."""
    for axis, size in enumerate(sizes, y.dim() - len(sizes)):
        y = y.narrow(axis, 0, size)
    return y.contiguous()


def _adaptive_avg_pool(function: Callable[..., Tensor], rank: int, input: Tensor, output_size: OutputSize) -> Tensor:
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(function, (input,), input, output_size)
        return overridden
    sizes = _adaptive_sizes(function.__name__, rank, input, output_size)
    some = tuple([size or 1 for size in sizes])
    y = unbatched(ops.avg_pool(batched(input, rank), *_WINDOWS, some, False, 0), input, rank)
    return y if some == sizes else _nothing(y, sizes)


def adaptive_max_pool1d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Values:
    """:func:`torch.nn.functional.adaptive_max_pool1d`: windows that divide the image into output_size parts.

    Args:
        input: (N, C, L) or (C, L).
        output_size: of the result, one int or one for each axis; None: the input's own.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output_size) or (C, *output_size): the largest element from floor(o * size / output) up to
        ceil((o + 1) * size / output). With return_indices a pair of it and the int64 places in the input's planes.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    return _adaptive_max_pool(adaptive_max_pool1d, 1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Values:
    """:func:`torch.nn.functional.adaptive_max_pool2d`: windows that divide the image into output_size parts.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: of the result, one int or one for each axis; None: the input's own.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output_size) or (C, *output_size): the largest element from floor(o * size / output) up to
        ceil((o + 1) * size / output). With return_indices a pair of it and the int64 places in the input's planes.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    return _adaptive_max_pool(adaptive_max_pool2d, 2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Values:
    """:func:`torch.nn.functional.adaptive_max_pool3d`: windows that divide the image into output_size parts.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        output_size: of the result, one int or one for each axis; None: the input's own.
        return_indices: whether to return the places of the largest elements, too.

    Returns:
        (N, C, *output_size) or (C, *output_size): the largest element from floor(o * size / output) up to
        ceil((o + 1) * size / output). With return_indices a pair of it and the int64 places in the input's planes.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    return _adaptive_max_pool(adaptive_max_pool3d, 3, input, output_size, return_indices)


def adaptive_avg_pool1d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool1d`: windows that divide the image into output_size parts.

    Args:
        input: (N, C, L) or (C, L).
        output_size: of the result, one int or one for each axis; None: the input's own. 1 is global pooling.

    Returns:
        (N, C, *output_size) or (C, *output_size): the mean from floor(o * size / output) up to
        ceil((o + 1) * size / output).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    return _adaptive_avg_pool(adaptive_avg_pool1d, 1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d`: windows that divide the image into output_size parts.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: of the result, one int or one for each axis; None: the input's own. 1 is global pooling.

    Returns:
        (N, C, *output_size) or (C, *output_size): the mean from floor(o * size / output) up to
        ceil((o + 1) * size / output).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    return _adaptive_avg_pool(adaptive_avg_pool2d, 2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool3d`: windows that divide the image into output_size parts.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        output_size: of the result, one int or one for each axis; None: the input's own. 1 is global pooling.

    Returns:
        (N, C, *output_size) or (C, *output_size): the mean from floor(o * size / output) up to
        ceil((o + 1) * size / output).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
    """
    return _adaptive_avg_pool(adaptive_avg_pool3d, 3, input, output_size)
