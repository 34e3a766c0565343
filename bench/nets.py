"""The cases from networks: every convolution of eleven, with the sizes that papers or usual code give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench.layer import Layer


def alexnet() -> Iterator[Layer]:
    """Krizhevsky et al. 2012, with the two groups of its two GPUs."""
    for name, size, channels, kernel, rest in (
        ("conv1", 227, (3, 96), 11, {"stride": 4, "first": True}),
        ("conv2", 27, (96, 256), 5, {"padding": 2, "groups": 2}),
        ("conv3", 13, (256, 384), 3, {"padding": 1}),
        ("conv4", 13, (384, 384), 3, {"padding": 1, "groups": 2}),
        ("conv5", 13, (384, 256), 3, {"padding": 1, "groups": 2}),
    ):
        settings: dict[str, Any] = {"batch": 4, **rest}
        yield Layer("alexnet", name, (size, size), channels, kernel, **settings)


def vgg16() -> Iterator[Layer]:
    """Simonyan and Zisserman 2014, configuration D."""
    c = 3
    for stage, (k, layers) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        size = 448 >> stage
        for i in range(1, layers + 1):
            yield Layer("vgg16", f"conv{stage}_{i}", (size, size), (c, k), 3, padding=1, first=c == 3)
            c = k


def resnet50() -> Iterator[Layer]:
    """He et al. 2015, with the stride in the 3x3 layer as everybody has it today."""
    net = "resnet50"
    plain: dict[str, Any] = {"bias": False}
    yield Layer(net, "conv1", (224, 224), (3, 64), 7, stride=2, padding=3, first=True, **plain)
    c, size = 64, 56
    for stage, (width, blocks, stride) in enumerate(((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)), start=2):
        for block in range(blocks):
            s = stride if block == 0 else 1
            name, small = f"conv{stage}_{block + 1}", size // s
            yield Layer(net, f"{name}.a", (size, size), (c, width), 1, **plain)
            yield Layer(net, f"{name}.b", (size, size), (width, width), 3, stride=s, padding=1, **plain)
            yield Layer(net, f"{name}.c", (small, small), (width, 4 * width), 1, **plain)
            if block == 0:
                yield Layer(net, f"{name}.shortcut", (size, size), (c, 4 * width), 1, stride=s, **plain)
            c, size = 4 * width, small


def googlenet() -> Iterator[Layer]:
    """Szegedy et al. 2014, table 1."""

    def layer(name: str, size: int, channels: tuple[int, int], kernel: int, **rest: Any) -> Layer:
        return Layer("googlenet", name, (size, size), channels, kernel, padding=kernel // 2, batch=2, **rest)

    yield layer("conv1", 224, (3, 64), 7, stride=2, first=True)
    yield layer("conv2.reduce", 56, (64, 64), 1)
    yield layer("conv2", 56, (64, 192), 3)
    for name, size, c, k1, r3, k3, r5, k5, kp in (
        ("3a", 28, 192, 64, 96, 128, 16, 32, 32),
        ("3b", 28, 256, 128, 128, 192, 32, 96, 64),
        ("4a", 14, 480, 192, 96, 208, 16, 48, 64),
        ("4b", 14, 512, 160, 112, 224, 24, 64, 64),
        ("4c", 14, 512, 128, 128, 256, 24, 64, 64),
        ("4d", 14, 512, 112, 144, 288, 32, 64, 64),
        ("4e", 14, 528, 256, 160, 320, 32, 128, 128),
        ("5a", 7, 832, 256, 160, 320, 32, 128, 128),
        ("5b", 7, 832, 384, 192, 384, 48, 128, 128),
    ):
        yield layer(f"{name}.1x1", size, (c, k1), 1)
        yield layer(f"{name}.3x3reduce", size, (c, r3), 1)
        yield layer(f"{name}.3x3", size, (r3, k3), 3)
        yield layer(f"{name}.5x5reduce", size, (c, r5), 1)
        yield layer(f"{name}.5x5", size, (r5, k5), 5)
        yield layer(f"{name}.pool", size, (c, kp), 1)


def mobilenet_v2() -> Iterator[Layer]:
    """Sandler et al. 2018, width 1."""

    def layer(name: str, size: int, channels: tuple[int, int], kernel: int, **rest: Any) -> Layer:
        settings: dict[str, Any] = {"padding": kernel // 2, "bias": False, "batch": 2, **rest}
        return Layer("mobilenet_v2", name, (size, size), channels, kernel, **settings)

    yield layer("conv1", 224, (3, 32), 3, stride=2, first=True)
    c, size, block = 32, 112, 0
    for expand, k, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(blocks):
            block += 1
            s, wide = stride if i == 0 else 1, expand * c
            if expand > 1:
                yield layer(f"{block}.expand", size, (c, wide), 1)
            yield layer(f"{block}.depthwise", size, (wide, wide), 3, stride=s, groups=wide)
            size //= s
            yield layer(f"{block}.project", size, (wide, k), 1)
            c = k
    yield layer("last", 7, (320, 1280), 1)


def convnext_t() -> Iterator[Layer]:
    """Liu et al. 2022, size T. (Its pointwise layers are linear layers.)"""
    net = "convnext_t"
    yield Layer(net, "stem", (224, 224), (3, 96), 4, stride=4, first=True)
    for stage, (c, blocks) in enumerate(((96, 3), (192, 3), (384, 9), (768, 3)), start=1):
        size = 112 >> stage
        yield Layer(net, f"{stage}.depthwise", (size, size), (c, c), 7, padding=3, groups=c, count=blocks)
        if stage < 4:
            yield Layer(net, f"{stage}.downsample", (size, size), (c, 2 * c), 2, stride=2)


def dcgan() -> Iterator[Layer]:
    """Radford et al. 2015 in the usual 64 x 64 form with 4 x 4 kernels: generator, then discriminator."""
    usual: dict[str, Any] = {"bias": False, "batch": 4, "stride": 2, "padding": 1}
    start = {**usual, "stride": 1, "padding": 0}
    yield Layer("dcgan", "up1", (1, 1), (100, 512), 4, transposed=True, first=True, **start)
    for i, (c, k) in enumerate(((512, 256), (256, 128), (128, 64), (64, 3)), start=2):
        size = 1 << i
        yield Layer("dcgan", f"up{i}", (size, size), (c, k), 4, transposed=True, **usual)
    for i, (c, k) in enumerate(((3, 64), (64, 128), (128, 256), (256, 512)), start=1):
        size = 128 >> i
        # the generator learns through the discriminator: its first layer needs the gradient to its input too
        yield Layer("dcgan", f"down{i}", (size, size), (c, k), 4, **usual)
    yield Layer("dcgan", "down5", (4, 4), (512, 1), 4, **start)


def unet_levels(net: str, dims: int, size: int, first: int, widths: list[tuple[int, int]]) -> Iterator[Layer]:
    """The common form of both U-nets: two convolutions a level, up-convolutions, and the skip connections' channels."""

    def layer(name: str, level: int, channels: tuple[int, int], kernel: int, **rest: Any) -> Layer:
        return Layer(net, name, (size >> level,) * dims, channels, kernel, **rest)

    c = first
    for level, (a, b) in enumerate(widths):
        yield layer(f"down{level}.a", level, (c, a), 3, padding=1, first=level == 0)
        yield layer(f"down{level}.b", level, (a, b), 3, padding=1)
        c = b
    for level in range(len(widths) - 2, -1, -1):
        skip = widths[level][1]
        up = skip if dims == 2 else c  # the 3-D net keeps the channels while it goes up
        yield layer(f"up{level}", level + 1, (c, up), 2, stride=2, transposed=True)
        yield layer(f"up{level}.a", level, (up + skip, skip), 3, padding=1)
        yield layer(f"up{level}.b", level, (skip, skip), 3, padding=1)
        c = skip
    yield layer("out", 0, (c, 2 if dims == 2 else 3), 1)


def unet() -> Iterator[Layer]:
    """Ronneberger et al. 2015, with padding and on 256 x 256 pixels."""
    return unet_levels("unet", 2, 256, 1, [(64, 64), (128, 128), (256, 256), (512, 512), (1024, 1024)])


def unet3d() -> Iterator[Layer]:
    """Cicek et al. 2016 at half its width, on a patch of 32 x 32 x 32 voxels."""
    return unet_levels("unet3d", 3, 32, 1, [(16, 32), (32, 64), (64, 128), (128, 256)])


def wav2vec2() -> Iterator[Layer]:
    """Baevski et al. 2020, base: the feature encoder on one second at 16 kHz, and the positional convolution."""
    yield Layer("wav2vec2", "features0", (16000,), (1, 512), 10, stride=5, bias=False, first=True)
    size = 3199
    for i, kernel in enumerate((3, 3, 3, 3, 2, 2), start=1):
        layer = Layer("wav2vec2", f"features{i}", (size,), (512, 512), kernel, stride=2, bias=False)
        yield layer
        size = layer.output_size[0]
    yield Layer("wav2vec2", "positions", (size,), (768, 768), 128, padding=64, groups=16)


def wavenet() -> Iterator[Layer]:
    """van den Oord et al. 2016: a stack of dilated layers (both halves of the gate at once) and its 1x1 layers."""
    for i in range(10):
        yield Layer("wavenet", f"dilated{1 << i}", (8000 + (1 << i),), (64, 128), 2, dilation=1 << i)
    yield Layer("wavenet", "residual", (8000,), (64, 64), 1)
    yield Layer("wavenet", "skip", (8000,), (64, 256), 1)


NETS: dict[str, Callable[[], Iterator[Layer]]] = {
    f.__name__: f
    for f in (
        alexnet,
        vgg16,
        resnet50,
        googlenet,
        mobilenet_v2,
        convnext_t,
        dcgan,
        unet,
        wav2vec2,
        wavenet,
        unet3d,
    )
}
