"""The same bits: on every run, for every thread count, and for a sample whatever else is in its batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import convext
from tests.cases import MODES, ConvCase
from tests.reference import FLOATS, OPERATORS, call, operands

CASES = (
    ConvCase((33, 31), 3, (17, 31), batch=3, padding=1),
    ConvCase((33, 31), 3, (16, 64), batch=2, padding=1, layout="channels_last"),
    ConvCase((28, 28), 3, (33, 33), batch=2, padding=1, groups=33),
    ConvCase((15, 14), 5, (24, 48), batch=2, stride=2, padding=2, groups=4),
    ConvCase((28, 28), 2, (64, 16), batch=2, stride=2, padding=1),
    ConvCase((9, 9), 1, (600, 30), batch=2),
    ConvCase((64, 65), 7, (3, 16), batch=2, stride=2, padding=3),
    ConvCase((5000,), 9, (2, 15), batch=2, dilation=3, layout="sliced"),
    ConvCase((7, 9, 11), 3, (13, 14), batch=2, padding=1, padding_mode="replicate"),
    ConvCase((6, 8, 7), 2, (8, 15), batch=2, stride=2, layout="channels_last"),
    ConvCase((7, 6), 3, (130, 128), batch=2, padding=1),
    ConvCase((6, 7), 3, (128, 144), batch=2, stride=2, padding=1, layout="channels_last"),
    ConvCase((150, 40), 3, (3, 5), batch=2, padding=1),
    ConvCase((65, 64), 1, (33, 15), batch=4),
    ConvCase((16, 16), 1, (100, 100), batch=3),  # units of more than 128 pixels
    ConvCase((14, 14), 3, (40, 64), batch=2, stride=2, padding=1),  # 64 filters, dealt to threads by panels
    ConvCase((29, 28), 5, (40, 40), batch=2, padding=2, groups=40, layout="channels_last"),
    ConvCase((40, 20), 4, (6, 9), batch=2, stride=3, padding=((3, 1), (0, 2)), dilation=(2, 1), groups=3),
)


def bits(t: Tensor) -> Tensor:
    """The result as integers: 0.0 and -0.0 differ, a NaN equals itself."""
    t = torch.view_as_real(t) if t.is_complex() else t
    return t.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(bits(a), bits(b))


@pytest.mark.cpu_only("of the CPU's threads, or of batches, of which CUDA promises nothing")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_every_thread_count(case: ConvCase, isa: str, seed: int, threads: None) -> None:
    for dtype in FLOATS:
        for operator in OPERATORS:
            problem = case.transposed if operator == "dgrad" else case
            tensors = operands(operator, problem, dtype, "normal", seed)
            torch.set_num_threads(1)
            alone = call(operator, problem, tensors)
            for count in (2, 3, 7):
                torch.set_num_threads(count)
                assert same_bits(call(operator, problem, tensors), alone), f"{operator} {dtype} with {count} threads"


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_every_run(case: ConvCase, seed: int) -> None:
    for operator in OPERATORS:
        problem = case.transposed if operator == "dgrad" else case
        tensors = operands(operator, problem, torch.float32, "normal", seed)
        first = call(operator, problem, tensors)
        held = []
        for i in range(5):
            held.append(torch.empty(1000 * i + 1))  # so that results and workspaces land on other addresses
            assert same_bits(call(operator, problem, tensors), first), operator


def batch_of(sample: Tensor, size: int, at: int, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """A batch with the sample at one place and other values around it, in the sample's memory format."""
    batch = fill(torch.empty(size, *sample.shape[1:], dtype=sample.dtype))
    batch[at] = sample[0]
    last = sample.dim() == 4 and sample.is_contiguous(memory_format=torch.channels_last)
    return batch.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


COMPANY: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda t: t.normal_(),
    "zeros": lambda t: t.zero_(),
    "nan": lambda t: t.fill_(float("nan")),
    "inf": lambda t: t.fill_(float("inf")),
}


@pytest.mark.cpu_only("of the CPU's threads, or of batches, of which CUDA promises nothing")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_whatever_else_is_in_the_batch(case: ConvCase, isa: str, seed: int) -> None:
    for dtype in FLOATS:
        for operator in ("fprop", "dgrad"):
            problem = case.transposed if operator == "dgrad" else case
            first, weight, bias = operands(operator, problem, dtype, "normal", seed)
            assert first is not None
            sample = first[:1].contiguous(
                memory_format=torch.channels_last
                if case.layout == "channels_last" and case.dims == 2
                else torch.contiguous_format
            )
            alone = call(operator, problem, [sample, weight, bias])
            for size, at, company in ((2, 1, "random"), (5, 2, "nan"), (8, 7, "inf"), (3, 0, "zeros")):
                batch = batch_of(sample, size, at, COMPANY[company])
                result = call(operator, problem, [batch, weight, bias])
                assert same_bits(result[at], alone[0]), f"{operator} {dtype} at {at} of {size} among {company}"


@pytest.mark.cpu_only("of the CPU's threads, or of batches, of which CUDA promises nothing")
def test_threads_and_batch_together(isa: str, threads: None) -> None:
    """The whole layer, forward and backward to its input."""
    x = torch.randn(6, 12, 20, 21)
    layer = convext.nn.Conv2d(12, 20, 3, stride=2, padding=1)

    def run(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(count)
        x = x.clone().requires_grad_()
        y = layer(x)
        (g,) = torch.autograd.grad(y, x, torch.ones_like(y))
        return y.detach(), g

    y, g = run(x, 7)
    for i in range(6):
        one, back = run(x[i : i + 1], 1 + i % 3)
        assert same_bits(one[0], y[i]) and same_bits(back[0], g[i])


@pytest.mark.cpu_only("of the CPU's threads, or of batches, of which CUDA promises nothing")
@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_padding_mode(mode: str, threads: None) -> None:
    """The adjoint of a pad adds several pixels into one: gathered in a fixed order, never raced for."""
    case = ConvCase((31, 29), 5, (8, 9), batch=2, padding=4, padding_mode=mode)
    tensors = operands("dgrad", case.transposed, torch.float32, "normal", 5)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        results.append(call("dgrad", case.transposed, tensors))
    assert all(same_bits(r, results[0]) for r in results)
    first = tensors[0]
    assert first is not None
    assert same_bits(call("dgrad", case.transposed, [first[1:], *tensors[1:]])[0], results[0][1])


def test_inside_another_thread_pool_the_bits_stay() -> None:
    """Called from several Python threads at once, each call still gives the same bits."""
    import concurrent.futures

    case = CASES[0]
    tensors = operands("fprop", case, torch.float32, "normal", 9)
    alone = call("fprop", case, tensors)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: call("fprop", case, tensors), range(12)):
            assert same_bits(result, alone)


@pytest.mark.cpu_only("of the CPU's threads, or of batches, of which CUDA promises nothing")
@pytest.mark.parametrize("pixels", (100, 181, 182, 400))
def test_gradient_of_a_single_bias(pixels: int, threads: None) -> None:
    """Around 2^15 elements, from where on torch's own sum to one number is cut among the threads."""
    g = torch.randn(1, 1, pixels, pixels)
    x, w = torch.zeros(1, 1, pixels, pixels), torch.zeros(1, 1, 1, 1)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        b = torch.zeros(1, requires_grad=True)
        results.append(torch.autograd.grad(convext.functional.conv2d(x, w, b), b, g)[0])
    assert all(torch.equal(r, results[0]) for r in results)
    torch.testing.assert_close(results[0], g.double().sum().reshape(1).float(), rtol=1e-4, atol=1e-3)
