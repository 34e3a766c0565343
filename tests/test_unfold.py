"""unfold and fold: values on every instruction set, adjointness, bits, memory, against torch and by definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import convext.functional as CF
from tests import unfold_case
from tests.conv_case import lay_out
from tests.unfold_case import CASES, COMPLEX, DTYPES, FLOATS, NOT_IN_TORCH, UnfoldCase, draw


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_exact(case: UnfoldCase, isa: str) -> None:
    for dtype in DTYPES:
        x = lay_out(draw(dtype, (case.batch, case.channels, *case.size)), case.layout)
        columns = CF.unfold(x, *case.conf)
        wanted = unfold_case.unfold(case, x)
        assert torch.equal(columns, wanted), f"unfold {dtype}"
        assert columns.is_contiguous() and columns.dtype is dtype
        g = lay_out(draw(dtype, wanted.shape), case.layout)
        image = CF.fold(g, case.size, *case.conf)
        assert torch.equal(image, unfold_case.fold(case, g)), f"fold {dtype}"
        assert image.is_contiguous() and image.dtype is dtype


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced", "expanded", "transposed"))
def test_bits_are_torchs(layout: str, isa: str) -> None:
    """torch adds the taps in the same order, so that random sums are equal bit by bit, in the types that it adds in."""
    for size, kernel, dilation, padding, stride in (
        ((19, 23), (3, 3), 1, 1, 1),
        ((20, 35), (2, 5), (2, 1), (1, 3), (1, 2)),
        ((33, 20), 4, 1, 0, 4),
        ((8, 9), (1, 1), 1, 2, 3),
    ):
        for dtype in (torch.float32, torch.float64, *COMPLEX):
            x = lay_out(torch.randn(2, 5, *size, dtype=dtype), layout)
            columns, torchs = (
                CF.unfold(x, kernel, dilation, padding, stride),
                F.unfold(x, kernel, dilation, padding, stride),
            )
            assert torch.equal(columns, torchs) and columns.stride() == torchs.stride()
            g = lay_out(torch.randn_like(columns), layout)
            image, torchs = (f.fold(g, size, kernel, dilation, padding, stride) for f in (CF, F))
            assert torch.equal(image, torchs) and image.stride() == torchs.stride()


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_narrow_types_are_summed_in_float32(dtype: torch.dtype, isa: str) -> None:
    g = torch.randn(2, 3 * 25, 8 * 9).to(dtype)
    wanted = F.fold(g.double(), (8, 9), 5, padding=2)
    assert torch.equal(CF.fold(g, (8, 9), 5, padding=2), wanted.float().to(dtype))


@pytest.mark.parametrize("case", CASES[::3], ids=lambda c: c.id)
def test_adjoint(case: UnfoldCase) -> None:
    """<unfold(x), g> = <x, fold(g)>, exactly, in integers."""
    x = torch.randint(-9, 9, (case.batch, case.channels, *case.size))
    columns = CF.unfold(x, *case.conf)
    g = torch.randint_like(columns, -9, 9)
    assert (columns * g).sum() == (x * CF.fold(g, case.size, *case.conf)).sum()


def test_fold_of_unfold_counts_the_blocks() -> None:
    """torch's identity: fold(unfold(x)) = x * fold(unfold(1))."""
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    conf = ((3, 2), 1, (1, 0), (2, 1))
    back = [CF.fold(CF.unfold(t, *conf), (9, 8), *conf) for t in (x, torch.ones_like(x))]
    torch.testing.assert_close(back[0], x * back[1])


def test_convolution_as_a_product_of_columns() -> None:
    """torch's example in the docs of Unfold, also in one and three dimensions."""
    for rank, conv in ((1, CF.conv1d), (2, CF.conv2d), (3, CF.conv3d)):
        x, w = torch.randn(2, 3, *[6] * rank).double(), torch.randn(4, 3, *[3] * rank).double()
        y = w.flatten(1) @ CF.unfold(x, (3,) * rank)
        torch.testing.assert_close(CF.fold(y, (4,) * rank, (1,) * rank), conv(x, w))


@pytest.mark.parametrize(
    "padding", ("valid", "same", "same_lower", "causal", "full", (1, "same"), ((0, 2), "causal"), ((-1, 0), 2)), ids=str
)
def test_padding_language(padding: object) -> None:
    """The same pixels as the convolution's padding; fold resolves the words from output_size."""
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    w = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    for stride in (1, (2, 3)):
        columns = CF.unfold(x, (3, 2), 1, padding, stride)
        y = CF.conv2d(x, w, stride=stride, padding=padding)
        torch.testing.assert_close((w.flatten(1) @ columns).view_as(y), y)
        g = torch.randn_like(columns)
        image = CF.fold(g, (9, 10), (3, 2), 1, padding, stride)
        torch.testing.assert_close((image * x).sum(), (columns * g).sum())


@pytest.mark.parametrize("name", ("unfold", "fold"))
def test_every_thread_count_and_batch(name: str, isa: str, threads: None) -> None:
    x = torch.randn(3, 20, 40, 41)
    for layout in ("contiguous", "channels_last"):
        for dtype in FLOATS:
            conf = ((3, 4), 1, 2, (1, 2))
            t = x.to(dtype) if name == "unfold" else F.unfold(x, *conf).to(dtype)
            t = lay_out(t, layout)

            def run(t: Tensor, conf: tuple = conf) -> Tensor:  # type: ignore[type-arg]
                return CF.unfold(t, *conf) if name == "unfold" else CF.fold(t, (40, 41), *conf)

            torch.set_num_threads(1)
            alone = run(t)
            for count in (2, 3, 7):
                torch.set_num_threads(count)
                assert torch.equal(run(t), alone)
                assert torch.equal(run(t[1:2])[0], alone[1])


def test_unbatched_and_empty() -> None:
    x = torch.randn(3, 6, 7)
    columns = CF.unfold(x, 2)
    assert torch.equal(columns, F.unfold(x, 2))
    assert torch.equal(CF.fold(columns, (6, 7), 2), F.fold(columns, (6, 7), 2))
    empty = CF.unfold(x[None][:0], 2)
    assert empty.shape == (0, 12, 30)
    assert CF.fold(empty, (6, 7), 2).shape == (0, 3, 6, 7)


@pytest.mark.parametrize("name", ("unfold", "fold"))
def test_opinfo_samples(name: str) -> None:
    infos = [op for op in op_db if op.name == f"nn.functional.{name}"]
    for info in infos:
        for dtype in info.dtypes:
            for sample in info.sample_inputs("cpu", dtype, requires_grad=dtype in (torch.float64, torch.complex128)):
                args, kwargs = (sample.input, *sample.args), sample.kwargs
                ours, torchs = getattr(CF, name)(*args, **kwargs), getattr(F, name)(*args, **kwargs)
                assert torch.equal(ours, torchs) and ours.stride() == torchs.stride()
                if ours.requires_grad:
                    g = torch.randn_like(torchs)
                    gradients = [torch.autograd.grad(y, sample.input, g)[0] for y in (ours, torchs)]
                    torch.testing.assert_close(*gradients)
    assert infos or name == "fold"  # torch has no samples of fold


def test_types_beyond_torch() -> None:
    for dtype in NOT_IN_TORCH:
        with pytest.raises(NotImplementedError):
            F.unfold(torch.ones(1, 1, 3, 3, dtype=dtype), 2)


@pytest.mark.slow
def test_beyond_two_to_the_31_elements() -> None:
    x = torch.randint(0, 255, (1, 1, 4100, 65_600), dtype=torch.uint8)
    columns = CF.unfold(x, (3, 3), padding=1)
    assert columns.numel() > 2**31
    assert torch.equal(columns[0, 8].view(4100, 65_600)[:-1, :-1], x[0, 0, 1:, 1:])
    assert torch.equal(CF.fold(columns, (4100, 65_600), 3, padding=1)[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1] * 9)
