"""Arguments of wrong kinds in every public function: an error of ours at the user's line, and no line of the library around it.

A call that does not fit the signature is Python's TypeError, and so is what the user's own function makes of what it is given.
"""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops
from tapeir.ir.errors import IRError

X: Any = np.ones((2, 3), np.float32)
I8: Any = np.ones((2, 3), np.int8)
IMAGE: Any = np.ones((1, 2, 4, 4), np.float32)
FLAGS: Any = X > 0
WRONG: tuple[Any, ...] = (
    None, 1.5, float("nan"), "a", b"a", True, 7, -9, 1 << 70, (0, 1), (1.5,), [None], [], {}, object(),
    [X, "a"], 1j, X, FLAGS, np.float64(0.5),
    np.array(["a"]), (0, 0), "same", np.ones((0, 3)), lambda: 1,
)  # fmt: skip
CALLS: dict[str, tuple[Any, ...]] = {
    "astype": (X, "f32"), "avg_pool": (IMAGE, 2, 1, 0, True), "max_pool": (IMAGE, 2, 1, 0, 1), "arange": (0, 3, 1, "i64"),
    "batch_norm": (X, np.ones(3), np.ones(3), np.ones(3), np.ones(3), 1e-5),
    "broadcast_to": (X, (2, 2, 3)), "concat": ([X, X], 0), "stack": ([X, X], 0),
    "conv": (IMAGE, np.ones((2, 2, 3, 3)), np.ones(2), 1, 0, 1, 1), "cross_entropy": (X, np.array([0, 1])), "dropout": (X, 0.0, None),
    "embedding": (np.array([0, 1]), X), "full": ((2,), 1, "f32"), "ones": ((2,), "f32"), "zeros": ((2,), "f32"), "gelu": (X, "tanh"),
    "index": (X, 0), "layer_norm": (X, 3, np.ones(3), np.ones(3), 1e-5), "linear": (X, np.ones((4, 3)), np.ones(4)), "matmul": (X, X.T),
    "one_hot": (np.array([0, 1]), 2, "f32"), "pad": (X, 1, 0.0), "permute_dims": (X, (1, 0)), "reshape": (X, (3, 2)), "split": (X, 2, 0),
    "squeeze": (X[:1], 0), "take": (X, np.array([0]), 0), "take_along_axis": (X, np.ones((2, 1), int), 1), "where": (FLAGS, X, X),
    "scaled_dot_product_attention": (X, X, X, np.ones((2, 2), bool), False, 0.5), "expand_dims": (X, 0), "flip": (X, 0), "clip": (X, 0, 1),
    "random_uniform": ((2,), "f32", None), "random_normal": ((2,), "f32", None), "var": (X, 0, 0.0, True), "std": (X, 0, 0.0, True),
    "softmax": (X, 0), "log_softmax": (X, 0),
}  # fmt: skip
REDUCTIONS = {"sum", "mean", "max", "min", "argmax", "argmin", "any", "all"}


def _valid(name: str) -> tuple[Any, ...]:
    if name in CALLS:
        return CALLS[name]
    if name in REDUCTIONS:
        return (X, 0, True)
    integers = name.startswith("bitwise") or name.startswith("logical")
    return tuple([I8 if integers else X] * len(inspect.signature(getattr(ops, name)).parameters))


def _of_one_wrong(given: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for n in range(len(given)):
        for wrong in WRONG:
            yield (*given[:n], wrong, *given[n + 1 :])
    yield ()
    yield (*given, 1, 2, 3, 4, 5, 6, 7, 8)


def _refused(call: Callable[[], Any]) -> str | None:
    """What is wrong with the error of a call, if it raises one."""
    try:
        call()
    except (IRError, TypeError) as error:
        files = [f.filename for f in traceback.extract_tb(error.__traceback__)]
        if any(f != __file__ for f in (files if isinstance(error, IRError) else files[-1:])):
            return f"{type(error).__name__} through {files[-1]}: {error}"
        if (
            isinstance(error, IRError)
            and __file__ not in str(error)
            and not isinstance(error, (tp.BackendError, tp.CheckpointError))
        ):
            return f"{type(error).__name__} without a line: {error}"
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, ValueError, Warning) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _all_refused(calls: Iterator[tuple[Any, Callable[[], Any]]]) -> None:
    found = [f"{args!r:.90}: {said}" for args, call in calls if (said := _refused(call)) is not None]
    assert not found, "\n".join(found[:40])


@pytest.mark.parametrize("name", ops.__all__)
def test_functions(name: str) -> None:
    function, given = getattr(ops, name), _valid(name)
    if not name.startswith("random"):
        function(*given)
    _all_refused((args, lambda args=args: function(*args)) for args in _of_one_wrong(given))


MORE = {"__getitem__", "__matmul__", "__add__", "__lt__", "__and__", "__pow__", "named"}
METHODS = sorted(set(dir(tp.Tensor)) & (set(ops.__all__) | MORE))


@pytest.mark.parametrize("name", METHODS)
def test_methods_in_a_trace(name: str) -> None:
    given = CALLS.get(name, (X, 0, True) if name in REDUCTIONS else (X, X))[1:]

    def call(args: tuple[Any, ...]) -> None:
        tp.trace(lambda x: (getattr(x, name)(*args), x)[1], tp.f32[2, 3])

    _all_refused((args, lambda args=args: call(args)) for args in _of_one_wrong(given))


LAYERS: dict[str, tuple[Any, ...]] = {
    "Linear": (2, 3, True), "LayerNorm": (3, 1e-5, True, True), "BatchNorm1d": (3, 1e-5, 0.1, True), "BatchNorm2d": (3, 1e-5, 0.1, True),
    "Embedding": (3, 2), "Flatten": (1, -1), "Dropout": (0.5,), "GELU": ("none",), "Conv1d": (2, 2, 3, 1, 0, 1, 1, True),
    "Conv2d": (2, 2, 3, 1, 0, 1, 1, True), "MaxPool1d": (2, 1, 0, 1), "MaxPool2d": (2, 1, 0, 1), "AvgPool1d": (2, 1, 0, True),
    "AvgPool2d": (2, 1, 0, True),
    "Parameter": ((2,), 0.0), "Buffer": ((2,), 0.0, "f32"), "Sequential": (nn.ReLU(),), "ReLU": (), "Tanh": (),
    "Sigmoid": (), "SiLU": (), "objective": ("mse", None),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    made = getattr(nn, name)
    made(*LAYERS[name])
    _all_refused((args, lambda args=args: made(*args)) for args in _of_one_wrong(LAYERS[name]))


INITS = ["Constant", "KaimingNormal", "KaimingUniform", "Normal", "Uniform", "XavierNormal", "XavierUniform"]
RECORDS: dict[str, Any] = {
    **{f"init.{n}": getattr(nn.init, n) for n in INITS},
    **{f"optim.{n}": getattr(tp.optim, n) for n in ("SGD", "Adam", "AdamW")},
    "Config": tp.Trainer.Config,
    "TrainOptions": tp.Trainer.TrainOptions,
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(name: str) -> None:
    made = RECORDS[name]
    given = ((f.name, wrong) for f in fields(made) for wrong in WRONG)
    _all_refused(((field, wrong), lambda f=field, w=wrong: made(**{f: w})) for field, wrong in given)


def _square(x: Any) -> Any:
    return ops.sum(x * x)


ENTRIES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "grad": (lambda f, n, x: tp.grad(f, n)(x), (_square, 0, X)),
    "value_and_grad": (lambda f, n, x: tp.value_and_grad(f, n)(x), (_square, 0, X)),
    "vjp": (lambda f, x, c: tp.vjp(f, x)[1](c), (_square, X, np.float32(1))),
    "jvp": (tp.jvp, (_square, (X,), (X,))),
    "hvp": (tp.hvp, (_square, (X,), (X,))),
    "trace": (lambda f, t, m, d: tp.trace(f, t, mode=m, dtype=d), (_square, tp.f32[2, 3], "train", tp.f32)),
    "compile": (lambda f, b, d, x: tp.compile(f, b, d)(x), (_square, "compiled", "cpu", X)),
    "type": (lambda shape: tp.f32[shape], ((2, 3),)),
    "arrays": (tp.data.arrays, (X, X)),
    "split": (lambda fraction, seed: tp.data.arrays(X, X).split(fraction, seed), (0.5, 0)),
    "runtime": (
        lambda m, o, d, b, s, n, g: tp.Runtime(m, optimizer=o, dtype=d, backend=b, seed=s, numerics=n, guard=g),
        (nn.Linear(3, 1), tp.optim.SGD(), "float32", "eager", 0, "exact", None),
    ),
    "predict": (lambda x: tp.Runtime(nn.Linear(3, 1)).predict(x), (X,)),
    "step": (lambda x, y: tp.Runtime(nn.Linear(3, 1)).step(x, y), (X, np.ones((2, 1)))),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries(name: str) -> None:
    function, given = ENTRIES[name]
    function(*given)
    wrong = (args for args in _of_one_wrong(given) if len(args) == len(given))
    _all_refused((args, lambda args=args: function(*args)) for args in wrong)
