"""The types that the package states: shipped, complete, and those of a program that uses it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

import convext
from tests import typed_consumer

PACKAGE = Path(convext.__file__).parent
MODULES = [convext, convext.functional, convext.nn, convext.backends]


def test_the_typed_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    typed_consumer.main()
    assert "(1, 3, 8, 8)" in capsys.readouterr().out


def test_the_marker_is_shipped() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_C.pyi").exists()


def test_the_stub_has_every_name_of_the_extension() -> None:
    stub = (PACKAGE / "_C.pyi").read_text()
    stated = set(re.findall(r"^def (\w+)", stub, re.MULTILINE))
    assert stated == {name for name in dir(convext._C) if not name.startswith("_")}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_public_function_states_its_types(module: object) -> None:
    bare = []
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        callables = [value] if inspect.isfunction(value) else []
        if inspect.isclass(value) and value.__module__.startswith("convext"):
            callables = [m for n, m in vars(value).items() if inspect.isfunction(m) and n in ("__init__", "forward")]
        for function in callables:
            signature = inspect.signature(function)
            empty = inspect.Signature.empty
            untyped = [p.name for p in signature.parameters.values() if p.annotation is empty and p.name != "self"]
            if untyped or signature.return_annotation is empty:
                bare.append(f"{name}.{function.__name__}: {untyped or 'what it returns'}")
    assert not bare
