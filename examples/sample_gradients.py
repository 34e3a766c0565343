"""A gradient for every sample, not their mean: `torch.func.vmap(grad(...))` through convext's layers.

One learns how a model becomes a function of its parameters, how `grad` makes its gradient and `vmap` does so for a
whole batch at once, and one use: samples that pull hardest at a trained network are the odd ones, some of them
labelled wrong. Here twenty labels are made wrong on purpose, and most of them are found again. A loop over the
samples must give the same gradients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch
from sample_data import digits
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from convext import nn as cnn

WRONG = 20  # labels, of 1437
TOLERANCE = 1e-5  # ||gradient - the loop's|| / ||the loop's||, float32
LOOPED = 32  # samples that are held against the loop


def network() -> nn.Sequential:
    """(N, 1, 8, 8) digits to (N, 10) scores."""
    return nn.Sequential(
        cnn.Conv2d(1, 16, 3, padding="same"),
        nn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Conv2d(16, 32, 3, padding="same"),
        nn.ReLU(),
        cnn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()


def sample_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """For each parameter (*size) the gradients (N, *size) of every sample's own loss."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, values, (image[None],)), label[None])

    # the parameters are the same for all samples (None), images and labels have one each (axis 0)
    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)


def looped_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The same by the obvious loop."""
    parameters = dict(net.named_parameters())
    rows = [
        torch.autograd.grad(F.cross_entropy(net(image[None]), label[None]), list(parameters.values()))
        for image, label in zip(images, labels, strict=True)
    ]
    return {name: torch.stack(column) for name, column in zip(parameters, zip(*rows, strict=True), strict=True)}


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """(N, parameters)"""
    return torch.cat([g.flatten(1) for g in gradients.values()], 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="two epochs instead of eight, a third of the digits")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    data = digits()
    count = 480 if options.quick else len(data.images)
    images, labels = data.images[:count], data.labels[:count].clone()
    wrong = torch.randperm(count)[:WRONG]
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (WRONG,))) % 10
    net = network()
    train(net, images, labels, 2 if options.quick else 8)

    start = time.perf_counter()
    together = flat(sample_gradients(net, images[:LOOPED], labels[:LOOPED]))
    middle = time.perf_counter()
    looped = flat(looped_gradients(net, images[:LOOPED], labels[:LOOPED]))
    end = time.perf_counter()
    error = float((together - looped).norm() / looped.norm())
    print(f"{LOOPED} gradients of {looped.shape[1]} parameters: vmap {1e3 * (middle - start):.1f} ms, ", end="")
    print(f"the loop {1e3 * (end - middle):.1f} ms (the first call of each)")
    print(f"relative difference {error:.0e}, at most {TOLERANCE:.0e} wanted")

    parts = zip(images.split(240), labels.split(240), strict=True)
    norms = torch.cat([flat(sample_gradients(net, *part)).norm(dim=1) for part in parts])
    hardest = norms.topk(WRONG).indices
    found = int(torch.isin(hardest, wrong).sum())
    medians = float(norms.median()), float(norms[wrong].median())
    print(f"norm of a gradient: median {medians[0]:.2g}, of wrongly labelled digits {medians[1]:.2g}")
    print(f"{found} of the {WRONG} digits with the largest gradients are among the {WRONG} labelled wrong on purpose")
    return 0 if error <= TOLERANCE and (options.quick or found >= WRONG // 2) else 1


if __name__ == "__main__":
    sys.exit(main())
