"""The six functions against torch.nn.functional: signatures, samples, argument forms, memory format."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import convext.functional as CF
from tests.reference import TOLERANCE, error, wide

NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
OPINFOS = {
    op.name.removeprefix("nn.functional."): op for op in op_db if op.name.removeprefix("nn.functional.") in NAMES
}
SAMPLED = [(name, dtype) for name in NAMES for dtype in sorted(OPINFOS[name].dtypes, key=str)]


def torch_signature(name: str) -> inspect.Signature:
    """torch's functions are built in and have no signature of their own; the first line of their docs states it."""
    line = next(line for line in getattr(F, name).__doc__.splitlines() if line.startswith(name))
    scope: dict[str, Any] = {}
    exec(f"def {line.split(' -> ')[0]}: pass", scope)
    return inspect.signature(scope[name])


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    ours = list(inspect.signature(getattr(CF, name)).parameters.values())
    torchs = list(torch_signature(name).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(torchs)]] == [(p.name, p.default) for p in torchs]
    assert [(p.name, p.default) for p in ours[len(torchs) :]] == [("padding_mode", "zeros")]
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in ours[: len(torchs)])


@pytest.mark.parametrize("name", NAMES)
def test_docstring_names_its_source(name: str) -> None:
    assert name in (getattr(CF, name).__doc__ or "")


def test_opinfo_has_all_six() -> None:
    assert sorted(OPINFOS) == sorted(NAMES)


def same_values(ours: Tensor, torchs: Tensor, wanted: Tensor) -> None:
    """Shape, type and strides as torch's; values as those of the same call in float64."""
    assert (ours.shape, ours.dtype, ours.stride()) == (torchs.shape, torchs.dtype, torchs.stride())
    if ours.is_floating_point() or ours.is_complex():
        assert error(ours, wanted) <= TOLERANCE[ours.dtype]
    else:
        assert torch.equal(ours, torchs)


def in_wide(value: Any) -> Any:
    return wide(value) if isinstance(value, Tensor) else value


@pytest.mark.parametrize(("name", "dtype"), SAMPLED, ids=lambda v: str(v).removeprefix("torch."))
def test_opinfo_samples(name: str, dtype: torch.dtype) -> None:
    count = 0
    for sample in OPINFOS[name].sample_inputs("cpu", dtype):
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        try:
            torchs = getattr(F, name)(*args, **kwargs)
        except NotImplementedError:  # a type that torch lists and this build of it has no kernel for
            continue
        wanted = getattr(F, name)(*map(in_wide, args), **kwargs)
        same_values(getattr(CF, name)(*args, **kwargs), torchs, wanted)
        count += 1
    assert count > 0


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128), ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_opinfo_gradients(name: str, dtype: torch.dtype) -> None:
    for sample in OPINFOS[name].sample_inputs("cpu", dtype, requires_grad=True):
        args = (sample.input, *sample.args)
        leaves = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        ours, torchs = getattr(CF, name)(*args, **sample.kwargs), getattr(F, name)(*args, **sample.kwargs)
        g = torch.randn_like(torchs)
        for a, b in zip(torch.autograd.grad(ours, leaves, g), torch.autograd.grad(torchs, leaves, g), strict=True):
            assert a.shape == b.shape and error(a, b) <= 1e-13


Outcome = tuple[str, Any]


def outcome(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Outcome:
    try:
        y = function(*args, **kwargs)
    except Exception as e:
        return "raises", type(e)
    return "gives", (tuple(y.shape), y.dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ([2], (2,), 2, torch.Size([2]), numpy.int64(2), torch.tensor(2)), ids=repr)
@pytest.mark.parametrize("argument", ("stride", "padding", "dilation", "output_padding"))
def test_one_number_for_every_axis(name: str, argument: str, value: Any) -> None:
    """An int, a list or a tuple of one: torch spreads each of them over the axes."""
    if argument == "output_padding" and "transpose" not in name:
        assert (
            outcome(getattr(CF, name), torch.ones(1, 1, 3), torch.ones(1, 1, 1), output_padding=value)[1] is TypeError
        )
        return
    d = int(name[-2])
    x, w = torch.randn(1, 2, *[9] * d), torch.randn(2, 2, *[3] * d)
    settings = {argument: value} | ({"stride": 3} if argument == "output_padding" else {})
    torchs = outcome(getattr(F, name), x, w, **settings)
    assert outcome(getattr(CF, name), x, w, **settings) == torchs
    if torchs[0] == "gives":
        assert error(getattr(CF, name)(x, w, **settings), wide(getattr(F, name)(x, w, **settings))) < 1e-6


def test_positional_order_is_torchs() -> None:
    x, w, b = torch.randn(1, 4, 7, 7), torch.randn(4, 2, 3, 3), torch.randn(4)
    args = (x, w, b, (2, 1), (1, 2), (1, 2), 2)
    assert error(CF.conv2d(*args), wide(F.conv2d(*args))) < 1e-6
    args = (x, w, b[:4], (2, 3), (1, 2), (1, 2), 2, (1, 2))
    assert error(CF.conv_transpose2d(x, w, b, *args[3:]), wide(F.conv_transpose2d(x, w, b, *args[3:]))) < 1e-6


# n, c, size, k, kernel, settings: nothing in the batch, in the channels, in the image
DEGENERATE: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "no batch": ((0, 3, 5, 5), (4, 3, 3, 3), {}),
    "no output channels": ((2, 3, 5, 5), (0, 3, 3, 3), {}),
    "no channels": ((2, 0, 5, 5), (0, 0, 3, 3), {}),
    "no rows": ((2, 3, 0, 5), (4, 3, 3, 3), {}),
    "no rows, padded": ((2, 3, 0, 5), (4, 3, 3, 3), {"padding": 2}),
    "no kernel rows": ((2, 3, 5, 5), (4, 3, 0, 3), {}),
    "no batch, no rows": ((0, 3, 0, 5), (4, 3, 1, 1), {}),
    "no batch, kernel too large": ((0, 3, 2, 2), (4, 3, 3, 3), {}),
}


@pytest.mark.parametrize("bias", (False, True), ids=("plain", "bias"))
@pytest.mark.parametrize("shapes", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_sizes_of_conv2d(shapes: tuple[Any, Any, dict[str, Any]], bias: bool) -> None:
    x, w = torch.randn(shapes[0]), torch.randn(shapes[1])
    b = torch.randn(w.shape[0]) if bias else None
    torchs = outcome(F.conv2d, x, w, b, **shapes[2])
    assert outcome(CF.conv2d, x, w, b, **shapes[2]) == torchs
    if torchs[0] == "gives":
        assert torch.equal(CF.conv2d(x, w, b, **shapes[2]), F.conv2d(x, w, b, **shapes[2]))


@pytest.mark.parametrize("groups", (1, 2))
@pytest.mark.parametrize("batch", ((), (0,), (2,)), ids=("unbatched", "no batch", "batch"))
def test_no_input_channels_give_the_bias(batch: tuple[int, ...], groups: int) -> None:
    """An empty sum is 0. torch gives a result without channels here, whatever the weight; ours has the weight's."""
    x, w, b = torch.randn(*batch, 0, 5, 5), torch.randn(4, 0, 3, 3), torch.randn(4, requires_grad=True)
    y = CF.conv2d(x.requires_grad_(), w.requires_grad_(), b, groups=groups)
    assert y.shape == (*batch, 4, 3, 3)
    assert torch.equal(y, b.view(4, 1, 1).expand(y.shape))
    gradients = torch.autograd.grad(y.sum(), (x, w, b))
    assert [g.shape for g in gradients] == [x.shape, w.shape, b.shape]
    assert torch.equal(gradients[2], torch.full((4,), y.numel() / 4))


@pytest.mark.parametrize("shapes", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_sizes_of_conv_transpose2d(shapes: tuple[Any, Any, dict[str, Any]]) -> None:
    """The weight's first two axes change places, so that the empty one is the same of the two channel counts."""
    x, w = torch.randn(shapes[0]), torch.randn(shapes[1]).transpose(0, 1)
    assert outcome(CF.conv_transpose2d, x, w, **shapes[2]) == outcome(F.conv_transpose2d, x, w, **shapes[2])


@pytest.mark.parametrize("name", ("conv2d", "conv_transpose2d"))
def test_gradients_of_an_empty_batch(name: str) -> None:
    x = torch.randn(0, 3, 5, 5, requires_grad=True)
    w = torch.randn((4, 3, 3, 3) if name == "conv2d" else (3, 4, 3, 3), requires_grad=True)
    b = torch.randn(4, requires_grad=True)
    torchs = torch.autograd.grad(getattr(F, name)(x, w, b).sum(), (x, w, b))
    ours = torch.autograd.grad(getattr(CF, name)(x, w, b).sum(), (x, w, b))
    for o, t in zip(ours, torchs, strict=True):
        assert torch.equal(o, t)


FORMATTED = [
    (name, dtype, settings)
    for name in ("conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64)
    for settings in ({}, {"groups": 4}, {"stride": 2, "dilation": 2})
]


@pytest.mark.parametrize(("name", "dtype", "settings"), FORMATTED, ids=str)
def test_memory_format_is_torchs(name: str, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    """Strides of the result and, where torch's rule does not depend on its choice of kernel, of both gradients."""
    d = int(name[-2])
    last = {2: torch.channels_last, 3: torch.channels_last_3d}[d]
    formats = (torch.contiguous_format, last)
    for x_format, w_format in itertools.product(formats, formats):
        x = torch.ones((2, 4) + (7,) * d, dtype=dtype).contiguous(memory_format=x_format)
        w = torch.ones((4, 4 // settings.get("groups", 1)) + (3,) * d, dtype=dtype).contiguous(memory_format=w_format)
        ours, torchs = getattr(CF, name)(x, w, **settings), getattr(F, name)(x, w, **settings)
        assert ours.stride() == torchs.stride(), (x_format, w_format)


STRIDED: dict[str, Callable[[], Tensor]] = {
    "unbatched, channels last": lambda: torch.randn(1, 9, 9, 4).permute(0, 3, 1, 2)[0],
    "rows of channels last": lambda: torch.randn(2, 9, 9, 4).permute(0, 3, 1, 2)[:, :, ::2],
    "rows before channels": lambda: torch.randn(2, 9, 4, 9).permute(0, 2, 1, 3),
    "one channel, channels last": lambda: torch.randn(2, 1, 9, 9).contiguous(memory_format=torch.channels_last),
    "one pixel, channels last": lambda: torch.randn(2, 4, 1, 1).contiguous(memory_format=torch.channels_last),
    "one pixel": lambda: torch.randn(2, 4, 1, 1),
    "batch of one": lambda: torch.randn(1, 4, 5, 5).contiguous(memory_format=torch.channels_last),
    "expanded": lambda: torch.randn(1, 4, 1, 5).expand(3, 4, 5, 5),
    "flipped axes": lambda: torch.randn(5, 5, 4, 2).permute(3, 2, 1, 0),
}


@pytest.mark.parametrize("kernel", (1, 3))
@pytest.mark.parametrize("make", STRIDED.values(), ids=STRIDED)
def test_strided_inputs(make: Callable[[], Tensor], kernel: int) -> None:
    x = make()
    w = torch.randn(5, x.shape[-3], kernel, kernel)
    for weight in (w, w.contiguous(memory_format=torch.channels_last), w.permute(0, 1, 3, 2)):
        ours = CF.conv2d(x, weight, padding=1)
        torchs = F.conv2d(x, weight, padding=1)
        assert ours.stride() == torchs.stride()
        assert error(ours, F.conv2d(x.double(), weight.double(), padding=1)) < 1e-6


def test_conv1d_of_transposed_rows() -> None:
    x, w = torch.randn(2, 7, 4).transpose(1, 2), torch.randn(5, 4, 3)
    assert CF.conv1d(x, w).stride() == F.conv1d(x, w).stride()
    assert error(CF.conv1d(x, w), F.conv1d(x.double(), w.double())) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_results_never_share_memory_with_inputs(name: str) -> None:
    d = int(name[-2])
    x, w = torch.ones(1, 1, *[3] * d), torch.ones(1, 1, *[1] * d)
    y = getattr(CF, name)(x, w)
    y.add_(1)
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(("channels", "filters", "groups"), ((16, 4, 2), (64, 16, 8), (8, 2, 1), (32, 32, 8)))
def test_a_transposed_convolution_of_one_pixel_adds_the_bias(
    channels: int, filters: int, groups: int, dtype: torch.dtype, isa: str
) -> None:
    """Its taps are channels of a 1 x 1 problem, of which as many share an element of the bias."""
    x, b = torch.randint(-3, 4, (3, channels, 1, 1)).to(dtype), torch.randint(-9, 10, (filters,)).to(dtype)
    w = torch.randint(-3, 4, (channels, filters // groups, 2, 2)).to(dtype)
    expected = F.conv_transpose2d(x.double(), w.double(), b.double(), groups=groups).to(dtype)
    assert torch.equal(CF.conv_transpose2d(x, w, b, groups=groups), expected)
