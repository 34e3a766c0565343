"""torch.nn.functional's names on convext's operators, one module a family."""

from convext.functional.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from convext.functional.norm import local_contrast_norm, local_response_norm, locally_connected
from convext.functional.unfold import fold, unfold

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "local_contrast_norm",
    "local_response_norm",
    "locally_connected",
    "unfold",
]
