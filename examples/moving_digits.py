"""Which way does the digit go? A 3-D network watches films of eight frames.

One learns what the third axis of a convolution is for: no single frame says where the digit goes, so a network whose
kernels see one frame at a time (1 x 3 x 3, and an average over time at the end) can only guess, and the same network
with kernels of 3 x 3 x 3 knows. Also that "causal" padding along time and "same" in space may stand side by side:
then no frame sees a later one, and the network can run on a live film. The films are made of scikit-learn's digits.

D. Tran et al.: Learning spatiotemporal features with 3D convolutional networks, 2015.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from sample_data import digits
from torch import Tensor, nn
from torch.nn import functional as F

from convext import nn as cnn

FRAMES, SIZE = 8, 20
DIRECTIONS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
STEPS, QUICK_STEPS, BATCH = 150, 50, 32
LEAST_ACCURACY, LEAST_QUICK_ACCURACY = 0.95, 0.6


def films(images: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Films (count, 1, FRAMES, SIZE, SIZE) of random digits (N, 1, 8, 8), a pixel a frame, and their directions.

    The digit starts anywhere and leaves the frame on one side to come back on the other: no place is a hint.
    """
    chosen = images[torch.randint(len(images), (count,)), 0]
    labels = torch.randint(len(DIRECTIONS), (count,))
    starts = torch.randint(SIZE, (count, 2))
    steps = torch.tensor(list(DIRECTIONS.values()))[labels]
    film = torch.zeros(count, 1, FRAMES, SIZE, SIZE)
    film[:, 0, :, :8, :8] = chosen[:, None]
    for i in range(count):
        for t in range(FRAMES):
            row, column = (starts[i] + t * steps[i]).tolist()
            film[i, 0, t] = film[i, 0, t].roll((row, column), (0, 1))
    return film, labels


def network(taps: int) -> nn.Sequential:
    """Films to (N, 4) scores. taps: along time, of every kernel; 1 sees one frame at a time."""
    kernel, padding = (taps, 3, 3), ("causal", "same", "same")
    return nn.Sequential(
        cnn.Conv3d(1, 8, kernel, padding=padding),
        nn.ReLU(),
        cnn.MaxPool3d((1, 2, 2)),
        cnn.Conv3d(8, 16, kernel, padding=padding),
        nn.ReLU(),
        cnn.MaxPool3d(2),
        cnn.Conv3d(16, 32, kernel, padding=padding),
        nn.ReLU(),
        cnn.AdaptiveAvgPool3d(1),  # over time and space: what was seen, not where
        nn.Flatten(),
        nn.Linear(32, len(DIRECTIONS)),
    )


def trained(taps: int, images: Tensor, steps: int) -> nn.Sequential:
    torch.manual_seed(0)
    net = network(taps)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for step in range(steps):
        film, labels = films(images, BATCH)
        loss = F.cross_entropy(net(film), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"  step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return net


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps instead of {STEPS}")
    options = parser.parse_args(arguments)
    steps, least = (QUICK_STEPS, LEAST_QUICK_ACCURACY) if options.quick else (STEPS, LEAST_ACCURACY)

    data = digits()
    torch.manual_seed(1)
    tests, labels = films(data.test_images, 128 if options.quick else 512)
    accuracies = []
    for taps in (1, 3):
        print(f"kernels of {taps} x 3 x 3")
        net = trained(taps, data.images, steps)
        with torch.no_grad():
            scores = net(tests)
            accuracies.append(float((scores.argmax(1) == labels).double().mean()))
        print(f"  right about {accuracies[-1]:.1%} of {len(labels)} films of digits not seen")

    with torch.no_grad():  # causal: what is made of the first frames stays, whatever comes later
        layer = net[0]
        later = tests[:1].clone()
        later[:, :, FRAMES // 2 :] = 0
        same = torch.equal(layer(later)[:, :, : FRAMES // 2], layer(tests[:1])[:, :, : FRAMES // 2])
    print(f"the first frames' activations are {'' if same else 'NOT '}the same bits whatever the later frames are")
    return 0 if same and accuracies[1] >= least and accuracies[0] < 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
