"""The CUDA emulator itself: right kernels give right results under every schedule, and mistakes are found."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch
from torch import Tensor

from tests.cuda_emulation import SCHEDULES, self_test_library


def run(name: str, source: Tensor, length: int = 64, schedule: str = "ascending", seed: int = 0) -> tuple[str, Tensor]:
    """The message of a kernel of self_test.cu, and its result."""
    emulator = self_test_library()
    emulator.set_schedule(schedule, seed)
    call = emulator.library.convext_self_test
    call.restype = ctypes.c_char_p
    source, result = source.float().contiguous(), torch.empty(length)
    blocks = max(1, length // 64)
    pointers = (ctypes.c_void_p(source.data_ptr()), source.numel(), ctypes.c_void_p(result.data_ptr()), length)
    return call(name.encode(), blocks, *pointers).decode(), result


each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@each_schedule
def test_blocks_and_shared_memory(schedule: str) -> None:
    x = torch.randn(640)
    message, y = run("reverse", x, 640, schedule, seed=3)
    assert not message
    assert torch.equal(y, x.view(10, 64).flip(1).flatten())


def test_a_missing_barrier_shows_in_every_schedule_and_they_disagree() -> None:
    x = torch.randn(64)
    results = [run("missing_barrier", x, schedule=schedule, seed=5)[1] for schedule in SCHEDULES]
    assert all(y.isnan().any() for y in results)  # what was read before it was written
    assert not torch.equal(results[0].isnan(), results[1].isnan())
    assert not torch.equal(results[0].isnan(), results[2].isnan())


@each_schedule
@pytest.mark.parametrize(
    ("kernel", "words"),
    (
        ("part_at_another_barrier", "threads 0 to 39 are at the barrier in self_test.cu"),
        ("some_leave_before_the_barrier", "threads 40 to 63 are at their end"),
        ("half_a_warp_shuffles", "threads 0 to 15 are at the collective in self_test.cu"),
        ("reads_past_the_end", r"\) out of bounds of a buffer of 64 elements"),
        ("writes_before_the_start", r"thread 0: access to \[-1, 0\) out of bounds"),
        ("leaves_its_part_of_shared_memory", "out of bounds of a buffer of 32 elements"),
        ("asks_for_more_shared_memory_than_it_has", r"shared memory of 1024 bytes, asked for \[0, 1028\)"),
        ("copies_misaligned", "misaligned access of 16 bytes"),
        ("matrices_misaligned", "misaligned access of 16 bytes"),
        ("never_waits", "ends before it waited for its cp.async"),
    ),
)
def test_mistakes_are_reported(kernel: str, words: str, schedule: str) -> None:
    message, _ = run(kernel, torch.randn(64), schedule=schedule)
    assert message.startswith("CUDA emulator: block 0"), message
    assert re.search(words, message), message


@each_schedule
@pytest.mark.parametrize(
    ("kernel", "first_wrong"),
    (
        ("reads_shared_memory_nobody_wrote", 0),
        ("leaves_results_unwritten", 7),
        ("copies_read_too_early", 0),
        ("waits_for_one_of_two_groups", 32),
    ),
)
def test_what_was_not_written_is_nan(kernel: str, first_wrong: int, schedule: str) -> None:
    message, y = run(kernel, torch.randn(64), schedule=schedule)
    assert not message
    assert y.isnan().nonzero()[0].item() == first_wrong


@each_schedule
def test_copies_land_and_fill_with_zeros(schedule: str) -> None:
    x = torch.arange(1.0, 65.0)
    message, y = run("copies", x, schedule=schedule)
    assert not message
    assert torch.equal(y, torch.tensor([10.0, 3.0]).repeat(32))


@each_schedule
def test_shuffles_and_ballots(schedule: str) -> None:
    x = torch.randint(-9, 10, (64,)).float()
    message, y = run("warp_sums", x, schedule=schedule)
    assert not message
    warps = x.view(2, 32)
    assert torch.equal(y.view(2, 32), (warps.sum(1) + 1000 * (warps > 0).sum(1)).view(2, 1).expand(2, 32))


@each_schedule
@pytest.mark.parametrize("transposed", (False, True))
def test_matrices_from_shared_memory(transposed: bool, schedule: str) -> None:
    """Lane 4 g + t gets elements 2t and 2t + 1 of line g of each matrix; transposed, of column g."""
    x = torch.randint(-99, 100, (4, 8, 8)).float()
    message, y = run("matrices_transposed" if transposed else "matrices", x.flatten(), 256, schedule)
    assert not message
    assert torch.equal(y.view(4, 8, 8), x.mT if transposed else x)


@each_schedule
@pytest.mark.parametrize(
    ("kernel", "rows", "depth"),
    (("bfloat16", 16, 16), ("float16", 16, 16), ("tf32", 16, 8), ("float64", 8, 4)),
)
def test_tensor_cores(kernel: str, rows: int, depth: int, schedule: str) -> None:
    a, b = torch.randint(-9, 10, (rows, depth)).float(), torch.randint(-9, 10, (depth, 8)).float()
    message, y = run(f"multiply_{kernel}", torch.cat((a.flatten(), b.flatten())), rows * 8, schedule)
    assert not message
    assert torch.equal(y.view(rows, 8), a @ b)
