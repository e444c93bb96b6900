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


def _literals(i: Instruction) -> list[Literal] | None:
    """The operands' elements, if all are constants."""
    if not all(o.owner is not None and o.owner.op.name == "constant" for o in i.operands):
        return None
    return [o.owner.attrs["value"] for o in i.operands if o.owner is not None]


def _refusal(i: Instruction) -> str | None:
    """Why an op is not folded."""
    literals = _literals(i)
    if not i.operands or literals is None:
        return "there is no operand" if not i.operands else "an operand is not a constant"
    if len(i.results) != 1 or isinstance(i.op, (Composite, Control)) or i.results[0].type.dtype is key:
        return "only single ops on arrays are folded"
    result = i.results[0].type
    if sum(x.type.size for x in literals) > OPERAND_ELEMENTS >= result.size:
        return "the operands are large"
    certain = isinstance(i.op, View) or (isinstance(i.op, Elementwise) and i.op.rounding == "correct")
    if result.size > INLINE_ELEMENTS and not (certain and all(x.is_splat for x in literals)):
        return f"the result has over {INLINE_ELEMENTS} elements and is not a splat for certain"
    return None


def _fold(function: Function, context: Context) -> bool:
    """Ops on constants become constants."""

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        evaluate = context.evaluate
        reason = _refusal(i)
        if evaluate is None or reason is not None:
            context.note(i, f"fold: {reason or 'there is nothing to compute with'}")
            return None
        literals, result = _literals(i) or [], i.results[0].type
        if result.size > INLINE_ELEMENTS:
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
        except IRError as error:
            context.note(i, f"fold: it raises when it runs ({error.message.splitlines()[0]})")
            return None
        return (build.literal(array),) if context.spend("fold", i) else None

    return sweep(function, visit, context)


fold = Pass("fold", per_function(_fold))
