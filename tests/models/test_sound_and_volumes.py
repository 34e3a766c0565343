"""Networks of one and three axes, written from their papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.models.agreement import check
from tests.models.networks import HifiGanGenerator, UNet3d, Wav2Vec2Features

NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "3-D U-Net": (UNet3d, (1, 16, 24, 16)),
    "wav2vec 2.0": (Wav2Vec2Features, (1, 3200)),
    "HiFi-GAN": (HifiGanGenerator, (80, 6)),
}

old_weight_norm = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


@old_weight_norm
@pytest.mark.parametrize("convert", (True, False), ids=("converted", "overridden"))
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, convert: bool) -> None:
    make, size = NETWORKS[name]
    check(make(), torch.randn(2, *size, dtype=torch.float64), convert=convert)


@old_weight_norm
def test_published_sizes() -> None:
    """As the papers have them: 512 channels every 320 samples (25 ms), 256 samples a frame."""
    with torch.device("meta"):
        features = Wav2Vec2Features().features
        assert features(torch.empty(1, 1, 16000)).shape == (1, 512, 49)
        assert HifiGanGenerator()(torch.empty(1, 80, 6)).shape == (1, 1, 6 * 256)
        assert UNet3d()(torch.empty(1, 1, 16, 24, 16)).shape == (1, 3, 16, 24, 16)
        assert sum(p.numel() for p in UNet3d(32).parameters()) == pytest.approx(19_069_955, rel=1e-3)
