"""The functions that verify and explain know: their arguments, what torch would run for them, and convext's plans.

Arguments are dicts, named and ordered as the parameters of :mod:`convext.functional`, which has torch's and more.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._prims_common import suggest_memory_format

from convext import _checks, _padding, _sizes, functional
from convext.introspection import Plan, conv_plan

__all__ = [
    "DTYPES",
    "NAMES",
    "as_the_layer_says",
    "bound_arguments",
    "convext_call",
    "is_conv",
    "is_sum",
    "is_transposed",
    "name_of",
    "plan_of",
    "rank_of",
    "torch_call",
]

Arguments = dict[str, Any]

DTYPES = _checks.DTYPES

# Not those that draw numbers, which cannot be repeated, and no maxout, which is a maximum of a view.
NAMES = frozenset(name for name in functional.__all__ if not name.startswith(("stochastic", "maxout")))


def _functions() -> dict[Any, str]:
    known: dict[Any, str] = {}
    for name in NAMES:
        known[getattr(functional, name)] = name
        for module, suffix in ((torch, ""), (F, ""), (F, "_with_indices")):
            function = getattr(module, name + suffix, None)
            if function is not None:
                known[function] = name
    return known


_FUNCTIONS = _functions()


def name_of(function: Any) -> str | None:
    """The name in convext.functional of one of its functions or of torch's counterpart; None for any other."""
    try:
        return _FUNCTIONS.get(function)
    except TypeError:  # not everything that is called can be hashed
        return None


@functools.lru_cache(None)
def _signature(name: str) -> inspect.Signature:
    return inspect.signature(getattr(functional, name))


def bound_arguments(name: str, args: tuple[Any, ...], kwargs: Arguments) -> Arguments | None:
    """All arguments of a call by name, defaults filled in; None if they do not fit, for the call itself to say so."""
    try:
        bound = _signature(name).bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    return dict(bound.arguments)


def as_the_layer_says(layer: Any, inputs: tuple[Any, ...], arguments: Arguments) -> Arguments:
    """The call of a convolution layer of torch.nn that pads a copy of its input first, as one call with that padding.

    That is the layer's whole work, and how convext's layer does it.
    """
    if not isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) or layer.padding_mode == "zeros":
        return arguments
    sides = getattr(layer, "_reversed_padding_repeated_twice", None)
    x, padded = inputs[0] if inputs else None, arguments["input"]
    if sides is None or not isinstance(x, Tensor) or arguments["padding_mode"] != "zeros":
        return arguments
    rank = len(layer.kernel_size)
    pairs = tuple([(sides[i], sides[i + 1]) for i in range(2 * rank - 2, -1, -2)])
    if x.dim() != padded.dim() or any(
        size + sum(pair) != after
        for size, pair, after in zip(x.shape[-rank:], pairs, padded.shape[-rank:], strict=True)
    ):
        return arguments
    return {**arguments, "input": x, "padding": pairs, "padding_mode": layer.padding_mode}


def _plain(name: str) -> str:
    """The convolution in a fused function, and any other function itself."""
    return name.removeprefix("fused_")


def is_transposed(name: str) -> bool:
    return _plain(name).startswith("conv_transpose")


def is_conv(name: str) -> bool:
    """A convolution or a transposed one, also with what is fused into it."""
    return _plain(name).startswith("conv")


def is_sum(name: str) -> bool:
    """Whether results are sums of input times something: terms may cancel, and the sum be small beside them."""
    return is_conv(name) or name.startswith(("avg_pool", "adaptive_avg_pool", "fold", "locally_connected"))


def rank_of(name: str) -> int:
    """The spatial axes of a convolution or pooling function."""
    return int(name[-2])


def convext_call(name: str, arguments: Arguments) -> Any:
    return getattr(functional, name)(**arguments)


# --- what torch runs -------------------------------------------------------------------------------------------------

# Where these differ from the value given, torch has no such function.
_BEYOND_TORCH: dict[str, Arguments] = {
    "avg_pool": {"dilation": 1},
    "lp_pool": {"padding": 0, "dilation": 1, "abs": False},
}


def torch_call(name: str, arguments: Arguments) -> Any:
    """The same by torch's operators alone: one call where torch has the function, else what a user would write.

    Raises:
        NotImplementedError: torch has nothing like it.
    """
    if is_conv(name):
        convolve = _torch_conv_transpose if is_transposed(name) else _torch_conv
        return _activated(convolve(_plain(name), arguments), arguments)
    arguments = dict(arguments)
    if name.startswith("min_pool"):
        arguments["input"] = -arguments["input"]
        result = getattr(F, name.replace("min", "max"))(**arguments)
        return (-result[0], result[1]) if isinstance(result, tuple) else -result
    for beginning, without in _BEYOND_TORCH.items():
        if name.startswith(beginning):
            for key, value in without.items():
                if arguments.pop(key) != value:
                    raise NotImplementedError(f"torch's {name} has no {key}")
    function = getattr(F, name, None)
    if function is None:
        raise NotImplementedError(f"torch has no {name}")
    return function(**arguments)


def _padded(x: Tensor, flat: Sequence[int], mode: int) -> Tensor:
    """x with its last axes extended by the pairs (lo0, hi0, lo1, ...), cropped where negative."""
    if mode == 0 or min(flat) >= 0:
        sides = [side for i in range(len(flat) - 2, -1, -2) for side in flat[i : i + 2]]
        return F.pad(x, sides, "constant" if mode == 0 else _padding.MODES[mode])
    rank = len(flat) // 2
    for axis in range(rank):
        dim = x.dim() - rank + axis
        n = x.shape[dim]
        places = torch.arange(-flat[2 * axis], n + flat[2 * axis + 1], device=x.device)
        if _padding.MODES[mode] == "reflect":
            places = (n - 1) - ((n - 1) - places.abs()).abs()
        elif _padding.MODES[mode] == "replicate":
            places = places.clamp(0, n - 1)
        else:
            places = places.remainder(n)
        x = x.index_select(dim, places)
    return x


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


def _activated(y: Tensor, a: Arguments) -> Tensor:
    """What a fused function does after the convolution: activation(y + residual)."""
    residual, activation = a.get("residual"), a.get("activation", "none")
    y = y if residual is None else y + residual
    return F.leaky_relu(y, a["negative_slope"]) if activation == "leaky_relu" else _ACTIVATIONS[activation](y)


_NO_SETTINGS = ("input", "weight", "bias", "residual", "activation", "negative_slope")


def _configuration(name: str, a: Arguments) -> _checks.Configuration:
    sizes = (a["input"].shape, a["weight"].shape, None)
    settings = [value for key, value in a.items() if key not in _NO_SETTINGS]  # in the functions' order
    configure = _checks.transposed_configuration if is_transposed(name) else _checks.conv_configuration
    return configure(name, rank_of(name), *sizes, *settings)


def _convolved(name: str, x: Tensor, w: Tensor, b: Tensor | None, configuration: _checks.Configuration) -> Tensor:
    stride, flat, dilation, groups, mode = configuration
    lo, hi = flat[::2], flat[1::2]
    if mode == 0 and lo == hi and min(lo) >= 0:
        padding = lo
    else:
        x, padding = _padded(x, flat, mode), (0,) * len(lo)
    result: Tensor = getattr(F, name)(x, w, b, stride, padding, dilation, groups)
    return result


def _torch_conv(name: str, a: Arguments) -> Tensor:
    return _convolved(name, a["input"], a["weight"], a["bias"], _configuration(name, a))


def _torch_conv_transpose(name: str, a: Arguments) -> Tensor:
    g, w, bias = a["input"], a["weight"], a["bias"]
    configuration = stride, flat, dilation, groups, mode = _configuration(name, a)
    lo, hi = flat[::2], flat[1::2]
    extra = tuple([before - after for before, after in zip(lo, hi, strict=True)])
    plain = all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True))
    if mode == 0 and min(lo) >= 0 and plain:
        result: Tensor = getattr(F, name)(g, w, bias, stride, lo, extra, groups, dilation)
        return result
    # the convolution whose gradient this is
    rank = rank_of(name)
    sizes = [
        _sizes.transposed_size(g.shape[i - rank], w.shape[2 + i], stride[i], lo[i], hi[i], dilation[i])
        for i in range(rank)
    ]
    with torch.enable_grad():
        image = g.new_zeros((*g.shape[: -rank - 1], w.shape[1] * groups, *sizes), requires_grad=True)
        y = _convolved(name.replace("_transpose", ""), image, w, None, configuration)
        (result,) = torch.autograd.grad(y, image, g, create_graph=True)
    if not torch.is_grad_enabled():
        result = result.detach()
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


# --- what convext plans ----------------------------------------------------------------------------------------------

# Of a function: the operators of its result, of the gradient to its input, and to its weight.
_OPERATORS = {False: ("fprop", "dgrad", "wgrad"), True: ("dgrad", "fprop", "wgrad")}


def plan_of(name: str, a: Arguments, dtype: torch.dtype, which: int = 0) -> Plan | None:
    """The plan of a convolution: 0 of its result, 1 of the gradient to its input, 2 to its weight.

    None for functions that have no plans, such as poolings, and for empty images.
    """
    if not is_conv(name):
        return None
    x, w, rank = a["input"], a["weight"], rank_of(name)
    if x.numel() == 0:
        return None
    stride, flat, dilation, groups, mode = _configuration(name, a)
    size = tuple(x.shape) if x.dim() == rank + 2 else (1, *x.shape)
    if is_transposed(name):
        formula = _sizes.transposed_size
        axes = zip(size[2:], w.shape[2:], stride, flat[::2], flat[1::2], dilation, strict=True)
        size = (size[0], w.shape[1] * groups, *[formula(*axis) for axis in axes])
    return conv_plan(
        _OPERATORS[is_transposed(name)][which],
        size,
        tuple(w.shape),
        stride=stride,
        padding=tuple(zip(flat[::2], flat[1::2], strict=True)),
        dilation=dilation,
        groups=groups,
        padding_mode=_padding.MODES[mode],
        dtype=dtype,
        channels_last=suggest_memory_format(x) is not torch.contiguous_format,
    )
