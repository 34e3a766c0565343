"""The cases beside the networks: families of shapes that those lack, each on more sizes than any kernel is tuned to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench.layer import Layer


def depthwise() -> Iterator[Layer]:
    """3x3, 5x5 and 7x7 in the sizes of MobileNet, EfficientNet and ConvNeXt; multiplier 2."""
    for c, size in ((32, 112), (96, 112), (144, 56), (256, 28), (512, 14), (960, 7)):
        for stride in (1, 2):
            yield _square("depthwise", f"3x3s{stride}_{c}", size, (c, c), 3, stride=stride, groups=c)
    for kernel, sizes in ((5, ((72, 56), (240, 28), (672, 14))), (7, ((64, 56), (192, 28), (384, 14)))):
        for c, size in sizes:
            for stride in (1, 2):
                name = f"{kernel}x{kernel}s{stride}_{c}"
                yield _square("depthwise", name, size, (c, c), kernel, stride=stride, groups=c)
    yield _square("depthwise", "multiplier3x3", 56, (32, 64), 3, groups=32)
    yield _square("depthwise", "multiplier5x5s2", 28, (64, 128), 5, stride=2, groups=64)


def grouped() -> Iterator[Layer]:
    """ResNeXt-50 32x4d (Xie et al. 2017): 4 to 32 channels a group; ShuffleNet's 1x1, groups of 8 in 5x5."""
    for c, size in ((128, 56), (256, 28), (512, 14), (1024, 7)):
        yield _square("grouped", f"resnext{c // 32}", size, (c, c), 3, groups=32, bias=False)
        if c > 128:
            yield _square("grouped", f"resnext{c // 32}s2", 2 * size, (c, c), 3, stride=2, groups=32, bias=False)
    yield _square("grouped", "shufflenet", 28, (240, 60), 1, groups=3, bias=False)
    yield _square("grouped", "5x5of8", 28, (128, 128), 5, groups=16)
    yield _square("grouped", "3x3of2", 56, (64, 64), 3, groups=32)
    yield _square("grouped", "3x3halves", 28, (128, 256), 3, groups=2)


def sound() -> Iterator[Layer]:
    """1-D: long kernels, dilation, strides, causal and depthwise layers, of recogniser, vocoder and language model."""

    def layer(name: str, length: int, channels: tuple[int, int], kernel: int, **rest: Any) -> Layer:
        settings: dict[str, Any] = {"padding": (kernel - 1) * rest.get("dilation", 1) // 2, **rest}
        return Layer("sound", name, (length,), channels, kernel, **settings)

    yield layer("k9", 8000, (64, 64), 9)
    yield layer("k9s2", 16000, (32, 64), 9, stride=2)
    yield layer("first_k80s4", 16000, (1, 64), 80, stride=4, padding=0, first=True)
    for dilation in (4, 16, 64):
        yield layer(f"tcn_d{dilation}", 2000, (128, 128), 3, dilation=dilation)
    yield layer("hifigan_k7d3", 8192, (64, 64), 7, dilation=3)
    yield layer("hifigan_k11d5", 4096, (128, 128), 11, dilation=5)
    yield layer("encodec_k8s4", 6000, (64, 128), 8, stride=4, padding=2)
    yield layer("encodec_k16s8", 1500, (256, 512), 16, stride=8, padding=4)
    yield layer("whisper_k3s2", 3000, (384, 384), 3, stride=2)
    yield layer("pointwise", 1000, (512, 512), 1)
    # causal by padding both ends and dropping what looks ahead, as Mamba's reference code does
    yield layer("mamba_k4", 2048, (1536, 1536), 4, padding=3, groups=1536)
    yield layer("mamba_k4short", 256, (768, 768), 4, padding=3, groups=768)
    yield layer("conformer_k31", 500, (512, 512), 31, groups=512)
    yield layer("conformer_k31causal", 1000, (256, 256), 31, padding=30, groups=256)


def volumes() -> Iterator[Layer]:
    """3-D: 3x3x3, its depthwise form, and the factors 1x3x3 and 3x1x1 of R(2+1)D (Tran et al. 2018), with strides."""

    def layer(name: str, size: tuple[int, ...], channels: tuple[int, int], kernel: Any, **rest: Any) -> Layer:
        axes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        settings: dict[str, Any] = {"padding": tuple(k // 2 for k in axes), "bias": False, **rest}
        return Layer("volumes", name, size, channels, axes, **settings)

    yield layer("stem", (8, 112, 112), (3, 64), (3, 7, 7), stride=(1, 2, 2), first=True)
    yield layer("r3d_64", (8, 28, 28), (64, 64), 3)
    yield layer("r3d_128s2", (8, 28, 28), (64, 128), 3, stride=2)
    yield layer("r3d_256", (4, 14, 14), (256, 256), 3)
    yield layer("medical_16", (32, 32, 32), (16, 16), 3)
    yield layer("medical_32s2", (32, 32, 32), (32, 64), 3, stride=2)
    yield layer("medical_5x5x5", (24, 24, 24), (8, 16), 5)
    yield layer("space1x3x3", (8, 28, 28), (64, 144), (1, 3, 3))
    yield layer("space1x3x3s2", (8, 28, 28), (64, 230), (1, 3, 3), stride=(1, 2, 2))
    yield layer("time3x1x1", (8, 28, 28), (144, 64), (3, 1, 1))
    yield layer("time3x1x1s2", (8, 14, 14), (230, 128), (3, 1, 1), stride=(2, 1, 1))
    yield layer("separated3x3x3", (8, 28, 28), (64, 64), 3, groups=64)
    yield layer("x3d_54", (8, 40, 40), (54, 54), 3, groups=54)
    yield layer("x3d_108s2", (8, 40, 40), (108, 108), 3, stride=(1, 2, 2), groups=108)
    yield layer("pointwise", (8, 14, 14), (256, 64), 1)


def transposed() -> Iterator[Layer]:
    """Upsampling: DCGAN 4/2/1 and 5/2/2, U-Net 2/2, CycleGAN 3/2/1 with output padding, voxels 2/2, vocoders 16/8."""

    def layer(name: str, size: tuple[int, ...], channels: tuple[int, int], kernel: int, **rest: Any) -> Layer:
        return Layer("transposed", name, size, channels, kernel, transposed=True, **{"stride": 2, **rest})

    for c, size in ((256, 16), (128, 32), (64, 64)):
        yield layer(f"dcgan{c}", (size, size), (c, c // 2), 4, padding=1, bias=False)
        yield layer(f"unet{c}", (size, size), (c, c // 2), 2)
    yield layer("dcgan_image", (64, 64), (64, 3), 4, padding=1)
    for c, size in ((256, 32), (128, 64)):
        yield layer(f"cyclegan{c}", (size, size), (c, c // 2), 3, padding=1, output_padding=1)
    yield layer("dcgan5x5", (8, 8), (512, 256), 5, padding=2, output_padding=1, bias=False)
    yield layer("decoder3x3", (56, 56), (64, 64), 3, stride=1, padding=1)
    yield layer("bilinear4x4", (28, 28), (21, 21), 4, padding=1, groups=21, bias=False)
    yield layer("voxels128", (8, 8, 8), (128, 64), 2)
    yield layer("voxels64", (16, 16, 16), (64, 32), 2)
    yield layer("vnet3x3x3", (8, 8, 8), (64, 32), 3, padding=1, output_padding=1)
    yield layer("hifigan_k16s8_512", (64,), (512, 256), 16, stride=8, padding=4)
    yield layer("hifigan_k16s8_256", (512,), (256, 128), 16, stride=8, padding=4)
    yield layer("hifigan_k4s2", (8192,), (64, 32), 4, padding=1)


def cifar_resnet20() -> Iterator[Layer]:
    """He et al. 2015, section 4.2, with projections in the shortcuts."""
    net = "cifar_resnet20"
    yield _square(net, "conv1", 32, (3, 16), 3, first=True, bias=False)
    yield _square(net, "stage1", 32, (16, 16), 3, bias=False, count=6)
    for stage, (c, k, size) in enumerate(((16, 32, 32), (32, 64, 16)), start=2):
        yield _square(net, f"stage{stage}.first", size, (c, k), 3, stride=2, bias=False)
        yield _square(net, f"stage{stage}.shortcut", size, (c, k), 1, stride=2, bias=False)
        yield _square(net, f"stage{stage}", size // 2, (k, k), 3, bias=False, count=5)


def cifar_vgg() -> Iterator[Layer]:
    """VGG-small: two layers a level, 128 to 512 channels, as binary and quantised networks are compared on."""
    for name, size, channels in (
        ("conv1", 32, (3, 128)),
        ("conv2", 32, (128, 128)),
        ("conv3", 16, (128, 256)),
        ("conv4", 16, (256, 256)),
        ("conv5", 8, (256, 512)),
        ("conv6", 8, (512, 512)),
    ):
        yield _square("cifar_vgg", name, size, channels, 3, first=channels[0] == 3)


def lenet5() -> Iterator[Layer]:
    """LeCun et al. 1998, with every connection of the third layer."""
    yield Layer("lenet5", "c1", (32, 32), (1, 6), 5, first=True)
    yield Layer("lenet5", "c3", (14, 14), (6, 16), 5)
    yield Layer("lenet5", "c5", (5, 5), (16, 120), 5)


def dilated() -> Iterator[Layer]:
    """DeepLab (Chen et al. 2017): the last stages at stride 8, and the pyramid; small ones of context modules."""
    for name, size, channels, dilation in (
        ("stage4_d2", 28, (256, 256), 2),
        ("stage5_d4", 28, (512, 512), 4),
        ("pyramid_d12", 28, (1024, 256), 12),
        ("context_d2", 64, (64, 64), 2),
        ("context_d4", 64, (64, 64), 4),
        ("context_d8", 64, (21, 21), 8),
    ):
        yield Layer("dilated", name, (size, size), channels, 3, padding=dilation, dilation=dilation)


def odd_sizes() -> Iterator[Layer]:
    """Prime maps and channels beside every power of two: the edges of all tiles at once."""

    def layer(name: str, channels: tuple[int, int], kernel: Any, **rest: Any) -> Layer:
        return Layer("odd_sizes", name, rest.pop("size", (31, 29)), channels, kernel, **rest)

    for channels in ((17, 33), (33, 65), (65, 17), (65, 65)):
        yield layer(f"3x3_{channels[0]}_{channels[1]}", channels, 3, padding=1)
    yield layer("3x3_65_large", (65, 65), 3, padding=1, size=(61, 59))
    yield layer("1x1", (33, 65), 1)
    yield layer("5x5s2", (17, 33), 5, padding=2, stride=2)
    yield layer("7x7s3", (17, 33), 7, padding=3, stride=3)
    yield layer("3x5", (33, 33), (3, 5), padding=(1, 2))
    yield layer("depthwise33", (33, 33), 3, padding=1, groups=33)
    yield layer("depthwise65s2", (65, 65), 5, padding=2, stride=2, groups=65)
    yield layer("groups_of_11", (33, 33), 3, padding=1, groups=3)
    yield layer("transposed4x4s2", (33, 17), 4, padding=1, stride=2, transposed=True)
    yield layer("1-D", (33, 65), 5, padding=2, size=(997,))
    yield layer("3-D", (17, 33), 3, padding=1, size=(7, 13, 11))


def _square(net: str, name: str, size: int, channels: tuple[int, int], kernel: int, **rest: Any) -> Layer:
    """A square map under a square kernel with half its size as padding."""
    return Layer(net, name, (size, size), channels, kernel, padding=kernel // 2, **rest)


FURTHER: dict[str, Callable[[], Iterator[Layer]]] = {
    f.__name__: f
    for f in (
        depthwise,
        grouped,
        sound,
        volumes,
        transposed,
        cifar_resnet20,
        cifar_vgg,
        lenet5,
        dilated,
        odd_sizes,
    )
}
