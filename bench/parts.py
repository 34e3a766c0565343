"""The benchmark in parts: which cases in which setting. Data; `bench.part` runs one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from bench import cases
from bench.layer import Layer
from bench.measure import WORKS, Setting, has_layout

# Both sides on AVX2: convext, oneDNN, and the kernels of torch itself.
AVX2 = {"CONVEXT_MAX_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

# float16 everywhere, and bfloat16 below AVX-512: torch computes a few hundred MFLOP/s there.
WHERE_TORCH_TAKES_SECONDS: dict[str, Any] = {"one_in": 3, "most_flops": 1e9}


def every_layer(layer: Layer) -> bool:
    return True


def two_dimensional(layer: Layer) -> bool:
    return layer.dims == 2


def large_dense(layer: Layer) -> bool:
    """Enough work and channels to keep a register tile full all the time: what is asked to come near the FMA peak."""
    return (
        layer.family == "dense" and min(layer.channels) >= 64 and layer.flops(False) >= 5e8 and set(layer.stride) == {1}
    )


@dataclasses.dataclass(frozen=True)
class Part:
    """Cases in a setting, forward and backward.

    ``one_in``: of the layers of each network or family only the first, and every so-manieth after it.
    ``with_pace``: the FMA peak is measured in turn with each layer, on as many threads at once.
    ``most_flops``: layers of more in one forward pass are left out. ``environment``: variables that must stand before
    torch is imported.
    """

    name: str
    title: str
    dtype: str = "float32"
    threads: int = 2
    layout: str = "contiguous"
    batch: int = 1
    works: tuple[str, ...] = WORKS
    one_in: int = 1
    most_flops: float = math.inf
    chosen: Callable[[Layer], bool] = every_layer
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    winograd: bool = True
    with_pace: bool = False

    def layers(self) -> list[Layer]:
        """The cases, in the order of `cases.layers`."""
        found = []
        for net in cases.CASES:
            suited = [
                layer
                for layer in cases.layers([net], self.batch)
                if self.chosen(layer) and has_layout(layer, self.layout) and layer.flops(False) <= self.most_flops
            ]
            found += suited[:: self.one_in]
        return found

    def settings(self) -> list[Setting]:
        return [Setting(self.dtype, self.threads, self.layout, work) for work in self.works]


def _plain(dtype: str, threads: int, **rest: Any) -> Part:
    plural = "s" if threads > 1 else ""
    name = f"{dtype}_{threads}_thread{plural}"
    return Part(name, f"{dtype}, {threads} thread{plural}", dtype, threads, **rest)


def _capped(dtype: str) -> Part:
    title = f"{dtype}, 2 threads, both on AVX2"
    return Part(f"{dtype}_avx2", title, dtype, environment=AVX2, **WHERE_TORCH_TAKES_SECONDS)


PARTS = {
    part.name: part
    for part in (
        _plain("float32", 2),
        _plain("float32", 1),
        Part("float32_batch_8", "float32, 2 threads, batch 8", batch=8),
        Part(
            "float32_channels_last",
            "float32, 2 threads, channels_last",
            layout="channels_last",
            chosen=two_dimensional,
        ),
        _plain("float64", 2),
        _plain("float64", 1),
        _plain("bfloat16", 2),
        _plain("bfloat16", 1),
        _plain("float16", 2, **WHERE_TORCH_TAKES_SECONDS),
        _plain("float16", 1, **WHERE_TORCH_TAKES_SECONDS),
        _capped("bfloat16"),
        _capped("float16"),
        Part(
            "direct_1_thread",
            "float32, 1 thread, large dense layers without Winograd",
            threads=1,
            works=("forward",),
            chosen=large_dense,
            winograd=False,
            with_pace=True,
        ),
        Part(
            "direct_2_threads",
            "float32, 2 threads, large dense layers without Winograd",
            works=("forward",),
            chosen=large_dense,
            winograd=False,
            with_pace=True,
        ),
    )
}
