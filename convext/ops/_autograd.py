"""How an operator becomes differentiable: one Python kernel at the Autograd dispatch key, once for every family.

A family states formulas (a `Rule`); `differentiable` puts them into a node that is applied *inside* a kernel at the
operator's Autograd key. Why so: an ``autograd.Function`` called from Python breaks ``compile(fullgraph)`` and strict
export; ``torch.library.register_autograd`` drops forward-mode tangents and rejects ``torch.func.grad``. A node applied
below the dispatcher is right under all of them.

Every name that PyTorch does not document is used here and nowhere else, and tests/test_package.py fails loudly when a
release drops one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _any_requires_grad, _AutoDispatchBelowAutograd, _ExcludeDispatchKeyGuard
from torch._C._functorch import (
    get_single_level_autograd_function_allowed,
    set_single_level_autograd_function_allowed,
    unwrap_if_dead,
)
from torch.autograd.function import _SingleLevelFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import register_flop_formula

__all__ = [
    "PLAIN",
    "PlainRule",
    "Rule",
    "TorchDispatchMode",
    "composed",
    "differentiable",
    "is_observed",
    "plain",
    "plain_call",
    "register_autocast",
    "register_flops",
    "register_vmap",
    "register_where_missing",
    "without_derivative",
    "without_record",
]

_library: Any = torch.library.Library("convext", "FRAGMENT")  # type: ignore[no-untyped-call]

_functorch_active = torch._C._are_functorch_transforms_active
_is_compiling = torch.compiler.is_compiling
_autocast_enabled = torch._C._is_any_autocast_enabled
_jit_tracing = torch._C._get_tracing_state
_dispatch_modes = torch._C._len_torch_dispatch_stack
_key_is_on = torch._C._dispatch_tls_is_dispatch_key_included
_set_forward_grad = forward_ad._set_fwd_grad_enabled
_unpack_dual: Any = forward_ad.unpack_dual
# What calling an overload comes to, less the look for __torch_function__, which convext.functional has behind it.
_call = torch._C._dispatch_call_boxed

_Key = torch._C.DispatchKey
_PRE_DISPATCH = _Key.PreDispatch
_AUTOCAST = {"cpu": _Key.AutocastCPU, "cuda": _Key.AutocastCUDA}
_AUTOCAST_KEYS = torch._C.DispatchKeySet(_Key.AutocastCPU) | torch._C.DispatchKeySet(_Key.AutocastCUDA)


class Rule:
    """The derivatives of one operator. They call differentiable entries, so that they can be derived again."""

    keeps_result = False  # whether `save` gets the result before the arguments

    @staticmethod
    def save(ctx: Any, *args: Any) -> None:
        """Keeps what the formulas need of the operator's arguments; tensors by save_for_backward, save_for_forward.

        An operator with a record (see `differentiable`) gets it before the arguments.
        """
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient to each tensor argument, None where `need` is False."""
        raise NotImplementedError

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """The result's tangent from those of the tensor arguments (None: zero), of which at least one is given."""
        raise NotImplementedError


# The types of tensors that nothing but their type has a say in.
PLAIN = (Tensor, torch.nn.Parameter)


class PlainRule:
    """An operator and its gradients, for `plain`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """The result, by a `plain_call`; keeps what the gradients need, which are None where they are zeros."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, need: Sequence[bool], grad: Tensor, is_plain: bool) -> tuple[Tensor | None, ...]:
        """The gradient to each tensor argument, by a `plain_call` if `is_plain`, else by differentiable entries."""
        raise NotImplementedError


def _tensor_arguments(op: Any) -> int:
    """How many arguments, the first ones, are tensors."""
    return sum("Tensor" in str(argument.type) for argument in op._schema.arguments)


class _Primals:
    """A node's ctx whose saved tensors have no tangents of their own level."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple(t if t is None else _unpack_dual(t).primal for t in self._ctx.saved_tensors)


def differentiable(op: Any, rule: type[Rule], tensors: int) -> Callable[..., Any]:
    """Registers `rule` for `op`, an overload whose first `tensors` arguments are differentiable tensors or None.

    The operator has one result, or a pair: the result and a record, which has no derivative, of how it came about.

    Returns:
        The operator as a function of the same positional arguments. Where no transform is active it goes around the
        dispatcher's hop into a Python kernel, about 4 microseconds, which would decide nothing.
    """
    handle = op._handle
    rest: tuple[None, ...] = (None,) * (len(op._schema.arguments) - tensors)
    all_tensors = _tensor_arguments(op)

    def forward(*args: Any) -> Any:
        if not _functorch_active():
            with _AutoDispatchBelowAutograd():
                return _call(handle, *args)
        # a functorch level below this one differentiates the same call: it must find gradients switched on
        with _AutoDispatchBelowAutograd(), torch.enable_grad(), _set_forward_grad(True):
            return op(*args)

    recorded = len(op._schema.returns) == 2

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        if recorded:
            ctx.mark_non_differentiable(output[1])
            rule.save(ctx, output[1], *inputs)
        elif rule.keeps_result:
            rule.save(ctx, output, *inputs)
        else:
            rule.save(ctx, *inputs)

    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * tensors + rest
        if _autocast_enabled():  # gradients keep the types of the forward pass, as torch's do
            with _ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
                return rule.backward(ctx, ctx.needs_input_grad, grad) + rest
        return rule.backward(ctx, ctx.needs_input_grad, grad) + rest

    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        if not _functorch_active():
            tangent = rule.jvp(ctx, *tangents[:tensors])
        else:
            # autograd has switched forward mode off, but a level around this one differentiates the tangent
            with torch.enable_grad(), _set_forward_grad(True):
                tangent = rule.jvp(_Primals(ctx), *tangents[:tensors])
        return (tangent, None) if recorded else tangent

    methods: dict[str, Callable[..., Any]] = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": backward,
        "jvp": jvp,
        "_compiled_autograd_key": torch.autograd.Function._compiled_autograd_key,
    }
    members = {name: staticmethod(method) for name, method in methods.items()}
    node: Any = type(f"convext_{op._opname}", (_SingleLevelFunction,), members)
    apply = node.apply

    def kernel(*args: Any) -> Any:
        if _functorch_active():
            allowed = get_single_level_autograd_function_allowed()
            set_single_level_autograd_function_allowed(True)
            try:
                return apply(*args)
            finally:
                set_single_level_autograd_function_allowed(allowed)
        if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and _any_requires_grad(*args)):
            return apply(*args)
        with _AutoDispatchBelowAutograd():
            return _call(handle, *args)

    _library.impl(op, kernel, "Autograd")

    def entry(*args: Any) -> Any:
        if (
            _is_compiling()
            or _functorch_active()
            or forward_ad._current_level >= 0
            or _autocast_enabled()
            or _key_is_on(_PRE_DISPATCH)
            or _jit_tracing() is not None
        ):
            return op(*args)
        operands = args[:all_tensors]
        if torch.is_grad_enabled() and _any_requires_grad(*operands):
            # a functorch wrapper that outlived its transform is no good to the node
            return apply(*[t if t is None else unwrap_if_dead(t) for t in operands], *args[all_tensors:])
        with _AutoDispatchBelowAutograd():
            return _call(handle, *args)

    return entry


def is_observed() -> bool:
    """Whether anything beside autograd has a say in an operator's call: a compiler, a transform, a mode, a tracer."""
    return (
        _is_compiling()
        or _functorch_active()
        or _dispatch_modes() > 0
        or forward_ad._current_level >= 0
        or _autocast_enabled()
        or _key_is_on(_PRE_DISPATCH)
        or _jit_tracing() is not None
    )


def without_derivative(*ops: Any) -> None:
    """Lets operators be called below the Autograd key without a guard: there is nothing to record."""
    for op in ops:
        _library.impl(op, torch.library.fallthrough_kernel, "Autograd")


def plain_call(op: Any) -> Callable[..., Any]:
    """An operator `without_derivative` as a function of the same arguments, called by the dispatcher at once."""
    return functools.partial(_call, op._handle)


class _RefusedError(Exception):
    """An operator has not taken its arguments."""


def plain(op: Any, rule: type[PlainRule], tensors: int, node_of: Any | None = None) -> Callable[..., Tensor | None]:
    """An operator `without_derivative` as a function of the same arguments, for calls that nobody observes.

    It is the shortest way to a kernel, for plain CPU tensors where not `is_observed()`: no guard, no second look at
    the arguments. Its node leads back to differentiable entries as soon as a gradient is to be derived again.
    ``node_of``: the operator whose name the node has, where the ordinary way records another one.

    Returns:
        The function. It returns None where the operator refuses its arguments: the caller's checks say why.
    """
    handle = op._handle
    rest: tuple[None, ...] = (None,) * (len(op._schema.arguments) - tensors)

    def forward(ctx: Any, *args: Any) -> Tensor:
        try:
            return rule.forward(ctx, *args)
        except RuntimeError as error:  # and not one of a hook that apply runs on what is saved
            raise _RefusedError from error

    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * tensors + rest
        if not is_observed():
            is_plain = type(grad) is Tensor and not torch.is_grad_enabled()
            return rule.backward(ctx, ctx.needs_input_grad, grad, is_plain) + rest
        if _autocast_enabled():  # gradients keep the types of the forward pass, as torch's do
            with _ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
                return rule.backward(ctx, ctx.needs_input_grad, grad, False) + rest
        return rule.backward(ctx, ctx.needs_input_grad, grad, False) + rest

    methods: dict[str, Callable[..., Any]] = {
        "forward": forward,
        "backward": backward,
        "_compiled_autograd_key": torch.autograd.Function._compiled_autograd_key,
    }
    members = {name: staticmethod(method) for name, method in methods.items()}
    node: Any = type(f"convext_{(node_of or op)._opname}", (_SingleLevelFunction,), members)
    apply = node.apply

    def entry(*args: Any) -> Tensor | None:
        y: Tensor
        if torch.is_grad_enabled() and _any_requires_grad(*args[:tensors]):
            # a functorch wrapper that outlived its transform is no good to the node
            operands = [t if t is None else unwrap_if_dead(t) for t in args[:tensors]]
            try:
                y = apply(*operands, *args[tensors:])
            except _RefusedError:
                return None
            return y
        try:
            y = _call(handle, *args)
        except RuntimeError:
            return None
        return y

    return entry


def composed(op: Any, composition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Registers for `op` that `composition`, the same in operators that have derivatives, is called for a derivative.

    Returns:
        The operator as a function of the same positional arguments.
    """
    handle = op._handle

    def kernel(*args: Any) -> Any:
        if _functorch_active() or forward_ad._current_level >= 0:
            return composition(*args)
        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return composition(*args)
        with _AutoDispatchBelowAutograd():
            return _call(handle, *args)

    _library.impl(op, kernel, "Autograd")

    def entry(*args: Any) -> Any:
        if _is_compiling() or _autocast_enabled() or _key_is_on(_PRE_DISPATCH) or _jit_tracing() is not None:
            return op(*args)
        return kernel(*args)

    return entry


def register_where_missing(op: Any, device: str, kernel: Callable[..., Any]) -> None:
    """A kernel for an operator that has none on a device, such as "CPU" or "CUDA"."""
    if not op.has_kernel_for_dispatch_key(getattr(_Key, device)):
        _library.impl(op, kernel, device)


def without_record(op: Any, recording: Callable[..., Any]) -> Callable[..., Tensor]:
    """`composed` for an `op` that gives the result of `recording`, without the record that its derivative needs."""
    return composed(op, lambda *args: recording(*args)[0])


def register_vmap(op: Any, rule: Callable[..., tuple[Any, Any]]) -> None:
    """`rule(info, in_dims, *args)` returns the batched result and where its mapped axis is, or a pair of each."""
    torch.library.register_vmap(op.name(), rule, lib=_library)


def register_autocast(op: Any) -> None:
    """Under autocast floating operands, but not float64, take the autocast type, as for torch's convolutions.

    ``torch.library.register_autocast`` fixes the type when it is called; this reads it at every call.
    """
    for device in _AUTOCAST:
        _register_autocast_kernel(op, device)


def _register_autocast_kernel(op: Any, device: str) -> None:
    key = _AUTOCAST[device]
    keys = torch._C.DispatchKeySet(key)

    def cast(value: Any, dtype: torch.dtype) -> Any:
        eligible = isinstance(value, Tensor) and value.is_floating_point() and value.device.type == device
        return value.to(dtype) if eligible and value.dtype is not torch.float64 else value

    def kernel(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        with _ExcludeDispatchKeyGuard(keys):
            return op(*[cast(a, dtype) for a in args])

    _library.impl(op, kernel, key.name)
    op.py_impl(key)(kernel)  # tracers look for a kernel in Python


def register_flops(op: Any, multiply_adds: Callable[..., Sequence[int]]) -> None:
    """For FlopCounterMode: two operations a multiply-add, of which there are the product of what the formula returns.

    The formula gets the operator's arguments with shapes in place of tensors, and the keyword `out_shape`.
    """

    def count(*args: Any, out_shape: Sequence[int], **_: Any) -> int:
        return 2 * math.prod(multiply_adds(*args, out_shape=out_shape))

    register_flop_formula(op.overloadpacket)(count)
