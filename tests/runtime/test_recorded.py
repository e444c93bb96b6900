"""What a program was recorded from: attributes of modules are followed, foreign draws and lost assignments are errors."""

# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops

from .small import BACKENDS, X, bits

Y = X @ np.ones((4, 3))


class Scaled(nn.Module):
    """A linear layer, a factor, and settings in containers."""

    def __init__(self) -> None:
        self.linear = nn.Linear(4, 3)
        self.beta: Any = 1.0
        self.settings = {"power": 1}

    def forward(self, x: Any) -> Any:
        return self.linear(x) ** self.settings["power"] * self.beta


def make(backend: str, model: nn.Module | None = None, **options: Any) -> tp.Runtime:
    return tp.Runtime(model or Scaled(), optimizer=tp.optim.Adam(1e-2), backend=backend, **options)


def both(change: Callable[[Any, int], None], model: Callable[[], Any] = Scaled, steps: int = 6) -> list[tp.Runtime]:
    """Train on both backends while ``change(model, step)`` is called between steps; losses and state must agree bit for bit."""
    runtimes: list[tp.Runtime] = []
    losses: list[list[float]] = []
    for backend in BACKENDS:
        made = model()
        rt = make(backend, made)
        found: list[float] = []
        for step in range(steps):
            change(made, step)
            found += [float(rt.step(X, Y)), rt.loss(X, Y), float(np.sum(rt.predict(X)))]
        runtimes.append(rt)
        losses.append(found)
    assert losses[0] == losses[1]
    assert bits(runtimes[0]) == bits(runtimes[1])
    return runtimes


# Attributes of modules


def anneal(model: Any, step: int) -> None:
    model.beta = 0.5 ** (step // 2)


def replace_settings(model: Any, step: int) -> None:
    model.settings = {"power": 1 + step % 2}


def change_settings_in_place(model: Any, step: int) -> None:
    model.settings["power"] = 1 + step % 3
    model.beta = float(step)


def set_array(model: Any, step: int) -> None:
    model.beta = np.full(3, 0.25 * step)


def delete_and_set(model: Any, step: int) -> None:
    del model.beta
    model.beta = 1 + step


@pytest.mark.parametrize("change", [anneal, replace_settings, change_settings_in_place, set_array, delete_and_set])
def test_compiled_follows_attributes_as_eager_does(change: Callable[[Any, int], None]) -> None:
    both(change)


def test_an_attribute_of_a_module_below_is_followed() -> None:
    def change(model: Any, step: int) -> None:
        model.inner.beta = 1 / (1 + step)

    class Outer(nn.Module):
        def __init__(self) -> None:
            self.inner = Scaled()

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    both(change, Outer)


def test_a_callback_changes_an_attribute() -> None:
    class Anneal:
        def __init__(self, model: Scaled) -> None:
            self.model = model

        def on_step(self, trainer: Any, step: int, loss: float) -> None:
            self.model.beta *= 0.5

    losses: list[Any] = []
    for backend in BACKENDS:
        model = Scaled()
        trainer = tp.Trainer.new(model, tp.Trainer.Config(backend=backend))
        options = tp.Trainer.TrainOptions(steps=5, callbacks=[Anneal(model)], progress=False)
        losses.append(trainer.train(tp.data.arrays(X, Y), options).report.loss_after)
    assert losses[0] == losses[1]


def programs(rt: tp.Runtime) -> set[int]:
    return {id(e) for e in rt.artifacts.values()}


def test_what_does_not_change_the_program_compiles_nothing() -> None:
    model = Scaled()
    rt = make("compiled", model)
    rt.step(X, Y)
    before = programs(rt)
    model.epoch = 3
    rt.step(X, Y)
    model.beta = model.beta + 0.0
    rt.step(X, Y)
    Scaled().beta = 7
    rt.step(X, Y)
    assert programs(rt) == before


def test_a_value_that_comes_back_finds_its_program_again(capsys: pytest.CaptureFixture[str]) -> None:
    model = Scaled()
    rt = make("compiled", model)
    for beta in (1.0, 0.5, 1.0, 0.5, 1.0):
        model.beta = beta
        rt.step(X, Y)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recording @train_step again: beta was 1.0 and is 0.5 (assigned at ")
    assert "test_recorded.py:" in line


def test_recording_again_and_again_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    model = Scaled()
    rt = make("compiled", model)
    for step in range(12):
        model.beta = 1.0 / (step + 1)
        rt.step(X, Y)
    text = capsys.readouterr().err
    assert text.count("recording @train_step again") == 4  # the first three and the tenth
    assert (
        "  3 programs were recorded again so far, each compiled anew\n  remedy: make a number that changes an input"
        in text
    )


def test_in_forward_an_attribute_may_keep_what_it_computes() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(4, 3)
            self.seen: Any = None
            self.width: int | None = None

        def forward(self, x: Any) -> Any:
            if self.width is None:
                self.width = x.shape[1]
            self.seen = self.linear(x)
            return self.seen * self.width

    for rt in both(lambda model, step: None, Keeping):
        assert len(rt.artifacts) == len({k.entry for k in rt.artifacts})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: setattr(m, "linear", nn.Linear(4, 3)), "Linear linear was replaced"),
        (lambda m: setattr(m.linear, "bias", nn.Parameter(3)), "Parameter linear.bias was replaced"),
        (lambda m: setattr(m.linear, "bias", None), "Parameter linear.bias was removed"),
        (lambda m: setattr(m, "count", nn.Buffer(())), "Buffer count was added"),
    ],
)
def test_replacing_what_a_runtime_owns_is_an_error(backend: str, change: Callable[[Any], None], what: str) -> None:
    model = Scaled()
    rt = make(backend, model)
    rt.step(X, Y)
    before = bits(rt)
    change(model)
    for call in (lambda: rt.step(X, Y), lambda: rt.predict(X), lambda: rt.loss(X, Y)):
        with pytest.raises(tp.TraceError) as caught:
            call()
        assert f"{what} after the runtime was made" in str(caught.value)
        assert "remedy: make a new Runtime" in str(caught.value)
    assert bits(rt) == before


def test_a_replaced_module_names_the_line_that_did_it() -> None:
    model = Scaled()
    rt = make("compiled", model)
    old, model.linear = model.linear, nn.Linear(4, 3)  # here
    with pytest.raises(tp.TraceError, match="# here"):
        rt.predict(X)
    model.linear = old
    rt.predict(X)


# Assignments that would be lost


class Count(nn.Module):
    def __init__(self) -> None:
        self.linear = nn.Linear(4, 3)
        self.count = nn.Buffer((), dtype="int64")

    def forward(self, x: Any) -> Any:
        self.count = self.count + 1
        return self.linear(x)


class Grow(Count):
    def forward(self, x: Any) -> Any:
        self.linear.weight *= 2
        return self.linear(x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_assigning_to_the_name_of_a_buffer_or_parameter_in_forward_is_an_error(backend: str) -> None:
    for model, line, remedy in (
        (Count(), "self.count = self.count + 1", "remedy: self.count.assign(value) gives it a new value"),
        (Grow(), "self.linear.weight *= 2", "remedy: the optimizer changes parameters"),
    ):
        rt = make(backend, model)
        with pytest.raises(tp.TraceError) as caught:
            rt.step(X, Y)
        assert f"    {line}\n" in str(caught.value)
        assert remedy in str(caught.value)
        assert rt.step_count == 0


# Draws of other generators

GENERATOR = np.random.default_rng(5)
COUNT = itertools.count()


def drawn(how: str) -> Any:
    return {
        "numpy": lambda: np.random.normal(),
        "python": lambda: random.gauss(0, 1),
        "generator": lambda: float(GENERATOR.normal()),
        "count": lambda: float(next(COUNT)),
    }[how]()


class Noisy(nn.Module):
    def __init__(self, how: str) -> None:
        self.linear = nn.Linear(4, 3)
        self.how = how

    def forward(self, x: Any) -> Any:
        x = x + drawn(self.how)
        return self.linear(x)


@pytest.fixture
def global_state() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["numpy", "python", "generator", "count"])
def test_draws_in_forward_are_an_error(backend: str, how: str) -> None:
    rt = make(backend, Noisy(how))
    with pytest.raises(tp.TraceError) as caught:
        rt.step(X, Y)
    text = str(caught.value)
    assert "remedy: tp.ops.random_normal, tp.ops.random_uniform and tp.ops.dropout draw anew" in text
    if how in ("numpy", "python"):
        assert "Noisy.forward draws from a generator of NumPy or Python" in text
    else:
        assert "x = x + drawn(self.how)" in text
        assert "two recordings of Noisy.forward differ: constant has value = " in text
    assert rt.step_count == 0


@pytest.mark.usefixtures("global_state")
def test_a_branch_that_is_drawn_is_an_error() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return self.linear(x) if random.random() < 2 else x

    for backend in BACKENDS:
        with pytest.raises(tp.TraceError, match=r"random\.random\(\) < 2"):
            make(backend, Skipping()).predict(X)


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_that_repeat_are_no_error(backend: str) -> None:
    class Projection(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(4, 3)
            self.table: Any = None

        def forward(self, x: Any) -> Any:
            if self.table is None:
                self.table = np.random.normal(size=(4, 4))
            return self.linear(x @ self.table + np.random.default_rng(0).normal(size=4))

    rt = make(backend, Projection())
    assert float(rt.step(X, Y)) > 0


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_of_other_threads_are_no_error(backend: str) -> None:
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            np.random.normal(size=10)
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(3):
            make(backend).step(X, Y)
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("global_state")
def test_a_compiled_function_that_draws_is_an_error() -> None:
    with pytest.raises(tp.TraceError, match="draws from a generator"):
        tp.compile(lambda x: x + np.random.normal())(X)
    with pytest.raises(tp.TraceError, match="two recordings of <lambda> differ"):
        tp.compile(lambda x: x + float(GENERATOR.normal()))(X)


@pytest.mark.usefixtures("global_state")
def test_an_initialiser_that_draws_is_an_error() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter((3, 4), lambda key, shape: np.random.normal(size=shape))
    with pytest.raises(tp.TraceError) as caught:
        make("eager", model)
    assert "np.random.normal(size=shape)" in str(caught.value)
    assert "the initialiser of weight draws from a generator of NumPy or Python" in str(caught.value)
    assert "remedy: nn.init.Normal, or tp.ops.random_normal(shape, key=key)" in str(caught.value)


# The guard

WEIGHT = {"kl": 1.0}


class Closed(nn.Module):
    def __init__(self) -> None:
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x) * WEIGHT["kl"]


def test_the_guard_names_the_line_of_a_value_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    rt = make("compiled", Closed(), guard="recorded:3")
    for _ in range(5):
        rt.step(X, Y)
    monkeypatch.setitem(WEIGHT, "kl", 0.25)
    before = bits(rt)
    with pytest.raises(tp.TraceError) as caught:
        rt.step(X, Y)
    assert 'return self.linear(x) * WEIGHT["kl"]' in str(caught.value)
    assert "@train_step was recorded from Python values that have changed since" in str(caught.value)
    assert "value = 1.0 at first, and then 0.25" in str(caught.value)
    assert bits(rt) == before


def test_guards_are_named_and_joined() -> None:
    rt = make("compiled", guard="nonfinite,recorded")
    rt.step(X, Y)
    with pytest.raises(tp.NonFiniteError):
        rt.step(X * np.inf, Y)
    for wrong in ("recorded:0", "finite", "nonfinite,", "recorded:x", ""):
        with pytest.raises(ValueError, match="it is 'nonfinite', 'recorded' or 'recorded:N'"):
            make("compiled", guard=wrong)


# Settings that are not there


@pytest.mark.parametrize("backend", BACKENDS)
def test_attributes_that_a_runtime_does_not_have_are_refused(backend: str) -> None:
    rt = make(backend)
    for name in ("lr", "batch_size", "modes"):
        with pytest.raises(AttributeError) as caught:
            setattr(rt, name, 0.1)
        assert str(caught.value).startswith(f"a Runtime has no attribute {name!r}\n  remedy: rt.configure(optimizer=")
    for name in ("seed", "numerics", "guard", "backend", "device", "setting", "params", "step_count", "tape"):
        with pytest.raises(AttributeError, match=rf"^Runtime\.{name} cannot be assigned"):
            setattr(rt, name, None)
    with pytest.raises(ValueError, match="mode 'test' is not known"):
        rt.mode = "test"
    rt.mode = "eval"
    assert rt.mode == "eval"


def test_attributes_that_a_trainer_does_not_have_are_refused() -> None:
    trainer = tp.Trainer.new(Scaled())
    trained = trainer.train(tp.data.arrays(X, Y), tp.Trainer.TrainOptions(progress=False))
    for thing in (trainer, trained, tp.Trainer.Advanced(Scaled())):
        with pytest.raises(AttributeError, match="has no attribute 'lr'"):
            thing.lr = 0.1
    with pytest.raises(AttributeError, match=r"^Trained\.runtime cannot be assigned"):
        trained.runtime = trained.runtime


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_objective_of_ones_own_in_a_config(backend: str, tmp_path: Path) -> None:
    def loss(prediction: Any, target: Any) -> Any:
        return ops.mean((prediction - target) ** 2)

    own = nn.Objective("squares", loss, {"bias": lambda p, t: float(np.mean(p - t))})
    assert hash(own) == hash(own)
    config = tp.Trainer.Config(objective=own, backend=backend)
    trained = tp.Trainer.new(Scaled(), config).train(
        tp.data.arrays(X, Y), tp.Trainer.TrainOptions(steps=2, progress=False)
    )
    assert set(trained.eval(tp.data.arrays(X, Y)).metrics) == {"bias"}
    trained.save(tmp_path / "own.safetensors")
    again = tp.Runtime.load(tmp_path / "own.safetensors", Scaled(), objective=own)
    assert bits(again) == bits(trained.runtime)
    for wrong, error in (({"a": 1}, TypeError), (3, TypeError), ("mean", ValueError)):
        with pytest.raises(error, match="objective"):
            tp.Trainer.Config(objective=wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="metric 'm' is a function"):
        nn.Objective("o", loss, {"m": 3})  # pyright: ignore[reportArgumentType]
