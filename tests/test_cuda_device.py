"""Tensors of the device itself: what carrying them there and back (cuda_carried.py) cannot show.

The first tests run on every device, on the CPU as on a GPU, so that they are tested without one.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import convext
import convext.functional as CF
from tests.cases import ConvCase
from tests.cuda_carried import carrying, to_device
from tests.cuda_cases import CONVOLUTIONS, OTHERS, image, there_and_back
from tests.reference import FLOATS, OPERATORS, TOLERANCE, WINOGRAD_TOLERANCE, call, error, expected, operands
from tests.test_determinism import same_bits

each_convolution = pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: c.id)
each_call = pytest.mark.parametrize("name", OTHERS)


def on(device: torch.device, tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else to_device(t, device) for t in tensors]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed", "sliced", "expanded", "offset"))
def test_a_carried_tensor_is_the_same_one_elsewhere(layout: str, device: torch.device) -> None:
    case = ConvCase((7, 8), 3, (4, 5), layout=layout)
    for dtype in (*FLOATS, torch.complex64, torch.uint8):
        (x, *_) = operands("fprop", case, dtype, "normal", 0)
        assert x is not None
        there = to_device(x, device)
        assert there.device.type == device.type and there.data_ptr() != x.data_ptr()
        assert (there.stride(), there.storage_offset()) == (x.stride(), x.storage_offset())
        assert torch.equal(there.cpu(), x)


def test_carrying_an_operator() -> None:
    """Lists and numbers pass, tensors move, several results come back; the operator sees strides as they are."""
    seen = []

    def operator(x: Tensor, nothing: None, sizes: list[int]) -> tuple[Tensor, Tensor]:
        seen.append((x.stride(), nothing, sizes, x.requires_grad))
        return x + 1, x.sum()

    x = torch.randn(3, 4).t().requires_grad_()
    y, total = carrying("some", operator, torch.device("cpu"))(x, None, [1, 2])
    assert seen == [((1, 4), None, [1, 2], False)]
    assert torch.equal(y, x + 1) and torch.equal(total, x.sum())


@each_convolution
@pytest.mark.parametrize("operator", OPERATORS)
def test_convolutions(operator: str, case: ConvCase, device: torch.device, seed: int) -> None:
    problem = case.transposed if operator == "dgrad" else case
    for dtype in FLOATS:
        tensors = operands(operator, problem, dtype, "normal", seed)
        got = call(operator, problem, on(device, tensors))
        tolerance = (WINOGRAD_TOLERANCE if device.type == "cpu" else TOLERANCE)[dtype]
        assert got.device.type == device.type
        assert error(got.cpu(), expected(operator, problem, tensors)) <= tolerance, dtype


@pytest.mark.parametrize("channels_last", (False, True))
@each_call
def test_calls_and_their_gradients(name: str, channels_last: bool, device: torch.device) -> None:
    """On the device, twice: the same bits; and carried there, with torch's own part of a call on the CPU: no others."""
    for dtype in (torch.float32, torch.bfloat16):
        x = image(dtype, channels_last)
        if name == "stochastic pool":  # draws on the device, other numbers than the CPU draws
            x = x * 0 + 1
        there = to_device(x, device)
        first, again = (there_and_back(OTHERS[name], there) for _ in range(2))
        assert same_bits(first, again)
        if name != "stochastic pool":
            assert error(first.cpu(), there_and_back(OTHERS[name], x).double()) <= 2 * TOLERANCE[dtype]


def test_strides_of_results_are_those_of_the_cpu(device: torch.device) -> None:
    for channels_last in (False, True):
        x = image(torch.float32, channels_last)
        for name, function in OTHERS.items():
            assert function(to_device(x, device)).stride() == function(x).stride(), name


def test_autocast(device: torch.device) -> None:
    x, w = torch.randn(2, 3, 8, 9, device=device), torch.randn(4, 3, 3, 3, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        y = CF.conv2d(x, w)
    assert y.dtype is torch.bfloat16
    assert error(y.cpu(), torch.nn.functional.conv2d(x.double(), w.double()).cpu()) <= 2 * TOLERANCE[torch.bfloat16]
    y.float().sum().backward()
    assert w.grad is not None and w.grad.dtype is torch.float32 and w.grad.device.type == device.type


def test_converted_and_overridden_models(device: torch.device) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.ConvTranspose2d(8, 2, 2, 2),
    ).to(device)
    x = torch.randn(2, 3, 10, 12, device=device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        wanted = model(x)
    with convext.override():
        overridden = model(x)
    convext.convert(model)
    assert not convext.conversion_report(model).left
    assert torch.equal(model(x), overridden)
    assert error(overridden.cpu(), wanted.double().cpu()) <= 1e-5


def test_transforms(device: torch.device) -> None:
    x, w = (torch.randn(*shape, device=device) for shape in ((5, 3, 6, 7), (4, 3, 3, 3)))
    mapped = torch.func.vmap(CF.conv2d, (0, None))(x.unsqueeze(1), w).squeeze(1)
    torch.testing.assert_close(mapped, CF.conv2d(x, w))
    gradient = torch.func.grad(lambda w: CF.conv2d(x, w).square().sum())(w)
    (wanted,) = torch.autograd.grad(CF.conv2d(x, w.requires_grad_()).square().sum(), w)
    torch.testing.assert_close(gradient, wanted)


def test_operands_on_two_devices(device: torch.device) -> None:
    other = torch.device("meta" if device.type == "cpu" else "cpu")
    with pytest.raises(RuntimeError, match="expected weight on"):
        CF.conv2d(torch.ones(1, 1, 5, 5, device=device), torch.ones(1, 1, 3, 3, device=other))


# --- on a GPU alone ---------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    return device


@each_call
def test_on_another_stream(name: str, gpu: torch.device) -> None:
    """The current stream is taken, not the default one: what it waits for is done before."""
    x = to_device(image(torch.float32, False), gpu)
    wanted, stream = there_and_back(OTHERS[name], x), torch.cuda.Stream()
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(x)
        got = there_and_back(OTHERS[name], late)
    stream.synchronize()
    assert same_bits(got, wanted)


@each_call
def test_in_a_cuda_graph(name: str, gpu: torch.device) -> None:
    """Nothing synchronises or allocates past torch: a call is captured, and replayed on other values."""
    if name in ("stochastic pool", "fractional pool", "unpool"):
        pytest.skip("its call draws random numbers or checks places on the host, which a graph cannot hold")
    values = to_device(image(torch.float32, False), gpu)
    x = torch.zeros_like(values)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        OTHERS[name](x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = OTHERS[name](x)
    x.copy_(values)
    graph.replay()
    assert same_bits(y, OTHERS[name](values))


def test_compiled(gpu: torch.device) -> None:
    x, w = torch.randn(2, 3, 8, 9, device=gpu), torch.randn(4, 3, 3, 3, device=gpu, requires_grad=True)

    def layer(x: Tensor, w: Tensor) -> Tensor:
        return torch.relu(CF.conv2d(x, w, padding=1)) * 2

    y = torch.compile(layer, fullgraph=True)(x, w)
    torch.testing.assert_close(y, layer(x, w))
    (got,), (wanted,) = (torch.autograd.grad(f.square().sum(), w) for f in (y, layer(x, w)))
    torch.testing.assert_close(got, wanted)


def test_more_than_2_to_the_31_elements(gpu: torch.device) -> None:
    size = 46_400  # of each side: 2.15e9 bytes
    if torch.cuda.mem_get_info()[0] < 4 * size * size:
        pytest.skip("needs 9 GB of the GPU's memory")
    x = torch.zeros(1, 1, size, size, dtype=torch.uint8, device=gpu)
    x[0, 0, -1, -1], x[0, 0, 0, 0] = 7, 3
    y = CF.max_pool2d(x, 2)
    assert y.shape[-1] == size // 2
    assert [int(y[0, 0, -1, -1]), int(y[0, 0, 0, 0]), int(y.sum(dtype=torch.int64))] == [7, 3, 10]


def test_places_outside_stop_the_kernel(gpu: torch.device) -> None:
    """In a process of its own: the context does not live on."""
    code = (
        "import torch, convext\n"
        "image, places = torch.ones(1, 1, 4).cuda(), torch.tensor([[[0, 4]]]).cuda()\n"
        "torch.ops.convext.place_gather(image, places)\n"
        "torch.cuda.synchronize()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode != 0
    # what a kernel printed before it stopped may be lost with its context
    assert re.search("expected places from 0 to 3, got 4|CUDA error", result.stdout + result.stderr), result
