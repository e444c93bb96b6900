"""A tape's arrays go with it: many eager calls take the memory of one, without Python's cyclic collector."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends.eager import Tape
from tapeir.backends.eager.allocator import keep_freed_memory
from tapeir.ir.types import Array

X = np.ones((100, 1000), np.float32)
CALLS = 12


class Scaled(nn.Module):
    def __init__(self) -> None:
        self.w = nn.Parameter((1,), nn.init.Constant(1.0))
        self.seen = nn.Buffer((1000,))

    def forward(self, x: Any) -> Any:
        x = x * self.w
        for _ in range(4):
            x = ops.tanh(x) + 1
        self.seen.assign(ops.mean(x, axis=0))
        return x


def mean(prediction: Any, target: Any) -> Any:
    return ops.mean(prediction * target)


def squares(x: Any) -> Any:
    return ops.sum(ops.tanh(x) ** 2)


def doubled(x: Any) -> Any:
    return ops.tanh(x) * 2


def summed_gradient(x: Any) -> Any:
    return ops.sum(tp.grad(squares)(x))


def runtime(**options: Any) -> tp.Runtime:
    return tp.Runtime(Scaled(), objective=mean, optimizer=tp.optim.Adam(), **options)


def called(name: str) -> Callable[[], Any]:
    rt = runtime()
    bad = np.full_like(X, np.nan)
    guarded = {backend: runtime(guard="nonfinite", backend=backend) for backend in ("eager", "compiled")}

    def failing() -> None:
        with contextlib.suppress(tp.ShapeError):
            rt.step(X, X[:, :3])

    def guard(backend: str) -> Callable[[], None]:
        def call() -> None:
            with pytest.raises(tp.NonFiniteError):
                guarded[backend].step(bad, X)

        return call

    compiled = runtime(backend="compiled")
    interpreted = tp.compile(doubled, backend="eager")
    calls: dict[str, Callable[[], Any]] = {
        "an op": lambda: ops.tanh(X),
        "grad": lambda: tp.grad(squares)(X),
        "grad of grad": lambda: tp.grad(summed_gradient)(X),
        "vjp": lambda: tp.vjp(squares, X)[1](np.float32(1)),
        "jvp": lambda: tp.jvp(squares, (X,), (X,)),
        "hvp": lambda: tp.hvp(squares, (X,), (X,)),
        "predict": lambda: rt.predict(X),
        "loss": lambda: rt.loss(X, X),
        "grads": lambda: rt.loss_and_grads(X, X),
        "step": lambda: rt.step(X, X),
        "gradients of the tape": lambda: rt.loss(X, X) and rt.tape and rt.tape.gradients(rt.tape.instructions[-1].result),
        "failing": failing,
        "guard of eager": guard("eager"),
        "guard of compiled": guard("compiled"),
        "distance": lambda: compiled.distance(X, X),
        "interpreted": lambda: interpreted(X),
    }  # fmt: skip
    return calls[name]


NAMES = (
    "an op", "grad", "grad of grad", "vjp", "jvp", "hvp", "predict", "loss", "grads", "step", "gradients of the tape", "failing",
    "guard of eager", "guard of compiled", "distance", "interpreted",
)  # fmt: skip


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def peak(call: Callable[[], Any], times: int) -> int:
    tracemalloc.start(1)
    for _ in range(times):
        call()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_many_calls_take_the_memory_of_one(name: str) -> None:
    call = called(name)
    call()
    one = peak(call, 1)
    assert one > X.nbytes
    assert peak(call, CALLS) < 1.5 * one + 2 * X.nbytes


def test_what_is_held_of_an_old_tape_stays_readable() -> None:
    kept: list[Any] = []  # first what is recorded before the first tape, to be compared with it

    class Kept(nn.Module):
        def forward(self, x: Any) -> Any:
            kept.append(ops.tanh(x) + 1.0)
            return kept[-1] * 2.0

    rt = tp.Runtime(Kept())
    x = np.linspace(0, 1, 5, dtype=np.float32)
    result = rt.predict(x)
    tape, text = rt.tape, str(rt.tape)
    assert isinstance(tape, Tape)
    rt.predict(x + 1)
    rt.predict(x + 2)
    expected: Array = np.tanh(x) + 1
    np.testing.assert_allclose(np.asarray(kept[1]), expected, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(kept[2]), np.tanh(x + 1) + 1, rtol=1e-6)
    np.testing.assert_allclose(result, expected * 2, rtol=1e-6)
    assert str(tape) == text
    assert len(tape.to_ir().instructions) == len(tape)
    assert [i.results[0].owner for i in tape] == list(tape)


@pytest.mark.skipif(not keep_freed_memory(), reason="the allocator is not glibc's, or MALLOC_* variables set it")
def test_a_step_reuses_the_memory_that_the_one_before_freed() -> None:
    import resource  # only Unix has it

    rt = tp.Runtime(nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)))
    x = np.ones((64, 512), np.float32)
    for _ in range(5):
        rt.step(x, x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        rt.step(x, x)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10
    assert faults < 512 * 512 * 4 / 4096, "less than one weight's pages a step"
