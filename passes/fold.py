"""fold: an op whose operands are constants is a constant, computed by the device's own kernel table.

Results of up to 16 elements are folded; a larger one only where it is a splat for certain: elementwise ops of one possible
answer, and moves, on splats.  An op whose check fails stays, and raises when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Builder, Function, Instruction, IRError, Value
from ..ir.literal import Literal
from ..ir.op import Composite, Control, Elementwise, View
from ..ir.print import INLINE_ELEMENTS
from ..ir.types import TensorType, key
from .manager import Context, Pass, per_function
from .rewrite import sweep

OPERAND_ELEMENTS = 1 << 16
"""Operands of more elements than this are not expanded to fold a small result."""


def _fold(function: Function, context: Context) -> bool:
    """Ops on constants become constants."""

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        evaluate = context.evaluate
        if evaluate is None or not i.operands or len(i.results) != 1 or isinstance(i.op, (Composite, Control)):
            return None
        literals: list[Literal] = []
        for o in i.operands:
            if o.owner is None or o.owner.op.name != "constant":
                return None
            literals.append(o.owner.attrs["value"])
        result = i.results[0].type
        if result.dtype is key or sum(x.type.size for x in literals) > OPERAND_ELEMENTS >= result.size:
            return None
        if result.size > INLINE_ELEMENTS:
            if not all(x.is_splat for x in literals) or not (
                isinstance(i.op, View) or (isinstance(i.op, Elementwise) and i.op.rounding == "correct")
            ):
                return None
            if not context.spend("fold", i):
                return None
            if isinstance(i.op, View):
                return (build.splat(literals[0].data, result),)
            small = Instruction(i.op, i.operands, i.attrs, [TensorType(result.dtype, ())], i.location)
            with np.errstate(all="ignore"):
                return (build.splat(evaluate(small, [x.data for x in literals])[0], result),)
        try:
            with np.errstate(all="ignore"):
                array = evaluate(i, [np.ascontiguousarray(x.array).reshape(x.type.shape) for x in literals])[0]
        except IRError:
            return None
        return (build.literal(array),) if context.spend("fold", i) else None

    return sweep(function, visit)


fold = Pass("fold", per_function(_fold))
