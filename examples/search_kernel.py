"""How large a kernel, how many channels? Optuna searches, on the digits.

One learns how a hyper-parameter search is written: an objective that trains and scores one network, on digits set aside
for that (not those that the final accuracy is told of); the tree-structured Parzen estimator, which proposes what to
try; and a pruner, which ends trainings that fall behind. As convext gives the same bits on every run, and the sampler
is seeded, so does the whole search. Needs optuna: pip install optuna.

T. Akiba et al.: Optuna, 2019; J. Bergstra et al.: Algorithms for hyper-parameter optimization, 2011.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from sample_data import digits, require
from torch import Tensor, nn
from torch.nn import functional as F

from convext import nn as cnn

TRIALS, QUICK_TRIALS = 12, 3
EPOCHS, QUICK_EPOCHS = 5, 2
LEAST_ACCURACY, LEAST_QUICK_ACCURACY = 0.95, 0.5
VALIDATION = 300  # digits of the training set


def network(kernel: int, width: int, depth: int) -> nn.Sequential:
    """(N, 1, 8, 8) digits to (N, 10) scores: `depth` convolutions of `width` channels, the first pooled after."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [cnn.Conv2d(width if i else 1, width, kernel, padding="same"), nn.ReLU()]
        if i == 0:
            layers.append(cnn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, 10))


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials instead of {TRIALS}, shorter")
    options = parser.parse_args(arguments)
    trials, epochs = (QUICK_TRIALS, QUICK_EPOCHS) if options.quick else (TRIALS, EPOCHS)
    optuna = require("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    data = digits()
    images, labels = data.images[VALIDATION:], data.labels[VALIDATION:]
    checks, check_labels = data.images[:VALIDATION], data.labels[:VALIDATION]
    best: dict[str, Any] = {"accuracy": -1.0}

    def objective(trial: Any) -> float:
        """The validation accuracy of one choice, told to the pruner after every epoch."""
        kernel = trial.suggest_int("kernel", 1, 7, step=2)
        width = trial.suggest_int("width", 4, 32, log=True)
        depth = trial.suggest_int("depth", 1, 3)
        rate = trial.suggest_float("rate", 1e-3, 3e-2, log=True)
        torch.manual_seed(0)
        net = network(kernel, width, depth)
        optimizer = torch.optim.Adam(net.parameters(), lr=rate)
        score = 0.0
        for epoch in range(epochs):
            for part in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(images[part]), labels[part]).backward()
                optimizer.step()
            score = accuracy(net, checks, check_labels)
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        if score > best["accuracy"]:
            best.update(accuracy=score, net=net)
        return score

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.optimize(objective, n_trials=trials)

    print("kernel  width  depth    rate  validation")
    for trial in sorted(study.trials, key=lambda t: -(t.value or 0)):
        chosen = trial.params
        score = f"{trial.value:.2%}" if trial.state.name == "COMPLETE" else f"pruned ({trial.value:.2%})"
        print(f"{chosen['kernel']:>6}  {chosen['width']:>5}  {chosen['depth']:>5}  {chosen['rate']:.4f}  {score:>10}")
    test = accuracy(best["net"], data.test_images, data.test_labels)
    print(f"\nthe best, {study.best_params}: {test:.2%} of the digits not seen")
    return 0 if test >= (LEAST_QUICK_ACCURACY if options.quick else LEAST_ACCURACY) else 1


if __name__ == "__main__":
    sys.exit(main())
