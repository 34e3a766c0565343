"""Convolutions that Winograd's algorithm takes: every edge of its tiles, runs, blocks, chunks, panels and vectors."""

from __future__ import annotations

from collections.abc import Iterator

from tests.cases import LAYOUTS, MODES, ConvCase


def cases() -> Iterator[ConvCase]:
    """Every edge of tiles, runs, blocks, chunks, panels and vectors."""
    yield ConvCase((16, 16), 3, (64, 64), padding=1)
    yield ConvCase((15, 18), 3, (33, 47), batch=3)
    yield ConvCase((10, 70), 3, (32, 32), padding=1, bias=False)  # more than a run of tiles
    yield ConvCase((57, 56), 3, (20, 35), batch=1, padding=1)
    yield ConvCase((61, 11), 3, (40, 100), padding=((2, 0), (0, 3)))
    yield ConvCase((16, 17), 3, (48, 65), padding=((-2, 1), (4, -1)))
    yield ConvCase((12, 11), 3, (64, 32), batch=5, padding=2)
    yield ConvCase((13, 14), 3, (160, 32), padding=1)  # a chunk of channels and a rest
    yield ConvCase((14, 14), 3, (270, 200), batch=1, padding=1)  # a weight that is transformed chunk by chunk
    yield ConvCase((13, 13), 3, (224, 257), padding=1, layout="channels_last")
    yield ConvCase((22, 23), 3, (64, 96), groups=2, padding=1)
    yield ConvCase((13, 13), 3, (480, 456), batch=1, groups=2, padding=1)
    for layout in LAYOUTS[1:]:
        yield ConvCase((15, 14), 3, (64, 40), padding=1, layout=layout)
        yield ConvCase((13, 14), 3, (208, 230), batch=1, padding=1, layout=layout)
    for mode in MODES[1:]:
        yield ConvCase((9, 33), 3, (32, 48), padding=((1, 3), (2, 1)), padding_mode=mode)
        yield ConvCase((14, 13), 3, (40, 40), padding=1, padding_mode=mode, layout="channels_last")


def other_kernels() -> Iterator[ConvCase]:
    """Kernels of 5 x 5, and with a depth: edges of tiles, slices, blocks, chunks and panels."""
    yield ConvCase((16, 16), 5, (32, 64), padding=2)
    yield ConvCase((17, 62), 5, (33, 47), batch=3)
    yield ConvCase((31, 37), 5, (33, 20), padding=2, layout="channels_last")
    yield ConvCase((13, 14), 5, (160, 32), padding=((3, 1), (2, 4)))
    yield ConvCase((14, 14), 5, (200, 200), batch=1, padding=2)  # deep
    yield ConvCase((22, 23), 5, (64, 96), groups=2, padding=2)
    yield ConvCase((14, 15), 5, (40, 48), padding=2, padding_mode="reflect")
    for layout in LAYOUTS[1:]:
        yield ConvCase((15, 14), 5, (64, 40), padding=2, layout=layout)
    yield ConvCase((8, 8, 8), 3, (32, 40), padding=1)
    yield ConvCase((5, 9, 12), 3, (16, 33), batch=3, padding=1)
    yield ConvCase((19, 13, 9), 3, (24, 32), batch=1, padding=((2, 0), (1, 1), (0, 2)))  # several blocks of slices
    yield ConvCase((8, 8, 8), 3, (144, 136), batch=2, padding=1)  # deep
    yield ConvCase((18, 8, 8), 3, (144, 136), batch=1, padding=1)  # and more than one block of slices
    yield ConvCase((7, 12, 12), (1, 3, 3), (32, 48), padding=(0, 1, 1))
    yield ConvCase((7, 12, 12), (1, 3, 3), (32, 48), padding=1)  # slices that read padding alone
    yield ConvCase((6, 14, 13), (2, 5, 5), (32, 32), padding=2)
    yield ConvCase((8, 9, 12), 3, (32, 64), groups=2, padding=1, layout="channels_last")
    yield ConvCase((6, 12, 12), 3, (32, 32), padding=1, padding_mode="circular")


def summed_taps() -> Iterator[ConvCase]:
    """Depth taps that are summed together: all, some and a rest, chunk by chunk; so few channels that they must be."""
    yield ConvCase((6, 9, 10), 3, (48, 40), padding=1)
    yield ConvCase((11, 10, 12), (7, 3, 3), (16, 32), padding=(3, 1, 0))
    yield ConvCase((5, 9, 9), 3, (32, 640), batch=1, padding=1)  # deep
    yield ConvCase((5, 9, 9), 3, (48, 432), batch=1, padding=1)
    yield ConvCase((12, 12, 13), 5, (12, 12), padding=2)
    yield ConvCase((13, 12, 12), 3, (13, 15), padding=1, layout="channels_last")


def dilated() -> Iterator[ConvCase]:
    """Interleaved tiles: whole and unequal phases, groups of tiles, runs, blocks and slices of them."""
    yield ConvCase((28, 28), 3, (64, 64), padding=4, dilation=4)
    yield ConvCase((28, 27), 3, (33, 47), batch=3, padding=((3, 1), (4, 2)), dilation=2)
    yield ConvCase((21, 40), 3, (40, 32), padding=((2, 4), (1, 3)), dilation=(1, 3))
    yield ConvCase((32, 19), 3, (32, 40), padding=((40, 3), (2, 2)), dilation=(2, 1))  # more padding than image
    yield ConvCase((33, 66), 3, (32, 32), padding=((3, 3), (8, 8)), dilation=(3, 8), bias=False)  # runs of one group
    yield ConvCase((43, 40), 3, (24, 32), batch=1, padding=10, dilation=10)
    yield ConvCase((27, 70), 3, (32, 32), padding=((0, 3), (-1, 6)), dilation=5)
    yield ConvCase((30, 24), 3, (272, 200), batch=1, padding=2, dilation=2)  # deep
    yield ConvCase((28, 28), 3, (288, 160), batch=2, groups=2, padding=4, dilation=4)
    yield ConvCase((29, 31), 5, (32, 48), padding=4, dilation=2)
    yield ConvCase((24, 36), 5, (32, 32), padding=((3, 2), (12, 12)), dilation=(1, 6))
    yield ConvCase((6, 16, 16), (1, 3, 3), (32, 32), padding=(0, 2, 2), dilation=(1, 2, 2))
    yield ConvCase((7, 16, 24), 3, (24, 32), padding=(1, 2, 3), dilation=(1, 2, 3))
    for layout in LAYOUTS[1:]:
        yield ConvCase((24, 23), 3, (64, 40), padding=3, dilation=3, layout=layout)
    for mode in MODES[1:]:
        yield ConvCase((17, 33), 3, (32, 48), padding=((1, 3), (2, 1)), padding_mode=mode, dilation=2)


CASES = list(cases())
OTHERS = [*other_kernels(), *dilated()]
SUMMED_TAPS = list(summed_taps())
LARGE = ConvCase((56, 56), 3, (64, 64), batch=2, padding=1)
DEEP_DILATED = ConvCase((28, 28), 3, (512, 256), batch=1, padding=4, dilation=4)
DEEP = ConvCase((28, 28), 3, (512, 256), batch=1, padding=1)
