"""Tensors that end, or begin, where readable memory does, and a program that runs every operator on them.

``python -m tests.guard_pages conv`` calls the three operators of convolution with operands whose first or last byte
lies against a page without access: an access beyond them is a segmentation fault, not a number that happens not to
matter. Results must be what the same numbers give elsewhere. `tests/test_guard_pages.py` runs it in a process of its
own, which prints each call before it makes it.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import convext
import convext.functional as CF
from bench.layer import Layer
from tests import norm_case, pool_case, reference, unfold_case
from tests.cases import CASES, ConvCase, lay_out
from tests.winograd_cases import summed_taps

SIDES = ("end", "start")
# multiply-adds of one operator, at most, of the layers of networks that take part
MOST_WORK = 1e7

_NO_ACCESS = 0


def guarded(t: Tensor, side: str = "end") -> Tensor:
    """The values of t, behind the same strides, in memory whose last (or first) byte is the last (first) accessible."""
    if t.numel() == 0:
        return t
    span = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    whole = t.as_strided((span,), (1,), t.storage_offset()).clone()
    room = -(-whole.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
    first = mmap.PAGESIZE + (room - whole.nbytes if side == "end" else 0)
    copy = torch.frombuffer(pages, dtype=t.dtype, count=span, offset=first)  # keeps the pages alive
    copy.copy_(whole)
    base = copy.data_ptr() - first
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (base, base + mmap.PAGESIZE + room):
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    return copy.as_strided(t.shape, t.stride())


def all_guarded(values: Any, side: str) -> Any:
    """The same for each tensor of a list."""
    return [guarded(v, side) if isinstance(v, Tensor) else v for v in values]


def same(a: Any, b: Any) -> bool:
    """Whether two results, tensors or tuples of them, are equal; NaN is equal to itself."""
    if isinstance(a, Tensor):
        return torch.equal(a.nan_to_num(12345), b.nan_to_num(12345))
    return all(same(x, y) for x, y in zip(a, b, strict=True))


Call = tuple[str, Callable[..., Any], list[Any]]


def ends_in_parts() -> Iterator[ConvCase]:
    """Images and weights that end in parts of vectors, for kernels that read whole ones where memory allows."""
    for c, size, kernel, stride in itertools.product((3, 16), ((7, 7), (14, 14), (20, 29)), (3, 5), (1, 2)):
        yield ConvCase(size, kernel, (c, c), groups=c, padding=kernel // 2, stride=stride, batch=1)
    for size, per_group, stride in (((7, 7), 16, 1), ((8, 8), 32, 2), ((5, 9), 15, 1), ((5, 9), 29, 1)):
        for layout in ("contiguous", "channels_last"):
            yield ConvCase(size, 3, (8 * per_group,) * 2, groups=8, padding=1, stride=stride, batch=1, layout=layout)
    for channels, kernel in (((29, 15), 3), ((65, 130), 1), ((3, 28), (3, 5)), ((33, 200), 2)):
        yield ConvCase((12, 19), kernel, channels, padding=1)
    yield from list(summed_taps())[1::2]


def conv_calls() -> Iterator[Call]:
    """Each operator on each case of the tests in each floating type."""
    for case in (*CASES, *ends_in_parts()):
        for operator in reference.OPERATORS:
            problem = case.transposed if operator == "dgrad" else case
            for dtype in reference.FLOATS:
                tensors = reference.operands(operator, problem, dtype, "normal", 0)
                yield (
                    f"{operator} {case.id} {dtype}",
                    lambda *t, o=operator, p=problem: reference.call(o, p, [*t]),
                    tensors,
                )


def both_gradients(x: Tensor, w: Tensor, problem: ConvCase) -> list[Tensor]:
    """The result, and both gradients of half the sum of its squares, from one call."""
    leaves = [t.detach().requires_grad_() for t in (x, w)]
    function = getattr(CF, f"conv{problem.dims}d")
    y = function(*leaves, None, problem.stride, problem.padding, problem.dilation, problem.groups)
    return [y.detach(), *torch.autograd.grad(y, leaves, guarded(y.detach(), "end"))]


def backward_calls() -> Iterator[Call]:
    """Both gradients at once, which some layers get from one pass."""
    for case in ends_in_parts():
        for dtype in reference.FLOATS:
            x, w, *_ = reference.operands("fprop", case, dtype, "normal", 0)
            yield f"both gradients {case.id} {dtype}", lambda x, w, p=case: both_gradients(x, w, p), [x, w]


def network_cases() -> Iterator[ConvCase]:
    """The benchmark's layers of little work: their shapes are what plans are tuned to."""
    from bench import cases

    seen = set()
    for layer in cases.layers():
        if layer.flops(False) > 2 * MOST_WORK:
            continue
        case = from_layer(layer)
        if case not in seen:
            seen.add(case)
            yield case


def from_layer(layer: Layer) -> ConvCase:
    """The problem seen from the convolution's side."""
    size, channels = layer.size, layer.channels
    if layer.transposed:
        size, channels = layer.output_size, (channels[1], channels[0])
    rest = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups", "bias")}
    return ConvCase(size, layer.kernel, channels, batch=1, **rest)


def network_calls() -> Iterator[Call]:
    for case in network_cases():
        for layout in ("contiguous", "channels_last"):
            laid = ConvCase(**{**vars(case), "layout": layout if case.dims > 1 else "contiguous"})
            for operator in reference.OPERATORS:
                for dtype in (torch.float32, torch.bfloat16):
                    tensors = reference.operands(operator, laid, dtype, "normal", 0)
                    yield (
                        f"{operator} {laid.id} {dtype}",
                        lambda *t, o=operator, p=laid: reference.call(o, p, [*t]),
                        tensors,
                    )


def with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], list[Tensor]]:
    """The result, and the gradient of the sum of its squares."""

    def run(x: Tensor) -> list[Tensor]:
        leaf = x.detach().requires_grad_()
        y = function(leaf)
        return [y.detach(), *torch.autograd.grad(y, [leaf], guarded(y.detach(), "end"))]

    return run


def pool_calls() -> Iterator[Call]:
    for case in pool_case.CASES:
        for dtype in pool_case.FLOATS:
            for name, function in (("max", case.maximum), ("average", case.average)):
                yield f"{name} {case.id} {dtype}", with_gradient(function), [case.image(dtype)]


def unfold_calls() -> Iterator[Call]:
    for case in unfold_case.CASES:
        for dtype in unfold_case.FLOATS:
            x = lay_out(unfold_case.draw(dtype, (case.batch, case.channels, *case.size)), case.layout)
            yield f"unfold {case.id} {dtype}", with_gradient(lambda t, c=case: CF.unfold(t, *c.conf)), [x]


def norm_calls() -> Iterator[Call]:
    for name, make in norm_case.INPUTS.items():
        for dtype in norm_case.FLOATS:
            yield f"norm {name} {dtype}", with_gradient(lambda t: CF.local_response_norm(t, 5)), [make().to(dtype)]


FAMILIES = {
    "conv": conv_calls,
    "backward": backward_calls,
    "networks": network_calls,
    "pool": pool_calls,
    "unfold": unfold_calls,
    "norm": norm_calls,
}


def main() -> int:
    torch.manual_seed(0)
    count = 0
    for name, function, tensors in FAMILIES[sys.argv[1]]():
        for level in convext.backends.cpu.isa_levels():
            with convext.backends.cpu.max_isa(level):
                print(f"{name} {level}: expected", flush=True)
                want = function(*tensors)
                for side in SIDES:
                    print(f"{name} {level}: against the {side}", flush=True)
                    if not same(function(*all_guarded(tensors, side)), want):
                        print("gives another result", flush=True)
                        return 1
                    count += 1
    print(f"{count} calls, none beyond its operands", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
