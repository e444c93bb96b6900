"""A runtime or a compiled function that meets many shapes keeps the programs used last, frees the others and says so once."""

from __future__ import annotations

import gc
import linecache
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends import kernels
from tapeir.backends.compiled import NumpyProgram
from tapeir.ir.types import Array

pytestmark = pytest.mark.usefixtures("table")
MOST = 4


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEIR_PROGRAMS", str(MOST))


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def rows(n: int) -> Array:
    return np.full((n, 3), 0.5, np.float32)


def plus_one(x: Any) -> Any:
    return ops.tanh(x) + 1


def test_a_function_keeps_the_programs_used_last(capsys: pytest.CaptureFixture[str]) -> None:
    f = tp.compile(plus_one)
    first = f(rows(1))
    for n in range(2, 9):
        np.testing.assert_array_equal(f(rows(n))[:1], first)
        f(rows(1))
        assert len(f.artifacts) <= MOST
    assert {t.shape[0] for (t,) in f.artifacts} == {1, 6, 7, 8}
    said = capsys.readouterr().err
    assert said.count("plus_one has been compiled for more than 4 types of arguments") == 1
    assert "pad batches to a few shapes, or set TAPEIR_PROGRAMS to keep more" in said


def test_a_runtime_keeps_the_programs_used_last(capsys: pytest.CaptureFixture[str]) -> None:
    rt = tp.Runtime(nn.Linear(3, 2), backend="compiled", name="small")
    alone = tp.Runtime(nn.Linear(3, 2), backend="eager")
    for n in (*range(1, 9), 1, 2):
        assert float(rt.step(rows(n), np.ones((n, 2)))) == float(alone.step(rows(n), np.ones((n, 2))))
        assert len(rt.artifacts) <= MOST
    assert {key.types[0].shape[0] for key in rt.artifacts} == {7, 8, 1, 2}
    assert capsys.readouterr().err.count("small has been compiled for more than 4 types") == 1


def test_few_shapes_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    f = tp.compile(plus_one)
    for _ in range(3):
        for n in range(1, MOST + 1):
            f(rows(n))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", ["function", "runtime"])
def test_a_dropped_program_is_freed_at_once(kind: str) -> None:
    """Its code and arrays do not wait for Python's cyclic collector."""
    rt = tp.Runtime(nn.Linear(3, 2), backend="compiled").eval()
    f: Any = tp.compile(plus_one) if kind == "function" else rt.predict
    f(rows(1))
    artifacts: Any = f.artifacts if kind == "function" else rt.artifacts
    (program,) = artifacts.values()
    gone = [weakref.ref(program)]
    if kernels.table().name == "native":
        gone.append(weakref.ref(program._library))
    else:
        gone.append(weakref.ref(program._own["arena"].base))
    del program
    for n in range(2, MOST + 2):
        f(rows(n))
    assert [r() for r in gone] == [None, None]


@pytest.mark.usefixtures("uncollected")
def test_a_runtime_is_freed_at_once() -> None:
    rt = tp.Runtime(nn.Linear(3, 2), backend="compiled").eval()
    rt.predict(rows(2))
    gone = weakref.ref(rt)
    del rt
    assert gone() is None


@pytest.mark.usefixtures("uncollected")
def test_an_executable_that_is_held_outlives_its_runtime() -> None:
    f = tp.compile(plus_one)
    held = f.executable(rows(1))
    for n in range(2, 9):
        f(rows(n))
    np.testing.assert_array_equal(held(rows(1)), f(rows(8))[:1])


@pytest.mark.usefixtures("uncollected")
def test_the_source_of_a_numpy_program_goes_with_it() -> None:
    with kernels.using(kernels.Table()):
        f = tp.compile(plus_one)
        program = f.executable(rows(1))
    assert isinstance(program, NumpyProgram)
    named = {name for name in linecache.cache if name.startswith("<tapeir")}
    mine = [name for name in named if linecache.getlines(name) == program.source.splitlines(True)]
    assert mine
    del f, program
    assert not set(mine) & set(linecache.cache)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory maps")
def test_maps_and_sources_stay_bounded() -> None:
    def maps() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    f = tp.compile(plus_one)
    for n in range(1, 11):
        f(rows(n))
    before, sources = maps(), len(linecache.cache)
    for n in range(11, 41):
        f(rows(n))
    assert maps() <= before + 10
    assert len(linecache.cache) <= sources + 5


@pytest.mark.slow
def test_two_thousand_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEIR_PROGRAMS", "64")
    f = tp.compile(plus_one)
    expected = f(rows(1))
    for n in range(1, 2001):
        np.testing.assert_array_equal(f(rows(n))[-1:], expected)
    assert len(f.artifacts) == 64


@pytest.mark.parametrize("asked", ["0", "-1", "many"])
def test_a_number_of_programs_is_a_number(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("TAPEIR_PROGRAMS", asked)
    with pytest.raises(tp.BackendError, match=f"TAPEIR_PROGRAMS={asked}: it is a number of programs, from 1 on"):
        tp.compile(plus_one)
