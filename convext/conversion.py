"""Whole models: torch.nn's layers become convext's in place, and back; see docs/models.md.

convext's layers are subclasses of torch's with the same attributes, so that converting one is giving the same object
another class: parameters, hooks, buffers and every reference to it stay what they are.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch.nn.utils import parametrize

from convext import _coverage, nn
from convext._torch_settings import SURPLUS, torch_settings

__all__ = ["ConversionReport", "conversion_report", "convert", "revert"]

Model = TypeVar("Model", bound=torch.nn.Module)
Filter = Callable[[torch.nn.Module, str], bool]

# torch's type of layer and convext's
_OURS: dict[type, type] = {getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__ if hasattr(torch.nn, name)}
_TORCHS = {ours: torchs for torchs, ours in _OURS.items()}
_NAMES = frozenset(kind.__name__ for kind in _OURS)


@dataclass(frozen=True)
class ConversionReport:
    """Which layers of a model compute by convext. Keys are names as `model.named_modules()` has them."""

    converted: dict[str, str] = field(default_factory=dict)
    """convext's layers, and their types."""
    convertible: dict[str, str] = field(default_factory=dict)
    """torch's layers that :func:`convert` takes, and their types."""
    left: dict[str, str] = field(default_factory=dict)
    """Layers that :func:`convert` leaves to torch, and why."""

    def __str__(self) -> str:
        lines = []
        for title, layers in (("convext", self.converted), ("torch, and can be converted", self.convertible)):
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(layers.values()).items()))
            lines.append(f"by {title}: {kinds or 'none'}")
        lines.append(f"left to torch: {len(self.left) or 'none'}")
        lines += [f"  {_shown(name)}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


def _shown(name: str) -> str:
    return name or "the model itself"


def _kind(layer: torch.nn.Module) -> type:
    """Its type before parametrizations, which put a class of their own over it."""
    return parametrize.type_before_parametrizations(layer)


def _is_convexts(kind: type) -> bool:
    """Whether it is one of convext's types, or a subclass."""
    return any(ancestor.__module__.split(".")[0] == "convext" for ancestor in kind.__mro__)


def _why_left(layer: torch.nn.Module, kind: type) -> str | None:
    """Why a layer of this type of torch's cannot become convext's."""
    if "forward" in vars(layer) or "_conv_forward" in vars(layer):
        return f"{kind.__name__} whose forward was replaced on the object"
    for name, tensor in layer.named_parameters():
        why = _coverage.refusal(tensor)
        if why is not None:
            return f"{kind.__name__} whose {name} {why}"
    return None


def _why_beside(layer: torch.nn.Module, kind: type) -> str | None:
    """What a layer is that is like one of torch.nn's and none of them; None where it is no such layer."""
    if isinstance(layer, torch.jit.ScriptModule):
        name = getattr(layer, "original_name", "")
        return f"{name}, scripted: its code is compiled already" if name in _NAMES else None
    for torchs in kind.__mro__:
        if torchs in _OURS:
            return f"{kind.__name__}, a subclass of torch.nn.{torchs.__name__}"
    if kind.__module__.startswith("torch.") and kind.__name__ in _NAMES:
        return f"{kind.__module__}.{kind.__name__}, another layer of that name"
    return None


def conversion_report(model: torch.nn.Module) -> ConversionReport:
    """Says which layers of a model compute by convext, which :func:`convert` would convert, and which it leaves, why.

    It changes nothing. Functions that the model calls, rather than layers, it cannot see; :func:`convext.override`
    covers those.

    Raises:
        TypeError: not a torch.nn.Module.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"conversion_report: expected a torch.nn.Module, got {type(model).__name__}")
    report = ConversionReport()
    # a layer without tensors is where its model is
    device = _coverage.elsewhere([*model.parameters(), *model.buffers()])
    for name, layer in model.named_modules():
        kind = _kind(layer)
        if _is_convexts(kind):
            report.converted[name] = kind.__name__
        elif kind in _OURS:
            why = _why_left(layer, kind)
            if why is None and device is not None and next(layer.parameters(), None) is None:
                why = f"{kind.__name__} in a model on {device}, where convext has no kernels"
            if why is None:
                report.convertible[name] = kind.__name__
            else:
                report.left[name] = why
        else:
            why = _why_beside(layer, kind)
            if why is not None:
                report.left[name] = why
    return report


def _become(layer: torch.nn.Module, kind: type) -> None:
    """Gives the object another class, and one under its parametrizations."""
    if parametrize.is_parametrized(layer):
        # The class over it is that of a deep copy of the layer, too, so that it has to stay as it is.
        members = {k: v for k, v in vars(type(layer)).items() if k not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), members)
    layer.__class__ = kind


def convert(model: Model, *, filter_fn: Filter | None = None) -> Model:
    """Makes every torch.nn layer that convext has its convext.nn namesake, in place, and returns the same model.

    Convolutions, transposed convolutions, their lazy forms, poolings, Unfold, Fold and LocalResponseNorm are converted,
    where their type (before parametrizations) is exactly torch.nn's. Each stays the same object, with its parameters,
    hooks, parametrizations and training flag, so that optimizers, shared layers and state_dicts go on. A converted
    model may be converted again, which changes nothing.

    Layers that are like those and none of them stay as they are: subclasses, whose code may be about anything;
    quantized and scripted layers; layers on a device without kernels of ours. One :class:`LeftToTorchWarning` names
    them; :func:`conversion_report` gives them as data, and :func:`convext.override` reaches what they call.

    Args:
        model: a torch.nn.Module; it may be one of the layers itself.
        filter_fn: called with each layer and its name in `model.named_modules()`; False leaves the layer to torch.

    Returns:
        `model`.

    Raises:
        TypeError: not a torch.nn.Module.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"convert: expected a torch.nn.Module, got {type(model).__name__}")
    report = conversion_report(model)
    layers = dict(model.named_modules())
    chosen = [name for name in report.convertible if filter_fn is None or filter_fn(layers[name], name)]
    for name in chosen:
        _become(layers[name], _OURS[_kind(layers[name])])
    if report.left:
        listed = "".join(f"\n  {_shown(name)}: {why}" for name, why in report.left.items())
        warnings.warn(
            f"convext.convert left these layers to torch; convext.override() reaches what they call:{listed}",
            _coverage.LeftToTorchWarning,
            stacklevel=2,
        )
    return model


def _to_revert(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, type | None]]:
    """convext's layers, and torch's type for each; None where torch has none."""
    for name, layer in model.named_modules():
        kind = _kind(layer)
        if _is_convexts(kind):
            yield name, layer, _TORCHS.get(kind)


def revert(model: Model) -> Model:
    """Makes every convext.nn layer torch's namesake again, in place, and returns the same model.

    The inverse of :func:`convert`; layers that were written as convext's become torch's too, where torch can express
    their settings: afterwards the model needs no convext.

    Raises:
        TypeError: not a torch.nn.Module.
        ValueError: layers or settings that torch does not have, all of them named. The model is as before.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"revert: expected a torch.nn.Module, got {type(model).__name__}")
    changes, wrong = [], []
    for name, layer, torchs in _to_revert(model):
        kind = _kind(layer)
        if torchs is None:
            own = kind.__module__.split(".")[0] == "convext"
            wrong.append(f"{_shown(name)}: {kind.__name__}" + (", a subclass of convext's" if not own else ""))
            continue
        try:
            changes.append((layer, torchs, torch_settings(layer)))
        except ValueError as error:
            wrong.append(f"{_shown(name)}: {kind.__name__} with {error}")
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong)
        raise ValueError(f"revert: expected layers that torch has, with settings that it has, got{listed}")
    for layer, torchs, settings in changes:
        _become(layer, torchs)
        for attribute in SURPLUS.get(torchs, ()):
            vars(layer).pop(attribute, None)
        for attribute, value in settings.items():
            setattr(layer, attribute, value)
    return model
