"""torch.nn.functional's convolutions: the same names, signatures and results, on convext's operators.

Each function takes one keyword more, ``padding_mode``, and a larger padding language (docs/padding.md). A function here
hands its arguments to `conv_call.call`, which normalises and checks them, once, and calls one operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from convext.functional.conv_call import CONV, TRANSPOSED, call

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`torch.nn.functional.conv1d`, with `padding_mode` and the larger padding language.

    Args:
        input: (N, C, L) or (C, L).
        weight: (K, C / groups, kL).
        bias: (K), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; in pixels; see
            docs/padding.md.
        groups: into how many independent convolutions the channels are split.
        padding_mode: "zeros", "reflect", "replicate" or "circular", what the padding holds.

    Returns:
        (N, K, *output) or (K, *output), with
        output = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1.

    Raises:
        TypeError, RuntimeError, NotImplementedError, ValueError: as torch's function; ValueError also for an unknown
            `padding_mode`.
    """
    return call(CONV, conv1d, 1, input, weight, bias, stride, padding, dilation, groups, padding_mode)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`torch.nn.functional.conv2d`, with `padding_mode` and the larger padding language.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C / groups, kH, kW).
        bias: (K), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; in pixels; see
            docs/padding.md.
        groups: into how many independent convolutions the channels are split.
        padding_mode: "zeros", "reflect", "replicate" or "circular", what the padding holds.

    Returns:
        (N, K, *output) or (K, *output), with
        output = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1.

    Raises:
        TypeError, RuntimeError, NotImplementedError, ValueError: as torch's function; ValueError also for an unknown
            `padding_mode`.
    """
    return call(CONV, conv2d, 2, input, weight, bias, stride, padding, dilation, groups, padding_mode)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`torch.nn.functional.conv3d`, with `padding_mode` and the larger padding language.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        weight: (K, C / groups, kD, kH, kW).
        bias: (K), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: an int, a word, or for each axis an int, a pair (before, after) or a word; in pixels; see
            docs/padding.md.
        groups: into how many independent convolutions the channels are split.
        padding_mode: "zeros", "reflect", "replicate" or "circular", what the padding holds.

    Returns:
        (N, K, *output) or (K, *output), with
        output = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1.

    Raises:
        TypeError, RuntimeError, NotImplementedError, ValueError: as torch's function; ValueError also for an unknown
            `padding_mode`.
    """
    return call(CONV, conv3d, 3, input, weight, bias, stride, padding, dilation, groups, padding_mode)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose1d`, with `padding_mode` and the larger padding language.

    Args:
        input: (N, C, L) or (C, L).
        weight: (C, K / groups, kL).
        bias: (K), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: what is cropped from the result: an int, a word, or for each axis an int, a pair (start, end) or a
            word; in pixels; see docs/padding.md.
        output_padding: pixels more at the end of each axis, fewer than stride or dilation.
        groups: into how many independent convolutions the channels are split.
        padding_mode: "zeros", "reflect", "replicate" or "circular": the result is the adjoint of the convolution
            with that padding.

    Returns:
        (N, K, *output) or (K, *output), with
        output = (size - 1) * stride + dilation * (kernel - 1) + 1 - start - end + output_padding.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
        ValueError: an unknown `padding_mode`, or padding "full", which would leave nothing.
    """
    return call(
        TRANSPOSED,
        conv_transpose1d,
        1,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose2d`, with `padding_mode` and the larger padding language.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, K / groups, kH, kW).
        bias: (K), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: what is cropped from the result: an int, a word, or for each axis an int, a pair (start, end) or a
            word; in pixels; see docs/padding.md.
        output_padding: pixels more at the end of each axis, fewer than stride or dilation.
        groups: into how many independent convolutions the channels are split.
        padding_mode: "zeros", "reflect", "replicate" or "circular": the result is the adjoint of the convolution
            with that padding.

    Returns:
        (N, K, *output) or (K, *output), with
        output = (size - 1) * stride + dilation * (kernel - 1) + 1 - start - end + output_padding.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
        ValueError: an unknown `padding_mode`, or padding "full", which would leave nothing.
    """
    return call(
        TRANSPOSED,
        conv_transpose2d,
        2,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose3d`, with `padding_mode` and the larger padding language.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W).
        weight: (C, K / groups, kD, kH, kW).
        bias: (K), or None.
        stride, dilation: in pixels, one int or one for each axis.
        padding: what is cropped from the result: an int, a word, or for each axis an int, a pair (start, end) or a
            word; in pixels; see docs/padding.md.
        output_padding: pixels more at the end of each axis, fewer than stride or dilation.
        groups: into how many independent convolutions the channels are split.
        padding_mode: "zeros", "reflect", "replicate" or "circular": the result is the adjoint of the convolution
            with that padding.

    Returns:
        (N, K, *output) or (K, *output), with
        output = (size - 1) * stride + dilation * (kernel - 1) + 1 - start - end + output_padding.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as torch's function.
        ValueError: an unknown `padding_mode`, or padding "full", which would leave nothing.
    """
    return call(
        TRANSPOSED,
        conv_transpose3d,
        3,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
    )
