"""What `--device` means for the test-suite: which files say something of the device's kernels, and on which cases.

Every file runs on every device unless it stands in one of these tables, with the reason that the report gives.
"""

from __future__ import annotations

from tests import cases, cuda_carried, cuda_emulation

DEVICES = ("cpu", "cuda", "emulated")

# Files that say nothing of the kernels that run in the place of the CPU's, on a GPU as little as emulated.
OF_THE_CPU = {
    "test_bands.py": "of the CPU's algorithms",
    "test_bench_report.py": "computes no convolution",
    "test_cli.py": "starts processes, in which the CPU's kernels run",
    "test_cuda_tools.py": "of what is decided without a device",
    "test_demo.py": "of the demonstration, on the CPU",
    "test_depthwise.py": "of the CPU's algorithms",
    "test_depthwise_shifted.py": "of the CPU's algorithms",
    "test_docs.py": "of the documentation",
    "test_doctor.py": "starts processes, in which the CPU's kernels run",
    "test_errors_page.py": "of the documentation",
    "test_examples.py": "starts processes, in which the CPU's kernels run",
    "test_explain.py": "of the CPU's plans, and of shapes",
    "test_guard_pages.py": "starts processes, in which the CPU's kernels run",
    "test_inner_product.py": "of the CPU's algorithms",
    "test_large.py": "needs the CPU's memory twice",
    "test_memory.py": "counts the CPU kernels' memory",
    "test_narrow_channels.py": "of the CPU's algorithms",
    "test_onnx.py": "of another runtime",
    "test_package.py": "of files and processes",
    "test_packaging.py": "of files",
    "test_pairs.py": "of the CPU's instructions for pairs",
    "test_pixels_in_place.py": "of the CPU's algorithms",
    "test_plain_calls.py": "of the CPU's shortest way to its kernels",
    "test_plan.py": "of the CPU's plans",
    "test_plan_strided.py": "of the CPU's plans",
    "test_readme.py": "of the documentation",
    "test_receptive_field.py": "of torch's own layers",
    "test_row_combination.py": "of the CPU's algorithms",
    "test_transforms.py": "of the documentation",
    "test_typing.py": "of files",
    "test_weight_lines.py": "of the CPU's algorithms",
    "test_wgrad.py": "of the CPU's algorithms",
    "test_winograd.py": "of the CPU's algorithms",
    "test_winograd_plan.py": "of the CPU's algorithms",
}

# What an emulator of one thread at a time has no time for. A GPU runs these.
TOO_LONG_EMULATED = {
    "test_alexnet.py": "whole networks",
    "test_conv_compile.py": "compiles for minutes around operators that other files test",
    "test_determinism.py": "large cases; test_cuda_operators.py holds the bits of every schedule against each other",
    "test_convert_compile.py": "compiles for minutes around operators that other files test",
}

# The multiply-adds of the largest convolution that the emulator is given: it makes a few million in a second, and each
# case is run some sixty times. Operators, types, layouts and modes stay; test_cuda_operators.py sees to it.
EMULATED_MULTIPLY_ADDS = 1_000_000


def refusal(device: str) -> str | None:
    """Why the test-suite cannot run on a device, as the end of a sentence; None where it can."""
    if device not in DEVICES:
        return f"expected a device among {', '.join(DEVICES)}, got {device!r}"
    return cuda_carried.absence() if device == "cuda" else None


def set_up(device: str) -> None:
    """Puts the device's kernels in the place of the CPU's; before tests are collected, for they list the cases."""
    if device == "emulated":
        cuda_emulation.load()
        cases.CASES[:] = [case for case in cases.CASES if case.multiply_adds <= EMULATED_MULTIPLY_ADDS]
    elif device == "cuda":
        cuda_carried.load()


def left_out(device: str, file: str) -> str | None:
    """Why the tests of a file do not run on a device; None where they do."""
    if device == "cpu":
        return None
    return OF_THE_CPU.get(file) or (TOO_LONG_EMULATED.get(file) if device == "emulated" else None)
