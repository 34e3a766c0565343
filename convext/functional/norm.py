"""Normalisation over windows of channels and pixels, and the layer of unshared weights, on convext's operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from convext import _checks, _padding, _pool_checks, _sizes, ops
from convext.functional.conv import conv1d, conv2d, conv3d
from convext.functional.pool import in_float32
from convext.functional.unfold import unfold

__all__ = ["local_contrast_norm", "local_response_norm", "locally_connected"]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]

_CONV = {1: conv1d, 2: conv2d, 3: conv3d}


def _number(name: str, argument: str, value: Any) -> float:
    """A real number.

    Raises:
        TypeError: something else.
    """
    try:
        return float(value + 0)  # a string of digits is no number
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected {argument} to be a number, got {value!r}") from None


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """:func:`torch.nn.functional.local_response_norm`, also for bfloat16 and float16, which are computed in float32.

    Args:
        input: (N, C, *), of 3 dimensions or more and a floating type.
        size: channels in a window, of which size // 2 lie before the one that is normalised.
        alpha, beta, k: as in input / (k + alpha * mean)^beta, with the mean of the squares over the window; channels
            beyond the edges count as zeros.

    Returns:
        A tensor of the input's size, type and memory format.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an input of fewer than 3 dimensions.
        RuntimeError: a size below 1.
        NotImplementedError: an input of no floating type.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(
            local_response_norm, (input,), input, size, alpha=alpha, beta=beta, k=k
        )
        return overridden
    name = "local_response_norm"
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: expected input to be a Tensor, got {type(input).__name__}")
    if input.dim() < 3:
        raise ValueError(f"{name}: expected input of 3 dimensions or more, got {input.dim()}")
    size = _padding.plain_int(f"{name}: size", size)
    window = tuple(_number(name, key, value) for key, value in (("alpha", alpha), ("beta", beta), ("k", k)))
    if not input.is_floating_point() or input.dtype.itemsize == 1:
        raise NotImplementedError(f"{name}: expected input of a floating type, got {input.dtype}")
    if size < 1 and input.numel() != 0:
        raise RuntimeError(f"{name}: expected size to be 1 or more, got {size}")
    return ops.local_response_norm(in_float32(input, ("cpu", "cuda")), max(size, 1), *window)


def _gaussian(kernel: Sequence[int], sigma: float, like: Tensor) -> Tensor:
    """A Gaussian of the kernel's shape that sums to one, centred."""
    window = torch.ones((), dtype=torch.float64)
    for k in kernel:
        at = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
        line = torch.exp(-(at * at) / (2 * sigma * sigma))
        window = window.unsqueeze(-1) * (line / line.sum())
    return window.to(dtype=like.dtype, device=like.device)


def local_contrast_norm(input: Tensor, kernel_size: Ints = 9, sigma: float | None = None, eps: float = 1e-4) -> Tensor:
    """Local contrast normalisation: subtractive, then divisive, over a Gaussian window and all channels.

    K. Jarrett, K. Kavukcuoglu, M. Ranzato and Y. LeCun, "What is the best multi-stage architecture for object
    recognition?", ICCV 2009. With w the window, which sums to one over the channels and pixels that lie in the image,

        v = x - sum of w x        s = sqrt(sum of w v^2)        y = v / max(c, s),  c the mean of s over the sample

    Args:
        input: (N, C, *spatial), with as many spatial axes as kernel_size has elements; of a floating type.
        kernel_size: of the window, odd, in pixels, one int for each axis. An int means two axes.
        sigma: of the Gaussian, in pixels. None: a quarter of the largest kernel size.
        eps: the least number that is divided by, for images of one value.

    Returns:
        A tensor of the input's size.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an even kernel_size, or sigma that is not positive.
        RuntimeError: an input of another number of dimensions than kernel_size asks for.
        NotImplementedError: an input of no floating type.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(
            local_contrast_norm, (input,), input, kernel_size, sigma=sigma, eps=eps
        )
        return overridden
    name = "local_contrast_norm"
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: expected input to be a Tensor, got {type(input).__name__}")
    kernel = _padding.int_or_ints(name, "kernel_size", kernel_size)
    kernel = kernel if isinstance(kernel, tuple) else (kernel,) * 2
    rank = len(kernel)
    if rank not in _CONV or input.dim() != rank + 2:
        raise RuntimeError(
            f"{name}: expected input of 3 to 5 dimensions, two more than kernel_size {list(kernel)} has elements, "
            f"got one of size {list(input.shape)}"
        )
    if any(n < 1 or n % 2 == 0 for n in kernel):
        raise ValueError(f"{name}: expected an odd kernel_size, got {list(kernel)}")
    sigma = max(kernel) / 4 if sigma is None else _number(name, "sigma", sigma)
    if not sigma > 0:
        raise ValueError(f"{name}: expected sigma above 0, got {sigma}")
    eps = _number(name, "eps", eps)
    if not input.is_floating_point() or input.dtype.itemsize == 1:
        raise NotImplementedError(f"{name}: expected input of a floating type, got {input.dtype}")
    if input.numel() == 0:
        return torch.empty_like(input)
    with torch.autocast(input.device.type, enabled=False):  # a difference of near values bears no half types
        return _contrast(input.float() if input.dtype.itemsize == 2 else input, kernel, sigma, eps).to(input.dtype)


def _contrast(x: Tensor, kernel: Sequence[int], sigma: float, eps: float) -> Tensor:
    conv = _CONV[len(kernel)]
    channels, *pixels = _pool_checks.pixels_of(x, len(kernel) + 1)
    gaussian = _gaussian(kernel, sigma, x)
    weight = (gaussian / channels).expand(1, channels, *kernel)
    # the part of the window that lies in the image: at the border the rest of it is scaled up to one
    inside = conv(x.new_ones((1, 1, *pixels)), gaussian.expand(1, 1, *kernel), padding="same")
    centred = x - conv(x, weight, padding="same") / inside
    variance = conv(centred * centred, weight, padding="same") / inside
    deviation = _root(variance)
    # a mean by convolution: torch cuts a sum to one number among its threads, which then enter its bits
    mean = conv(deviation, x.new_full((1, 1, *pixels), 1 / math.prod(pixels)))
    return centred / torch.maximum(deviation, mean).clamp(min=eps)


def _root(t: Tensor) -> Tensor:
    """A square root whose gradient at 0 is 0, where torch's is infinite: a constant patch has no contrast."""
    positive = t > 0
    return torch.where(positive, t, torch.ones((), dtype=t.dtype, device=t.device)).sqrt() * positive


def locally_connected(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Tensor:
    """A convolution whose weight is not shared: every output pixel has a kernel of its own, in one to three dimensions.

        output[n, k, o] = bias[k, o] + sum over c, t of weight[k, c, t, o] * input[n, c, o * stride + t * dilation - lo]

    Args:
        input: (N, C, *spatial) or (C, *spatial), of a floating type.
        weight: (K, C, *kernel, *output).
        bias: (K, *output), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; see docs/padding.md.

    Returns:
        (N, K, *output) or (K, *output), with the output of a convolution by that kernel.

    Raises:
        TypeError: an argument of a wrong type.
        RuntimeError: sizes, types or values that do not fit together.
        NotImplementedError: tensors of no floating type.
    """
    if has_torch_function_variadic(input, weight, bias):
        tensors = (input, weight, bias)
        overridden: Tensor = handle_torch_function(
            locally_connected, tensors, *tensors, stride=stride, padding=padding, dilation=dilation
        )
        return overridden
    name = "locally_connected"
    for argument, t in (("input", input), ("weight", weight), *([("bias", bias)] if bias is not None else [])):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: expected {argument} to be a Tensor, got {type(t).__name__}")
        if t.device != input.device:
            raise RuntimeError(f"{name}: expected {argument} on {input.device}, as input, got one on {t.device}")
        if t.dtype is not input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise RuntimeError(f"{name}: expected {argument} of type {input.dtype}, as input, got {t.dtype}")
    if not input.is_floating_point() or input.dtype.itemsize == 1:
        raise NotImplementedError(f"{name}: expected input of a floating type, got {input.dtype}")
    rank = (weight.dim() - 2) // 2
    if weight.dim() not in (4, 6, 8):
        raise RuntimeError(
            f"{name}: expected weight (K, C, *kernel, *output) of 4, 6 or 8 dimensions, got one of size "
            f"{list(weight.shape)}"
        )
    if input.dim() not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"{name}: expected input of {rank + 1} (unbatched) or {rank + 2} dimensions, got one of size "
            f"{list(input.shape)}"
        )
    if input.dim() == rank + 1:
        y = locally_connected(input.unsqueeze(0), weight, bias, stride, padding, dilation)
        return y.squeeze(0)
    out_channels, channels = weight.shape[:2]
    kernel, output = tuple(weight.shape[2 : 2 + rank]), weight.shape[2 + rank :]
    if input.shape[1] != channels:
        raise RuntimeError(f"{name}: expected input of {channels} channels, got {input.shape[1]}")
    steps, pads, dilations, *_ = _checks.conv_configuration(
        name, rank, input.shape, (out_channels, channels, *kernel), None, stride, padding, dilation, 1, "zeros"
    )
    axes = zip(input.shape[2:], kernel, steps, pads[::2], pads[1::2], dilations, strict=True)
    pixels = [_sizes.output_size(*axis) for axis in axes]
    if pixels != list(output):
        raise RuntimeError(f"{name}: expected input with {list(output)} output pixels, as weight has, got {pixels}")
    columns = unfold(input, kernel, dilation, padding, stride)
    if bias is not None and bias.shape != (out_channels, *output):
        raise RuntimeError(f"{name}: expected bias of size {[out_channels, *output]}, got {list(bias.shape)}")
    flat = weight.reshape(out_channels, columns.shape[1], columns.shape[2])
    y = ops.position_product(columns, flat)
    y = y.reshape(y.shape[0], out_channels, *output)
    return y if bias is None else y + bias.to(y.dtype)
