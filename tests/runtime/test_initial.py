"""The first state: large parameters, or many drawn alike, are compiled, and have the bits of the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn
from tapeir.backends import kernels
from tapeir.ir.types import Array
from tapeir.runtime import initial

DRAWN: list[Any] = [nn.init.Uniform(-0.5, 2.0), nn.init.Normal(0, 3), nn.init.KaimingUniform(), nn.init.XavierNormal()]


def params(inits: list[Any], dtype: str = "float32", **options: Any) -> dict[str, Array]:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.parts = [nn.Sequential(Held(i), Held(i)) for i in inits]

        def forward(self, x: Any) -> Any:
            return x

    return dict(tp.Runtime(Model(), dtype=dtype, **options).params)


class Held(nn.Module):
    def __init__(self, how: Any) -> None:
        self.weight = nn.Parameter((6, 4), how)

    def forward(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_initialisers_have_the_bits_of_the_interpreter(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    small = params(DRAWN, dtype)
    monkeypatch.setattr(initial, "COMPILED", 1)
    large = params(DRAWN, dtype)
    assert {n: a.tobytes() for n, a in large.items()} == {n: a.tobytes() for n, a in small.items()}
    assert len({a.tobytes() for a in small.values()}) == 2 * len(DRAWN), "each has a key of its own"
    assert all(a.dtype == dtype for a in small.values())


def test_parameters_drawn_alike_share_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels.table().name != "native":
        pytest.skip("initialisers are compiled to native code only")
    made: list[str] = []
    compile_module: Callable[..., Any] = initial.compile_module

    def counted(*arguments: Any) -> Any:
        made.append(arguments[2])
        return compile_module(*arguments)

    monkeypatch.setattr(initial, "compile_module", counted)
    monkeypatch.setattr(initial, "COMPILED", 2 * 6 * 4)
    params(DRAWN)
    assert len(made) == len(DRAWN)


def test_initialisers_that_state_no_program() -> None:
    def looks(key: Any, shape: tuple[int, ...]) -> Any:
        drawn = tp.ops.random_uniform(shape, "f64", key)
        return drawn if float(tp.ops.sum(drawn)) > 1e9 else -drawn

    def numpy(key: Any, shape: tuple[int, ...]) -> Any:
        return np.full(shape, 0.1)

    def wrong(key: Any, shape: tuple[int, ...]) -> Any:
        return tp.ops.random_uniform((3,), "f64", key)

    found = params([looks, numpy, 0.25])
    assert (found["parts.0.0.weight"] < 0).any()
    assert np.array_equal(found["parts.1.1.weight"], np.full((6, 4), np.float32(0.1)))
    assert np.array_equal(found["parts.2.0.weight"], np.full((6, 4), 0.25, np.float32))
    with pytest.raises(ValueError, match=r"parts\.0\.0\.weight gave shape \(3,\), not \(6, 4\)"):
        params([wrong])
