"""A second's worth of convolutions and poolings against torch in float64, at every ISA level."""

from __future__ import annotations

import dataclasses
import time

__all__ = ["LevelResult", "run"]


@dataclasses.dataclass(frozen=True)
class LevelResult:
    """What came of the calls at one level; ``failures`` says of each that is wrong which, and how far it is off."""

    level: str
    calls: int
    seconds: float
    failures: tuple[str, ...]


def run() -> list[LevelResult]:
    """The results, lowest level first. The level in use and torch's random numbers stay as they are."""
    import torch
    from torch import nn

    import convext

    def network(dtype: torch.dtype) -> nn.Module:
        """One layer of each kind of kernel: dense, Winograd's, depthwise, dilated, pointwise, transposed; pooling."""
        layers = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.AvgPool2d(3, 1, 1),
            nn.Conv2d(16, 8, 5, stride=2, dilation=2, padding=4),
            nn.Conv2d(8, 8, 1),
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
        )
        return nn.Sequential(*layers).to(dtype)

    results = []
    for level in convext.backends.cpu.isa_levels():
        start, calls, failures = time.perf_counter(), 0, []
        with convext.backends.cpu.max_isa(level), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                table = convext.verify(network(dtype), torch.randn(1, 3, 32, 32, dtype=dtype), gradients=True)
                calls += sum(len(row.errors) for row in table.rows)
                failures += [
                    f"{row.type}, {kind}, {str(dtype).removeprefix('torch.')}: "
                    f"expected an error of at most {errors.bound:.0e}, got {errors.convext:.1e}"
                    for row in table.failures
                    for kind, errors in row.errors
                    if not errors.ok
                ]
        results.append(LevelResult(level, calls, time.perf_counter() - start, tuple(failures)))
    return results
