"""All cases, of networks and of families: lookup, and the choices of them that runs take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from bench.families import FURTHER
from bench.layer import Layer
from bench.nets import NETS

CASES: dict[str, Callable[[], Iterator[Layer]]] = {**NETS, **FURTHER}


def distinct(layers: Iterable[Layer]) -> list[Layer]:
    """Each layer once, under its first name, with the number of times that its network has it."""
    found: dict[Layer, Layer] = {}
    for layer in layers:
        nameless = dataclasses.replace(layer, name="", count=1)
        seen = found.get(nameless)
        found[nameless] = dataclasses.replace(seen, count=seen.count + layer.count) if seen else layer
    return list(found.values())


def layers(nets: Iterable[str] | None = None, batch: int | None = None) -> list[Layer]:
    """The distinct layers of these networks and families (all of them), at their usual batch or this one.

    Raises:
        KeyError: a name that is not in CASES.
    """
    found = [layer for net in (CASES if nets is None else nets) for layer in distinct(CASES[net]())]
    return found if batch is None else [dataclasses.replace(layer, batch=batch) for layer in found]


def quick() -> list[Layer]:
    """A few layers of little work, of every family: to see that everything runs."""
    few = {
        "alexnet/conv5",
        "resnet50/conv1",
        "resnet50/conv3_2.b",
        "googlenet/3a.1x1",
        "mobilenet_v2/4.depthwise",
        "convnext_t/2.depthwise",
        "dcgan/up3",
        "wav2vec2/features5",
        "wavenet/dilated8",
        "unet3d/down1.a",
        "unet3d/up2",
        "volumes/separated3x3x3",
        "transposed/cyclegan128",
    }
    return [layer for layer in layers() if layer.id in few]
