"""The padding language: what a caller may write, and the pixels (lo, hi) it means on each axis. See docs/padding.md.

As from torch's argument parser, a wrong type is a TypeError and a wrong number or value a RuntimeError.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

__all__ = [
    "MODES",
    "WORDS",
    "Entry",
    "Pair",
    "conv_pairs",
    "int_or_ints",
    "mode_index",
    "on_each_axis",
    "parse",
    "plain_int",
    "transposed_pairs",
]

MODES = ("zeros", "reflect", "replicate", "circular")
WORDS = ("valid", "same", "same_lower", "causal", "full")

Pair = tuple[int, int]
Entry = int | Pair | str  # what one axis may be given

_INT64 = 1 << 63


def plain_int(what: str, value: Any) -> int:
    """An int, a symbolic int, a NumPy integer or an integer tensor of one element; no bool. `what` begins the message.

    Raises:
        TypeError: another type.
        ValueError: beyond 64 bits.
    """
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if isinstance(value, bool):
        raise TypeError(f"{what}: expected an int, got {value!r}")
    if not isinstance(value, int):
        try:
            value = operator.index(value)
        except (TypeError, RuntimeError):
            raise TypeError(f"{what}: expected an int, got {value!r}") from None
    if not -_INT64 <= value < _INT64:
        raise ValueError(f"{what}: expected an int of 64 bits, got {value}")
    return int(value)


def int_or_ints(name: str, argument: str, value: Any) -> int | tuple[int, ...]:
    """An int, or a list or tuple of ints.

    Raises:
        TypeError: something else.
    """
    if isinstance(value, (list, tuple)):
        return tuple([plain_int(f"{name}: {argument}", v) for v in value])
    return plain_int(f"{name}: {argument}", value)


def on_each_axis(name: str, argument: str, value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """One int for each axis, from one or from `rank`.

    Raises:
        RuntimeError: another number of them.
    """
    if not isinstance(value, tuple):
        return (value,) * rank
    if len(value) == rank:
        return value
    if len(value) == 1:
        return value * rank
    raise RuntimeError(f"{name}: expected {argument} to be one int or {rank}, one for each axis, got {list(value)}")


def mode_index(name: str, padding_mode: Any) -> int:
    """The operators' number of a padding mode.

    Raises:
        ValueError: not one of `MODES`.
    """
    if padding_mode not in MODES:
        raise ValueError(f"{name}: expected padding_mode to be one of {', '.join(MODES)}, got {padding_mode!r}")
    return MODES.index(padding_mode)


def parse(name: str, padding: Any, rank: int, unknown_word: type[Exception] = RuntimeError) -> tuple[Entry, ...]:
    """One entry for each axis: an int, a pair (lo, hi) or a word of `WORDS`.

    Raises:
        TypeError: an entry of another type.
        RuntimeError: another number of entries.
        unknown_word: a string that is none of `WORDS`.
    """
    if not isinstance(padding, (list, tuple)):
        return (_entry(name, padding, unknown_word),) * rank
    entries = tuple([_entry(name, p, unknown_word) for p in padding])
    if len(entries) == rank:
        return entries
    if len(entries) == 1 and not isinstance(entries[0], (tuple, str)):
        return entries * rank
    raise RuntimeError(
        f"{name}: expected padding to be an int, a word or {rank} of int, pair (lo, hi) or word, one for each axis, "
        f"got {list(padding)}"
    )


def _entry(name: str, value: Any, unknown_word: type[Exception]) -> Entry:
    if isinstance(value, str):
        if value not in WORDS:
            known = ", ".join(WORDS)
            raise unknown_word(f"{name}: expected padding to be an int, a pair or one of {known}, got {value!r}")
        return value
    if not isinstance(value, (list, tuple)):
        return plain_int(f"{name}: padding", value)
    if len(value) != 2:
        raise TypeError(f"{name}: expected the padding of an axis to be a pair (lo, hi), got {value!r}")
    return plain_int(f"{name}: padding", value[0]), plain_int(f"{name}: padding", value[1])


def _both_sides(name: str, value: int) -> Pair:
    if value < 0:
        raise RuntimeError(f"{name}: expected an int padding to be 0 or more (a pair may be negative), got {value}")
    return value, value


def _at_least_0(value: int) -> int:
    return max(value, 0) if isinstance(value, int) else torch.sym_max(value, 0)


def conv_pairs(
    name: str,
    entries: Sequence[Entry],
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Pair, ...]:
    """The pixels that a convolution adds before and after each axis of its input (crops, where negative).

    Raises:
        RuntimeError: a negative int.
    """

    def pair(entry: Entry, size: int, k: int, s: int, d: int) -> Pair:
        if isinstance(entry, tuple):
            return entry
        if not isinstance(entry, str):
            return _both_sides(name, entry)
        extent = d * (k - 1)
        if entry == "valid":
            return 0, 0
        if entry == "full":
            return extent, extent
        if entry == "causal":
            return extent, 0
        # at stride 1 the total is the extent, whatever the size: no question about a symbolic size is asked
        total = extent if s == 1 else _at_least_0(((size + s - 1) // s - 1) * s + extent + 1 - size)
        half = total // 2
        return (half, total - half) if entry == "same" else (total - half, half)

    return tuple([pair(*axis) for axis in zip(entries, sizes, kernel, stride, dilation, strict=True)])


def transposed_pairs(
    name: str, entries: Sequence[Entry], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Pair, ...]:
    """The pixels that a transposed convolution crops from the start and end of each axis (adds, where negative).

    Raises:
        RuntimeError: a negative int.
        ValueError: 'full', which would leave nothing.
    """

    def pair(entry: Entry, k: int, s: int, d: int) -> Pair:
        if isinstance(entry, tuple):
            return entry
        if not isinstance(entry, str):
            return _both_sides(name, entry)
        if entry == "full":
            raise ValueError(f"{name}: expected a padding with a transposed meaning, got 'full'")
        if entry == "valid":
            return 0, 0
        total = d * (k - 1) + 1 - s  # what in * stride has less than the whole result
        if total < 0 or entry == "causal":
            return 0, total
        half = total // 2
        return (half, total - half) if entry == "same" else (total - half, half)

    return tuple([pair(*axis) for axis in zip(entries, kernel, stride, dilation, strict=True)])
