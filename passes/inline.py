"""inline: an op that runs a function as a kernel is replaced by that function's ops.

``fused`` with a kernel of class ``update`` stays: every target runs it as one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Builder, Function, Instruction, Module, Value
from ..ir.op import Control
from .manager import Context, Pass
from .rewrite import sweep


def _inline_function(function: Function, module: Module, context: Context) -> bool:
    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        if not isinstance(i.op, Control) or len(i.op.bodies) != 1:
            return None
        kernel = module[i.attrs[i.op.bodies[0]]]
        if kernel.attrs.get("class") == "update" or not context.spend("inline", i):
            return None
        made = dict(zip(kernel.arguments, i.operands, strict=True))
        for inner in kernel.instructions:
            results = build.recorder.bind(inner.op, tuple([made[o] for o in inner.operands]), inner.attrs)
            made.update(zip(inner.results, results, strict=True))
        return [made[r] for r in kernel.results]

    return sweep(function, visit, context)


def _inline(module: Module, context: Context) -> bool:
    """Kernels become ops again, for a target without loops of its own."""
    changes = [_inline_function(f, module, context) for f in module]
    return any(changes)


inline = Pass("inline", _inline)
