"""The benchmark on a GPU in parts: which cases in which setting, and what follows from them. Data and arithmetic."""

from __future__ import annotations

import dataclasses

import torch

from bench import cases
from bench.layer import Layer
from bench.limits import least_seconds
from bench.measure import WORKS, Compared, has_layout
from bench.pool import Case as PoolCase
from bench.pool import cases as pool_cases

BATCH = 32
POOL_BATCH = 64
# multiply-adds, twice, of one forward pass: what has more would take the time of many
MOST_FLOPS = 3e11
# bytes of all tensors of one call
MOST_BYTES = 4e9


@dataclasses.dataclass(frozen=True)
class Part:
    """Cases in a setting, forward and backward. ``tf32``: whether torch is allowed to round float32 to it."""

    name: str
    title: str
    dtype: str = "float32"
    layout: str = "contiguous"
    tf32: bool = False
    one_in: int = 6
    pool: bool = False  # the layers beside convolution
    works: tuple[str, ...] = WORKS

    def layers(self) -> list[Layer]:
        """The convolutions, as `cases.layers` has them: of each network or family the first, and every so-manieth."""
        found: list[Layer] = []
        for net in () if self.pool else cases.CASES:
            suited = [
                layer
                for layer in cases.layers([net], BATCH)
                if has_layout(layer, self.layout)
                and layer.flops(False) <= MOST_FLOPS
                and bytes_moved(layer, self.dtype, True) <= MOST_BYTES
            ]
            found += suited[:: self.one_in]
        return found

    def pools(self) -> list[PoolCase]:
        """The calls beside convolution."""
        found = pool_cases(POOL_BATCH) if self.pool else []
        return [case for case in found if self.layout == "contiguous" or len(case.shape) > 3]


PARTS = {
    part.name: part
    for part in (
        Part("cuda_float32", "float32, TF32 off"),
        Part("cuda_float32_channels_last", "float32, TF32 off, channels_last", layout="channels_last"),
        Part("cuda_tf32", "float32, TF32 allowed", tf32=True),
        Part("cuda_tf32_channels_last", "float32, TF32 allowed, channels_last", layout="channels_last", tf32=True),
        Part("cuda_bfloat16", "bfloat16", "bfloat16"),
        Part("cuda_bfloat16_channels_last", "bfloat16, channels_last", "bfloat16", layout="channels_last"),
        Part("cuda_float16_channels_last", "float16, channels_last", "float16", layout="channels_last", one_in=12),
        Part("cuda_float64", "float64", "float64", one_in=12),
        Part("cuda_pool_float32", "poolings and their kind, float32", pool=True),
        Part("cuda_pool_bfloat16", "poolings and their kind, bfloat16", "bfloat16", pool=True),
    )
}


def element_bytes(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)


def bytes_moved(layer: Layer, dtype: str, backward: bool) -> int:
    """What a perfect kernel moves: every tensor that an operator takes or gives, once for each operator.

    Forward: input, weight, bias, output. Backward beside that: the output's gradient, weight and input's gradient of
    one operator (none where the input is data); the output's gradient, input and weight's gradient of the other; the
    bias's gradient.
    """
    bias = layer.output_shape[1] if layer.bias else 0
    return (layer.elements(backward) + bias * (2 if backward else 1)) * element_bytes(dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Compared):
    """One line: a case in a setting."""

    net: str
    layer: str
    shape: str
    family: str
    work: str
    flops: int  # 0 of a pooling
    moved: int  # bytes, as `bytes_moved` counts them

    @property
    def gflops(self) -> float:
        return self.flops / self.our_seconds * 1e-9

    @property
    def bandwidth(self) -> float:
        """GB/s."""
        return self.moved / self.our_seconds * 1e-9

    def of_limit(self, gflops_peak: float, bandwidth_peak: float) -> float:
        """The share of what the machine can do: 1 on the roofline."""
        return least_seconds(self.flops, self.moved, gflops_peak, bandwidth_peak) / self.our_seconds
