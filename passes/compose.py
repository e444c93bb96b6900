"""compose: a product and what follows it become one op, where the target computes that whole.

A layer's product, bias and activation::

    relu(add(matmul(a, b), broadcast_to(bias)))  is  matmul_bias(a, b, bias, activation = relu)

perhaps with a reshape behind the product.  The sum before the activation is then nowhere: this is done where nothing reads it but the
activation and, for relu, the comparison ``le(x, 0)`` of its derivative, which is that of the result.  Other results of rounding
are possible, so targets keep none of these ops in exact numerics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir import Builder, Function, Instruction, Value
from .manager import Context, Pass, per_function
from .rewrite import splat_of, sweep


def _before_reshape(v: Value) -> Value:
    return v.owner.operands[0] if v.owner is not None and v.owner.op.name == "reshape" else v


class _Layers:
    """What of a function can be composed; found before anything is replaced."""

    def __init__(self, function: Function) -> None:
        self.users: dict[Value, list[Instruction]] = {}
        for i in function.instructions:
            for o in i.operands:
                self.users.setdefault(o, []).append(i)
        self.returned = set(function.results)
        self.sums: dict[Instruction, tuple[Instruction, Value]] = {}
        """The product and the bias of a sum."""
        self.activations: dict[Instruction, str] = {}
        self.comparisons: dict[Instruction, Instruction] = {}
        """The relu whose result may be compared in its operand's place."""
        for i in function.instructions:
            if i.op.name == "add":
                self._sum(i)
            elif i.op.name == "relu" or (i.op.name == "gelu" and i.attrs["approximate"] == "tanh"):
                self._activation(i)

    def _only_user(self, v: Value) -> bool:
        return len(self.users[v]) == 1 and v not in self.returned

    def _sum(self, i: Instruction) -> None:
        for x, y in (i.operands, i.operands[::-1]):
            product = _before_reshape(x).owner
            spread = y.owner
            if (
                product is not None and product.op.name == "matmul" and x.type.dtype.floating
                and product.result.type.rank == 2
                and x.type.shape[-1:] == product.result.type.shape[-1:]
                and self._only_user(x) and self._only_user(product.result)
                and spread is not None and spread.op.name == "broadcast_to"
                and spread.operands[0].owner is None and spread.operands[0].type.shape == x.type.shape[-1:]
            ):  # fmt: skip
                self.sums[i] = product, spread.operands[0]
                return

    def _activation(self, i: Instruction) -> None:
        x = i.operands[0]
        others = [u for u in self.users[x] if u is not i]
        alike = all(
            u.op.name == "le" and u.operands[0] is x and (c := splat_of(u.operands[1])) is not None and c.scalar == 0
            for u in others
        )
        if x.owner in self.sums and x not in self.returned and (not others or (alike and i.op.name == "relu")):
            self.activations[i] = i.op.name
            self.comparisons.update(dict.fromkeys(others, i))


def _compose(function: Function, context: Context) -> bool:
    """A product with bias and activation becomes one op, where the target has that."""
    layers = _Layers(function)
    results: dict[Instruction, Value] = {}

    def made(build: Builder, operands: Sequence[Value], attrs: Mapping[str, Any], at: Instruction) -> Value | None:
        y: Value = build.matmul_bias(*operands, **attrs)
        assert y.owner is not None
        if not context.keeps(y.owner):
            context.note(at, "compose: the target does not compute it whole")
            return None
        return y if y.type == at.result.type else build.reshape(y, shape=at.result.type.shape)

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        new: Value | None = None
        if i in layers.sums:
            product, bias = layers.sums[i]
            new = made(build, (*product.operands, bias), product.attrs, i)
        elif i in layers.activations:
            whole = _before_reshape(i.operands[0]).owner
            if whole is not None and whole.op.name == "matmul_bias":
                new = made(build, whole.operands, {**whole.attrs, "activation": layers.activations[i]}, i)
        elif layers.comparisons.get(i) in results:
            new = build.le(results[layers.comparisons[i]], i.operands[1])
        if new is None or not context.spend("compose", i):
            return None
        results[i] = new
        return (new,)

    return sweep(function, visit, context)


compose = Pass("compose", per_function(_compose))
