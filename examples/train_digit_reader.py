"""Trains the network that `python -m convext demo` reads digits with, and writes the weights that the package carries.

The thousand digits to learn from are few and neat; people draw them slanted, off centre and with other pens. One learns
how to make more of them: each batch is turned, sheared, moved and inked anew (data augmentation), and what that does to
the accuracy on digits that the network has not seen.

    python examples/train_digit_reader.py --output convext/cli/digit_reader.pt   # makes the package's file again
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from sample_data import digits
from torch import Tensor, nn
from torch.nn import functional as F

from convext.cli.digit_reader import framed, network

EPOCHS, QUICK_EPOCHS = 60, 3
LEAST_ACCURACY, LEAST_QUICK_ACCURACY = 0.97, 0.75
BATCH = 64


def varied(images: Tensor) -> Tensor:
    """The images (N, 1, H, W), each turned by up to 12 degrees, sheared, scaled by up to a tenth, moved, and inked."""

    def uniform(reach: float) -> Tensor:
        return (torch.rand(len(images)) * 2 - 1) * reach

    angle, shear, move_x, move_y = uniform(0.21), uniform(0.2), uniform(0.1), uniform(0.1)
    scale_x, scale_y, ink = 1 + uniform(0.1), 1 + uniform(0.1), 1.2 + uniform(0.4)
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale_x, -angle.sin() + shear, move_x], 1),
            torch.stack([angle.sin(), angle.cos() * scale_y, move_y], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return (F.grid_sample(images, grid, align_corners=False) * ink.reshape(-1, 1, 1, 1)).clamp(0, 1)


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EPOCHS} epochs instead of {EPOCHS}")
    parser.add_argument("--output", type=Path, help="where the state_dict goes (default: it is not written)")
    options = parser.parse_args(arguments)
    epochs = QUICK_EPOCHS if options.quick else EPOCHS

    torch.manual_seed(0)
    data = digits()
    images, tests = framed(data.images), framed(data.test_images)
    net = network()
    steps = epochs * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=steps)
    for epoch in range(epochs):
        for part in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(net(varied(images[part])), data.labels[part], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9 or epoch == epochs - 1:
            print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    net.eval()
    neat, other = accuracy(net, tests, data.test_labels), accuracy(net, varied(tests), data.test_labels)
    print(f"digits not seen: {neat:.2%}; turned, sheared and moved, too: {other:.2%}")
    if options.output:
        torch.save(net.state_dict(), options.output)
        print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")
    return 0 if neat >= (LEAST_QUICK_ACCURACY if options.quick else LEAST_ACCURACY) else 1


if __name__ == "__main__":
    sys.exit(main())
