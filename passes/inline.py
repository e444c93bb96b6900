"""inline: an op that runs a function as a kernel is replaced by that function's ops.

``fused`` with a kernel of class ``update`` stays: every target runs it as one.  ``dissolve`` is the same for targets with loops of their
own, and leaves every kernel that is one nest of loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir import Builder, Function, GraphBuilder, Instruction, Module, Symbol, Value
from ..ir.op import Control, Elementwise, Source, View
from .loops import UnfitError, kernel_nest
from .manager import Context, Pass
from .rewrite import sweep


def _is_update(kernel: Function) -> bool:
    """Whether a kernel is the rule of an update: it says so, and has nothing but elementwise ops."""
    simple = all(isinstance(i.op, (Elementwise, Source, View)) for i in kernel.instructions)
    return kernel.attrs.get("class") == "update" and simple


def _is_nest(kernel: Function) -> bool:
    """Whether a kernel is one nest of loops, and what its checks look at is in memory before it runs."""
    try:
        kernel_nest(kernel)
    except UnfitError:
        return False
    return True


def _inline_function(function: Function, module: Module, context: Context, stays: Callable[[Function], bool]) -> bool:
    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        if not isinstance(i.op, Control) or len(i.op.bodies) != 1:
            return None
        kernel = module[i.attrs[i.op.bodies[0]]]
        if stays(kernel) or not context.spend("inline", i):
            return None
        recorder = build.recorder
        assert isinstance(recorder, GraphBuilder)
        made = dict(zip(kernel.arguments, i.operands, strict=True))
        for inner in kernel.instructions:
            operands = tuple([made[o] for o in inner.operands])
            if isinstance(inner.op, Control):  # its types were inferred from the function that it names
                copied = Instruction(inner.op, operands, inner.attrs, [r.type for r in inner.results], i.location)
                recorder.instructions.append(copied)
                results = copied.results
            else:
                results = recorder.bind(inner.op, operands, inner.attrs)
            made.update(zip(inner.results, results, strict=True))
        return [made[r] for r in kernel.results]

    return sweep(function, visit, context)


def _from_the_innermost(module: Module) -> list[Function]:
    """Functions after those that they name."""
    found: dict[Symbol | str, None] = {}
    pending: list[Symbol | str] = list(module.functions)[::-1]
    while pending:
        missing = [name for name in sorted(module[pending[-1]].symbols()) if name not in found]
        if not missing:
            found[pending.pop()] = None
        pending += missing
    return [module[name] for name in found]


def _inline(module: Module, context: Context) -> bool:
    """Kernels become ops again, for a target without loops of its own."""
    changes = [_inline_function(f, module, context, _is_update) for f in _from_the_innermost(module)]
    return any(changes)


def _dissolve(module: Module, context: Context) -> bool:
    """Kernels that are no single nest of loops become ops again."""
    changes = [_inline_function(f, module, context, _is_nest) for f in _from_the_innermost(module)]
    return any(changes)


inline = Pass("inline", _inline)
dissolve = Pass("dissolve", _dissolve)
