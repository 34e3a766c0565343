"""A program that uses convext as a user does, for mypy --strict: what the types of its calls are must be known.

`make lint` checks it against the sources, .ci/run against an installed wheel, and tests/test_typing.py runs it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import convext
from convext import functional as F
from convext import nn as cnn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = cnn.Conv2d(3, 8, 3, stride=2, padding=("same", (1, 0)))
        self.pool = cnn.MaxPool2d(2, ceil_mode=True)
        self.up = cnn.ConvTranspose2d(8, 3, kernel_size=(4, 4), stride=4, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.pool(self.down(x).relu()))  # a module's call is Any, as torch has it
        return y


def functions(x: Tensor, weight: Tensor) -> Tensor:
    assert_type(F.conv2d(x, weight, None, stride=(1, 2), padding="same", dilation=1, groups=1), Tensor)
    columns = assert_type(F.unfold(x, (3, 3), padding=1), Tensor)
    return assert_type(F.fold(columns, tuple(x.shape[2:]), 3, padding=1), Tensor)


def models() -> str:
    net = assert_type(convext.convert(Net()), Net)  # the model's own type, not nn.Module
    assert_type(convext.revert(nn.Sequential(nn.Conv2d(3, 4, 3))), nn.Sequential)
    report = assert_type(convext.conversion_report(net), convext.ConversionReport)
    plan = assert_type(convext.conv_plan("fprop", (1, 3, 8, 8), (4, 3, 3, 3)), convext.Plan)
    assert_type(convext.workspace_bytes("fprop", (1, 3, 8, 8), (4, 3, 3, 3)), int)
    assert_type(convext.backends.cpu.isa_levels(), list[str])
    assert_type(convext.__version__, str)
    return f"{report}\n{plan}"


def main() -> None:
    x = torch.randn(1, 3, 8, 8)
    functions(x, torch.randn(4, 3, 3, 3))
    with convext.override():
        torch.nn.functional.max_pool2d(x, 2)
    print(models())
    print(tuple(Net()(x).shape))


if __name__ == "__main__":
    main()
