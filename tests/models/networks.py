"""Networks of sound and volumes, small ones, from the tables in their papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch.nn.utils.parametrizations import weight_norm as weight_norm_parametrization


def _twice(channels: int, between: int, out: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in ((channels, between), (between, out)):
        layers += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after), nn.ReLU()]
    return layers


class UNet3d(nn.Module):
    """O. Cicek et al., "3D U-Net: Learning dense volumetric segmentation from sparse annotation", MICCAI 2016.

    Its figure's four levels, with `width` channels for its 32. Volumes (N, 1, D, H, W), of multiples of 8.
    """

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        ways = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList()
        channels = 1
        for level in range(4):
            self.down.append(nn.Sequential(*_twice(channels, ways[level], ways[level + 1])))
            channels = ways[level + 1]
        self.pool = nn.MaxPool3d(2, 2)
        self.up = nn.ModuleList(nn.ConvTranspose3d(ways[i + 1], ways[i + 1], 2, 2) for i in (3, 2, 1))
        self.join = nn.ModuleList(nn.Sequential(*_twice(ways[i + 1] + ways[i], ways[i], ways[i])) for i in (3, 2, 1))
        self.head = nn.Conv3d(ways[1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = layers(x if level == 0 else self.pool(x))
            seen.append(x)
        seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), seen.pop()], 1))
        return self.head(x)


class Wav2Vec2Features(nn.Module):
    """A. Baevski et al., "wav2vec 2.0", NeurIPS 2020, section 4.2 and appendix B: what stands before the transformer.

    Seven convolutions of 512 channels, strides (5, 2, 2, 2, 2, 2, 2) and widths (10, 3, 3, 3, 3, 2, 2), and the
    relative position embedding, a convolution of 128 taps in 16 groups under weight normalisation. Sound (N, 1, time).
    """

    def __init__(self, channels: int = 512, model: int = 768) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for i, (kernel, stride) in enumerate(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)):
            layers.append(nn.Conv1d(before, channels, kernel, stride, bias=False))
            layers += ([nn.GroupNorm(channels, channels)] if i == 0 else []) + [nn.GELU()]
            before = channels
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, model)
        position = nn.Conv1d(model, model, 128, padding=64, groups=16)
        self.position = weight_norm_parametrization(position, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.norm(self.features(x).transpose(1, 2)))
        position = F.gelu(self.position(x.transpose(1, 2))[..., :-1])
        return x + position.transpose(1, 2)


class _Residual(nn.Module):
    """A residual block of HiFi-GAN's first kind: pairs of convolutions, the first of each dilated."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            return weight_norm(
                nn.Conv1d(channels, channels, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation)
            )

        self.dilated = nn.ModuleList(conv(dilation) for dilation in (1, 3, 5))
        self.plain = nn.ModuleList(conv(1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, 0.1)), 0.1))
        return x


class HifiGanGenerator(nn.Module):
    """J. Kong, J. Kim and J. Bae, "HiFi-GAN", NeurIPS 2020, appendix A.1: the generator, V2 (128 channels).

    Mel spectrograms (N, 80, frames) to sound (N, 1, 256 * frames), by transposed convolutions under weight
    normalisation of the old kind, which hooks compute.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(80, channels, 7, padding=3))
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            self.up.append(weight_norm(up))
            channels //= 2
            self.blocks.append(nn.ModuleList(_Residual(channels, kernel) for kernel in (3, 7, 11)))
        self.last = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for up, blocks in zip(self.up, self.blocks, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = sum((block(x) for block in blocks), torch.zeros_like(x)) / 3
        return torch.tanh(self.last(F.leaky_relu(x)))
