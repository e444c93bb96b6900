"""Several Python threads that share a runtime, a compiled function or a model: everyone gets what a single thread gets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threaded import hammer

import tapeir as tp
from tapeir import nn, ops
from tapeir.ir.types import Array

from .small import BACKENDS, X, Y, bits, runtime

SECONDS = 0.15
pytestmark = pytest.mark.usefixtures("table")


def asking(f: Callable[..., Any], batches: list[Array]) -> Callable[[int], None]:
    """A worker that compares what it gets with what one thread got before."""
    expected = [f(x) for x in batches]

    def ask(turn: int) -> None:
        n = turn % len(batches)
        np.testing.assert_array_equal(f(batches[n]), expected[n])

    return ask


def normal(*shape: int) -> list[Array]:
    return [np.random.default_rng(n).standard_normal(shape).astype(np.float32) for n in range(5)]


def mixed(x: Any) -> Any:
    return ops.softmax(ops.tanh(x @ ops.matrix_transpose(x)) + ops.sum(x, axis=1))


def predicting(backend: str, rows: int) -> Callable[[int], None]:
    rt = tp.Runtime(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), backend=backend).eval()
    return asking(rt.predict, normal(rows, 64))


@pytest.mark.parametrize("rows", [3, 512])
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_a_runtime(backend: str, rows: int) -> None:
    hammer(SECONDS, *[predicting(backend, rows)] * 4)


@pytest.mark.parametrize("rows", [5, 120])
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_a_compiled_function(backend: str, rows: int) -> None:
    f = tp.compile(mixed, backend=backend)
    hammer(SECONDS, *[asking(f, normal(rows, rows))] * 4)


def test_threads_share_an_executable_and_its_runtime() -> None:
    """The program that a runtime keeps is the one that ``artifacts`` hands out."""
    rt = runtime("compiled").eval()
    ask = asking(rt.predict, normal(6, 4))
    (program,) = rt.artifacts.values()
    known = {**rt.params, **rt.buffers, "x": normal(6, 4)[0]}
    values = [known[v.name or ""] for v in program.function.arguments]
    expected = program(*values)

    def call(_: int) -> None:
        np.testing.assert_array_equal(program(*values), expected)

    hammer(SECONDS, ask, ask, call, call)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_of_several_threads_are_steps_of_one(backend: str) -> None:
    rt, alone = runtime(backend), runtime(backend)

    def step(_: int) -> None:
        assert np.isfinite(float(rt.step(X, Y)))

    hammer(SECONDS, step, step, step, step)
    for _ in range(rt.step_count):
        alone.step(X, Y)
    assert rt.step_count >= 4
    assert bits(rt) == bits(alone)


class Counted(nn.Module):
    """A parameter that goes down by 1 and a buffer that goes up by 1 with every step."""

    def __init__(self) -> None:
        self.w = nn.Parameter((4096,), 0.0)
        self.seen = nn.Buffer((4096,), 0.0)

    def forward(self, x: Any) -> Any:
        self.seen.assign(self.seen + 1.0)
        return ops.sum(self.w * x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_is_read_saved_and_loaded_between_steps(backend: str, tmp_path: Path) -> None:
    def loss(prediction: Any, target: Any) -> Any:
        return prediction * target

    rt = tp.Runtime(Counted(), objective=loss, optimizer=tp.optim.SGD(1.0), backend=backend)
    x, one = np.ones(4096, np.float32), np.float32(1)

    def whole(state: dict[str, Array]) -> None:
        assert len({*state["seen"].tolist(), *(-state["w"]).tolist()}) == 1

    def saved(turn: int) -> None:
        path = tmp_path / f"{turn % 2}.safetensors"
        rt.save(path)
        whole({**(loaded := tp.Runtime.load(path, Counted(), objective=loss)).params, **loaded.buffers})

    def read(_: int) -> None:
        assert len({*rt.params["w"].tolist()}) == 1
        rt.load_state({"w": np.full(4096, -7.0), "seen": np.full(4096, 7.0)})

    def grads(_: int) -> None:
        assert rt.loss_and_grads(x, one)[1]["w"].tolist() == x.tolist()

    def step(_: int) -> None:
        rt.step(x, one)

    hammer(SECONDS, step, saved, read, grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_modes_of_overlapping_blocks(backend: str) -> None:
    """Everyone in a block for eval predicts in eval mode, whoever else enters and leaves meanwhile."""
    rt = runtime(backend)
    with rt.in_mode("eval"):
        expected = rt.predict(X)

    def ask(_: int) -> None:
        with rt.in_mode("eval"):
            np.testing.assert_array_equal(rt.predict(X), expected)

    def train(_: int) -> None:
        assert rt.mode == "train", "a block of another thread is no block of this one"
        rt.step(X, Y)

    hammer(SECONDS, *[ask] * 4)
    assert rt.mode == "train"

    def ask_again(_: int) -> None:
        with rt.in_mode("eval"):
            assert rt.mode == "eval"
            rt.predict(X)

    hammer(SECONDS, ask_again, train, ask_again, train)


def test_one_form_is_compiled_once() -> None:
    recorded: list[int] = []

    def f(x: Any) -> Any:
        recorded.append(1)
        time.sleep(0.01)
        return x + 1.0

    g = tp.compile(f)
    x = np.zeros(3, np.float32)

    def call(_: int) -> None:
        np.testing.assert_array_equal(g(x), x + 1)

    hammer(0, *[call] * 8)
    assert len(g.artifacts) == 1
    assert len(recorded) == 2  # a program is recorded twice, to see that it is the same


def test_one_entry_is_compiled_once() -> None:
    recorded: list[int] = []

    class Recorded(nn.Module):
        def forward(self, x: Any) -> Any:
            recorded.append(1)
            time.sleep(0.01)
            return x + 1.0

    rt = tp.Runtime(Recorded(), backend="compiled")
    x = np.zeros(3)

    def call(_: int) -> None:
        np.testing.assert_array_equal(rt.predict(x), x + 1)

    hammer(0, *[call] * 8)
    assert (len(recorded), len(rt.artifacts)) == (2, 1)


def total(x: Any) -> Any:
    return ops.sum(ops.tanh(x) ** 2)


def added(a: Any, b: Any) -> Any:
    return a + b


def test_recordings_of_several_threads_are_their_own() -> None:
    rt = runtime("eager")
    text = str(rt.module(X, Y))
    x = np.linspace(-2, 2, 40, dtype=np.float32)
    gradient = tp.grad(total)
    expected = gradient(x)

    def module(_: int) -> None:
        assert str(tp.parse(str(rt.module(X, Y)))) == text

    def grad(_: int) -> None:
        np.testing.assert_array_equal(gradient(x), expected)

    def failing(_: int) -> None:
        with pytest.raises(tp.ShapeError):
            tp.trace(added, tp.f32[3], tp.f32[4])

    hammer(SECONDS, module, grad, grad, failing)


# Indices that another thread changes

ROWS = 20_000
"""Indices of 160 KB: more than is copied for its own sake."""


def choosing(kind: str) -> Callable[[Any, Any], Any]:
    def chosen(x: Any, index: Any) -> Any:
        return ops.sum(ops.take(x, index, axis=0) * x)

    def f(x: Any, index: Any) -> Any:
        if kind == "take":
            return ops.take(x, index, axis=0)
        if kind == "view":
            return ops.take(x, index.reshape((100, -1)), axis=0) * 2.0
        if kind == "along":
            return ops.take_along_axis(x[:, None], index[:, None], axis=0)
        return tp.grad(chosen)(x, index)

    return f


@pytest.mark.parametrize("kind", ["take", "view", "along", "scatter"])
def test_checked_indices_are_those_that_are_used(kind: str) -> None:
    """While the caller's thread rewrites the batch: a result of some indices, or the error of one out of range."""
    x, index = np.arange(ROWS, dtype=np.float32), np.zeros(ROWS, np.int64)
    program = tp.compile(choosing(kind)).executable(x, index)
    where = next(v for v in program.function.arguments if v.type.dtype is tp.i64)
    assert where.place is None or where.place.kind != "caller"

    def rewrite(turn: int) -> None:
        index.fill((0, 1 << 40, -1, 7)[turn % 4])

    def ask(_: int) -> None:
        with contextlib.suppress(IndexError):
            assert np.isfinite(program(x, index)).all()

    hammer(SECONDS, ask, ask, rewrite)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [15.0, pytest.param(60.0, marks=pytest.mark.heavy)])
def test_everything_at_once(seconds: float) -> None:
    """Predictions, steps, compiled functions and indices that change, each from several threads."""
    ask = predicting("compiled", 300)
    f = tp.compile(mixed)
    call = asking(f, normal(70, 70))
    rt, alone = runtime("compiled"), runtime("compiled")
    x, index = normal(ROWS)[0], np.zeros(ROWS, np.int64)
    chosen = tp.compile(choosing("take"))

    def step(_: int) -> None:
        rt.step(X, Y)

    def rewrite(turn: int) -> None:
        index.fill((0, 1 << 40, -1, 7)[turn % 4])

    def choose(_: int) -> None:
        with contextlib.suppress(IndexError):
            assert np.isfinite(chosen(x, index)).all()

    hammer(seconds, ask, ask, call, call, step, step, rewrite, choose, choose)
    for _ in range(rt.step_count):
        alone.step(X, Y)
    assert bits(rt) == bits(alone)
