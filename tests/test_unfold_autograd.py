"""unfold and fold under autograd of every order, torch.func and torch.compile; signatures, layers and errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convext
import convext.functional as CF
from tests.test_functional_torch import outcome

# image size, configuration
FORMS: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "1d": ((2, 2, 6), ((3,), 2, 1, 2)),
    "2d": ((2, 2, 5, 4), ((2, 3), 1, (1, 0), (2, 1))),
    "2d-pairs": ((1, 2, 5, 4), ((2, 2), (2, 1), ((0, 1), (-1, 2)), 1)),
    "2d-same": ((1, 2, 5, 4), (3, 1, "same", 2)),
    "2d-unbatched": ((2, 4, 4), (2, 1, 0, 3)),
    "3d": ((1, 2, 3, 2, 3), ((2, 1, 2), 1, (1, 0, 1), (2, 1, 1))),
}


def function(name: str, form: str) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    """unfold or fold as a function of one tensor, and that tensor's size."""
    size, conf = FORMS[form]
    if name == "unfold":
        return (lambda t: CF.unfold(t, *conf)), size
    rank = 2 if isinstance(conf[0], int) else len(conf[0])
    columns = CF.unfold(torch.zeros(size), *conf)
    return (lambda t: CF.fold(t, size[-rank:], *conf)), tuple(columns.shape)


both = pytest.mark.parametrize("name", ("unfold", "fold"))
forms = pytest.mark.parametrize("form", FORMS)


@both
@forms
def test_gradcheck(name: str, form: str) -> None:
    f, size = function(name, form)
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        f, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True, check_undefined_grad=True
    )
    assert gradgradcheck(lambda t: f(t).pow(2), x, check_fwd_over_rev=True, check_batched_grad=True)


@both
def test_complex(name: str) -> None:
    f, size = function(name, "2d")
    x = torch.randn(size, dtype=torch.complex128, requires_grad=True)
    assert gradcheck(f, x, check_forward_ad=True)
    assert gradgradcheck(f, x)


@both
@forms
def test_vmap_and_func(name: str, form: str) -> None:
    f, size = function(name, form)
    x, v = torch.randn(3, *size, dtype=torch.float64), torch.randn(3, *size, dtype=torch.float64)
    wanted = torch.stack([f(t) for t in x])
    assert torch.equal(torch.vmap(f)(x), wanted)
    assert torch.equal(torch.vmap(f, in_dims=1, out_dims=1)(x.movedim(0, 1)).movedim(1, 0), wanted)
    _, tangent = torch.func.jvp(f, (x[0],), (v[0],))
    assert torch.equal(tangent, f(v[0]))
    per_sample = torch.vmap(torch.func.grad(lambda t: f(t).pow(2).sum()))(x)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(lambda t: f(t).pow(2).sum())(t) for t in x]))
    hessian = torch.func.hessian(lambda t: f(t).pow(2).sum())(x[0])
    jacobian = torch.func.jacrev(f)(x[0]).flatten(0, f(x[0]).dim() - 1).flatten(1)
    torch.testing.assert_close(hessian.reshape(x[0].numel(), -1), 2 * jacobian.t() @ jacobian)


@both
def test_opcheck(name: str) -> None:
    for dtype in (torch.float32, torch.complex64):
        image = torch.randn(2, 3, 6, 7, dtype=dtype, requires_grad=True)
        conf = ([2, 3], [1, 2], [1, 0, 2, 1], [2, 1])
        if name == "unfold":
            torch.library.opcheck(torch.ops.convext.unfold.default, (image, *conf))
        else:
            columns = torch.ops.convext.unfold(image.detach(), *conf).requires_grad_()
            torch.library.opcheck(torch.ops.convext.fold.default, (columns, [6, 7], *conf))


@both
@pytest.mark.parametrize("dynamic", (False, True))
def test_compile(name: str, dynamic: bool) -> None:
    torch._dynamo.reset()

    def run(t: Tensor) -> Tensor:
        y = CF.unfold(t, 3, padding="same", stride=(1, 2))
        return y.relu() if name == "unfold" else CF.fold(y.relu(), t.shape[2:], 3, padding="same", stride=(1, 2))

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((2, 3, 8, 9), (3, 3, 10, 7)):
        x = torch.randn(size, requires_grad=True)
        assert torch.equal(compiled(x), run(x))
        ours, eager = (torch.autograd.grad(f(x).pow(2).sum(), x)[0] for f in (compiled, run))
        torch.testing.assert_close(ours, eager)


@both
def test_signature_and_repr(name: str) -> None:
    ours, torchs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(getattr(f, name)).parameters.values()] for f in (CF, F)
    )
    assert ours == torchs
    layer = name.capitalize()
    for arguments in ((3,), ((2, 3), 2, 1, (1, 2))):
        arguments = ((8, 9), *arguments) if name == "fold" else arguments
        mine, other = getattr(convext.nn, layer)(*arguments), getattr(torch.nn, layer)(*arguments)
        assert repr(mine) == repr(other) and isinstance(mine, getattr(torch.nn, layer))
        assert inspect.signature(type(mine)).parameters.keys() == inspect.signature(type(other)).parameters.keys()
        x = torch.randn(2, 3, 8, 9)
        t = x if name == "unfold" else F.unfold(x, *arguments[1:])
        assert torch.equal(mine(t), other(t))


def test_layers_with_words() -> None:
    x = torch.randn(2, 3, 9, 9)
    columns = convext.nn.Unfold(3, padding="causal")(x)
    assert columns.shape == (2, 27, 81)
    assert convext.nn.Fold(9, 3, padding="causal")(columns).shape == x.shape
    assert convext.nn.Unfold((3,), padding="same")(x[:, 0]).shape == (2, 27, 9)


X, C = torch.ones(2, 3, 6, 7), torch.ones(2, 12, 30)
UNFOLD_ERRORS: dict[str, Callable[[Any], Any]] = {
    "2 dimensions": lambda f: f.unfold(X[0, 0], 2),
    "5 dimensions": lambda f: f.unfold(X[None], 2),
    "no channels": lambda f: f.unfold(X[:, :0], 2),
    "no channels, unbatched": lambda f: f.unfold(X[0, :0], 2),
    "no rows": lambda f: f.unfold(X[:, :, :0], 2, padding=2),
    "kernel 0": lambda f: f.unfold(X, 0),
    "kernel negative": lambda f: f.unfold(X, (2, -1)),
    "kernel of one": lambda f: f.unfold(X, [2]),
    "kernel of none": lambda f: f.unfold(X, ()),
    "kernel of four": lambda f: f.unfold(X, (2, 2, 2, 2)),
    "kernel a float": lambda f: f.unfold(X, 2.0),
    "kernel a bool": lambda f: f.unfold(X, True),
    "kernel too large": lambda f: f.unfold(X, 9),
    "kernel too large by dilation": lambda f: f.unfold(X, 3, dilation=3),
    "stride 0": lambda f: f.unfold(X, 2, stride=0),
    "stride None": lambda f: f.unfold(X, 2, stride=None),
    "stride of three": lambda f: f.unfold(X, 2, stride=(1, 1, 1)),
    "dilation 0": lambda f: f.unfold(X, 2, dilation=0),
    "dilation of one": lambda f: f.unfold(X, 2, dilation=(1,)),
    "padding negative": lambda f: f.unfold(X, 2, padding=-1),
    "padding of one": lambda f: f.unfold(X, 2, padding=(1,)),
    "padding of three": lambda f: f.unfold(X, 2, padding=(1, 1, 1)),
    "padding a float": lambda f: f.unfold(X, 2, padding=1.0),
    "padding an unknown word": lambda f: f.unfold(X, 2, padding="sam"),
    "a list": lambda f: f.unfold([1.0], 2),
    "sparse": lambda f: f.unfold(X.to_sparse(), 2),
    "eight-bit float": lambda f: f.unfold(X.to(torch.float8_e4m3fn), 2),
    "unknown keyword": lambda f: f.unfold(X, 2, foo=1),
}
FOLD_ERRORS: dict[str, Callable[[Any], Any]] = {
    "1 dimension": lambda f: f.fold(C[0, 0], (6, 7), 2),
    "4 dimensions": lambda f: f.fold(C[None], (6, 7), 2),
    "rows": lambda f: f.fold(C[:, :11], (6, 7), 2),
    "columns": lambda f: f.fold(C[:, :, :29], (6, 7), 2),
    "no rows": lambda f: f.fold(C[:, :0], (6, 7), 2),
    "no columns": lambda f: f.fold(C[:, :, :0], (6, 7), 2),
    "no columns, unbatched": lambda f: f.fold(C[0, :, :0], (6, 7), 2),
    "output_size of one": lambda f: f.fold(torch.ones(2, 12, 25), [6], 2),
    "output_size of three": lambda f: f.fold(C, (6, 7, 8), 2),
    "output_size 0": lambda f: f.fold(C, (0, 7), 2),
    "output_size negative": lambda f: f.fold(C, (-1, 7), 2),
    "output_size a float": lambda f: f.fold(C, 6.0, 2),
    "kernel 0": lambda f: f.fold(C, (6, 7), 0),
    "kernel too large": lambda f: f.fold(C, (6, 7), (8, 1)),
    "stride 0": lambda f: f.fold(C, (6, 7), 2, stride=0),
    "dilation 0": lambda f: f.fold(C, (6, 7), 2, dilation=0),
    "padding negative": lambda f: f.fold(C, (6, 7), 2, padding=-1),
    "padding a word unknown": lambda f: f.fold(C, (6, 7), 2, padding="sam"),
    "a list": lambda f: f.fold([1.0], (6, 7), 2),
}


@pytest.mark.parametrize("call", [*UNFOLD_ERRORS.values(), *FOLD_ERRORS.values()], ids=[*UNFOLD_ERRORS, *FOLD_ERRORS])
def test_raises_as_torch_raises(call: Callable[[Any], Any]) -> None:
    torchs = outcome(call, F)
    assert torchs[0] == "raises" and outcome(call, CF) == torchs


def test_message_says_expected_and_got() -> None:
    for call in (*list(UNFOLD_ERRORS.values())[:-1], *FOLD_ERRORS.values()):
        with pytest.raises(Exception) as caught:
            call(CF)
        text = str(caught.value)
        assert "expected" in text and "got" in text and text.startswith(("unfold: ", "fold: ")), text


@pytest.mark.parametrize(
    "call",
    (
        lambda op: op.unfold(X, [2], [1, 1], [0, 0, 0, 0], [1, 1]),
        lambda op: op.unfold(X, [2, 2], [1, 1], [0, 0], [1, 1]),
        lambda op: op.unfold(X, [9, 2], [1, 1], [0, 0, 0, 0], [1, 1]),
        lambda op: op.unfold(X, [2, 2], [1, 1], [0, 0, 0, 0], [0, 1]),
        lambda op: op.unfold(X, [2**39, 2], [2**39, 1], [0, 0, 0, 0], [1, 1]),
        lambda op: op.fold(C, [6, 8], [2, 2], [1, 1], [0, 0, 0, 0], [1, 1]),
        lambda op: op.fold(C, [6, 7], [5, 1], [1, 1], [0, 0, 0, 0], [1, 1]),
        lambda op: op.fold(C[0], [6, 7], [2, 2], [1, 1], [0, 0, 0, 0], [1, 1]),
        lambda op: op.fold(C, [2**41, 7], [2, 2], [1, 1], [0, 0, 0, 0], [1, 1]),
    ),
)
def test_operators_assert_before_touching_memory(call: Callable[[Any], Any]) -> None:
    with pytest.raises(RuntimeError):
        call(torch.ops.convext)
