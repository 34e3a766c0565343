"""torch.nn.functional's names on convext's operators, one module a family."""

from convext.functional.adaptive_pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from convext.functional.avg_pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
)
from convext.functional.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from convext.functional.fused import (
    fused_conv1d,
    fused_conv2d,
    fused_conv3d,
    fused_conv_transpose1d,
    fused_conv_transpose2d,
    fused_conv_transpose3d,
)
from convext.functional.lp_pool import (
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
)
from convext.functional.norm import (
    local_contrast_norm,
    local_response_norm,
    locally_connected,
)
from convext.functional.pool import (
    max_pool1d,
    max_pool2d,
    max_pool3d,
    min_pool1d,
    min_pool2d,
    min_pool3d,
)
from convext.functional.stochastic_pool import (
    maxout,
    stochastic_pool1d,
    stochastic_pool2d,
    stochastic_pool3d,
)
from convext.functional.unfold import (
    fold,
    unfold,
)
from convext.functional.unpool import (
    fractional_max_pool2d,
    fractional_max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "fused_conv1d",
    "fused_conv2d",
    "fused_conv3d",
    "fused_conv_transpose1d",
    "fused_conv_transpose2d",
    "fused_conv_transpose3d",
    "local_contrast_norm",
    "local_response_norm",
    "locally_connected",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "maxout",
    "min_pool1d",
    "min_pool2d",
    "min_pool3d",
    "stochastic_pool1d",
    "stochastic_pool2d",
    "stochastic_pool3d",
    "unfold",
]


def __dir__() -> list[str]:
    return sorted(__all__)  # not the modules that serve the names
