"""torch.nn's layers on convext's operators, one module a family."""

from typing import NoReturn

import torch

from convext.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from convext.nn.fused import (
    FusedConv1d,
    FusedConv2d,
    FusedConv3d,
    FusedConvTranspose1d,
    FusedConvTranspose2d,
    FusedConvTranspose3d,
)
from convext.nn.norm import (
    LocalContrastNorm,
    LocallyConnected1d,
    LocallyConnected2d,
    LocallyConnected3d,
    LocalResponseNorm,
)
from convext.nn.other_pools import (
    FractionalMaxPool2d,
    FractionalMaxPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    Maxout,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    StochasticPool1d,
    StochasticPool2d,
    StochasticPool3d,
)
from convext.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
)
from convext.nn.unfold import (
    Fold,
    Unfold,
)

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Fold",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "FusedConv1d",
    "FusedConv2d",
    "FusedConv3d",
    "FusedConvTranspose1d",
    "FusedConvTranspose2d",
    "FusedConvTranspose3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LocalContrastNorm",
    "LocalResponseNorm",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnected3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Maxout",
    "MinPool1d",
    "MinPool2d",
    "MinPool3d",
    "StochasticPool1d",
    "StochasticPool2d",
    "StochasticPool3d",
    "Unfold",
]


def __dir__() -> list[str]:
    return sorted(__all__)  # not the modules that serve the names


def _refuse_scripting(layer: torch.nn.Module) -> NoReturn:
    """torch.jit.script asks a module by this name what to compile in its place."""
    raise NotImplementedError(
        f"{type(layer).__name__}: torch.jit.script compiles no layer of convext, whose arguments say more than "
        "TorchScript has types for; torch.compile, torch.export and torch.jit.trace do"
    )


for _name in __all__:
    globals()[_name].__prepare_scriptable__ = _refuse_scripting
