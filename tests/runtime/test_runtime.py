"""The runtime: transactional steps, state by name, modes, artifacts, checkpoints, and no allocation in the steady state."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops

from .small import BACKENDS, X, Y, bits, network, runtime

# A failing step leaves everything as it was


def fails(call: Callable[[tp.Runtime], Any], error: type[BaseException], make: Callable[[str], tp.Runtime]) -> str:
    """Check that a call fails on both backends, with one text, changes nothing, and that training goes on as if it had not been."""
    texts: list[str] = []
    for backend in BACKENDS:
        rt, other = make(backend), make(backend)
        for r in (rt, other):
            r.step(X, Y)
        before = bits(rt)
        text = ""
        for _ in range(2):
            with pytest.raises(error) as caught:
                call(rt)
            text = str(caught.value)
            assert bits(rt) == before
            assert rt.step_count == 1
            assert rt.mode == "train"
        texts.append(text)
        assert float(rt.step(X, Y)) == float(other.step(X, Y))
        assert bits(rt) == bits(other)
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.parametrize("label", [3, -1, 10**12])
def test_a_label_out_of_range(label: int) -> None:
    bad = Y.copy()
    bad[4] = label
    text = fails(lambda rt: rt.step(X, bad), IndexError, runtime)
    assert f"index {label} is out of range" in text
    assert "0 <= index < 3" in text


def test_an_index_out_of_range_in_the_users_code() -> None:
    class Table(nn.Module):
        """Looks rows up."""

        def __init__(self) -> None:
            self.rows = nn.Embedding(3, 3)

        def forward(self, x: Any) -> Any:
            at = x[:, 0].astype("i64")
            return ops.take(self.rows.weight, at, axis=0)

    good = np.zeros_like(X)

    def make(backend: str) -> tp.Runtime:
        return runtime(backend, Table())

    def call(rt: tp.Runtime) -> None:
        rt.step(good + 5, Y)

    texts: list[str] = []
    for backend in BACKENDS:
        rt = make(backend)
        rt.step(good, Y)
        before = bits(rt)
        with pytest.raises(IndexError) as caught:
            call(rt)
        assert bits(rt) == before
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "return ops.take(self.rows.weight, at, axis=0)" in texts[0]
    assert "test_runtime.py:" in texts[0]
    assert "index 5 is out of range" in texts[0]


def test_guarded_data() -> None:
    bad = X.copy()
    bad[2, 3] = np.nan
    text = fails(lambda rt: rt.step(bad, Y), tp.NonFiniteError, lambda b: runtime(b, guard="nonfinite"))
    assert "input %x holds nan" in text
    assert "[2, 3]" in text


class Logarithm(nn.Module):
    """Makes an infinity on a line of its own where an input is 0."""

    def __init__(self) -> None:
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        scale = ops.log(abs(x[0, 0]))
        return self.layer(x) * scale


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_guarded_ops(dtype: str) -> None:
    bad = X.copy()
    bad[0, 0] = 0
    text = fails(
        lambda rt: rt.step(bad, Y), tp.NonFiniteError, lambda b: runtime(b, Logarithm(), guard="nonfinite", dtype=dtype)
    )
    assert "test_runtime.py:" in text
    assert "scale = ops.log(abs(x[0, 0]))" in text
    assert "log made -inf" in text
    for backend in BACKENDS:
        rt = runtime(backend, Logarithm(), guard="nonfinite", dtype=dtype)
        for call in (
            lambda rt=rt: rt.predict(bad),
            lambda rt=rt: rt.loss(bad, Y),
            lambda rt=rt: rt.loss_and_grads(bad, Y),
        ):
            with pytest.raises(tp.NonFiniteError, match="log made -inf"):
                call()
        unguarded = runtime(backend, Logarithm(), dtype=dtype)
        assert not np.isfinite(unguarded.predict(bad)).all()


def test_guarded_gradients() -> None:
    class Root(nn.Module):
        """Finite at 0, with an infinite derivative."""

        def __init__(self) -> None:
            self.weight = nn.Parameter(3, 1.0)

        def forward(self, x: Any) -> Any:
            return ops.sqrt(x[:, :3] * self.weight) + 0

    bad = abs(X)
    bad[1, 1] = 0
    for backend in BACKENDS:
        rt = runtime(backend, Root(), guard="nonfinite", objective="mse")
        before = bits(rt)
        assert np.isfinite(rt.loss(bad, bad[:, :3]))
        with pytest.raises(tp.NonFiniteError, match=r"(?s)return ops\.sqrt.*div made"):
            rt.step(bad, bad[:, :3])
        assert bits(rt) == before


def test_shapes_that_do_not_fit() -> None:
    text = fails(lambda rt: rt.step(X[:, :3], Y), tp.ShapeError, runtime)
    assert "f32[6, 3]" in text
    assert "rule:" in text
    fails(lambda rt: rt.step(X, Y[:4]), tp.ShapeError, runtime)
    fails(lambda rt: rt.step(X, X[:, :3] > 0), tp.IRError, runtime)
    fails(lambda rt: rt.step(X), tp.ShapeError, runtime)
    fails(lambda rt: rt.step(X[:1], Y[:1]), tp.ShapeError, runtime)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("backend", BACKENDS)
def test_exceptions_inside_forward(error: type[BaseException], backend: str) -> None:
    fail = [False]

    class Interrupted(nn.Module):
        """Assigns a buffer, then is interrupted."""

        def __init__(self) -> None:
            self.layer, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

        def forward(self, x: Any) -> Any:
            x = self.norm(self.layer(x))
            if fail[0]:
                raise error("stop")
            return x

    rt, other = runtime(backend, Interrupted()), runtime(backend, Interrupted())
    for r in (rt, other):
        r.step(X, Y)
    before, fail[0] = bits(rt), True
    # Another batch size, so that a compiled runtime also runs the model's Python.
    for call in (rt.step, rt.loss, rt.loss_and_grads):
        with pytest.raises(error, match="stop"):
            call(X[:5], Y[:5])
        assert bits(rt) == before
    fail[0] = False
    for r in (rt, other):
        r.step(X[:5], Y[:5])
    assert bits(rt) == bits(other)


def test_steps_need_train_mode() -> None:
    for backend in BACKENDS:
        rt = runtime(backend).eval()
        before = bits(rt)
        with pytest.raises(ValueError, match=r"rt\.train\(\)"):
            rt.step(X, Y)
        assert bits(rt) == before


# State by name


def test_load_state_errors_change_nothing(tmp_path: Path) -> None:
    rt = runtime()
    rt.step(X, Y)
    good = {**rt.params, **rt.buffers}
    before = bits(rt)
    zeros = {n: np.zeros_like(a) for n, a in good.items()}
    cases: list[tuple[dict[str, Any], str]] = [
        ({**zeros, "2.weight": X}, "'2.weight' is not in the model"),
        ({n: a for n, a in zeros.items() if n != "4.bias"}, "4.bias is missing"),
        ({**zeros, "4.weight": np.zeros((8, 3))}, r"\[8, 3\].*\[3, 8\]"),
        ({**zeros, "4.bias": np.zeros(3, np.int64)}, "int64"),
        ({**zeros, "4.bias": np.array(["a", "b", "c"])}, "4.bias"),
        ({**zeros, "optimizer/q/4.bias": np.zeros(3)}, "optimizer/q"),
        ({**zeros, "optimizer/m/4.bias": np.zeros(4)}, "optimizer/m"),
        ({**zeros, "optimizer/step": np.array(1.5)}, "optimizer/step"),
        ({}, "missing"),
    ]
    for state, message in cases:
        with pytest.raises(tp.CheckpointError, match=message):
            rt.load_state(state)
        assert bits(rt) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_load_state(backend: str) -> None:
    rt, other = runtime(backend), runtime(backend, seed=3)
    for _ in range(3):
        rt.step(X, Y)
    other.step(X, Y)
    slots = dict(other.optimizer_state)
    other.load_state({**rt.params, **rt.buffers, "1.num_batches_tracked": np.array(3)})
    assert all((other.params[n] == a).all() for n, a in rt.params.items())
    assert all((other.optimizer_state[n] == a).all() for n, a in slots.items()), "what is left out stays"
    other.load_state({**rt.params, **rt.buffers, **rt.optimizer_state})
    assert bits(other) == bits(rt)
    assert other.step_count == 3
    other.load_state({n: a.astype(np.float64) for n, a in {**rt.params, **rt.buffers}.items()})
    assert bits(other) == bits(rt), "the runtime's dtype is kept"
    given = {**rt.params, **rt.buffers}
    other.load_state(given)
    given["0.weight"][...] = 7
    assert bits(other) == bits(rt), "the runtime keeps no reference to the arrays given"


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_are_read_only_and_fresh(backend: str) -> None:
    rt = runtime(backend)
    params = rt.params
    first = params["0.weight"]
    before = bits(rt)
    first[...] = 0
    assert bits(rt) == before
    kept = rt.params["0.weight"]
    copy = kept.copy()
    rt.step(X, Y)
    rt.step(X, Y)
    assert (kept == copy).all(), "an array handed out does not change with a step"
    assert not (params["0.weight"] == copy).all(), "the view shows the current state"
    with pytest.raises(TypeError):
        params["0.weight"] = copy  # type: ignore[index]
    for name in ("unknown", "1.running_mean", "optimizer/step"):
        with pytest.raises(KeyError):
            params[name]
    assert set(rt.buffers) == {"1.running_mean", "1.running_var"}
    assert len(rt.params) == 6
    assert "0.weight" in rt.params


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_fresh_copies(backend: str) -> None:
    rt = runtime(backend)
    x = X.astype(np.float32)
    first = rt.predict(x)
    copy = first.copy()
    rt.predict(x * 2)
    loss, grads = rt.loss_and_grads(x, Y)
    gradients = {n: g.copy() for n, g in grads.items()}
    result = rt.step(x, Y)
    value = float(result)
    rt.step(x * 3, Y)
    rt.loss_and_grads(x * 2, Y)
    assert (first == copy).all()
    assert all((grads[n] == g).all() for n, g in gradients.items())
    assert float(result) == value == loss
    first[...] = 0
    assert (x == X.astype(np.float32)).all()
    identity = tp.Runtime(nn.Dropout(0.0), backend=backend)
    identity.predict(x)[...] = 0
    assert (x == X.astype(np.float32)).all()


def test_batches_may_be_any_array() -> None:
    for backend in BACKENDS:
        rt = runtime(backend).eval()
        expected = rt.predict(X)
        assert expected.dtype == np.float32
        for x in (X.tolist(), X.astype(np.float32), np.asfortranarray(X), X[::-1][::-1]):
            assert rt.predict(x).tobytes() == expected.tobytes()
        assert rt.predict(np.ones((2, 4), np.int64)).shape == (2, 3)


def test_a_model_of_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        """Adds and multiplies."""

        def forward(self, left: Any, right: Any) -> Any:
            return left + right, left * right

    def weighted(p: Any, t: Any) -> Any:
        return ((p[0] - p[1]) * t).sum()

    for backend in BACKENDS:
        rt = tp.Runtime(Two(), backend=backend, dtype="float64", objective=weighted)
        total, product = rt.predict(X, X)
        assert (total == X + X).all()
        assert (product == X * X).all()
        np.testing.assert_allclose(rt.loss(X, X, X), ((2 * X - X * X) * X).sum())


# Modes, artifacts, settings


@pytest.mark.parametrize("backend", BACKENDS)
def test_modes(backend: str) -> None:
    rt = runtime(backend)
    assert rt.mode == "train"
    noisy = rt.predict(X)
    assert rt.eval() is rt
    assert rt.mode == "eval"
    quiet = rt.predict(X)
    assert not (noisy == quiet).all()
    assert rt.train() is rt
    with rt.in_mode("eval") as inside:
        assert inside is rt
        assert (rt.predict(X) == quiet).all()
        with rt.in_mode("train"):
            assert (rt.predict(X) == noisy).all()
        assert rt.mode == "eval"
    assert rt.mode == "train"
    with pytest.raises(RuntimeError), rt.in_mode("eval"):
        raise RuntimeError
    assert rt.mode == "train"
    with pytest.raises(ValueError, match="train or eval"), rt.in_mode("test"):
        pass


def test_artifacts_are_built_once_and_reused() -> None:
    traces: list[str] = []

    class Seen(nn.Module):
        """Notes when its Python runs."""

        def __init__(self) -> None:
            self.net = network()

        def forward(self, x: Any) -> Any:
            traces.append("train" if self.training else "eval")
            return self.net(x)

    rt = runtime("compiled", Seen())
    for _ in range(3):
        rt.step(X, Y)
        rt.predict(X)
        rt.loss(X[:3], Y[:3])
        rt.loss_and_grads(X, Y)
        with rt.in_mode("eval"):
            rt.predict(X)
    assert len(traces) == 10  # each recorded twice, to see that it gives the same program
    keys = {(k.entry, tuple(map(str, k.types)), k.numerics, k.guard) for k in rt.artifacts}
    batch = ("f32[6, 4]", "i64[6]")
    assert keys == {
        ("train_step", batch, "exact", None), ("forward_train", batch[:1], "exact", None), ("forward_eval", batch[:1], "exact", None),
        ("loss_train", ("f32[3, 4]", "i64[3]"), "exact", None), ("grads_train", batch, "exact", None),
    }  # fmt: skip
    for executable in rt.artifacts.values():
        assert "def run" in executable.source or "define i64 @run(" in executable.source
        assert executable.memory > 0
        assert executable.compile_seconds >= 0
    assert not runtime("eager").artifacts


def test_configure() -> None:
    rt = runtime("eager")
    rt.step(X, Y)
    before = bits(rt)
    loss = rt.loss(X, Y)
    assert rt.configure(backend="compiled", guard="nonfinite") is rt
    assert bits(rt) == before
    assert rt.loss(X, Y) == loss
    assert [k.guard for k in rt.artifacts] == ["nonfinite"]
    rt.configure(optimizer=tp.optim.Adam(0.0))
    assert not rt.artifacts, "what was compiled for other settings is gone"
    params = {**rt.params}
    rt.step(X, Y)
    assert all((rt.params[n] == a).all() for n, a in params.items())
    assert rt.step_count == 2
    for change, error in (
        ({"optimizer": tp.optim.SGD()}, ValueError), ({"objective": "nll"}, ValueError), ({"numerics": "quick"}, ValueError),
        ({"guard": "all"}, ValueError), ({"backend": "nothing"}, tp.BackendError), ({"clip_norm": 1.0}, TypeError),
        ({"scheduler": None}, TypeError), ({"accumulate": 2}, TypeError), ({"seed": 1}, TypeError),
        ({"objective": "mse", "backend": "nothing"}, tp.BackendError),
    ):  # fmt: skip
        state, loss = bits(rt), rt.loss(X, Y)
        with pytest.raises(error):
            rt.configure(**change)
        assert bits(rt) == state
        assert rt.loss(X, Y) == loss
        assert rt.backend.name == "compiled"


def test_refused_arguments() -> None:
    for options, error in (
        ({"clip_norm": 1.0}, TypeError), ({"scheduler": None}, TypeError), ({"accumulate": 1}, TypeError),
        ({"numerics": "quick"}, ValueError), ({"guard": "yes"}, ValueError), ({"dtype": "int32"}, ValueError),
        ({"dtype": "quad"}, ValueError), ({"device": "cuda"}, tp.BackendError),
        ({"backend": "nothing"}, tp.BackendError), ({"seed": -1}, ValueError), ({"objective": "nll"}, ValueError),
    ):  # fmt: skip
        with pytest.raises(error):
            tp.Runtime(network(), **dict[str, Any](options))
    with pytest.raises(TypeError, match=r"nn\.Module"):
        tp.Runtime(lambda x: x)  # type: ignore[arg-type]
    for bad in ({"lr": -1.0}, {"lr": float("nan")}, {"betas": (1.0, 0.9)}, {"eps": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            tp.optim.Adam(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="momentum"):
        tp.optim.SGD(nesterov=True)


def test_dtype_spellings() -> None:
    for spelling in ("float", "float64", "f64", float, np.float64, tp.f64):
        assert tp.Runtime(network(), dtype=spelling).dtype is tp.f64
    for spelling in ("float32", "f32", np.float32):
        assert tp.Runtime(network(), dtype=spelling).dtype is tp.f32


def test_the_seed_gives_the_first_state() -> None:
    assert bits(runtime("eager")) == bits(runtime("compiled"))
    assert bits(runtime(seed=1)) != bits(runtime())
    wide, narrow = runtime(dtype="float64", seed=5), runtime(dtype="float32", seed=5)
    assert {n: a.shape for n, a in wide.params.items()} == {n: a.shape for n, a in narrow.params.items()}
    assert all((wide.params[n].astype(np.float32) == a).all() for n, a in narrow.params.items())


def test_the_tape() -> None:
    rt = runtime()
    rt.predict(X)
    assert rt.tape is not None
    assert len(rt.tape) == len([*rt.tape]) > 0
    assert all(r.array is not None for i in rt.tape for r in i.results)
    assert "matmul" in str(rt.tape)
    assert not rt.tape.data_dependent

    class Reads(nn.Module):
        """Reads a value."""

        def forward(self, x: Any) -> Any:
            return x * float(x.sum())

    reading = tp.Runtime(Reads())
    reading.predict(X)
    assert reading.tape is not None
    assert reading.tape.data_dependent
    assert Path(__file__).name in str(reading.tape.read_by[0][0].file)
    with pytest.raises(tp.TraceError, match=r"(?s)return x \* float.*remedy"):
        tp.Runtime(Reads(), backend="compiled").predict(X)


# Allocation


@pytest.mark.parametrize("guard", [None, "nonfinite"])
def test_the_steady_state_of_the_compiled_program_allocates_nothing_that_grows(guard: str | None) -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.LayerNorm(128), nn.Linear(128, 32))
    rt = runtime("compiled", model, guard=guard)
    rows = 1024
    x, y = np.ones((rows, 64), np.float32), np.zeros(rows, np.int64)
    for _ in range(5):
        float(rt.step(x, y))
    tracemalloc.start()
    try:
        for _ in range(150):  # NumPy caches some small blocks, up to a bound
            float(rt.step(x, y))
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            float(rt.step(x, y))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096, f"{after - before} bytes stay after 100 steps"
    # NumPy's own iterators buffer up to 8192 elements of 8 bytes at a time; the smallest activation is twice that.
    assert peak - before < 8192 * 8 + 8192 < rows * 32 * 4, f"{peak - before} bytes at the peak of a step"
