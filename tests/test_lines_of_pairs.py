"""bfloat16 weights that are multiplied as they lie, small images that are gathered by permutations, zeros in pairs."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
from tests.guard_pages import guarded

pytestmark = pytest.mark.cpu_only("of the CPU's kernels")

DTYPE = torch.bfloat16

# Channels in and out, groups, size, kernel and more: taps that fill a line and do not, or need two; images that two
# vectors hold and that are a pixel larger; an odd number of channels, which is not read as it lies.
PROBLEMS: tuple[tuple[int, int, int, tuple[int, ...], int | tuple[int, ...], dict[str, Any]], ...] = (
    (64, 48, 1, (7, 7), 3, {"padding": 1}),
    (34, 70, 1, (8, 8), 5, {"padding": 2}),
    (33, 70, 1, (7, 7), 3, {"padding": 1}),
    (38, 34, 2, (4, 5), 3, {"padding": 1, "stride": 2}),
    (40, 24, 1, (7, 8), 3, {"padding": 2, "dilation": 2}),
    (18, 68, 1, (5, 13), (3, 4), {}),
    (24, 100, 1, (13, 13), 3, {"padding": 1}),
    (72, 66, 1, (14, 14), 3, {"padding": 1, "stride": 2}),
    (36, 40, 1, (4, 4, 4), 3, {"padding": 1}),
    (20, 66, 1, (3, 7, 9), 3, {"padding": 1}),
    (12, 96, 1, (49,), 16, {"padding": 8}),
    (12, 80, 1, (64,), 17, {"padding": 8}),
    (96, 80, 16, (49,), 33, {"padding": 16}),
    (66, 130, 1, (45,), 3, {}),
    (70, 130, 1, (40,), 8, {"padding": 4}),
    (70, 130, 1, (40,), 7, {"padding": 3}),
    (10, 24, 1, (90,), 70, {"padding": 35}),
    (6, 20, 1, (300,), 256, {}),
    (6, 20, 1, (300,), 257, {}),
    (992, 992, 32, (7, 7), 3, {"padding": 1}),
    (64, 96, 1, (6, 6), 1, {}),
    (640, 136, 1, (14, 14), 1, {"stride": 2}),
)


def numbers(*size: int) -> Tensor:
    return torch.randint(-2, 3, size).to(DTYPE)


def operands(problem: tuple[Any, ...], batch: int) -> tuple[Tensor, Tensor]:
    c, k, groups, size, kernel, _ = problem
    taps = kernel if isinstance(kernel, tuple) else (kernel,) * len(size)
    return numbers(batch, c, *size), numbers(k, c // groups, *taps)


def conv(of: Any, problem: tuple[Any, ...], x: Tensor, w: Tensor) -> Tensor:
    _, _, groups, size, _, more = problem
    y = getattr(of, f"conv{len(size)}d")(x, w, groups=groups, **more)
    assert isinstance(y, Tensor)
    return y


def results(of: Any, problem: tuple[Any, ...], x: Tensor, w: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    """The convolution, and both gradients of it."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = conv(of, problem, x, w)
    return (y.detach(), *torch.autograd.grad(y, (x, w), torch.ones_like(y) if grad is None else grad))


@pytest.fixture(params=(False, True), ids=("kept", "flushed"))
def subnormals_are_flushed(request: pytest.FixtureRequest, threads: None) -> Any:
    """In the calling thread, which is the only one."""
    torch.set_num_threads(1)
    if request.param and not torch.set_flush_denormal(True):
        pytest.skip("the processor keeps subnormal numbers")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("winograd", (False, True))
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_small_integers_are_exact(
    problem: tuple[Any, ...], winograd: bool, subnormals_are_flushed: None, isa: str
) -> None:
    """A pair whose second number is zero has the bits of a subnormal float: it must not be flushed as one."""
    with convext.backends.winograd.flags(enabled=winograd):
        for batch in (1, 3):
            x, w = operands(problem, batch)
            x[:, 1::2] *= torch.rand(x[:, 1::2].shape) < 0.5
            grad = numbers(*conv(F, problem, x.float(), w.float()).shape)
            want = results(F, problem, x.double(), w.double(), grad.double())
            for name, a, b in zip(["y", "x", "w"], results(convext.functional, problem, x, w, grad), want, strict=True):
                if winograd:
                    assert (a.double() - b).norm() <= 2**-7 * b.norm(), name
                else:
                    assert torch.equal(a, b.to(DTYPE)), name


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_same_bits_for_every_number_of_threads_and_batch(problem: tuple[Any, ...], isa: str, threads: None) -> None:
    x, w = operands(problem, 5)
    x, w = torch.randn(x.shape).to(DTYPE), torch.randn(w.shape).to(DTYPE)
    runs = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        runs.append(results(convext.functional, problem, x, w))
    for first, second in itertools.pairwise(runs):
        assert all(map(torch.equal, first, second))
    for count in (1, 2):
        torch.set_num_threads(count)
        alone = results(convext.functional, problem, x[2:3], w)
        assert torch.equal(alone[0][0], runs[0][0][2]) and torch.equal(alone[1][0], runs[0][1][2])


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")
@pytest.mark.parametrize("side", ("end", "start"))
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_nothing_is_read_beyond_the_operands(problem: tuple[Any, ...], side: str, isa: str) -> None:
    for batch in (1, 2):
        x, w = operands(problem, batch)
        grad = numbers(*conv(F, problem, x.float(), w.float()).shape)
        with convext.backends.winograd.flags(enabled=False):
            got = results(convext.functional, problem, guarded(x, side), guarded(w, side), guarded(grad, side))
        want = results(F, problem, x.double(), w.double(), grad.double())
        assert all(torch.equal(a, b.to(DTYPE)) for a, b in zip(got, want, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")
@pytest.mark.parametrize(("before", "after"), ((0, 1), (1, 0), (0, 2), (3, 2), (5, 0)))
@pytest.mark.parametrize("kernel", (1, 3))
def test_weights_with_something_between_their_rows(kernel: int, before: int, after: int, isa: str) -> None:
    """Rows of an odd length begin in the middle of a pair; the last one ends before its length does."""
    problem = (34, 48, 1, (7, 7), kernel, {"padding": kernel // 2})
    for batch in (1, 9):
        x, w = operands(problem, batch)
        wide = numbers(48, before + 34 + after, kernel, kernel)
        wide[:, before : before + 34] = w
        view = guarded(wide[:, before : before + 34])
        grad = numbers(batch, 48, 7, 7)
        with convext.backends.winograd.flags(enabled=False):
            got = results(convext.functional, problem, x, view, grad)
        want = results(F, problem, x.double(), w.double(), grad.double())
        assert all(torch.equal(a, b.to(DTYPE)) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("size", ((7, 7), (13, 13), (4, 4, 4)))
def test_a_bias_is_added(size: tuple[int, ...], transposed: bool, isa: str) -> None:
    """With lines, and to what they are the gradient of."""
    rank = len(size)
    x, w, b = numbers(2, 34, *size), numbers(34, 34, *(3,) * rank), numbers(34)
    name = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    with convext.backends.winograd.flags(enabled=False):
        y = getattr(convext.functional, name)(x, w, b, padding=1)
    assert torch.equal(y, getattr(F, name)(x.double(), w.double(), b.double(), padding=1).to(DTYPE))


@pytest.mark.parametrize("mode", ("reflect", "replicate", "circular"))
@pytest.mark.parametrize("size", ((7, 7), (8, 8), (8, 9)))
def test_small_images_are_padded_in_every_mode(size: tuple[int, int], mode: str, isa: str) -> None:
    layer = convext.nn.Conv2d(34, 40, 3, padding=2, padding_mode=mode, bias=False, dtype=DTYPE)
    w, x = numbers(*layer.weight.shape), numbers(2, 34, *size)
    layer.load_state_dict({"weight": w})
    want = F.conv2d(F.pad(x.double(), (2,) * 4, mode=mode), w.double())
    with torch.no_grad(), convext.backends.winograd.flags(enabled=False):
        assert torch.equal(layer(x), want.to(DTYPE))


def test_images_that_are_views(isa: str) -> None:
    """Channels and rows with something between them, and channels that are one in memory."""
    w = numbers(40, 34, 3, 3)
    wide = numbers(1, 34, 9, 12)
    for x in (wide[..., 1:8, 2:9], wide[..., ::2, ::3], wide[:, :1, 1:8, 1:8].expand(2, 34, 7, 7), wide[..., :3, :]):
        want = F.conv2d(x.double(), w.double(), padding=1)
        with convext.backends.winograd.flags(enabled=False):
            assert torch.equal(convext.functional.conv2d(x, w, padding=1), want.to(DTYPE)), x.stride()


def test_what_is_read_as_it_lies(isa: str) -> None:
    """Few pixels of pairs take neither tiles nor bands; an odd channel has no pair to read."""
    if isa != "avx512_bf16":
        return

    def algorithm(operator: str, channels: int, size: int, kernel: int = 3) -> str:
        shapes = (1, channels, size, size), (256, channels, kernel, kernel)
        plan = convext.conv_plan(operator, *shapes, padding=kernel // 2, dtype=DTYPE)
        assert isinstance(plan.algorithm, str)
        return plan.algorithm

    for operator in ("fprop", "dgrad"):
        assert algorithm(operator, 256, 8) == "packed" and algorithm(operator, 256, 13) == "packed"
        assert algorithm(operator, 256, 14) == "winograd" and algorithm(operator, 256, 9) != "banded"
    assert algorithm("fprop", 255, 8) == "winograd"
    assert algorithm("dgrad", 32, 8) == algorithm("dgrad", 32, 7, 5) == "packed"
