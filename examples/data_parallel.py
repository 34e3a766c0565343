"""Two processes train one network: DistributedDataParallel over gloo, on this machine's CPU.

One learns how data-parallel training is written (a process group, a share of the batch for each process, DDP around the
model) and that convext's layers need nothing of their own for it. Since each process averages its half of the batch and
DDP the halves' gradients, the outcome must be that of one process with whole batches, which is trained beside it. For
a sample convext gives the same bits whatever else is in its batch; only the order of the sums over samples differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from sample_data import digits
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from convext import nn as cnn

PROCESSES = 2
BATCH = 64
TOLERANCE = 1e-10  # of the parameters, relative, in float64: another order of summation


def network() -> nn.Sequential:
    """(N, 1, 8, 8) digits to (N, 10) scores, in float64; the same parameters in every process."""
    torch.manual_seed(0)
    return nn.Sequential(
        cnn.Conv2d(1, 16, 3, padding="same"),
        nn.ReLU(),
        cnn.MaxPool2d(2),
        cnn.Conv2d(16, 32, 3, padding="same"),
        nn.ReLU(),
        cnn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).double()


def train(net: nn.Module, epochs: int, share: slice) -> None:
    """Trains on the part `share` of every batch; the batches are the same in every process."""
    data = digits()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    order = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        parts = torch.randperm(len(data.images), generator=order).split(BATCH)
        for part in parts[: len(data.images) // BATCH]:  # a last batch of odd size would weigh its halves unequally
            mine = part[share]
            loss = F.cross_entropy(net(data.images[mine].double()), data.labels[mine])
            optimizer.zero_grad()
            loss.backward()  # DDP averages the gradients of the processes in here
            optimizer.step()


def worker(rank: int, epochs: int, folder: str) -> None:
    """One of the processes. They find each other by a file: no port has to be free."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // PROCESSES))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    net = DistributedDataParallel(network())
    train(net, epochs, slice(rank, None, PROCESSES))
    torch.save(net.module.state_dict(), Path(folder) / f"rank{rank}.pt")
    dist.barrier()  # neither leaves while the other still talks
    dist.destroy_process_group()


def accuracy(net: nn.Module) -> float:
    data = digits()
    with torch.no_grad():
        return float((net(data.test_images.double()).argmax(1) == data.test_labels).double().mean())


def apart(state: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The greatest relative difference of a parameter."""
    return max(float((state[n] - expected[n]).norm() / expected[n].norm()) for n in expected)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one epoch instead of ten")
    options = parser.parse_args(arguments)
    epochs = 1 if options.quick else 10
    if not dist.is_available() or not dist.is_gloo_available():
        raise SystemExit("this build of torch has no gloo: there is nothing by which processes could talk on CPU")

    with tempfile.TemporaryDirectory() as folder:
        # Not "fork": threads of this process would not survive it. Not "spawn": such a process shuts its interpreter
        # down at the end, and DDP keeps the process group alive, whose threads may then ask for one that is gone.
        start_processes(worker, (epochs, folder), nprocs=PROCESSES, start_method="forkserver")
        states = [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(PROCESSES)]

    alone = network()
    train(alone, epochs, slice(None))
    between = apart(states[1], states[0])
    difference = apart(states[0], alone.state_dict())
    together = network()
    together.load_state_dict(states[0])
    print(f"the processes' parameters: {'the same bits' if between == 0 else f'{between:.0e} apart'}")
    print(f"two processes and one: {difference:.0e} apart, at most {TOLERANCE:.0e} wanted (float64, {epochs} epochs)")
    print(f"test accuracy: together {accuracy(together):.2%}, alone {accuracy(alone):.2%}")
    return 0 if between == 0 and difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
