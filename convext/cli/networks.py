"""The network that a command is given: by a name of torchvision's, or as module:callable."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convext.cli.failures import Missing, Usage

__all__ = ["DTYPES", "add_arguments", "failures_of", "inputs", "network", "size"]

DTYPES = ("float32", "float64", "bfloat16", "float16")

_DEFAULT_INPUT = "1x3x224x224"


def size(text: str) -> tuple[int, ...]:
    """(1, 3, 224, 224) of "1x3x224x224". Raises argparse's error for anything else."""
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise argparse.ArgumentTypeError(f"expected a size such as {_DEFAULT_INPUT}, got {text!r}")
    return tuple(map(int, text.split("x")))


def add_arguments(parser: argparse.ArgumentParser, several_settings: bool = False) -> None:
    """What every command about a network takes.

    With `several_settings` the network may be missing, and how it runs is left to the command's own options.
    """
    parser.add_argument(
        "network",
        metavar="NET",
        nargs="?" if several_settings else None,
        help="a name of torchvision's, such as resnet18, or module:callable, which is imported with the working "
        "directory on the path and called without arguments, unless it is a torch.nn.Module",
    )
    parser.add_argument(
        "--input",
        metavar="SIZE",
        type=size,
        action="append",
        help=f"the input's size, e.g. 8x3x32x32 (default: {_DEFAULT_INPUT}); once for each input; random numbers",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    parser.add_argument("--train", action="store_true", help="run in training mode (default: in eval mode)")
    if several_settings:
        parser.set_defaults(channels_last=False)
        return
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of parameters and inputs")
    parser.add_argument("--channels-last", action="store_true", help="network and inputs in this memory format")
    parser.add_argument("--threads", type=int, metavar="N", help="for torch and convext (default: torch's own number)")


def _of_torchvision(name: str) -> Any:
    try:
        importlib.import_module("torchvision")
        models = importlib.import_module("torchvision.models")
    except Exception as error:  # a torchvision for another torch raises what it likes
        if getattr(error, "name", None) == "torchvision":
            raise Missing(
                f"{name}: torchvision is not installed, whose network this would be; your own are module:callable",
                "pip install torchvision",
            ) from error
        raise Missing(
            f"{name}: torchvision cannot be imported: {type(error).__name__}: {error}",
            f"install the torchvision that was built for torch {torch.__version__}",
        ) from error
    known = models.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known, 5) or known[:5]
        raise Usage(f"expected a network of torchvision or module:callable, got {name!r}; near it: {', '.join(close)}")
    builder = models.get_model_builder(name)
    settings = [key for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters]
    return builder(**dict.fromkeys(settings))


def _of_module(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise Usage(f"expected module:callable, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise Usage(f"{name}: expected a module {module_name} in {Path.cwd()} or installed, got none") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Usage(f"{name}: expected {attribute} in {module_name}, got none there")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise Usage(f"{name}: expected a torch.nn.Module or what makes one, got {type(found).__name__}")
    try:
        return found()
    except TypeError as error:
        raise Usage(f"{name}: expected something that is called without arguments, got TypeError: {error}") from error


def network(options: argparse.Namespace) -> nn.Module:
    """The network as the options ask for it.

    Raises:
        Usage: no such network, or what was named makes none.
        Missing: torchvision is not installed.
        Any error of the network's own construction.
    """
    if options.threads is not None:
        if options.threads < 1:
            raise Usage(f"--threads: expected 1 or more, got {options.threads}")
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    name = options.network
    model: Any = _of_module(name) if ":" in name else _of_torchvision(name)
    if not isinstance(model, nn.Module):
        raise Usage(f"{name}: expected what it returns to be a torch.nn.Module, got {type(model).__name__}")
    model = model.to(dtype=getattr(torch, options.dtype)).train(options.train)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    network: nn.Module = model
    return network


def inputs(options: argparse.Namespace) -> list[Tensor]:
    """Random inputs of the sizes that the options ask for."""
    generator = torch.Generator().manual_seed(options.seed)
    made = []
    for shape in options.input or [size(_DEFAULT_INPUT)]:
        t = torch.randn(shape, generator=generator).to(getattr(torch, options.dtype))
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        made.append(t.contiguous(memory_format=formats[t.dim()]) if options.channels_last and t.dim() in formats else t)
    return made


@contextlib.contextmanager
def failures_of(options: argparse.Namespace, given: list[Tensor]) -> Iterator[None]:
    """Around the network's run: an error of its own is one of the command line, which chose the inputs."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        sizes = ", ".join("x".join(map(str, t.shape)) for t in given)
        raise Usage(
            f"{options.network} fails on random {options.dtype} of size {sizes}: {type(error).__name__}: {error}",
            "another --input or --dtype",
        ) from error
