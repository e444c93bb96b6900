"""State is kept by name: what has no name of its own is refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend
from tapeir.ir import Module, VerifyError, parse

TWO = "module @m { func @main(%a: f32[2] param, %b: f32[2] param) -> (f32[2] update(%a)) { return %b } }"


def renamed(names: Sequence[str | None]) -> Module:
    module = parse(TWO)
    for value, name in zip(module["main"].arguments, names, strict=True):
        value.name = name
    return module


@pytest.mark.parametrize("names", [(None, None), ("a", ""), ("a", "a")])
@pytest.mark.usefixtures("table")
def test_state_without_a_name_of_its_own_is_not_compiled(names: Sequence[str | None]) -> None:
    with pytest.raises(VerifyError, match="rule: parameters, buffers and optimizer state have names, each its own"):
        compile_module(CompiledBackend(), renamed(names), "main", "cpu")
