"""torchvision beside a torch that was built without CUDA."""

from __future__ import annotations

import sys

import torch


def _import_torchvision() -> torch.library.Library | None:
    """Imports torchvision also where its compiled part, built for CUDA, does not load.

    The networks need nothing of it, but the package describes two of its operators while it is imported, and fails
    where they are not even declared. Then they are declared here; the declaration lives as long as what is returned.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return library


declared = _import_torchvision()
