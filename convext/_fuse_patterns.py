"""What convext.fuse looks for in a traced model: which nodes are convolutions, normalisations, additions, activations.

Every function here says what a node is, or None; none of them changes anything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from convext import nn

__all__ = [
    "Activation",
    "activation",
    "batch_norm",
    "convolution",
    "fold_batch_norm",
    "is_identity",
    "may_mutate",
    "residual",
]

# The fused layer of each convolution layer. A subclass may do anything in forward: it is left alone.
_FUSED: dict[type[Any], type[Any]] = {
    getattr(module, name): getattr(nn, f"Fused{name}")
    for module in (torch.nn, nn)
    for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
}
_NORMS = {torch.nn.BatchNorm1d: 1, torch.nn.BatchNorm2d: 2, torch.nn.BatchNorm3d: 3}


class Activation(NamedTuple):
    """An activation of :func:`convext.functional.fused_conv2d` and the slope of leaky_relu."""

    name: str = "none"
    negative_slope: float = 0.01


def _module(node: fx.Node, modules: dict[str, torch.nn.Module]) -> Any:
    """The module that a node calls, unless somebody hooks into the call or replaced forward on the object."""
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    replaced = "forward" in vars(module) or "_conv_forward" in vars(module)
    return None if replaced or any(hooks) else module


def is_identity(node: fx.Node, modules: dict[str, torch.nn.Module]) -> bool:
    """Whether a node is a layer that gives back its argument."""
    return type(_module(node, modules)) is torch.nn.Identity and len(node.args) == 1


def convolution(node: fx.Node, modules: dict[str, torch.nn.Module]) -> tuple[Any, type[Any]] | None:
    """The convolution layer that a node calls, and its fused layer."""
    module = _module(node, modules)
    fused = _FUSED.get(type(module))
    return None if fused is None else (module, fused)


def batch_norm(node: fx.Node, modules: dict[str, torch.nn.Module], conv: Any) -> Any:
    """The batch normalisation that a node calls, if it is an affine map of the channels of `conv`."""
    module = _module(node, modules)
    if _NORMS.get(type(module)) != len(conv.kernel_size) or module.running_mean is None:
        return None
    return module if module.num_features == conv.out_channels else None


def fold_batch_norm(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that is `norm` after `conv`: computed in float64, rounded once.

    scale = gamma / sqrt(variance + eps),  weight' = scale * weight,  bias' = scale * (bias - mean) + beta.
    """
    weight, mean = conv.weight.detach(), norm.running_mean.double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = scale * (-mean if conv.bias is None else conv.bias.detach().double() - mean)
    if norm.bias is not None:
        bias = bias + norm.bias.detach().double()
    if conv.transposed:  # (in, out / groups, ...), the inputs of a group together
        groups = conv.groups
        by_group = weight.double().unflatten(0, (groups, -1))
        folded = (by_group * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    else:
        folded = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return folded.to(weight.dtype), bias.to(weight.dtype)


# --- activations ------------------------------------------------------------------------------------------------------


def _leaky(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Activation | None:
    # a slope that the model computes is known at its call only
    return None if isinstance(negative_slope, fx.Node) else Activation("leaky_relu", negative_slope)


def _gelu(input: Any, approximate: str = "none") -> Activation | None:
    return Activation("gelu_tanh") if approximate == "tanh" else None


def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Activation | None:
    return Activation("relu6") if (min_val, max_val) == (0, 6) else None


def _plain(name: str) -> Callable[..., Activation]:
    return lambda input, inplace=False: Activation(name)


# Each takes the call's arguments; one that a function does not know makes the call something else.
_FUNCTIONS: dict[Any, Callable[..., Activation | None]] = {
    F.relu: _plain("relu"),
    torch.relu: _plain("relu"),
    torch.relu_: _plain("relu"),
    F.relu6: _plain("relu6"),
    F.silu: _plain("silu"),
    F.hardswish: _plain("hardswish"),
    F.sigmoid: _plain("sigmoid"),
    torch.sigmoid: _plain("sigmoid"),
    torch.sigmoid_: _plain("sigmoid"),
    F.leaky_relu: _leaky,
    F.hardtanh: _hardtanh,
    F.gelu: _gelu,
}
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
_LAYERS: dict[type[Any], Callable[[Any], Activation | None]] = {
    torch.nn.ReLU: lambda layer: Activation("relu"),
    torch.nn.ReLU6: lambda layer: Activation("relu6"),
    torch.nn.SiLU: lambda layer: Activation("silu"),
    torch.nn.Hardswish: lambda layer: Activation("hardswish"),
    torch.nn.Sigmoid: lambda layer: Activation("sigmoid"),
    torch.nn.LeakyReLU: lambda layer: Activation("leaky_relu", layer.negative_slope),
    torch.nn.Hardtanh: lambda layer: _hardtanh(None, layer.min_val, layer.max_val),
    torch.nn.GELU: lambda layer: _gelu(None, layer.approximate),
}


def activation(node: fx.Node, modules: dict[str, torch.nn.Module]) -> Activation | None:
    """The activation that a node computes: a layer, a function or a method."""
    if node.op == "call_module":
        layer = _module(node, modules)
        known = _LAYERS.get(type(layer))
        return None if known is None else known(layer)
    if node.op == "call_method":
        return Activation(_METHODS[str(node.target)]) if node.target in _METHODS and not node.kwargs else None
    known = _FUNCTIONS.get(node.target) if node.op == "call_function" else None
    try:
        return None if known is None else known(*node.args, **node.kwargs)
    except TypeError:
        return None


# --- additions --------------------------------------------------------------------------------------------------------

_ADDITIONS = (operator.add, torch.add)
_ADDITIONS_IN_PLACE = (operator.iadd,)


_SIZES = ("size", "dim", "ndimension", "numel", "nelement", "item")
_ATTRIBUTES = ("shape", "ndim")


def _is_number(node: fx.Node) -> bool:
    """Whether a node is a size of a tensor, or computed from such numbers alone."""
    if node.op == "call_method":
        return node.target in _SIZES
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    inputs = node.all_input_nodes
    known = getattr(node.target, "__module__", None) in ("_operator", "math", "builtins")
    return known and bool(inputs) and all(_is_number(i) for i in inputs)


def residual(node: fx.Node, sum: fx.Node) -> fx.Node | None:
    """What a node adds to `sum`, if that is all it does and it changes nothing but `sum`."""
    if node.op == "call_function":
        in_place = node.target in _ADDITIONS_IN_PLACE
        if not in_place and node.target not in _ADDITIONS:
            return None
    elif node.op == "call_method" and node.target in ("add", "add_"):
        in_place = node.target == "add_"
    else:
        return None
    operands = (*node.args, *([node.kwargs["other"]] if "other" in node.kwargs else []))
    others = [operand for operand in operands if operand is not sum]
    if len(operands) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node) or _is_number(others[0]):
        return None
    if not set(node.kwargs) <= {"other", "alpha"} or node.kwargs.get("alpha", 1) != 1:
        return None
    return None if in_place and operands[0] is not sum else others[0]


def may_mutate(node: fx.Node, modules: dict[str, torch.nn.Module]) -> bool:
    """Whether a node may change a tensor that another node reads."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        known = _module(node, modules) is not None and type(module).__module__.startswith(("torch.nn.", "convext.nn."))
        return bool(getattr(module, "inplace", False)) or not known
    if node.op not in ("call_method", "call_function"):
        return False
    if node.kwargs.get("inplace") or "out" in node.kwargs or any(a is True for a in node.args):
        return True
    if node.op == "call_method":
        return str(node.target).endswith("_")
    name, home = getattr(node.target, "__name__", ""), getattr(node.target, "__module__", None) or "torch"
    if home == "_operator":
        return name.startswith("i") or name == "setitem"
    return name.endswith("_") or home.partition(".")[0] not in ("torch", "convext", "math", "builtins")
