"""The convolution problems that drive the tests: hand-picked ones, and a list that covers all pairs of settings.

A problem is stated from the convolution's side: input (N, C, *size), weight (K, C / groups, *kernel), output
(N, K, *output_size). The same problem read backwards is dgrad (an output-shaped tensor and the weight give an
input-shaped one) and wgrad.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from tests.conv_case import LAYOUTS, MODES, ConvCase, lay_out, seed_of

__all__ = ["CASES", "LAYOUTS", "MODES", "ConvCase", "lay_out", "seed_of"]


def all_pairs(factors: dict[str, Sequence[Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Few rows such that any two values of two factors meet in one of them (greedy and deterministic)."""
    rng = random.Random(seed)
    names = list(factors)
    left = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }

    def candidate() -> dict[str, int]:
        a, i, b, j = rng.choice(ordered)
        return {n: rng.randrange(len(factors[n])) for n in names} | {a: i, b: j}

    def pairs(row: dict[str, int]) -> set[tuple[str, int, str, int]]:
        return {(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)}

    while left:
        ordered = sorted(left)
        best = max((candidate() for _ in range(20)), key=lambda row: len(pairs(row) & left))
        left -= pairs(best)
        yield {n: factors[n][best[n]] for n in names}


FACTORS: dict[str, Sequence[Any]] = {
    "dims": (1, 2, 3),
    "stride": (1, 2, 3, (1, 2, 4)),
    "kernel": (1, 2, 3, 5, (3, 1, 2)),
    "dilation": (1, 2, (3, 1, 2)),
    "padding": ("none", "half", "asymmetric", "crop", "beyond the kernel"),
    "groups": ("one", "two", "depthwise", "multiplier", "uneven"),
    "channels": ((1, 1), (3, 13), (14, 15), (16, 17), (31, 33), (64, 14), (5, 64)),
    "width": (1, 7, 15, 16, 17, 31, 32, 33, 49, 63),
    "layout": LAYOUTS,
    "padding_mode": MODES,
    "batch": (1, 2, 3),
    "bias": (True, False),
}


def covering_case(row: dict[str, Any]) -> ConvCase:
    """The nearest valid problem to a row of FACTORS: sizes grow until window and padding mode fit."""
    dims = row["dims"]

    def axes(value: Any) -> tuple[int, ...]:
        return value[:dims] if isinstance(value, tuple) else (value,) * dims

    stride, kernel, dilation = (axes(row[name]) for name in ("stride", "kernel", "dilation"))
    if dims == 3 and kernel == (5, 5, 5):
        kernel = (2, 5, 3)  # 125 taps of 5 x 5 x 5 would take as long as all other cases together
    extent = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = {
        "none": [(0, 0) for e in extent],
        "half": [(e // 2, e - e // 2) for e in extent],
        "asymmetric": [(e, 1) if i % 2 else (1, e + 1) for i, e in enumerate(extent)],
        "crop": [(-1, 1) if i % 2 else (e, -2) for i, e in enumerate(extent)],
        "beyond the kernel": [(e + 2, e + 1) for e in extent],
    }[row["padding"]]
    width = min(row["width"], 17) if dims == 3 else row["width"]
    size = [3, 5, width][-dims:] if dims > 1 else [width]
    c, k = row["channels"]
    groups, channels = {
        "one": (1, (c, k)),
        "two": (2, (2 * (c // 2 + 1), 2 * (k // 2 + 1))),
        "depthwise": (c, (c, c)),
        "multiplier": (c, (c, 2 * c)),
        "uneven": (3, (3 * (c % 5 + 1), 3 * (k % 7 + 1))),
    }[row["groups"]]
    for axis, (e, (lo, hi)) in enumerate(zip(extent, padding, strict=True)):
        limit = {"reflect": 1, "circular": 0}.get(row["padding_mode"], 0)
        size[axis] = max(size[axis], e + 1 - lo - hi, lo + limit, hi + limit, 1)
    rest = {name: row[name] for name in ("batch", "layout", "padding_mode", "bias")}
    return ConvCase(
        tuple(size), kernel, channels, stride=stride, padding=padding, dilation=dilation, groups=groups, **rest
    )


def tile_edges() -> Iterator[ConvCase]:
    """Channels and pixels around the edges of the register tiles (multiples of 6, 8, 14, 16, 32)."""
    pixels = (1, 2, 15, 16, 17, 31, 32, 33, 47, 49, 63, 65)
    channels = (1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 28, 29, 31, 33, 64)
    for i in range(16):
        yield ConvCase((pixels[i % 12],), 3, (channels[(5 * i) % 16], channels[i]), batch=1, padding=1, bias=i % 2 == 0)
    for i in range(16):
        yield ConvCase(
            (3, pixels[(i + 5) % 12]), 1, (channels[i], channels[(i * 3 + 7) % 16]), batch=2, bias=i % 2 == 1
        )


def long_reductions() -> Iterator[ConvCase]:
    """Sums longer than a panel: they cross its edge with a full block, one element more, and a long rest."""
    yield ConvCase((6, 7), 3, (70, 15), padding=1)
    yield ConvCase((1100,), 1000, (1, 3), batch=1)
    yield ConvCase((1003,), 1000, (2, 3), batch=1, padding=((500, 499),), layout="channels_last")
    yield ConvCase((5, 5), 1, (600, 17), batch=1)
    for c in (255, 256, 257, 512, 513, 1025):
        yield ConvCase((4, 3), 1, (c, 3), batch=1, bias=False)
    yield ConvCase((1, 1), 1, (600, 17), batch=5)
    yield ConvCase((4, 4), 4, (70, 3), batch=3)
    yield ConvCase((6, 6), 3, (512, 16), batch=1, padding=1)
    yield ConvCase((3, 5, 4), 3, (40, 33), batch=1, padding=1)
    yield ConvCase((70, 71), 3, (2, 3), batch=2, padding=1)  # wgrad sums 9940 pixels
    yield ConvCase((5000,), 4, (2, 2), batch=3, stride=1)
    yield ConvCase((4, 4), 1, (16, 600), batch=1)  # dgrad sums 600 channels
    yield ConvCase((9, 8), 3, (9, 300), batch=1, padding=1, stride=2)
    yield ConvCase((8, 9), 3, (140, 140), batch=1, padding=1, groups=2)
    # groups whose channels fill vectors
    yield ConvCase((8, 9), 3, (128, 128), batch=2, padding=1, groups=8)
    yield ConvCase((9, 11), 3, (96, 192), batch=1, stride=2, padding=((1, 0), (2, 1)), groups=8)
    yield ConvCase((33,), 6, (128, 128), batch=1, padding=3, groups=8)


def phases() -> Iterator[ConvCase]:
    """dgrad splits a problem into stride^d dense ones: strides with and without a factor in common with dilation."""
    for stride, dilation, kernel in itertools.product((2, 3, 4, 6), (1, 2, 3, 4, 6), (1, 2, 3, 5)):
        if (stride + dilation + kernel) % 3 or stride == dilation == 6:
            continue
        size = dilation * (kernel - 1) + 1 + 2 * stride + (stride + dilation) % 3
        padding = (dilation * (kernel - 1) // 2, dilation)
        yield ConvCase((size,), kernel, (5, 6), stride=stride, dilation=dilation, padding=(padding,))
    yield ConvCase((13, 17), 3, (4, 15), stride=(2, 3), dilation=(2, 1), padding=((1, 2), (0, 3)))
    yield ConvCase((9, 12), (3, 2), (6, 6), stride=(4, 2), dilation=(2, 4), padding=2, groups=3)
    yield ConvCase((7, 6, 9), 2, (3, 4), stride=(2, 3, 2), dilation=(2, 3, 1), padding=1)
    # output padding as large as the stride, which torch takes when the dilation is larger still
    yield ConvCase((9,), 3, (3, 5), stride=2, dilation=3, output_padding=2)
    yield ConvCase((9, 11), 3, (3, 5), stride=(2, 3), dilation=(3, 4), padding=1, output_padding=(2, 3))
    yield ConvCase((9, 11), 3, (4, 6), stride=3, padding=1, output_padding=(2, 0), groups=2)


def algorithm_edges() -> Iterator[ConvCase]:
    """What sends a problem from one algorithm, or one way to cut it, to the next."""
    # a weight of more than half a megabyte under few pixels
    yield ConvCase((7, 6), 3, (128, 130), padding=1)
    yield ConvCase((7, 7), 3, (130, 128), padding=1, layout="channels_last", bias=False)
    yield ConvCase((6, 7), 3, (128, 128), batch=3, stride=2, padding=1)
    yield ConvCase((3, 2), 1, (700, 200), batch=3)
    yield ConvCase((3, 3, 2), 3, (64, 96), batch=1, padding=1)
    yield ConvCase((9,), 5, (256, 224), padding=2, groups=2)
    # images taller than a band, rows longer than a stage, kernels longer than a block of the reduction
    yield ConvCase((150, 9), 3, (3, 5), padding=1)
    yield ConvCase((131, 33), (5, 1), (2, 15), batch=1, stride=(2, 1))
    yield ConvCase((40, 6, 9), 3, (2, 3), batch=1, padding=1)
    yield ConvCase((2, 20_000), (2, 3), (2, 2), batch=1, padding=1)
    yield ConvCase((300_000,), 3, (1, 2), batch=1)
    yield ConvCase((100_000,), 5, (2, 4), batch=1, groups=2, padding=2)
    yield ConvCase((35, 34), 33, (2, 3), batch=1, padding=1)
    yield ConvCase((1300,), 1200, (16, 16), batch=1, groups=16, layout="channels_last")
    # wgrad: many slices of pixels
    yield ConvCase((130, 127), 3, (3, 5), batch=4)
    yield ConvCase((90_000,), 2, (3, 17), batch=1, layout="channels_last")
    yield ConvCase((65, 64), 1, (33, 15), batch=4)
    # Winograd: tiles that overhang, a rest of channels and panels, a weight that is transformed piece by piece
    yield ConvCase((13, 14), 3, (33, 47), padding=1)
    yield ConvCase((10, 21), 3, (40, 32), batch=3, padding=((2, 0), (0, 1)), layout="channels_last")
    yield ConvCase((8, 8), 3, (230, 220), batch=1, padding=1)
    # more output phases than dgrad splits into: the direct loop takes it
    yield ConvCase((36, 20, 19), 2, (2, 3), batch=1, stride=17)
    yield ConvCase((19, 18, 20), (18, 2, 1), (1, 2), batch=1, stride=(17, 17, 16), padding=(0, 1, 0))


def depthwise() -> Iterator[ConvCase]:
    """One input channel a group: vectors of channels with and without a rest, over layout, mode and stride."""
    settings = itertools.cycle(
        (
            {"padding": 1},
            {"padding": ((2, 0), (1, 3)), "stride": 2},
            {"padding": 2, "dilation": 2},
            {"padding": 1, "padding_mode": "reflect"},
            {"padding": ((3, 1), (0, 2)), "stride": (1, 3), "padding_mode": "circular"},
            {"padding": ((-1, 2), (2, -1)), "dilation": (1, 2), "bias": False},
            {"padding": 4, "padding_mode": "replicate", "stride": 2},
        )
    )
    for channels in (8, 15, 16, 17, 31, 33, 40, 64, 65):
        for layout in ("channels_last", "contiguous"):
            yield ConvCase((9, 11), 3, (channels, channels), groups=channels, layout=layout, **next(settings))
    for channels in (16, 19):
        yield ConvCase((33,), 5, (channels, channels), groups=channels, padding=2, layout="channels_last")
        yield ConvCase((33,), 4, (channels, channels), groups=channels, stride=3, layout="channels_last")
        yield ConvCase((5, 6, 7), 3, (channels, channels), groups=channels, padding=1, layout="channels_last")
        yield ConvCase((5, 6, 7), 2, (channels, channels), groups=channels, stride=2, layout="transposed")
    for multiplier in (2, 3, 4, 5):
        for layout in ("channels_last", "contiguous"):
            yield ConvCase((8, 9), 3, (17, 17 * multiplier), groups=17, padding=1, layout=layout)
    for multiplier in (2, 4):
        yield ConvCase((7, 26), 3, (40, 40 * multiplier), groups=40, padding=2, stride=(2, 1), layout="channels_last")
        yield ConvCase(
            (6, 19), (2, 5), (33, 33 * multiplier), groups=33, padding=1, dilation=(1, 2), layout="channels_last"
        )
        yield ConvCase(
            (9, 9), 3, (24, 24 * multiplier), groups=24, padding_mode="reflect", padding=1, layout="channels_last"
        )
        yield ConvCase((4, 5, 9), 3, (16, 16 * multiplier), groups=16, padding=1, layout="channels_last", batch=1)


def planes_in_lanes() -> Iterator[ConvCase]:
    """Depthwise on contiguous images, a vector of planes at a time: blocks across samples, bands, far taps."""
    # planes of several samples in one vector, and a last vector that they do not fill
    yield ConvCase((5, 7), 3, (11, 11), batch=3, groups=11, padding=1)
    yield ConvCase((7, 7), 3, (19, 38), batch=3, groups=19, padding=1, stride=2)
    # planes larger than a band, cut by rows, by columns, and by depth
    yield ConvCase((90, 83), 3, (17, 17), batch=1, groups=17, padding=1)
    yield ConvCase((97, 80), 5, (16, 16), batch=1, groups=16, padding=2, stride=2)
    yield ConvCase((3000,), 4, (17, 17), batch=1, groups=17, padding=((3, 0),))
    yield ConvCase((3000,), 3, (9, 18), batch=1, groups=9, padding=1, stride=3)
    yield ConvCase((9, 20, 21), 3, (17, 17), batch=1, groups=17, padding=1)
    yield ConvCase((11, 18, 17), 3, (16, 16), batch=1, groups=16, padding=1, stride=2)
    # taps further apart than the band is long are staged one by one
    yield ConvCase((41,), 3, (16, 16), groups=16, dilation=19)
    yield ConvCase((41,), 3, (16, 16), groups=16, dilation=18, padding=18, stride=2)
    yield ConvCase((15, 14), 3, (17, 34), groups=17, dilation=(6, 7), padding=2)
    yield ConvCase((15, 14), 3, (16, 16), groups=16, dilation=(1, 7), padding=((0, 1), (3, 2)), padding_mode="reflect")
    # more than one block of the reduction, and strides that skip source pixels
    yield ConvCase((19, 20), 17, (16, 16), batch=1, groups=16, padding=3)
    yield ConvCase((400,), 300, (16, 32), batch=1, groups=16)
    yield ConvCase((17, 18), 2, (16, 16), groups=16, stride=(4, 3))
    yield ConvCase((5, 4), 1, (33, 33), groups=33, stride=2, bias=False)


def fully_connected() -> Iterator[ConvCase]:
    """A kernel as large as the image: its taps become channels where the operands are dense."""
    for layout in LAYOUTS:
        yield ConvCase((5, 6), (5, 6), (7, 33), batch=3, layout=layout)
        yield ConvCase((9,), 9, (31, 15), batch=2, layout=layout, bias=False)
    yield ConvCase((4, 4), 4, (64, 1), batch=5)
    yield ConvCase((4, 4), 4, (1, 40), batch=5)
    yield ConvCase((2, 3, 3), (2, 3, 3), (12, 10), batch=2, groups=2)
    yield ConvCase((6, 5), (6, 5), (20, 20), groups=20)
    yield ConvCase((7, 7), 7, (16, 17), batch=1, stride=3)
    yield ConvCase((7, 7), 7, (16, 17), batch=1, padding=1)
    yield ConvCase((5, 5), 3, (16, 17), batch=1, dilation=2)
    yield ConvCase((40, 33), 1, (70, 2))  # a single tap for few channels


def hand_picked() -> Iterator[ConvCase]:
    """Shapes of known networks at small size, and the corners of every formula."""
    yield ConvCase((31, 29), 7, (3, 17), stride=2, padding=3)
    yield ConvCase((43, 39), 11, (3, 13), stride=4, padding=2, batch=1)
    yield ConvCase((28, 28), 5, (1, 6), padding=2)
    yield ConvCase((14, 14), 3, (33, 33), padding=1, layout="channels_last")
    yield ConvCase((14, 15), 3, (31, 31), padding=1, groups=31, stride=2)
    yield ConvCase((13, 13), 7, (17, 17), padding=3, groups=17, layout="channels_last")
    yield ConvCase((8, 8), 4, (16, 14), stride=2, padding=1)
    yield ConvCase((8, 8), 2, (16, 8), stride=2)
    yield ConvCase((96,), 2, (14, 28), padding=((16, 0),), dilation=16)
    yield ConvCase((160,), 10, (1, 33), stride=5)
    yield ConvCase((6, 7, 8), 3, (15, 14), padding=1, batch=1, layout="channels_last")
    yield ConvCase((4, 4, 4), 2, (8, 4), stride=2, batch=2)
    # kernel = input; one output pixel; an image of one pixel
    yield ConvCase((7, 5), (7, 5), (6, 15))
    yield ConvCase((1, 1), 1, (17, 33), batch=3)
    yield ConvCase((1, 1), 1, (600, 128), batch=3)
    yield ConvCase((1, 1), 1, (70, 5), stride=3, padding=1)  # whose window reads padding alone
    yield ConvCase((1, 1), 3, (16, 3), padding=1)
    yield ConvCase((1, 1, 1), 3, (2, 3), padding=1)
    # a stride larger than the kernel leaves input pixels without any gradient
    yield ConvCase((17,), 2, (3, 4), stride=5)
    yield ConvCase((11, 10), (1, 2), (14, 3), stride=(3, 4), padding=(0, 1))
    yield ConvCase((9, 9), 1, (33, 14), stride=2)
    yield ConvCase((5, 6, 7), 1, (3, 3), stride=(2, 3, 4))
    # padding beyond the kernel: whole outputs see zeros only; cropping: whole input edges have no gradient
    yield ConvCase((4, 5), 2, (3, 16), padding=((4, 5), (6, 3)))
    yield ConvCase((9, 12), 3, (3, 5), padding=((-2, -1), (-3, 1)), stride=(1, 2))
    yield ConvCase((6,), 3, (2, 2), padding=((-1, -1),))
    # nothing to do, in a batch and in channels that are hardly there
    yield ConvCase((5, 6), 3, (4, 6), batch=0, groups=2)
    yield ConvCase((5,), 3, (4, 6), batch=0)
    yield ConvCase((5, 4, 4), 3, (1, 1), batch=0, padding=1)
    # every mode with the widest padding it allows, and with a remainder that the exact padding takes away
    for mode in MODES[1:]:
        widest = {"reflect": 3, "circular": 4}.get(mode, 9)
        yield ConvCase((4, 4), 3, (3, 5), padding=((widest, widest - 1), (0, widest)), padding_mode=mode)
        yield ConvCase((8,), 3, (3, 5), stride=2, padding=((1, 0),), padding_mode=mode)
        yield ConvCase((7, 8), 2, (4, 4), stride=(3, 2), padding=((2, 0), (1, 1)), groups=2, padding_mode=mode)
        yield ConvCase((4, 5, 3), 3, (2, 3), padding=2, padding_mode=mode, dilation=(1, 2, 1))
        yield ConvCase((12, 11), 5, (6, 12), padding=2, padding_mode=mode, groups=6, layout="channels_last")
        yield ConvCase((1, 33), (1, 3), (15, 17), padding=(0, 1), padding_mode=mode)
    yield ConvCase((1,), 3, (3, 4), padding=1, padding_mode="circular")
    yield ConvCase((1, 2), 3, (3, 4), padding=2, padding_mode="replicate")
    for layout in LAYOUTS:
        yield ConvCase((9, 10), 3, (8, 16), padding=1, layout=layout)
        yield ConvCase((6, 5, 7), 2, (6, 9), groups=3, stride=(1, 2, 1), layout=layout)
        yield ConvCase((33,), 4, (7, 15), stride=2, padding=2, layout=layout)
        yield ConvCase((7, 33), 3, (32, 32), padding=1, groups=32, layout=layout)
    for groups, c, k in ((2, 2, 4), (3, 9, 3), (4, 4, 12), (5, 10, 15), (16, 16, 16), (2, 66, 28), (33, 33, 66)):
        yield ConvCase((6, 7), 3, (c, k), groups=groups, padding=1, batch=2)


def grouped_lanes() -> Iterator[ConvCase]:
    """Groups of few channels on both sides, several to a vector; and those that are too many for one."""
    settings = itertools.cycle(
        (
            {"padding": 1},
            {"padding": 1, "stride": 2},
            {"padding": 2, "dilation": 2, "bias": False},
            {"padding": ((2, 0), (1, 3)), "padding_mode": "reflect"},
            {"padding": ((-1, 2), (2, -1)), "stride": (2, 1)},
        )
    )
    for size in (2, 4, 8, 16, 32):
        for groups in (3, 4, 5):
            yield ConvCase(
                (7, 18), 3, (size * groups,) * 2, groups=groups, layout="channels_last", batch=2, **next(settings)
            )
    yield ConvCase((5, 31), (1, 5), (64, 64), groups=16, padding=(0, 2), layout="channels_last", batch=1)
    yield ConvCase((9, 9), 7, (32, 32), groups=8, padding=3, layout="channels_last", batch=0)
    yield ConvCase((4, 5, 16), 3, (24, 24), groups=6, padding=1, layout="channels_last", batch=1)


def pixel_rows() -> Iterator[ConvCase]:
    """channels_last: rows of terms read in place or copied, their runs of a kernel row, and narrow results."""
    yield ConvCase((17, 19), 7, (3, 20), stride=2, padding=3, layout="channels_last", batch=1)
    yield ConvCase((16, 33), 3, (3, 32), stride=2, padding=1, layout="channels_last")
    yield ConvCase((9, 31), 3, (1, 33), padding=1, layout="channels_last", batch=1)
    yield ConvCase((15, 17), 11, (3, 16), stride=4, padding=2, layout="channels_last", batch=1)
    yield ConvCase((8, 9), 3, (3, 8), dilation=2, padding=2, layout="channels_last")
    yield ConvCase((9, 8), 3, (5, 16), padding=2, padding_mode="circular", layout="channels_last")
    yield ConvCase((12, 14), 1, (16, 48), stride=2, layout="channels_last")
    yield ConvCase((5, 7), 1, (1024, 16), layout="channels_last", batch=1)  # rows that fall into one set of L1
    yield ConvCase((11, 13), 1, (64, 2), layout="channels_last")
    yield ConvCase((9, 35), 3, (32, 3), padding=1, layout="channels_last")
    yield ConvCase((7, 20), 3, (16, 4), stride=2, padding=2, padding_mode="reflect", layout="channels_last", batch=1)
    yield ConvCase((16, 18), 4, (3, 48), stride=2, padding=1, layout="channels_last")
    yield ConvCase((4, 6, 19), (3, 1, 2), (16, 1), padding=1, layout="channels_last", bias=False)
    yield ConvCase((6, 10), 2, (33, 24), stride=2, layout="channels_last")
    yield ConvCase((4, 6, 9), 3, (3, 17), padding=1, layout="channels_last", batch=1)
    # windows in the image, segments of it with their padding, and both in one reduction of several blocks
    yield ConvCase((5, 29), 3, (3, 40), padding=((0, 2), (3, 1)), layout="channels_last")
    yield ConvCase((6, 30), (3, 5), (6, 18), groups=2, padding=2, padding_mode="reflect", layout="channels_last")
    yield ConvCase((7, 28), 5, (16, 33), padding=2, layout="channels_last", batch=1)
    yield ConvCase((3, 5, 28), 3, (12, 16), stride=(1, 1, 2), padding=1, layout="channels_last", batch=1)
    # short sums of many result channels: tiles of two panels, and what is left of them
    yield ConvCase((9, 31), 3, (3, 64), padding=1, layout="channels_last")
    yield ConvCase((7, 26), 1, (48, 160), layout="channels_last", batch=1)
    yield ConvCase((5, 37), 3, (2, 100), stride=(1, 2), padding=1, layout="channels_last")
    yield ConvCase((6, 25), 2, (136, 9), layout="channels_last")
    # single taps whose pixels all read padding, or some of them
    yield ConvCase((9, 28), 3, (136, 24), dilation=(5, 6), padding=(5, 6), layout="channels_last", batch=1)


def unique(cases: Iterator[ConvCase]) -> list[ConvCase]:
    return list(dict.fromkeys(cases))


CASES = unique(
    itertools.chain(
        hand_picked(),
        tile_edges(),
        long_reductions(),
        phases(),
        depthwise(),
        grouped_lanes(),
        pixel_rows(),
        planes_in_lanes(),
        fully_connected(),
        algorithm_edges(),
        map(covering_case, all_pairs(FACTORS, seed=20)),
    )
)
