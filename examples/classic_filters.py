"""The filters of every textbook, on a photograph: a convolution layer is these, with weights that are learned.

Box, Gaussian, sharpen, edge (Laplace) and Sobel, each one `conv2d` with a weight written by hand. One learns how a
weight (outputs, inputs / groups, height, width) makes an image out of an image; that `groups=3` filters the colours
separately; that a Gaussian of two axes is two of one axis; and what `padding="same"` and a `padding_mode` do at the
border. Writes classic_filters.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from sample_data import gray, photograph, picture_file, plotter
from torch import Tensor

from convext import functional as F

BOX = torch.full((5, 5), 1 / 25)
SHARPEN = torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]])  # the image and its edges: sums to 1
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])  # the second derivative: sums to 0
SOBEL_X = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])  # a derivative across, a smoothing down
SOBEL_Y = SOBEL_X.T


def gaussian(sigma: float) -> Tensor:
    """The taps (2 * ceil(3 sigma) + 1,) of a Gaussian; they sum to 1."""
    reach = int(-(-3 * sigma // 1))
    taps = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
    return taps / taps.sum()


def filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """An image (N, C, H, W) with each channel correlated with the kernel (h, w); the size stays.

    groups = C gives every channel a filter of its own, here the same one; "replicate" continues the image by its
    border pixels, where zeros would draw a dark frame.
    """
    channels = image.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv2d(image, weight, padding="same", groups=channels, padding_mode="replicate")


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur as two passes: along the rows, then along the columns. h + w multiplications a pixel, not h w."""
    taps = gaussian(sigma)
    return filtered(filtered(image, taps[None, :]), taps[:, None])


def sobel(image: Tensor) -> Tensor:
    """How steep the luminance is, (N, 1, H, W): both derivatives are one convolution with two outputs."""
    weight = torch.stack([SOBEL_X, SOBEL_Y]).unsqueeze(1)
    return F.conv2d(gray(image), weight, padding="same", padding_mode="replicate").norm(dim=1, keepdim=True)


def results(image: Tensor) -> dict[str, Tensor]:
    """Every picture by its title, (1, 1 or 3, H, W) from 0 to 1."""
    return {
        "photograph": image,
        "box, 5 x 5: the mean of the neighbours": filtered(image, BOX).clamp(0, 1),
        "Gaussian, sigma 3: a mean that fades": blurred(image, 3.0).clamp(0, 1),
        "sharpen: minus the neighbours": filtered(image, SHARPEN).clamp(0, 1),
        "edges (Laplace): gray is flat": (filtered(gray(image), LAPLACE) + 0.5).clamp(0, 1),
        "Sobel: how steep, in any direction": (sobel(image) / 2).clamp(0, 1),
    }


def save_picture(pictures: dict[str, Tensor], path: Path) -> None:
    plt = plotter()
    height, width = pictures["photograph"].shape[2:]
    figure, grid = plt.subplots(2, 3, figsize=(10, 0.6 + 6.7 * height / width), layout="constrained")
    for axes, (title, image) in zip(grid.flat, pictures.items(), strict=True):
        axes.imshow(image[0].movedim(0, 2).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the photograph")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="where the picture goes")
    options = parser.parse_args(arguments)

    image = photograph("china")
    if options.quick:
        image = image[..., ::2, ::2]
    pictures = results(image)

    flat = torch.full((1, 3, 32, 32), 0.5)
    checks = {
        "box and Gaussian keep a flat image, border and all": torch.stack([filtered(flat, BOX), blurred(flat, 3.0)]),
        "sharpen keeps it, too": filtered(flat, SHARPEN),
        "edges of a flat image: none": filtered(flat, LAPLACE) + 0.5,
    }
    for text, result in checks.items():
        error = float((result - 0.5).abs().max())
        print(f"{text}: off by {error:.1g} at most")
        if error > 1e-5:
            return 1
    taps = gaussian(3.0)
    once = filtered(image, torch.outer(taps, taps))
    print(
        f"Gaussian of {len(taps)} x {len(taps)} taps at once or as two passes: "
        f"apart by {float((once - blurred(image, 3.0)).abs().max()):.1g}"
    )
    path = picture_file(options.output, "classic_filters.png")
    save_picture(pictures, path)
    print(f"picture: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
