"""How an operator gets its derivatives: one ``torch.autograd`` node applied inside a kernel at the Autograd key.

Every name that PyTorch does not document is imported here and nowhere else, and ``tests/test_package.py`` fails loudly
when a release drops one. Why it is done this way: an ``autograd.Function`` called from Python breaks
``compile(fullgraph)`` and strict export, ``torch.library.register_autograd`` drops forward-mode tangents and rejects
``torch.func.grad``. A node applied below the dispatcher is right under all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _any_requires_grad, _AutoDispatchBelowAutograd
from torch._C._functorch import (
    get_single_level_autograd_function_allowed,
    set_single_level_autograd_function_allowed,
    unwrap_if_dead,
)
from torch.autograd.function import _SingleLevelFunction

LIBRARY = torch.library.Library("convext", "FRAGMENT")

_functorch_active = torch._C._are_functorch_transforms_active
_is_compiling = torch.compiler.is_compiling
_autocast_enabled = torch._C._is_any_autocast_enabled
_jit_tracing = torch._C._get_tracing_state
_key_is_on = torch._C._dispatch_tls_is_dispatch_key_included
_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack

Setup = Callable[..., None]
Backward = Callable[..., tuple[Any, ...]]
Jvp = Callable[..., Any]


def differentiable(op: Any, *, setup: Setup, backward: Backward, jvp: Jvp) -> Callable[..., Tensor]:
    """Gives ``op`` its gradient rule and returns the fast Python entry to it.

    Args:
        op: an overload with one tensor result, e.g. ``torch.ops.convext.conv_fprop.default``.
        setup: ``setup(ctx, *args)`` saves what the rules need, with ``save_for_backward`` and ``save_for_forward``.
        backward: ``backward(ctx, needs_input_grad, grad)`` returns a gradient or None for each argument. It is called
            with a defined ``grad`` only, and must itself call differentiable entries.
        jvp: ``jvp(ctx, *tangents)`` returns the tangent of the result; tangents are None where there are none.
    """

    def below(*args: Any) -> Any:
        with _AutoDispatchBelowAutograd():
            return op(*args)

    def forward(*args: Any) -> Any:
        if not _functorch_active():
            return below(*args)
        # A functorch level below this one differentiates the same call: it must find gradients switched on.
        with _AutoDispatchBelowAutograd(), torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return op(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup(ctx, *inputs)

    def run_backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad
        return (None,) * len(needs) if grad is None else backward(ctx, needs, grad)

    node = type(
        f"convext_{op._opname}",
        (_SingleLevelFunction,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(run_backward),
            "jvp": staticmethod(jvp),
            "_compiled_autograd_key": staticmethod(torch.autograd.Function._compiled_autograd_key),
        },
    )
    apply = node.apply

    def kernel(*args: Any) -> Any:
        if _functorch_active():
            allowed = get_single_level_autograd_function_allowed()
            set_single_level_autograd_function_allowed(True)
            try:
                return apply(*args)
            finally:
                set_single_level_autograd_function_allowed(allowed)
        if (torch.is_grad_enabled() and _any_requires_grad(*args)) or forward_ad._current_level >= 0:
            return apply(*args)
        return below(*args)

    LIBRARY.impl(op, kernel, "Autograd")

    def entry(*args: Any) -> Any:
        # The dispatcher's hop into a Python kernel costs about 4 microseconds; without a transform it decides nothing.
        if (
            _is_compiling()
            or _functorch_active()
            or forward_ad._current_level >= 0
            or _autocast_enabled()
            or _key_is_on(_PRE_DISPATCH)
            or _jit_tracing() is not None
            or _dispatch_modes()
            or _function_modes()
            or not all(type(a) in _PLAIN for a in args if isinstance(a, Tensor))
        ):
            return op(*args)
        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return apply(*[unwrap_if_dead(a) if isinstance(a, Tensor) else a for a in args])
        with _AutoDispatchBelowAutograd():
            return op(*args)

    return entry


# Subclasses may define __torch_function__ or __torch_dispatch__: they take the dispatcher's way.
_PLAIN = {Tensor, torch.nn.Parameter}


def autocast(op: Any, device: str) -> None:
    """Casts floating-point operands (but not float64) to the autocast type, as torch does for its convolutions.

    ``torch.library.register_autocast`` fixes the type when it is called; this reads it at every call.
    """
    key = "Autocast" + device.upper()
    keyset = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(value: Any, dtype: torch.dtype) -> Any:
        eligible = isinstance(value, Tensor) and value.is_floating_point() and value.device.type == device
        return value.to(dtype) if eligible and value.dtype is not torch.float64 else value

    def kernel(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(keyset):
            return op(*[cast(a, dtype) for a in args])

    LIBRARY.impl(op, kernel, key)
    op.py_impl(getattr(torch._C.DispatchKey, key))(kernel)
