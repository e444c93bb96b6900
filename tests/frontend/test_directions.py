"""Every differentiable function of ``tp.ops``: at special points ``jvp`` is the transpose of ``vjp``, and compiled equals the tape."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from derivatives import FINITE
from outcomes import same_bits

import tapeir as tp
from tapeir import ops
from tapeir.ir.types import Array

SHAPE = (2, 3)
Call = Callable[..., Any]


# How a function is called whose arguments are not one or two arrays of one shape.
CALLS: dict[str, Call] = {
    "astype": lambda x: ops.astype(x, "f64") if x.dtype == tp.f64 else ops.astype(x, "f32"),
    "avg_pool": lambda x: ops.avg_pool(x, (2,), 1, 1, count_include_pad=False),
    "batch_norm": lambda x, w: ops.batch_norm(x, weight=w[0], bias=w[1]),
    "broadcast_to": lambda x: ops.broadcast_to(x, (2, *SHAPE)),
    "clip": lambda x: ops.clip(x, -1, 1),
    "concat": lambda x, y: ops.concat([x, y]),
    "conv": lambda x, w: ops.conv(x[None], w[:1, None, :2] * ops.ones((1, 2, 1), x.dtype), padding=1),
    "cross_entropy": lambda x, t: ops.cross_entropy(x, t),
    "dropout": lambda x: ops.dropout(x, 0),
    "embedding": lambda x: ops.embedding(np.array([1, 0, 1]), x),
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "index": lambda x: ops.index(x, (slice(None, None, -1), np.array([0, 2, 0]))),
    "layer_norm": lambda x, w: ops.layer_norm(x, 3, w[0], w[1]),
    "linear": lambda x, w: ops.linear(x, w, w[:, 0]),
    "matmul": lambda x, y: ops.matmul(x, ops.matrix_transpose(y)),
    "max_pool": lambda x: ops.max_pool(x, (2,), 1, 1),
    "pad": lambda x: ops.pad(x, 1, 2.0),
    "permute_dims": lambda x: ops.permute_dims(x, (1, 0)),
    "reshape": lambda x: ops.reshape(x, (-1,)),
    "scaled_dot_product_attention": lambda x, y: ops.scaled_dot_product_attention(x, y, y - x),
    "split": lambda x: ops.split(x, 3, axis=1)[1],
    "stack": lambda x, y: ops.stack([x, y], axis=1),
    "take": lambda x: ops.take(x, np.array([2, 0, 2]), axis=1),
    "take_along_axis": lambda x: ops.take_along_axis(x, np.array([[2, 2], [0, 1]]), axis=1),
    "where": lambda x, y: ops.where(x > 0, x, y),
}
# Functions that take no differentiable operand, or none alone.
APART = {
    "arange", "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "full", "one_hot",
    "ones", "random_normal", "random_uniform", "zeros",
}  # fmt: skip
X: Any = np.ones(SHAPE)


def _count(function: Call) -> int:
    """How many arrays a function of ``calls`` takes."""
    return len(inspect.signature(function).parameters)


def _plain(name: str) -> Call | None:
    """A function that ``CALLS`` does not state, on one array or on two; None where it takes neither."""
    function = getattr(ops, name)

    def one(x: Any) -> Any:
        return function(x)

    def two(x: Any, y: Any) -> Any:
        return function(x, y)

    for call in (one, two):
        try:
            call(*[X] * _count(call))
        except (TypeError, tp.IRError):
            continue
        return call
    return None


PLAIN = {n: _plain(n) for n in sorted(set(ops.__all__) - APART - set(CALLS))}
EVERY = {n: f for n, f in {**CALLS, **PLAIN}.items() if f and np.asarray(f(*[X] * _count(f))).dtype.kind == "f"}


def agree(ahead: Array, back: Array) -> bool:
    """Whether two matrices are one to rounding; ``0 * inf`` of an infinite slope may be NaN in one direction in place of a zero."""
    largest = max(1.0, *(float(np.abs(m[np.isfinite(m)]).max(initial=0)) for m in (ahead, back)))
    same = np.isclose(ahead, back, 1e-6, 200 * np.finfo(ahead.dtype).eps * largest, equal_nan=True)
    return bool((same | (np.isnan(ahead) & (back == 0)) | (np.isnan(back) & (ahead == 0))).all())


class Directions:
    """The derivative of a function with respect to one argument, on one backend, as ``[results, elements]``."""

    def __init__(self, function: Call, which: int, backend: str) -> None:
        def of(values: Any) -> Call:
            def call(x: Any) -> Any:
                return function(*values[:which], x, *values[which + 1 :])

            return call

        self.which = which
        self.value = function
        self.ahead = tp.compile(lambda t, *v: tp.jvp(of(v), (v[which],), (t,))[1], backend=backend)
        self.back = tp.compile(lambda c, *v: tp.grad(lambda x: ops.sum(of(v)(x) * c))(v[which]), backend=backend)

    def matrices(self, values: list[Array]) -> tuple[Array, Array]:
        """By columns ahead and by rows back."""
        x, shape = values[self.which], np.shape(self.value(*values))
        columns = [np.ravel(self.ahead(b.reshape(x.shape), *values)) for b in np.eye(x.size, dtype=x.dtype)]
        size = int(np.prod(shape))
        rows = [np.ravel(self.back(b.reshape(shape), *values)) for b in np.eye(size, dtype=x.dtype)]
        return np.stack(columns, axis=1), np.stack(rows)


@pytest.mark.parametrize("name", EVERY)
def test_forward_mode_is_reverse_mode(name: str) -> None:
    function, random = EVERY[name], np.random.default_rng(0)
    for which in range(_count(function)):
        tape, compiled = (Directions(function, which, backend) for backend in ("eager", "compiled"))
        for dtype in (np.float64, np.float32):
            for pool in ((1.0,), (0.0, 1.0, -0.0), FINITE):
                values = [np.asarray(random.choice(pool, SHAPE), dtype) for _ in range(_count(function))]
                ahead, back = tape.matrices(values)
                place = f"{name} of {values}, argument {which}\n{ahead}\n{back}"
                assert agree(ahead, back), place
                assert all(map(same_bits, (ahead, back), compiled.matrices(values))), place


def test_every_function_is_met() -> None:
    assert set(ops.__all__) >= set(CALLS) | APART
    assert not [n for n, f in PLAIN.items() if f is None], (
        "CALLS says how it is called, or APART that it has no derivative"
    )
