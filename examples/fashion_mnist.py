"""LeNet-5 learns to tell shirts from shoes: the 70,000 pictures of Fashion-MNIST, two epochs.

`make demo` trains the same network on a thousand digits and holds it against torch.nn; this is a whole training at
the size of MNIST: read the data from its files, shuffle, train with a schedule, test, and look at what is mixed up.
The data is Debian's package dataset-fashion-mnist (apt-get install dataset-fashion-mnist); with --data it is read
from any folder that has the four files of https://github.com/zalandoresearch/fashion-mnist. Exit code 0 if the test
accuracy is at least 88% (60% with --quick).

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.
Xiao, Rasul, Vollgraf: Fashion-MNIST, a novel image dataset for benchmarking machine learning algorithms, 2017.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convext import nn as cnn

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
LEAST_ACCURACY, LEAST_QUICK_ACCURACY = 0.88, 0.60
BATCH = 64


def read_idx(path: Path) -> Tensor:
    """A file of MNIST's format: two zero bytes, 8 for uint8, the number of axes, their sizes, the elements."""
    with gzip.open(path) as file:
        zeros, kind, axes = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != 8:
            raise ValueError(f"{path}: expected MNIST's format of bytes, got magic number {zeros}, {kind}")
        size = struct.unpack(f">{axes}I", file.read(4 * axes))
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).reshape(size)


def load(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) of bytes and labels (N,) of "train" or "t10k"."""
    images, labels = (read_idx(folder / f"{part}-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    return images.unsqueeze(1), labels.long()


def pixels(images: Tensor) -> Tensor:
    """Bytes as float32 of mean 0 and deviation 1, over the data set."""
    return (images.float() / 255 - 0.286) / 0.353


def lenet5() -> nn.Sequential:
    """(N, 1, 28, 28) images to (N, 10) scores: 61,706 parameters, with max pooling and ReLU for the paper's."""
    return nn.Sequential(
        cnn.Conv2d(1, 6, 5, padding="same"),  # the paper's 32 x 32 pixels, of which the frame was empty
        nn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Conv2d(6, 16, 5),
        nn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Conv2d(16, 120, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Adam, its rate risen and fallen once over the training (L. Smith, 2018)."""
    steps = -(-len(images) // BATCH)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for part in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(net(pixels(images[part])), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(part)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: mean loss {total / len(images):.3f}, {seconds:.1f} s", flush=True)


@torch.no_grad()
def answers(net: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([net(pixels(part)).argmax(1) for part in images.split(1000)])


def confusions(labels: Tensor, found: Tensor) -> list[str]:
    """The three commonest mistakes, in words."""
    table = torch.bincount(labels * 10 + found, minlength=100).reshape(10, 10).fill_diagonal_(0)
    counts, places = table.flatten().topk(3)
    return [
        f"{NAMES[p // 10]} taken for {NAMES[p % 10]}: {n}"
        for n, p in zip(counts.tolist(), places.tolist(), strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one epoch of a tenth of the data")
    parser.add_argument("--data", type=Path, default=DEBIAN, help=f"the folder of the four files (default: {DEBIAN})")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args(arguments)
    if not (options.data / "train-images-idx3-ubyte.gz").exists():
        raise SystemExit(
            f"no train-images-idx3-ubyte.gz in {options.data}: apt-get install dataset-fashion-mnist on Debian and "
            "Ubuntu, or say by --data where the four files are"
        )

    torch.manual_seed(0)
    images, labels = load(options.data, "train")
    test_images, test_labels = load(options.data, "t10k")
    if options.quick:
        images, labels, test_images, test_labels = images[:6000], labels[:6000], test_images[:2000], test_labels[:2000]
    net = lenet5()
    train(net, images, labels, 1 if options.quick else options.epochs)
    found = answers(net, test_images)
    accuracy = float((found == test_labels).double().mean())
    print(f"test accuracy {accuracy:.2%} of {len(test_images)} pictures")
    print("most often mixed up:", "; ".join(confusions(test_labels, found)))
    return 0 if accuracy >= (LEAST_QUICK_ACCURACY if options.quick else LEAST_ACCURACY) else 1


if __name__ == "__main__":
    sys.exit(main())
