"""What each element of a tensor sees of the input of the model, axis by axis, exactly and whatever the padding.

Along an axis of a tensor the elements see intervals of an axis of the input. All operators that matter read windows at
regular distances, so the intervals repeat: it is enough to keep those of one period of neighbours, and how much further
on the next period is. The usual formula (Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural
Networks, Distill 2019) is that of period 1; a transposed convolution or an interpolation needs more. Padding counts as
more of the input, so that elements at the border have fields as large as those in the middle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

__all__ = ["WHOLE", "Axis", "Field", "Read", "Seen", "adaptive", "resized", "shifted", "spread", "windows"]


@dataclasses.dataclass(frozen=True)
class Read:
    """Which elements of its input an operator reads along an axis: element o reads those from first(o) to last(o).

    first(o + every) = first(o) + step, and the same of last.
    """

    first: Callable[[int], int]
    last: Callable[[int], int]
    step: int
    every: int = 1

    @property
    def is_identity(self) -> bool:
        """Whether element o reads element o."""
        return (self.step, self.every, self.first(0), self.last(0)) == (1, 1, 0, 0)


def windows(kernel: int, stride: int = 1, before: int = 0, dilation: int = 1) -> Read:
    """A convolution or pooling that pads `before` elements."""
    reach = dilation * (kernel - 1)
    return Read(lambda o: o * stride - before, lambda o: o * stride - before + reach, stride)


def shifted(by: int) -> Read:
    """One element each: o reads o + by."""
    return windows(1, before=-by)


def spread(kernel: int, stride: int, before: int = 0, dilation: int = 1) -> Read:
    """A transposed convolution, whose result is cropped by `before` elements at its start."""
    reach = dilation * (kernel - 1)
    # where the stride exceeds the kernel some elements read nothing, from first = last + 1
    return Read(lambda o: -((reach - o - before) // stride), lambda o: (o + before) // stride, 1, stride)


def adaptive(size: int, output: int) -> Read:
    """An adaptive pooling of `size` elements to `output`."""
    ratio = Fraction(size, output)
    return Read(
        lambda o: math.floor(o * ratio),
        lambda o: math.ceil((o + 1) * ratio) - 1,
        ratio.numerator,
        ratio.denominator,
    )


def resized(size: int, output: int, mode: str, align_corners: bool = False) -> Read:
    """An interpolation; mode is 'nearest', 'nearest-exact', 'linear' or 'cubic', or one of these and '_aa'."""
    if align_corners and output > 1:
        ratio, offset = Fraction(size - 1, output - 1), Fraction(0)
    else:
        ratio = Fraction(size, output)
        offset = Fraction(0) if mode == "nearest" else ratio / 2 - Fraction(1, 2)
    if mode.startswith("nearest"):
        rounding = Fraction(1, 2) if mode == "nearest-exact" else 0

        def nearest(o: int) -> int:
            return math.floor(o * ratio + offset + rounding)

        return Read(nearest, nearest, ratio.numerator, ratio.denominator)
    taps = Fraction(2 if mode.startswith("cubic") else 1)
    if mode.endswith("_aa") and ratio > 1:
        taps *= ratio

    # weights vanish at the distance `taps`
    def first(o: int) -> int:
        return math.floor(o * ratio + offset - taps) + 1

    def last(o: int) -> int:
        return math.ceil(o * ratio + offset + taps) - 1

    return Read(first, last, ratio.numerator, ratio.denominator)


@dataclasses.dataclass(frozen=True)
class Axis:
    """Element o sees the elements of the input from low to high of pattern[o % period], + o // period * advance."""

    pattern: tuple[tuple[int, int], ...] = ((0, 0),)
    advance: int = 1

    @property
    def size(self) -> int:
        """The receptive field: how many elements of the input an element sees, the most of any."""
        return max(high - low + 1 for low, high in self.pattern)

    @property
    def jump(self) -> Fraction:
        """By how many elements of the input the fields of neighbours differ: the product of the strides."""
        return Fraction(self.advance, len(self.pattern))

    def at(self, o: int) -> tuple[int, int]:
        low, high = self.pattern[o % len(self.pattern)]
        shift = o // len(self.pattern) * self.advance
        return low + shift, high + shift

    def read(self, read: Read) -> Axis:
        """The axis of what an operator makes of this one."""
        if read.is_identity:
            return self
        period = len(self.pattern)
        repeats = period // math.gcd(period, read.step) if read.step else 1
        pattern = [(self.at(read.first(o))[0], self.at(read.last(o))[1]) for o in range(read.every * repeats)]
        return Axis(tuple(pattern), self.advance * (read.step * repeats // period)).reduced()

    def reduced(self) -> Axis:
        """The same with the shortest period."""
        period = len(self.pattern)
        for shorter in range(1, period):
            if period % shorter == 0 and self.advance * shorter % period == 0:
                axis = Axis(self.pattern[:shorter], self.advance * shorter // period)
                if all(axis.at(o) == self.pattern[o] for o in range(shorter, period)):
                    return axis
        return self

    def joined(self, other: Axis, size: int) -> Axis:
        """What the elements see of both, of axes of this size."""
        jump, period = self.jump, math.lcm(len(self.pattern), len(other.pattern))
        if jump != other.jump:  # no common period: say it for every element that there is
            jump, period = max(jump, other.jump), max(size, 1)
        pairs = [(self.at(o), other.at(o)) for o in range(period)]
        pattern = tuple([(min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs])
        return Axis(pattern, round(jump * period)).reduced()


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a tensor sees of one axis of the input.

    Its elements see `axis` along their own dimension `dim`; with dim None all see the same, axis.at(0); with axis None
    all see all of it. Where axes were flattened into one dimension, its element i sees that of i // inner % length.
    """

    dim: int | None
    axis: Axis | None
    inner: int = 1
    length: int | None = None  # None: the axis has the dimension to itself
    again: bool = False  # whether the axis is run through more than once

    def element(self, i: int) -> int:
        """The element of the axis that element i of the dimension sees."""
        return i if self.length is None else i // self.inner % self.length


WHOLE = Seen(None, None)


@dataclasses.dataclass(frozen=True)
class Field:
    """What a tensor sees of the input: one entry for each axis of the input."""

    seen: tuple[Seen, ...]

    @staticmethod
    def of_input(rank: int) -> Field:
        return Field(tuple([Seen(dim, Axis()) for dim in range(rank)]))

    def along(self, dim: int) -> list[int]:
        """The axes of the input that are seen along this dimension."""
        return [i for i, seen in enumerate(self.seen) if seen.dim == dim]

    def change(self, dim: int, to: Callable[[Axis], Seen]) -> Field:
        """The field with another entry where it moves along `dim`; of an axis that comes again all is seen."""

        def entry(seen: Seen) -> Seen:
            if seen.dim != dim or seen.axis is None:
                return seen
            return WHOLE if seen.again else to(seen.axis.read(spread(seen.inner, seen.inner)))

        return Field(tuple(map(entry, self.seen)))

    def read(self, dim: int, read: Read) -> Field:
        """After an operator that reads so along `dim`."""
        if read.is_identity:
            return self
        return self.change(dim, lambda axis: Seen(dim, axis.read(read)))

    def whole(self, *dims: int) -> Field:
        """After an operator every element of whose result reads all along these dimensions."""
        field = self
        for dim in dims:
            field = field.change(dim, lambda _: WHOLE)
        return field

    def picked(self, dim: int, index: int) -> Field:
        """One element along `dim`, which is then no dimension; `moved` counts the others anew."""
        return self.change(dim, lambda axis: Seen(None, axis.read(Read(lambda _: index, lambda _: index, 0))))

    def moved(self, dims: Mapping[int, int]) -> Field:
        """The dimensions by other numbers; of those that are not named every element is read."""

        def entry(seen: Seen) -> Seen:
            if seen.dim is None:
                return seen
            return dataclasses.replace(seen, dim=dims[seen.dim]) if seen.dim in dims else WHOLE

        return Field(tuple(map(entry, self.seen)))

    def viewed(self, old: Sequence[int], new: Sequence[int]) -> Field:
        """After a view of another size, whose elements have the same order."""
        return Field(tuple([_viewed(seen, old, new) for seen in self.seen]))

    def joined(self, other: Field, size: Sequence[int]) -> Field:
        """What elements see that depend on both, in tensors of this size."""
        if len(self.seen) != len(other.seen):  # of two inputs of different rank: the one with more axes is the image
            return max(self, other, key=lambda field: len(field.seen))
        return Field(tuple([_joined(a, b, size) for a, b in zip(self.seen, other.seen, strict=True)]))


def _viewed(seen: Seen, old: Sequence[int], new: Sequence[int]) -> Seen:
    """In the order of the elements number n sees that of n // step % length: find the dimension that says so."""
    if seen.dim is None or seen.axis is None:
        return seen
    step = seen.inner * math.prod(old[seen.dim + 1 :])
    length = old[seen.dim] if seen.length is None else seen.length
    steps = [math.prod(new[dim + 1 :]) for dim in range(len(new))]
    alone = [dim for dim in range(len(new)) if (steps[dim], new[dim]) == (step, length)]
    if alone:
        return Seen(seen.dim if seen.dim in alone else alone[0], seen.axis)
    if length == 1:
        return Seen(None, seen.axis)
    for dim, after in enumerate(steps):
        if after and step % after == 0 and after * new[dim] % (step * length) == 0:
            return Seen(dim, seen.axis, step // after, length, after * new[dim] > step * length)
    return WHOLE


def _joined(a: Seen, b: Seen, size: Sequence[int]) -> Seen:
    if a.axis is None or b.axis is None:
        return WHOLE
    if a.dim is None or b.dim is None:
        a, b = (b, a) if a.dim is None else (a, b)
    elif dataclasses.replace(a, axis=None) != dataclasses.replace(b, axis=None):
        return WHOLE
    assert a.axis is not None and b.axis is not None
    length = 1 if a.dim is None else size[a.dim] if a.length is None else a.length
    return dataclasses.replace(a, axis=a.axis.joined(b.axis, length))
