"""Runs a model once and leaves no trace of it, while a recorder is told of every layer and every function in it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from convext.inspect import layers

__all__ = ["Recorder", "Visit", "check_flag", "is_layer", "map_tensors", "tensors_in"]


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same lists, tuples and dicts, with `change` done to every tensor in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[map_tensors(change, v) for v in value])
    if isinstance(value, (list, tuple)):
        return type(value)([map_tensors(change, v) for v in value])
    if isinstance(value, dict):
        return {key: map_tensors(change, v) for key, v in value.items()}
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in lists, tuples and dicts, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


@dataclasses.dataclass
class Visit:
    """One call of a module, from its entry to its exit."""

    module: nn.Module
    name: str  # as named_modules gives it
    number: int  # 1 for the module's first call in the run
    inputs: tuple[Any, ...]


class Recorder(TorchFunctionMode):
    """Follows a run of a model. A subclass says what is done when a module is entered and left and a function called.

    A layer's function is caught where it is called, whoever calls it: a layer of torch.nn or convext.nn, a subclass of
    one with a forward of its own, or a model that calls ``torch.nn.functional`` itself.
    """

    def __init__(self, function: str, model: nn.Module) -> None:
        """`function`: the name by which errors tell who was called.

        Raises:
            TypeError: not a module.
            ValueError: a lazy module that has seen no input yet, or a scripted one.
        """
        super().__init__()
        self.model = model = _checked(function, model)
        self.names = {module: name for name, module in model.named_modules()}
        self.stack: list[Visit] = []
        self.calls: dict[nn.Module, int] = {}

    def entered(self, visit: Visit) -> None:
        """A module's forward begins."""

    def left(self, visit: Visit, output: Any) -> None:
        """A module's forward has returned `output`."""

    def called(self, name: str, arguments: dict[str, Any], run: Callable[[], Any]) -> Any:
        """A function of `layers.NAMES` is called: gives what `run`, the call itself, returns."""
        return run()

    def layer(self, function: str) -> tuple[str, str]:
        """The name and type by which a function that is called now is listed.

        They are those of the module that runs, if it is a single layer, and else tell the function, too.
        """
        if not self.stack:
            return function, function
        visit = self.stack[-1]
        if is_layer(visit.module):
            return visit.name or type(visit.module).__name__, type(visit.module).__name__
        return f"{visit.name}.{function}" if visit.name else function, function

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = layers.name_of(func)
        arguments = None if name is None else layers.bound_arguments(name, args, kwargs)
        if name is None or arguments is None:
            return func(*args, **kwargs)
        if self.stack and layers.is_conv(name) and not layers.is_transposed(name):
            arguments = layers.as_the_layer_says(self.stack[-1].module, self.stack[-1].inputs, arguments)
        return self.called(name, arguments, lambda: func(*args, **kwargs))

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if module in self.names:
            self.calls[module] = self.calls.get(module, 0) + 1
            visit = Visit(module, self.names[module], self.calls[module], inputs)
            self.stack.append(visit)
            self.entered(visit)

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.stack and self.stack[-1].module is module:
            self.left(self.stack.pop(), output)

    def run(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the model makes of the inputs; parameters, buffers, gradients, hooks, random state stay as they are."""
        before = register_module_forward_pre_hook(self._before)
        after = register_module_forward_hook(self._after, always_call=True)
        try:
            with _same_random_state(self.model), _eager(), torch.inference_mode(False), torch.no_grad():
                # functional_call puts the copies in the buffers' places and the buffers back: running statistics move
                buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
                given = map_tensors(lambda t: t.detach().clone(), (inputs, kwargs))
                with self.surroundings(given), self:
                    return torch.func.functional_call(self.model, buffers, *given)
        finally:
            before.remove()
            after.remove()

    @contextlib.contextmanager
    def surroundings(self, inputs: Any) -> Iterator[None]:
        """What else is active during the run of the model on these inputs."""
        yield


def check_flag(function: str, name: str, value: Any) -> None:
    """Raises a TypeError for an option that is no bool: it was meant for the model, which may have one of this name."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{function}: expected {name} to be a bool, got {type(value).__name__}; "
            "give the model's own argument of this name by position"
        )


def is_layer(module: nn.Module) -> bool:
    """Whether a module is listed as one: it has no modules in it, but for parametrizations of its own weights."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _checked(function: str, model: Any) -> nn.Module:
    """The model as it was before it was compiled."""
    while isinstance(getattr(model, "_orig_mod", None), nn.Module):
        model = model._orig_mod
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: expected model to be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{function}: expected no scripted modules, got {name or 'the model itself'}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{function}: expected a model that has seen an input once, got {name} without a size")
    return model


@contextlib.contextmanager
def _same_random_state(model: nn.Module) -> Iterator[None]:
    state = random.getstate()
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(state)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Compiled modules run as they were written. Where torch's compiler was never loaded, there are none."""
    if "torch._dynamo" in sys.modules:
        stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return contextlib.nullcontext()
