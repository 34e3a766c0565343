"""The column of ONNX: exported as standard nodes, and run by two runtimes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.transforms.columns import Applied, Library, column, same
from tests.transforms.rows import Row
from tests.transforms.tracing import dynamic_axes, images_for


def exported(model: torch.nn.Module, image: Tensor, library: Library, dynamic_shapes: Any = None) -> Any:
    """The model in ONNX, all of whose nodes are of the standard."""
    from convext.onnx import translation_table

    table = translation_table() if library.is_ours else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options: Any = {"dynamic_shapes": dynamic_shapes, "custom_translation_table": table, "verbose": False}
        torch.onnx.export(model.eval(), (image,), path, dynamo=True, external_data=False, **options)
        import onnx

        loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    assert all(node.domain == "" for node in loaded.graph.node) and not loaded.functions
    return loaded


def run(model: Any, image: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return torch.from_numpy(y)


def _check(row: Row, library: Library, dynamic: bool) -> None:
    model, images = Applied(row, library), images_for(row, dynamic)
    loaded = exported(model, images[0], library, dynamic_axes(row, batch_alone=not dynamic))
    with torch.no_grad():
        for image in images:
            same(run(loaded, image), model(image), rtol=1e-4, atol=1e-5)


@column("ONNX", slow=True)
def _onnx(row: Row, library: Library) -> None:
    """`torch.onnx.export` with `convext.onnx.translation_table()`, for a symbolic batch, run by onnxruntime."""
    _check(row, library, dynamic=False)


@column("ONNX, dynamic", slow=True)
def _onnx_dynamic(row: Row, library: Library) -> None:
    """The same with symbolic pixel axes, too."""
    _check(row, library, dynamic=True)
