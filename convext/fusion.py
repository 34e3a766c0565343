"""A model for inference, its convolutions computed together with what follows them: `fuse`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx

from convext import _fuse_patterns as patterns
from convext._fuse_patterns import Activation

__all__ = ["fuse"]

_Modules = dict[str, torch.nn.Module]


class _Tracer(fx.Tracer):
    """Traces down to the layers of torch and of convext."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith("convext.nn.")
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Chain:
    """A convolution's node and the nodes after it that one layer computes with it."""

    def __init__(self, node: fx.Node, conv: Any, layer: type[Any], modules: _Modules) -> None:
        self.conv, self.layer = conv, layer
        self.nodes = [node]
        self.norm: Any = None
        self.residual: fx.Node | None = None
        self.activation = Activation()
        self._take_norm(modules)
        self._take_residual(modules)
        self._take_activation(modules)

    def _reader(self) -> fx.Node | None:
        """The node that reads the chain's end, if there is only one."""
        readers = list(self.nodes[-1].users)
        return readers[0] if len(readers) == 1 else None

    def _take_norm(self, modules: _Modules) -> None:
        node = self._reader()
        if node is None or node.args != (self.nodes[-1],):
            return
        self.norm = patterns.batch_norm(node, modules, self.conv)
        if self.norm is not None:
            self.nodes.append(node)

    def _take_residual(self, modules: _Modules) -> None:
        """The convolution then reads its input where the addition stood: nothing before may change that input."""
        node = self._reader()
        residual = None if node is None else patterns.residual(node, self.nodes[-1])
        if node is None or residual is None:
            return
        between = self.nodes[0].next
        while between is not node:
            if patterns.may_mutate(between, modules):
                return
            between = between.next
        self.residual = residual
        self.nodes.append(node)

    def _take_activation(self, modules: _Modules) -> None:
        node = self._reader()
        if node is None or node.args[:1] != (self.nodes[-1],):
            return
        activation = patterns.activation(node, modules)
        if activation is not None:
            self.activation = activation
            self.nodes.append(node)

    @property
    def ingredients(self) -> tuple[Any, ...]:
        """What the fused layer is made of."""
        return self.conv, self.norm, self.activation, self.residual is not None

    def make_layer(self) -> Any:
        """The fused layer, with parameters of its own."""
        conv = self.conv
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if self.norm is not None:
            weight, bias = patterns.fold_batch_norm(conv, self.norm)
        names = [
            "in_channels",
            "out_channels",
            "kernel_size",
            "stride",
            "padding",
            "dilation",
            "groups",
            "padding_mode",
        ]
        names += ["output_padding"] if conv.transposed else []
        layer = self.layer(
            **{name: getattr(conv, name) for name in names},
            bias=bias is not None,
            activation=self.activation.name,
            negative_slope=self.activation.negative_slope,
            add=self.residual is not None,
            device="meta",
        )
        layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
        return layer.eval()

    def replace(self, target: str) -> None:
        """Puts one call of the layer at `target` in place of the nodes."""
        first, last = self.nodes[0], self.nodes[-1]
        keywords = dict(first.kwargs)
        if self.residual is not None:
            keywords["residual"] = self.residual
            # what is added may come after the convolution
            place = next(node for node in self.nodes if self.residual in node.all_input_nodes)
        else:
            place = first
        with first.graph.inserting_before(place):
            call = first.graph.call_module(target, first.args, keywords)
        last.replace_all_uses_with(call)
        for node in reversed(self.nodes):
            first.graph.erase_node(node)


def _trace(model: torch.nn.Module) -> fx.GraphModule:
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the model's own code makes of a traced value
        raise RuntimeError(
            f"fuse: expected a model that torch.fx can trace, but tracing {type(model).__name__} raised "
            f"{type(error).__name__}: {error}. Fuse the parts of it that have no control flow over values, "
            "for instance model.backbone = convext.fuse(model.backbone)."
        ) from error
    return fx.GraphModule(model, graph, type(model).__name__)


def _drop_identities(model: fx.GraphModule) -> None:
    modules = dict(model.named_modules())
    for node in list(model.graph.nodes):
        if patterns.is_identity(node, modules):
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)


def _is_read(model: fx.GraphModule, name: str) -> bool:
    """Whether the model reads a parameter of its module `name`, which then has to stay as it is."""
    return any(n.op == "get_attr" and str(n.target).startswith(f"{name}.") for n in model.graph.nodes)


def _free_name(model: fx.GraphModule, name: str) -> str:
    """`name`, or with a number behind it, under which the model has no module."""
    names = dict(model.named_modules())
    if name not in names:
        return name
    return next(f"{name}_{i}" for i in range(1, len(names) + 1) if f"{name}_{i}" not in names)


def fuse(model: torch.nn.Module) -> fx.GraphModule:
    """A copy of a model for inference, in which each convolution layer computes what follows it in the same pass.

    Found are, in torch's and in convext's layers alike: a convolution (or transposed convolution), then batch
    normalisation, which becomes part of its weight and bias; then the addition of another tensor (ResNet's,
    MobileNetV2's); then ReLU, ReLU6, LeakyReLU, SiLU, sigmoid, Hardswish or GELU(approximate="tanh"); each of the three
    may be missing. Additions and activations may be layers, functions, methods or operators. Every convolution layer
    becomes a layer like :class:`convext.nn.FusedConv2d`, whose representation tells what it computes. Where a value is
    used elsewhere too, or a layer has hooks, nothing is fused.

    The copy has parameters of its own, which want no gradient. It is a :class:`torch.fx.GraphModule`: it can be saved,
    compiled and exported as the model can.

    Args:
        model: in eval mode, and such that :class:`torch.fx.Tracer` can trace it: its forward takes no branch on the
            values or the sizes of tensors. If only parts of a model are, fuse these.

    Returns:
        The fused model, in eval mode. Results are the model's up to rounding: the weights are folded in float64 and
        rounded once.

    Raises:
        TypeError: not a module.
        RuntimeError: a module in training mode, or one that cannot be traced.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"fuse: expected a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if module.training:
            raise RuntimeError(
                f"fuse: expected a model in eval mode, got {name or type(model).__name__} in training mode; "
                "call model.eval() first"
            )
    fused = _trace(copy.deepcopy(model))
    _drop_identities(fused)
    modules = dict(fused.named_modules())
    convs = [node for node in fused.graph.nodes if patterns.convolution(node, modules) is not None]
    layers: dict[tuple[Any, ...], str] = {}
    for node in reversed(convs):  # of two convolutions that are added the later one takes the addition
        conv, layer = patterns.convolution(node, modules)  # type: ignore[misc]
        chain = _Chain(node, conv, layer, modules)
        target = layers.get(chain.ingredients)
        if target is None:
            target = str(node.target)
            if sum(n.target == target for n in convs) > 1 or _is_read(fused, target):
                target = _free_name(fused, target)
            modules[target] = chain.make_layer()
            fused.add_submodule(target, modules[target])
            layers[chain.ingredients] = target
        chain.replace(target)
    fused.graph.lint()
    fused.delete_all_unused_submodules()
    fused.recompile()
    return fused.eval()
