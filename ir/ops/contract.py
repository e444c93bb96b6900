"""The matrix product, and the product with what follows it in a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..graph import Value
from ..op import OPS, Attr, Composite, Contract, Random, Sample, need_kind
from ..types import Array, TensorType, f32, f64, i64

Rules = tuple[Callable[[], Value] | None, ...]


def product_rule(
    build: Any,
    product: Callable[..., Value],
    tangents: tuple[Value | None, ...],
    operands: tuple[Value, Value],
    attrs: Mapping[str, Any],
) -> Value | None:
    """The derivative of what is linear in each of two operands: ``product(da, b) + product(a, db)``."""
    (da, db), (a, b) = tangents, operands
    terms = [product(da, b, **attrs)] if da is not None else []
    if db is not None:
        terms.append(product(a, db, **attrs))
    return build.add(*terms) if len(terms) == 2 else terms[0] if terms else None


class Matmul(Contract):
    """``y = a @ b`` over the last two axes, each operand transposed there if its flag says so; leading axes are equal.

    Backward: ``da = dy @ b^T`` and ``db = a^T @ dy``, again one product each.
    """

    name = "matmul"
    arity = 2
    attrs = {"transpose_a": Attr("bool", False), "transpose_b": Attr("bool", False)}
    transposes = ("transpose_a", "transpose_b")

    def infer(self, a: TensorType, b: TensorType, *, transpose_a: bool, transpose_b: bool) -> TensorType:
        need_kind("matmul", a, "fiu")
        if a.dtype is not b.dtype:
            raise DtypeError(f"matmul of {a} and {b}\n  rule: operands have one dtype")
        if a.rank < 2 or b.rank != a.rank or a.shape[:-2] != b.shape[:-2]:
            raise ShapeError(f"matmul of {a} and {b}\n  rule: equal ranks of 2 or more and equal leading axes")
        m, k = a.shape[-2:][::-1] if transpose_a else a.shape[-2:]
        k2, n = b.shape[-2:][::-1] if transpose_b else b.shape[-2:]
        if k != k2:
            flags = " with " + " and ".join(
                f for f, on in (("transpose_a", transpose_a), ("transpose_b", transpose_b)) if on
            )
            raise ShapeError(
                f"inner sizes {k} and {k2} differ in {a} @ {b}{flags if transpose_a or transpose_b else ''}\n"
                "  rule: the left operand's columns are the right operand's rows"
            )
        return a.with_shape((*a.shape[:-2], m, n))

    def eval(self, xp: Any, a: Array, b: Array, *, transpose_a: bool, transpose_b: bool) -> Array:
        return xp.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b)

    def vjp(
        self, build: Any, dy: Value, y: Value, a: Value, b: Value, *, transpose_a: bool, transpose_b: bool
    ) -> Rules:
        def left() -> Value:
            if transpose_a:
                return build.matmul(b, dy, transpose_a=transpose_b, transpose_b=True)
            return build.matmul(dy, b, transpose_b=not transpose_b)

        def right() -> Value:
            if transpose_b:
                return build.matmul(dy, a, transpose_a=True, transpose_b=transpose_a)
            return build.matmul(a, dy, transpose_a=not transpose_a)

        return (left, right)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, a: Value, b: Value, **attrs: Any
    ) -> Value | None:
        return product_rule(build, build.matmul, tangents, (a, b), attrs)

    def samples(self, random: Random) -> Iterable[Sample]:
        for batch, m, k, n in (
            ((), 2, 3, 4),
            ((), 1, 5, 1),
            ((), 1, 3, 4),
            ((), 4, 3, 1),
            ((2,), 3, 2, 3),
            ((), 2, 0, 3),
            ((), 0, 2, 3),
            ((2, 1), 1, 1, 1),
        ):
            for ta in (False, True):
                for tb in (False, True):
                    a = random.uniform(-2, 2, (*batch, k, m) if ta else (*batch, m, k))
                    b = random.uniform(-2, 2, (*batch, n, k) if tb else (*batch, k, n))
                    for d in (f64, f32, i64):
                        pair = tuple(
                            np.round(x * 3).astype(d.numpy) if d.integer else x.astype(d.numpy) for x in (a, b)
                        )
                        yield Sample(pair, {"transpose_a": ta, "transpose_b": tb}, d is f64)


ACTIVATIONS = ("none", "relu", "gelu")


class MatmulBias(Composite):
    """``y = activation(a @ b + bias)`` of matrices ``[m, k]`` and ``[k, n]``, each transposed if its flag says so, and ``bias [n]``.

    The activation is ``none``, ``relu``, or ``gelu`` by its tanh formula.  ``compose`` makes it for a target that computes it whole.
    """

    name = "matmul_bias"
    arity = 3
    attrs = {**Matmul.attrs, "activation": Attr("str", "none")}
    reads_rows = True

    def infer(
        self, a: TensorType, b: TensorType, bias: TensorType, *, transpose_a: bool, transpose_b: bool, activation: str
    ) -> TensorType:
        need_kind(self.name, a, "f")
        product: TensorType = OPS["matmul"].infer(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
        if activation not in ACTIVATIONS:
            raise ShapeError(f"{self.name} with activation = {activation!r}\n  rule: one of {', '.join(ACTIVATIONS)}")
        if product.rank != 2 or bias != product.with_shape(product.shape[1:]):
            raise ShapeError(
                f"{self.name} of {a}, {b} and {bias}\n  rule: matrices, and the bias has an element for each column"
            )
        return product

    def eval(
        self, xp: Any, a: Array, b: Array, bias: Array, *, transpose_a: bool, transpose_b: bool, activation: str
    ) -> Array:
        y = OPS["matmul"].eval(xp, a, b, transpose_a=transpose_a, transpose_b=transpose_b) + bias
        if activation == "none":
            return y
        return OPS["relu"].eval(xp, y) if activation == "relu" else OPS["gelu"].eval(xp, y, approximate="tanh")

    def decompose(
        self, build: Any, a: Value, b: Value, bias: Value, *, transpose_a: bool, transpose_b: bool, activation: str
    ) -> Value:
        product = build.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
        y = build.add(product, build.broadcast_to(bias, shape=product.type.shape))
        if activation == "none":
            return y
        return build.relu(y) if activation == "relu" else build.gelu(y, approximate="tanh")

    def samples(self, random: Random) -> Iterable[Sample]:
        for n, activation in enumerate(ACTIVATIONS):
            ta, tb = bool(n % 2), bool(n // 2)
            for d in (f64, f32):
                a, b, bias = (
                    random.uniform(-2, 2, shape).astype(d.numpy)
                    for shape in ((3, 2) if ta else (2, 3), (4, 3) if tb else (3, 4), (4,))
                )
                yield Sample((a, b, bias), {"transpose_a": ta, "transpose_b": tb, "activation": activation}, d is f64)
