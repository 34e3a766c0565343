"""torch.nn's Unfold and Fold on convext's operators: subclasses, with the larger padding language and 1 to 3 axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext import functional

__all__ = ["Fold", "Unfold"]

Ints = int | Sequence[int]
Padding = int | str | Sequence[int | str | Sequence[int]]


class Unfold(torch.nn.Unfold):
    """:class:`torch.nn.Unfold`, computed by :func:`convext.functional.unfold`."""

    def __init__(self, kernel_size: Ints, dilation: Ints = 1, padding: Padding = 0, stride: Ints = 1) -> None:
        arguments: Any = (kernel_size, dilation, padding, stride)
        super().__init__(*arguments)

    def forward(self, input: Tensor) -> Tensor:
        """The columns (N, C * taps, blocks) of an image (N, C, *spatial); either without N."""
        return functional.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(torch.nn.Fold):
    """:class:`torch.nn.Fold`, computed by :func:`convext.functional.fold`."""

    def __init__(
        self, output_size: Ints, kernel_size: Ints, dilation: Ints = 1, padding: Padding = 0, stride: Ints = 1
    ) -> None:
        arguments: Any = (output_size, kernel_size, dilation, padding, stride)
        super().__init__(*arguments)

    def forward(self, input: Tensor) -> Tensor:
        """The image (N, C, *output_size) of columns (N, C * taps, blocks); either without N."""
        return functional.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)
