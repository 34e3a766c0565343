"""Filters that nobody designed: sixteen of 9 x 9 pixels, learned from a photograph, and what they see in another one.

Sparse coding: an image has to be drawn by few filters, each put where it is needed. What is learned are edges and
stripes of several directions and widths, as the first layers of large networks and the visual cortex have them;
classic_filters.py has those that people design. One learns that a decoder is a transposed convolution, and that the
gradient of its error to the code is the convolution by the same weight (each is the other's adjoint), so that the code
is found by a few steps of proximal gradient descent, without autograd; then what whitening is for. Writes
learned_filters.png: the filters, and their activations on a photograph that they have not seen.

B. Olshausen, D. Field: Emergence of simple-cell receptive field properties by learning a sparse code, 1996;
I. Daubechies, M. Defrise, C. De Mol: An iterative thresholding algorithm, 2004.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from classic_filters import blurred
from sample_data import gray, photograph, picture_file, plotter
from torch import Tensor

from convext import functional as F

FILTERS, SIZE = 16, 9
PATCH, BATCH = 48, 12
SPARSENESS = 1.0  # the price of an answer's magnitude, beside half the squared error
ITERATIONS = 12  # of the search for the code
STEPS, QUICK_STEPS = 300, 8


def whitened(image: Tensor) -> Tensor:
    """An image (1, 1, H, W) whose fine and coarse detail weigh alike, as in the retina: a difference of Gaussians,
    divided by the contrast around each pixel."""
    band = blurred(image, 0.6) - blurred(image, 3.0)
    return band / (blurred(band.square(), 8.0).sqrt() + 0.02)


def decode(code: Tensor, weight: Tensor) -> Tensor:
    """Every answer draws its filter: (N, FILTERS, H, W) to (N, 1, H, W)."""
    return F.conv_transpose2d(code, weight, padding=SIZE // 2)


@torch.no_grad()
def encode(image: Tensor, weight: Tensor) -> Tensor:
    """The answers (N, FILTERS, H, W) that draw the image best at the price of SPARSENESS.

    Each step goes down the gradient of half the squared error, as far as its curvature allows (the greatest sum over
    filters of their power at one frequency), and then takes what is too weak for 0.
    """
    pace = 1 / float(torch.fft.rfft2(weight, s=(64, 64)).abs().square().sum(0).max())
    code = torch.zeros(len(image), FILTERS, *image.shape[2:])
    for _ in range(ITERATIONS):
        missing = image - decode(code, weight)
        code = code + pace * F.conv2d(missing, weight, padding="same")
        code = code.sign() * (code.abs() - pace * SPARSENESS).relu()
    return code


def unit(weight: Tensor) -> Tensor:
    """Each filter scaled to norm 1."""
    return weight / weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)


def learn(image: Tensor, steps: int) -> Tensor:
    """The filters (FILTERS, 1, SIZE, SIZE), of norm 1."""
    weight = unit(torch.randn(FILTERS, 1, SIZE, SIZE)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    height, width = image.shape[2:]
    for step in range(steps):
        rows = torch.randint(height - PATCH + 1, (BATCH,)).tolist()
        columns = torch.randint(width - PATCH + 1, (BATCH,)).tolist()
        batch = torch.cat([image[..., r : r + PATCH, c : c + PATCH] for r, c in zip(rows, columns, strict=True)])
        code = encode(batch, weight)
        error = (decode(code, weight) - batch).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():  # else large filters would make small answers, which cost nothing
            weight.copy_(unit(weight))
        if step % 100 == 99 or step == steps - 1:
            share = float((code != 0).double().mean())
            print(f"step {step + 1} of {steps}: error {error.item():.3f}, {share:.1%} of the answers not 0", flush=True)
    return weight.detach()


def save_picture(weight: Tensor, image: Tensor, code: Tensor, path: Path) -> None:
    plt = plotter()
    figure = plt.figure(figsize=(9, 6.4), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.6, 2.8, 1.9])
    top.suptitle(f"{FILTERS} learned filters (red adds, blue subtracts)", fontsize=10)
    limit = float(weight.abs().max())
    for axes, one in zip(top.subplots(2, FILTERS // 2).flat, weight, strict=True):
        axes.imshow(one[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.axis("off")
    axes = middle.subplots()
    axes.imshow(image[0, 0].numpy(), cmap="gray")
    axes.set_title("a photograph that they have not seen, whitened", fontsize=10)
    axes.axis("off")
    bottom.suptitle("what each filter answers there", fontsize=10)
    limit = float(code.abs().quantile(0.999)) or 1.0
    for axes, one in zip(bottom.subplots(2, FILTERS // 2).flat, code[0], strict=True):
        axes.imshow(one.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.axis("off")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps instead of {STEPS}")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="where the picture goes")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    weight = learn(whitened(gray(photograph("china"))), QUICK_STEPS if options.quick else STEPS)
    image = whitened(gray(photograph("flower")))[..., 60:260, 150:450]
    code = encode(image, weight)
    kept = 1 - float((decode(code, weight) - image).square().sum() / image.square().sum())
    print(f"{kept:.1%} of the new photograph's variance is in {float((code != 0).double().mean()):.1%} of the answers")
    path = picture_file(options.output, "learned_filters.png")
    save_picture(weight, image, code, path)
    print(f"picture: {path}")
    return 0 if kept > (0 if options.quick else 0.5) else 1


if __name__ == "__main__":
    sys.exit(main())
