"""Whole networks of torch.nn layers, or of convext.nn's, with random weights: only shapes matter to the time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """act(body(x) + shortcut(x)); without an activation where there is none."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module | None) -> None:
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y += self.shortcut(x)
        return y if self.activation is None else self.activation(y)


def conv_norm(layers: Any, c: int, k: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = layers.Conv2d(c, k, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(k)]


def lenet5(layers: Any) -> nn.Module:
    """LeCun et al. 1998, with ReLU and maxima."""
    return nn.Sequential(
        layers.Conv2d(1, 6, 5),
        nn.ReLU(inplace=True),
        layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5),
        nn.ReLU(inplace=True),
        layers.MaxPool2d(2),
        layers.Conv2d(16, 120, 5),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Linear(84, 10),
    )


def alexnet(layers: Any) -> nn.Module:
    """Krizhevsky 2014 ("One weird trick"), one tower, without dropout."""
    blocks: list[nn.Module] = [layers.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), layers.MaxPool2d(3, 2)]
    blocks += [layers.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), layers.MaxPool2d(3, 2)]
    for c, k in ((192, 384), (384, 256), (256, 256)):
        blocks += [layers.Conv2d(c, k, 3, padding=1), nn.ReLU(inplace=True)]
    blocks += [layers.MaxPool2d(3, 2), nn.Flatten()]
    return nn.Sequential(*blocks, *_classifier(256 * 6 * 6))


def vgg16(layers: Any) -> nn.Module:
    """Simonyan and Zisserman 2014, configuration D, without dropout."""
    blocks: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            blocks += [layers.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        blocks.append(layers.MaxPool2d(2))
    return nn.Sequential(*blocks, nn.Flatten(), *_classifier(512 * 7 * 7))


def _classifier(width: int) -> list[nn.Module]:
    """The three linear layers of AlexNet and VGG."""
    hidden = [nn.Linear(width, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 4096), nn.ReLU(inplace=True)]
    return [*hidden, nn.Linear(4096, 1000)]


def resnet50(layers: Any) -> nn.Module:
    """He et al. 2016, with the stride in the 3x3 convolution; without the classifier."""
    blocks: list[nn.Module] = [*conv_norm(layers, 3, 64, 7, 2), nn.ReLU(inplace=True), layers.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            step = stride if i == 0 else 1
            body = [*conv_norm(layers, channels, width, 1), nn.ReLU(inplace=True)]
            body += [*conv_norm(layers, width, width, 3, step), nn.ReLU(inplace=True)]
            body += conv_norm(layers, width, 4 * width, 1)
            shortcut = nn.Sequential(*conv_norm(layers, channels, 4 * width, 1, step)) if i == 0 else nn.Identity()
            blocks.append(Residual(nn.Sequential(*body), shortcut, nn.ReLU(inplace=True)))
            channels = 4 * width
    return nn.Sequential(*blocks)


def mobilenet_v2(layers: Any) -> nn.Module:
    """Sandler et al. 2018; without the classifier."""
    blocks: list[nn.Module] = [*conv_norm(layers, 3, 32, 3, 2), nn.ReLU6(inplace=True)]
    channels = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, count, stride in stages:
        for i in range(count):
            hidden, step = expansion * channels, stride if i == 0 else 1
            body = [*conv_norm(layers, channels, hidden, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
            body += [*conv_norm(layers, hidden, hidden, 3, step, hidden), nn.ReLU6(inplace=True)]
            block = nn.Sequential(*body, *conv_norm(layers, hidden, width, 1))
            blocks.append(block if i == 0 else Residual(block, nn.Identity(), None))
            channels = width
    return nn.Sequential(*blocks, *conv_norm(layers, channels, 1280, 1), nn.ReLU6(inplace=True))


def classifying(body: Callable[[Any], nn.Module], channels: int) -> Callable[[Any], nn.Module]:
    """The body, which ends in so many channels, the mean of its map, and a linear layer to 1000 classes."""

    def make(layers: Any) -> nn.Module:
        return nn.Sequential(body(layers), layers.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))

    return make


class UNet(nn.Module):
    """Ronneberger et al. 2015, with padding: (N, 1, H, W) to two classes a pixel; H, W multiples of 16."""

    def __init__(self, layers: Any, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()

        def twice(c: int, k: int) -> nn.Module:
            first, second = layers.Conv2d(c, k, 3, padding=1), layers.Conv2d(k, k, 3, padding=1)
            return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))

        self.down = nn.ModuleList(twice(c, k) for c, k in zip((1, *widths), widths, strict=False))
        self.pool = layers.MaxPool2d(2)
        wide = tuple(reversed(widths))
        self.up = nn.ModuleList(layers.ConvTranspose2d(c, k, 2, 2) for c, k in itertools.pairwise(wide))
        self.join = nn.ModuleList(twice(2 * k, k) for k in wide[1:])
        self.out = layers.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            seen.append(x)
        seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([seen.pop(), up(x)], 1))
        result: Tensor = self.out(x)
        return result


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with the images that it is timed on. ``batches``: for training and for inference."""

    name: str
    make: Callable[[Any], nn.Module]
    image: tuple[int, int, int]
    batches: tuple[int, int]
    classes: int


NETWORKS = {
    network.name: network
    for network in (
        Network("LeNet-5", lenet5, (1, 32, 32), (64, 1), 10),
        Network("AlexNet", alexnet, (3, 224, 224), (8, 1), 1000),
        Network("VGG-16", vgg16, (3, 224, 224), (1, 1), 1000),
        Network("ResNet-50", classifying(resnet50, 2048), (3, 224, 224), (4, 1), 1000),
        Network(
            "MobileNetV2",
            classifying(mobilenet_v2, 1280),
            (3, 224, 224),
            (8, 1),
            1000,
        ),
        Network("U-Net", UNet, (1, 256, 256), (1, 1), 2),
    )
}
