"""Every function of csrc/cuda/ptx.cuh: emulated against its definition, and on a GPU against the emulator, bit by bit.

This is what holds the emulator to the hardware, and therefore the first test on a GPU. The same words go through the
same kernels (cuda_emulation/wrapper_test.cu), one compiled by the host's compiler and one by nvcc. What may differ:

- the bits of a NaN;
- the 13 low bits of a number rounded to tf32, which tensor cores ignore;
- the sums of tensor cores over real numbers, whose order and rounding the PTX manual leaves open: by up to 2^-20 of the
  sum of all magnitudes in float32, 2^-50 in float64. Over small integers, where no sum rounds, they are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests import cuda_emulation, cuda_wrappers
from tests.cuda_wrappers import THREADS

MASKS = 32

# The bit patterns around every rounding decision: each upper half of a word with these lower halves.
LOWER = (0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


def words(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64).to(torch.int32)


def all_halves() -> Tensor:
    return torch.arange(1 << 16, dtype=torch.int32)


def many_floats() -> Tensor:
    upper = torch.arange(1 << 16, dtype=torch.int64).view(-1, 1) << 16
    return (upper | torch.tensor(LOWER)).flatten().to(torch.int32)


def noise(count: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (count,), dtype=torch.int64).to(torch.int32)


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int32).flatten()


def fragments(kernel: str, integers: bool) -> Tensor:
    """Of a warp: the registers of a, b and d, lane by lane; numbers of the kernel's type."""

    def draw(*shape: int) -> Tensor:
        return torch.randint(-9, 10, shape).double() if integers else torch.randn(shape, dtype=torch.float64)

    if kernel == "multiply_float64":
        return draw(32, 4).view(torch.int32).flatten()
    if kernel == "multiply_tf32":  # as round_to_tf32 leaves them
        ab = draw(32, 6).float().view(torch.int32) & -0x2000
    else:
        ab = draw(32, 12).to(torch.bfloat16 if kernel == "multiply_bfloat16" else torch.float16).view(torch.int32)
    return torch.cat((ab, draw(32, 4).float().view(torch.int32)), 1).flatten()


# kernel: its words, how many it makes, and on how many blocks
INPUTS: dict[str, Callable[[], tuple[Tensor, int, int]]] = {
    "widen_half": lambda: (all_halves(), 1 << 16, (1 << 16) // THREADS),
    "narrow_half": lambda: (many_floats(), 12 << 16, (12 << 16) // THREADS),
    "narrow_bfloat16": lambda: (many_floats(), 12 << 16, (12 << 16) // THREADS),
    "round_to_tf32": lambda: (many_floats(), 12 << 16, (12 << 16) // THREADS),
    "sync_threads": lambda: (noise(640), 640, 10),
    "sync_warp": lambda: (noise(640), 640, 10),
    "shuffle_xor": lambda: (noise(THREADS), 2 * MASKS * THREADS, 1),
    "ballot": lambda: (noise(THREADS), THREADS, 1),
    "copy_async_4": lambda: (noise(THREADS), THREADS, 1),
    "copy_async_8": lambda: (noise(2 * THREADS), 2 * THREADS, 1),
    "copy_async_16": lambda: (noise(4 * THREADS), 4 * THREADS, 1),
    "wait_for_copies": lambda: (noise(8 * THREADS), 8 * THREADS, 1),
    "load_matrices": lambda: (noise(128), 128, 1),
    "load_matrices_transposed": lambda: (noise(128), 128, 1),
    "exchange": lambda: (noise(THREADS), THREADS + 1, 1),
    "require_inside": lambda: (torch.arange(THREADS), THREADS, 1),
    "multiply_bfloat16": lambda: (fragments("multiply_bfloat16", True), 128, 1),
    "multiply_float16": lambda: (fragments("multiply_float16", True), 128, 1),
    "multiply_tf32": lambda: (fragments("multiply_tf32", True), 128, 1),
    "multiply_float64": lambda: (fragments("multiply_float64", True), 128, 1),
}
MULTIPLY = tuple(name for name in INPUTS if name.startswith("multiply"))
each_wrapper = pytest.mark.parametrize("name", INPUTS)


def canonical(name: str, result: Tensor) -> Tensor:
    """With what may differ taken away."""
    if name in ("widen_half", "round_to_tf32"):
        result = result & (-0x2000 if name == "round_to_tf32" else -1)
        return torch.where(result.view(torch.float32).isnan(), -1, result)
    if name in ("narrow_half", "narrow_bfloat16"):
        dtype = torch.float16 if name == "narrow_half" else torch.bfloat16
        return torch.where(result.to(torch.int16).view(dtype).isnan(), -1, result)
    return result.sort().values if name == "exchange" else result


def reversed_in(size: int, x: Tensor) -> Tensor:
    return x.view(-1, size).flip(1).flatten()


def copied(x: Tensor, size: int) -> Tensor:
    """A thread's words after so many bytes of them, the rest zero."""
    kept = torch.arange(THREADS) % (size + 1)
    return torch.where(torch.arange(size) < kept.view(-1, 1), x.view(-1, size), 0).flatten()


def shuffled(x: Tensor) -> Tensor:
    lanes = torch.arange(THREADS)
    return torch.stack([x[lanes ^ mask] for mask in range(MASKS) for _ in range(2)]).flatten()


def balloted(x: Tensor) -> Tensor:
    sums = [sum(int(odd) << i for i, odd in enumerate(warp)) for warp in (x % 2 != 0).view(2, 32).tolist()]
    return words(*sums).view(2, 1).expand(2, 32).flatten()


def spread(x: Tensor, transposed: bool) -> Tensor:
    """Of four 8 x 8 matrices of elements of 2 bytes, whose lines lie from the last to the first, each lane's pairs."""
    matrices = x.view(torch.int16).view(32, 8).flip(0).view(4, 8, 8)
    pairs = (matrices.mT if transposed else matrices).reshape(4, 32, 2)  # lane 4 g + t: (g, 2t) and (g, 2t + 1)
    return pairs.transpose(0, 1).contiguous().view(torch.int32).flatten()


# By torch, or by the definition in ptx.cuh; of tf32 and the products see below.
DEFINITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "widen_half": lambda x: bits(x.to(torch.int16).view(torch.float16).float()),
    "narrow_half": lambda x: x.view(torch.float32).half().view(torch.int16).int() & 0xFFFF,
    "narrow_bfloat16": lambda x: x.view(torch.float32).bfloat16().view(torch.int16).int() & 0xFFFF,
    "round_to_tf32": lambda x: torch.where(x.view(torch.float32).isfinite(), (x.long() + 0x1000).int(), x),
    "sync_threads": lambda x: reversed_in(THREADS, x),
    "sync_warp": lambda x: reversed_in(32, x),
    "shuffle_xor": shuffled,
    "ballot": balloted,
    "copy_async_4": lambda x: copied(x, 1),
    "copy_async_8": lambda x: copied(x, 2),
    "copy_async_16": lambda x: copied(x, 4),
    "wait_for_copies": lambda x: x.view(2, THREADS, 4).flip(1).flatten(),
    "load_matrices": lambda x: spread(x, transposed=False),
    "load_matrices_transposed": lambda x: spread(x, transposed=True),
    "exchange": lambda x: torch.cat((x, words(12345))),
    "require_inside": lambda x: x.int(),
}


def test_every_wrapper_has_its_kernel() -> None:
    """A function that ptx.cuh declares is called in wrapper_test.cu, and each kernel there is run here."""
    text = (cuda_emulation.CSRC / "cuda" / "ptx.cuh").read_text()
    declared = set(re.findall(r"^__device__ (?:inline )?[\w ]+?(\w+)\(", text, re.MULTILINE))
    called = cuda_wrappers.SOURCE.read_text()
    assert len(declared) >= 14
    assert not {name for name in declared if not re.search(rf"\b{name}\b", called)}
    assert set(cuda_wrappers.emulated().names) == set(INPUTS)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_emulated_against_the_definition(name: str) -> None:
    given, length, blocks = INPUTS[name]()
    got = cuda_wrappers.emulated()(name, given, length, blocks)
    assert torch.equal(canonical(name, got), canonical(name, DEFINITIONS[name](given)))


def test_it_compiles_for_a_gpu() -> None:
    """By nvcc, where there is one; it needs no GPU."""
    if cuda_wrappers.nvcc() is None:
        pytest.skip("no nvcc here")
    assert cuda_wrappers.compiled((9, 0)).exists()


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> cuda_wrappers.Wrappers:
    if request.config.getoption("--device") != "cuda":
        pytest.skip("needs --device cuda")
    return cuda_wrappers.on_gpu()


@each_wrapper
def test_on_a_gpu_as_emulated(name: str, gpu: cuda_wrappers.Wrappers) -> None:
    given, length, blocks = INPUTS[name]()
    wanted = canonical(name, cuda_wrappers.emulated()(name, given, length, blocks))
    got = canonical(name, gpu(name, given, length, blocks))
    wrong = (got != wanted).nonzero().flatten()
    assert len(wrong) == 0, (
        f"{len(wrong)} of {length} words differ, the first at {int(wrong[0])}: "
        f"{int(got[wrong[0]]) & 0xFFFFFFFF:08x}, emulated {int(wanted[wrong[0]]) & 0xFFFFFFFF:08x}"
    )


@pytest.mark.parametrize("name", MULTIPLY)
def test_sums_of_tensor_cores_on_a_gpu_as_emulated(name: str, gpu: cuda_wrappers.Wrappers) -> None:
    kind = torch.float64 if name == "multiply_float64" else torch.float32
    for _ in range(20):
        given = fragments(name, integers=False)
        wanted, got = (side(name, given, 128).view(kind).double() for side in (cuda_wrappers.emulated(), gpu))
        # 16 products of two numbers that are hardly ever above 4, and one number more
        bound = (2**-50 if kind is torch.float64 else 2**-20) * (16 * 16 + 4)
        assert (got - wanted).abs().max() <= bound
