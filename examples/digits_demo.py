"""Trains LeNet-5 on scikit-learn's handwritten digits, once with convext's layers and once with torch.nn's.

Both networks start from the same seed and see the same batches, so that they must learn the same thing. The demo says
how well they read digits they have not seen, how far their losses are apart, and which of them was faster; it saves
pictures of what the first one learned. Exit code 0 if everything is as it should be, else 1.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from digits_pictures import save_feature_maps, save_filters
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import convext

LEAST_ACCURACY = 0.97
FIRST_LOSS_TOLERANCE = 1e-5  # absolute, float32: one forward pass, rounded in two orders
CURVE_TOLERANCE = 1e-6  # relative, float64: rounding has had every step of training to grow
TEST_IMAGES = 360
BATCH = 64


class LeNet5(nn.Module):
    """LeCun et al. 1998, with max pooling and ReLU: (N, 1, 32, 32) images to (N, 10) scores."""

    def __init__(self, layers: ModuleType) -> None:
        super().__init__()
        self.conv1 = layers.Conv2d(1, 6, kernel_size=5)
        self.conv2 = layers.Conv2d(6, 16, kernel_size=5)
        self.conv3 = layers.Conv2d(16, 120, kernel_size=5)
        self.pool = layers.MaxPool2d(2)
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        x = self.conv3(x).relu().flatten(1)
        return self.fc2(self.fc1(x).relu())


class Digits:
    """1797 scanned digits: 8 x 8 pixels, each enlarged to 3 x 3, and a frame to LeNet's 32 x 32."""

    def __init__(self) -> None:
        data = load_digits()
        images = torch.from_numpy(data.images).float().div_(16).unsqueeze(1)
        images = F.pad(F.interpolate(images, scale_factor=3, mode="nearest"), (4, 4, 4, 4))
        labels = torch.from_numpy(data.target).long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.test, self.train = order[:TEST_IMAGES], order[TEST_IMAGES:]
        self.images, self.labels = images, labels

    def batches(self, epoch: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """The training images in this epoch's order, made before the clock starts."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(epoch))
        return [(self.images[part].to(dtype), self.labels[part]) for part in self.train[order].split(BATCH)]

    def accuracy(self, net: nn.Module) -> float:
        with torch.no_grad():
            answers = net(self.images[self.test]).argmax(dim=1)
        return float((answers == self.labels[self.test]).double().mean())


class Learner:
    """A network with its optimizer, its losses so far and the seconds that each epoch took."""

    def __init__(self, name: str, layers: ModuleType, dtype: torch.dtype, steps: int) -> None:
        torch.manual_seed(1)
        self.name = name
        self.net = LeNet5(layers).to(dtype)
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=4e-3, total_steps=steps)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def warm_up(self, batch: tuple[Tensor, Tensor]) -> None:
        """A few steps of a copy: threads start and memory is allocated outside of the timed epochs."""
        trial = copy.deepcopy(self.net)
        for _ in range(3):
            F.cross_entropy(trial(batch[0]), batch[1]).backward()

    def learn(self, batches: list[tuple[Tensor, Tensor]]) -> Iterator[float]:
        """One epoch; yields each step's loss. The clock runs during the steps only."""
        spent = 0.0
        for images, labels in batches:
            start = time.perf_counter()
            loss = F.cross_entropy(self.net(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            value = loss.item()
            spent += time.perf_counter() - start
            self.schedule.step()
            self.losses.append(value)
            yield value
        self.seconds.append(spent)


def train_both(digits: Digits, epochs: int, dtype: torch.dtype) -> tuple[Learner, Learner]:
    """Trains both networks, epoch by epoch in turn, so that whatever else the machine does falls on both alike."""
    steps = epochs * -(-len(digits.train) // BATCH)
    ours = Learner("convext", convext.nn, dtype, steps)
    theirs = Learner("torch.nn", nn, dtype, steps)
    for learner in (ours, theirs):
        learner.warm_up(digits.batches(0, dtype)[0])
    interval = 0.1 if sys.stderr.isatty() else 10.0  # in a log every update would be a line
    with tqdm(total=2 * steps, desc=f"training, {str(dtype)[6:]}", unit="step", mininterval=interval) as bar:
        for epoch in range(epochs):
            batches = digits.batches(epoch, dtype)
            for learner in (ours, theirs) if epoch % 2 == 0 else (theirs, ours):
                for loss in learner.learn(batches):
                    bar.set_postfix_str(f"epoch {epoch + 1}/{epochs}, {learner.name}, loss {loss:.4f}", refresh=False)
                    bar.update()
    return ours, theirs


def check(holds: bool, text: str) -> bool:
    print(f"{'ok  ' if holds else 'FAIL'}  {text}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", "--quick", action="store_true", help="fewer epochs (the same checks)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="where the pictures go")
    arguments = parser.parse_args()
    epochs, epochs64 = (10, 3) if arguments.short else (15, 6)

    digits = Digits()
    print(
        f"LeNet-5 on {len(digits.train)} handwritten digits, tested on {len(digits.test)} others; convext "
        f"{convext.__version__} ({convext.backends.cpu.get_max_isa()}), torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    ours, theirs = train_both(digits, epochs, torch.float32)
    ours64, theirs64 = train_both(digits, epochs64, torch.float64)

    accuracy, other = digits.accuracy(ours.net), digits.accuracy(theirs.net)
    first = abs(ours.losses[0] - theirs.losses[0])
    curve = max(abs(a - b) / abs(b) for a, b in zip(ours64.losses, theirs64.losses, strict=True))
    times = [statistics.median(learner.seconds) for learner in (ours, theirs)]
    print()
    passed = [
        check(
            accuracy >= LEAST_ACCURACY,
            f"test accuracy {accuracy:.2%} (torch.nn {other:.2%}; at least {LEAST_ACCURACY:.0%} wanted)",
        ),
        check(
            first <= FIRST_LOSS_TOLERANCE,
            f"first loss, float32: {ours.losses[0]:.7f}, torch.nn {theirs.losses[0]:.7f} "
            f"(apart {first:.1e}, at most {FIRST_LOSS_TOLERANCE:.0e} wanted)",
        ),
        check(
            curve <= CURVE_TOLERANCE,
            f"all {len(ours64.losses)} losses, float64: relatively at most {curve:.1e} apart "
            f"(at most {CURVE_TOLERANCE:.0e} wanted)",
        ),
    ]
    print(
        f"      median epoch: convext {times[0] * 1e3:.0f} ms, torch.nn {times[1] * 1e3:.0f} ms; "
        f"torch.nn's time / convext's = {times[1] / times[0]:.2f} (whole training steps, epochs in turn)"
    )

    arguments.output.mkdir(parents=True, exist_ok=True)
    save_filters(ours.net, arguments.output / "filters.png")
    save_feature_maps(ours.net, digits.images[digits.test[0]], arguments.output / "feature_maps.png")
    print(f"      pictures: {arguments.output / 'filters.png'}, {arguments.output / 'feature_maps.png'}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
