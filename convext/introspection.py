"""What an operator would do with a problem, without running it: algorithm, tile, workspace, why others declined."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from convext import _C, _checks, _sizes

__all__ = ["Plan", "conv_plan", "workspace_bytes"]

_OPERATORS = ("fprop", "dgrad", "wgrad")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one operator runs on one problem. ``print`` tells it in words."""

    operator: str  # "fprop", "dgrad" or "wgrad"
    algorithm: str
    isa: str  # the instruction set of the kernels
    tile: tuple[int, int]  # rows and columns of the micro-kernel's register tile
    pixels_are_rows: bool  # of the packed fprop and dgrad: whether a row of the tile is a pixel, and a column a channel
    slices: int  # of wgrad: the pieces of the pixels that are summed by themselves
    workers: int  # threads that get work
    shared_bytes: int  # workspace that all threads read
    thread_bytes: int  # workspace of each worker
    workspace_bytes: int  # all of it
    declined: tuple[tuple[str, str], ...]  # (algorithm, reason) of those that would have come first

    def __str__(self) -> str:
        rows, columns = self.tile
        tile = f"tile {rows} x {columns}"
        if self.algorithm == "packed" and self.operator != "wgrad":
            tile += " (pixels x channels)" if self.pixels_are_rows else " (channels x pixels)"
        elif self.slices > 1:
            tile += f", pixels in {self.slices} slices"
        lines = [
            f"{self.operator}: {self.algorithm} on {self.isa}, {tile}",
            f"  workspace {self.workspace_bytes:,} bytes: {self.shared_bytes:,} shared, "
            f"{self.thread_bytes:,} for each of {self.workers} workers",
        ]
        return "\n".join(lines + [f"  not {algorithm}: {reason}" for algorithm, reason in self.declined])


def conv_plan(
    operator: str,
    input_size: Sequence[int],
    weight_size: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    num_threads: int | None = None,
) -> Plan:
    """The plan of an operator for the convolution of an input by a weight.

    Args:
        operator: "fprop" (the convolution), "dgrad" (its gradient to the input, which is the transposed convolution) or
            "wgrad" (its gradient to the weight).
        input_size: (N, C, *spatial), the convolution's input. For a transposed convolution: its result.
        weight_size: (K, C / groups, *kernel).
        stride, padding, dilation, groups, padding_mode: as the convolution's, see :mod:`convext.functional`.
        dtype: of all tensors.
        channels_last: whether input and output are in that memory format.
        num_threads: None for ``torch.get_num_threads()``. Algorithm and tile do not depend on it.

    Raises:
        ValueError: an unknown operator or padding_mode.
        NotImplementedError: a type that no kernel takes.
        TypeError, RuntimeError: no valid convolution, as :func:`convext.functional.conv2d` would raise.
    """
    if operator not in _OPERATORS:
        raise ValueError(f"conv_plan: expected operator to be one of {', '.join(_OPERATORS)}, got {operator!r}")
    if dtype not in _checks.DTYPES:
        raise NotImplementedError(f"conv_plan: expected one of torch's float, complex or integer types, got {dtype}")
    rank = len(weight_size) - 2
    if rank not in (1, 2, 3) or len(input_size) != rank + 2:
        raise ValueError(
            f"conv_plan: expected input_size and weight_size of one length from 3 to 5, "
            f"got {list(input_size)} and {list(weight_size)}"
        )
    strides, flat, dilations, groups, mode = _checks.conv_configuration(
        "conv_plan", rank, input_size, weight_size, None, stride, padding, dilation, groups, padding_mode
    )
    if operator == "dgrad":
        flat = _sizes.exact_padding(input_size[2:], weight_size[2:], strides, flat, dilations)
    facts = _C.conv_plan(
        operator,
        str(dtype).removeprefix("torch."),
        list(input_size),
        list(weight_size),
        list(strides),
        list(flat),
        list(dilations),
        groups,
        mode,
        channels_last,
        torch.get_num_threads() if num_threads is None else num_threads,
    )
    facts["declined"] = tuple(facts["declined"])
    return Plan(**{field.name: facts[field.name] for field in dataclasses.fields(Plan)})


def workspace_bytes(operator: str, input_size: Sequence[int], weight_size: Sequence[int], **settings: Any) -> int:
    """The bytes that an operator takes beside its inputs and its result; arguments and errors as `conv_plan`'s."""
    return conv_plan(operator, input_size, weight_size, **settings).workspace_bytes
