"""One runtime on one network in a process of its own: prints a line of JSON. `bench.runtimes` starts it.

Every runtime reads what `bench.runtimes` has put into a folder: `image.npy`, `expected.npy` (torch in float64),
`network.onnx`, and `network.pt`, the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.heap import keep_freed_memory

Call = Callable[[], Any]  # to a numpy array, or what np.asarray makes one


def torch_call(net: str, folder: Path, threads: int, change: Callable[[Any], Any]) -> Call:
    """The network of torch.nn, changed so."""
    import torch
    from torch import nn

    from bench.networks import NETWORKS

    torch.set_num_threads(threads)
    model = NETWORKS[net].make(nn).eval()
    model.load_state_dict(torch.load(folder / "network.pt", weights_only=True))
    model = change(model)
    image = torch.from_numpy(np.load(folder / "image.npy"))

    def call() -> Any:
        with torch.inference_mode():
            return model(image)

    return call


def plain_torch(net: str, folder: Path, threads: int) -> Call:
    return torch_call(net, folder, threads, lambda model: model)


def converted(net: str, folder: Path, threads: int) -> Call:
    import convext

    return torch_call(net, folder, threads, convext.convert)


def fused(net: str, folder: Path, threads: int) -> Call:
    import convext

    return torch_call(net, folder, threads, lambda model: convext.fuse(convext.convert(model)))


def onnxruntime(net: str, folder: Path, threads: int) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.load(folder / "image.npy")}
    return lambda: session.run(None, feed)[0]


def openvino(net: str, folder: Path, threads: int) -> Call:
    import openvino as ov

    # It would take bfloat16 where the processor has it: float32 against float32.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(folder / "network.onnx", "CPU", settings)
    request, image = compiled.create_infer_request(), np.load(folder / "image.npy")
    return lambda: request.infer([image])[0]


RUNTIMES: dict[str, Callable[[str, Path, int], Call]] = {
    "torch": plain_torch,
    "convext": converted,
    "convext, fused": fused,
    "onnxruntime": onnxruntime,
    "OpenVINO": openvino,
}


def median_seconds(call: Call, seconds: float) -> float:
    """The median call of so many seconds, at least five; the first two, which allocate and compile, do not count."""
    keep_freed_memory()
    for _ in range(2):
        call()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.runtime_worker", description="Started by bench.runtimes.")
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("net")
    parser.add_argument("folder", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    call = RUNTIMES[options.runtime](options.net, options.folder, options.threads)
    result, expected = np.asarray(call(), dtype=np.float64), np.load(options.folder / "expected.npy")
    error = float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
    print(json.dumps({"seconds": median_seconds(call, options.seconds), "error": error}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
