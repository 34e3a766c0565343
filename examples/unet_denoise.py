"""A small U-Net takes the noise out of a photograph.

One learns the shape of a U-Net: convolutions and pooling on the way down, transposed convolutions on the way up, and
skips that carry the fine detail across; that it learns the noise, not the image (a residual); and how to compare
fairly, in PSNR, with the best Gaussian blur. It learns from patches of one photograph and is tested on another one.
Writes unet_denoise.png.

O. Ronneberger, P. Fischer, T. Brox: U-Net, 2015; K. Zhang et al.: Beyond a Gaussian denoiser, 2017 (the residual).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from classic_filters import blurred
from sample_data import gray, photograph, picture_file, plotter
from torch import Tensor, nn

from convext import nn as cnn

NOISE = 0.1  # standard deviation, where white is 1: 20 dB
PATCH, BATCH = 64, 16
STEPS, QUICK_STEPS = 400, 12


def twice(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with ReLU, which every level of a U-Net consists of."""
    first = cnn.Conv2d(inputs, outputs, 3, padding="same", padding_mode="replicate")
    second = cnn.Conv2d(outputs, outputs, 3, padding="same", padding_mode="replicate")
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class UNet(nn.Module):
    """Noisy images (N, 1, H, W), H and W multiples of 4, to clean ones of the same size: three levels, two skips."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.level1, self.level2, self.bottom = twice(1, width), twice(width, 2 * width), twice(2 * width, 4 * width)
        self.pool = cnn.MaxPool2d(2)
        # kernel = stride: each pixel becomes a block of 2 x 2, and no two blocks overlap (no checkerboard)
        self.up2 = cnn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = twice(4 * width, 2 * width)
        self.up1 = cnn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1 = twice(2 * width, width)
        self.noise = cnn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.level1(x)
        middle = self.level2(self.pool(fine))
        up = self.up2(self.bottom(self.pool(middle)))
        up = self.up1(self.join2(torch.cat([middle, up], 1)))
        return x - self.noise(self.join1(torch.cat([fine, up], 1)))


def patches(image: Tensor, count: int) -> Tensor:
    """Random squares of an image (1, 1, H, W), half of them mirrored: (count, 1, PATCH, PATCH)."""
    height, width = image.shape[2:]
    rows = torch.randint(height - PATCH + 1, (count,)).tolist()
    columns = torch.randint(width - PATCH + 1, (count,)).tolist()
    cut = torch.cat([image[..., r : r + PATCH, c : c + PATCH] for r, c in zip(rows, columns, strict=True)])
    return torch.where(torch.rand(count, 1, 1, 1) < 0.5, cut, cut.flip(3))


def psnr(image: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: the higher, the nearer."""
    return -10 * math.log10(float((image - clean).square().mean()))


def train(net: nn.Module, image: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        clean = patches(image, BATCH)
        loss = (net(clean + NOISE * torch.randn_like(clean)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == steps - 1:
            print(f"step {step + 1} of {steps}: {-10 * math.log10(loss.item()):.2f} dB", flush=True)


def save_picture(images: dict[str, Tensor], path: Path) -> None:
    plt = plotter()
    figure, grid = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
    for axes, (title, image) in zip(grid.flat, images.items(), strict=True):
        axes.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps instead of {STEPS}")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="where the picture goes")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    net = UNet()
    train(net, gray(photograph("china")), QUICK_STEPS if options.quick else STEPS)

    clean = gray(photograph("flower"))[..., 60:316, 190:446]
    noisy = clean + NOISE * torch.randn_like(clean)
    with torch.no_grad():
        denoised = net(noisy)
    blurs = [blurred(noisy, sigma) for sigma in (0.5, 0.7, 0.9, 1.1, 1.3)]
    best = max(blurs, key=lambda image: psnr(image, clean))  # chosen knowing the answer: the U-Net is not
    images = {
        "the photograph": clean,
        f"noisy, {psnr(noisy, clean):.1f} dB": noisy,
        f"the best Gaussian blur, {psnr(best, clean):.1f} dB": best,
        f"the U-Net, {psnr(denoised, clean):.1f} dB": denoised,
    }
    print("; ".join(images))
    path = picture_file(options.output, "unet_denoise.png")
    save_picture(images, path)
    print(f"picture: {path}")
    return 0 if psnr(denoised, clean) > psnr(noisy if options.quick else best, clean) else 1


if __name__ == "__main__":
    sys.exit(main())
