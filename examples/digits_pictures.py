"""The demo's pictures: the filters that a LeNet-5 has learned, and what it makes of one digit."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: there may be no screen

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from torch import Tensor, nn


def draw(axes: Axes, image: Tensor, colors: str, limit: float, signed: bool, title: str = "") -> None:
    axes.imshow(image, cmap=colors, vmin=-limit if signed else 0, vmax=limit, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7, pad=2)


def filter_bank(figure: SubFigure, weight: Tensor, title: str, down: str) -> None:
    """A weight (K, C, h, w) as C rows of K filters, red positive and blue negative, on one scale."""
    outputs, inputs = weight.shape[:2]
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(inputs, outputs, squeeze=False)
    limit = float(weight.abs().max())
    for i in range(inputs):
        for k in range(outputs):
            draw(grid[i][k], weight[k, i], "RdBu_r", limit, signed=True, title=str(k) if i == 0 else "")
        grid[i][0].set_ylabel(f"{down} {i}", fontsize=7)


def map_row(figure: SubFigure, maps: Tensor, title: str, columns: int) -> None:
    """Maps (C, H, W), bright where they are large, on one scale."""
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(-(-len(maps) // columns), columns, squeeze=False).flat
    limit = float(maps.max())
    for c, axes in enumerate(grid):
        if c < len(maps):
            draw(axes, maps[c], "viridis", limit, signed=False, title=str(c))
        else:
            axes.axis("off")


@torch.no_grad()
def save_filters(net: nn.Module, path: Path) -> None:
    """Writes a PNG of the weights of ``net.conv1`` and ``net.conv2``."""
    figure = plt.figure(figsize=(10, 6.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.5, 4.5])
    first, second = net.get_parameter("conv1.weight"), net.get_parameter("conv2.weight")
    filter_bank(top, first, "conv1: six 5 x 5 filters (red adds, blue subtracts)", "image")
    filter_bank(bottom, second, "conv2: sixteen 6 x 5 x 5 filters, one a column", "from")
    figure.savefig(path, dpi=120)
    plt.close(figure)


@torch.no_grad()
def save_feature_maps(net: nn.Module, image: Tensor, path: Path) -> None:
    """Writes a PNG of an image (1, 32, 32), what ``net.conv1`` and ``net.conv2`` see in it, and the ten scores."""
    first = net.get_submodule("conv1")(image[None]).relu()
    second = net.get_submodule("conv2")(net.get_submodule("pool")(first)).relu()
    chances = net(image[None]).softmax(dim=1)[0]
    figure = plt.figure(figsize=(10, 6.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[2.1, 1.9, 2.6])
    digit, bars = top.subplots(1, 2, width_ratios=[1, 3])
    draw(digit, image[0], "gray", 1.0, signed=False)
    digit.set_title("the digit", fontsize=10)
    bars.bar(range(10), chances, color="tab:blue")
    bars.set_xticks(range(10))
    bars.set_ylim(0, 1)
    bars.set_title(f"the network's answer: {int(chances.argmax())}", fontsize=10)
    map_row(middle, first[0], "after conv1 and ReLU: 6 maps of 28 x 28", columns=6)
    map_row(bottom, second[0], "after conv2 and ReLU: 16 maps of 10 x 10", columns=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
