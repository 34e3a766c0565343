"""The columns of layers: what training loops, loaders and quantisation do with a module."""

from __future__ import annotations

import copy
import io
import os
import pickle
import socket
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize

from tests.transforms.columns import Before, Library, NotApplicable, column, gradients, once, same
from tests.transforms.rows import ROWS, Row


@column("pickle, deepcopy, save")
def _copies(row: Row, library: Library) -> None:
    model, image = Before(row, library), row.image(dtype=torch.float32)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    wanted = gradients(model, image)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        same(gradients(other, image), wanted)
    same(other.state_dict(), model.state_dict())


def _weight_of(row: Row, library: Library) -> torch.nn.Module:
    layer = library.layer(row)
    if not hasattr(layer, "weight"):
        raise NotApplicable("no weight")
    return layer


@column("weight_norm, spectral_norm, parametrize")
def _parametrized(row: Row, library: Library) -> None:
    """Each against the function on the weight that the parametrisation gives."""

    class Symmetric(torch.nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w + w.flip(-1)

    image = row.image(dtype=torch.float32)
    for change in (
        torch.nn.utils.weight_norm,
        parametrizations.weight_norm,
        torch.nn.utils.spectral_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
    ):
        torch.manual_seed(0)
        layer: Any = change(_weight_of(row, library)).eval()
        function = library.function(row)
        y = layer(image)
        if row.name.startswith(("conv", "locally")):
            same(y, function(image, layer.weight, layer.bias))
        y.tanh().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@column("fake-quantised weight")
def _fake_quantised(row: Row, library: Library) -> None:
    """A step of quantisation-aware training with torch.ao's FakeQuantize as the weight's parametrisation."""
    from torch.ao.quantization import FakeQuantize, default_weight_observer

    torch.manual_seed(0)
    layer = _weight_of(row, library)
    quantise = FakeQuantize(  # type: ignore[no-untyped-call]
        default_weight_observer, quant_min=-128, quant_max=127, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric
    )
    parametrize.register_parametrization(layer, "weight", quantise)
    image = row.image(dtype=torch.float32)
    y = layer(image)
    same(y, library.function(row)(image, layer.weight, layer.bias))
    steps = layer.weight / quantise.scale
    same(steps, steps.round(), rtol=0, atol=1e-3)
    y.tanh().sum().backward()
    weight = layer.parametrizations.weight.original
    assert weight.grad is not None and weight.grad.abs().sum() > 0


# --- processes: one, or one pair, runs all rows ---------------------------------------------------------------------


def _models(library: Library) -> dict[str, torch.nn.Module]:
    return {row.name: Before(row, library) for row in ROWS if row.in_(library.functional) is not None}


def _images(library: Library, batch: int) -> dict[str, Tensor]:
    return {row.name: row.image(batch, dtype=torch.float32) for row in ROWS if row.in_(library.functional) is not None}


Arrays = dict[str, list[Any]]  # NumPy's: tensors would be shared through files


def _arrays(tensors: list[Tensor]) -> list[Any]:
    return [t.numpy() for t in tensors]


def _derive_all(models: dict[str, torch.nn.Module], images: dict[str, Tensor], queue: Any) -> None:
    torch.set_num_threads(1)  # as DataLoader's workers: after a fork OpenMP hangs with more, torch's functions, too
    queue.put({name: _arrays(gradients(model, images[name])) for name, model in models.items()})


@once
def _in_another_process(method: str, library: Library) -> Arrays:
    """The gradients of every row's model, from a process that has been given it."""
    torch.randn(512, 512) @ torch.randn(512, 512)  # with threads of its own already running here
    context = torch.multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_derive_all, args=(_models(library), _images(library, 2), queue))
    process.start()
    received: Arrays = queue.get()
    process.join()
    return received


@column("processes: fork and spawn", slow=True)
def _processes(row: Row, library: Library) -> None:
    """A layer goes to another process, of one thread if forked, that derives it; this one has used threads before."""
    library.function(row)
    wanted = gradients(Before(row, library), row.image(2, dtype=torch.float32))
    for method in ("fork", "spawn"):
        same([torch.from_numpy(a) for a in _in_another_process(method, library)[row.name]], wanted)


class _Layered(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, layer: torch.nn.Module, image: Tensor) -> None:
        self.layer, self.image = layer, image

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        with torch.no_grad():
            y: Tensor = self.layer(self.image * (1 + i))
        return y


@column("DataLoader workers", slow=True)
def _data_loader(row: Row, library: Library) -> None:
    data = _Layered(Before(row, library), row.image(dtype=torch.float32))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2)
    same(torch.cat(list(loader)), torch.stack([data[i] for i in range(4)]))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _train_distributed(
    rank: int, port: int, models: dict[str, torch.nn.Module], images: dict[str, Tensor], queue: Any
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    results: Arrays = {}
    try:
        for name, model in models.items():
            parallel = torch.nn.parallel.DistributedDataParallel(model)
            parallel(images[name].chunk(2)[rank]).tanh().sum().backward()
            results[name] = _arrays([2 * p.grad for p in model.parameters() if p.grad is not None])
        if rank == 0:
            queue.put(results)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@once
def _distributed_gradients(library: Library) -> Arrays:
    """Summed over two processes, each with half of the batch."""
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    models = {name: model for name, model in _models(library).items() if not name.startswith("fractional")}
    arguments = (_free_port(), models, _images(library, 4), queue)
    workers = [context.Process(target=_train_distributed, args=(rank, *arguments)) for rank in range(2)]
    for worker in workers:
        worker.start()
    received: Arrays = queue.get()
    for worker in workers:
        worker.join()
    return received


@column("DistributedDataParallel", slow=True)
def _distributed(row: Row, library: Library) -> None:
    """Two processes of gloo, each with half of the batch, sum the gradients of one with all of it."""
    library.function(row)
    if row.name.startswith("fractional"):
        raise NotApplicable("its random numbers belong to a batch")
    wanted = gradients(Before(row, library), row.image(4, dtype=torch.float32))[1:]
    same([torch.from_numpy(a) for a in _distributed_gradients(library)[row.name]], wanted)
