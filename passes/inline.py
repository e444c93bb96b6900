"""inline: an op that runs a function as a kernel is replaced by that function's ops.

``fused`` with a kernel of class ``update``, a rule of elementwise ops, stays: every target runs it as one.  ``dissolve`` is the same for
targets with loops of their own, and leaves every kernel that is one nest of loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir import Builder, Function, GraphBuilder, Instruction, Module, Symbol, Value
from ..ir.op import Control, Elementwise, Source, View
from .loops import UnfitError, kernel_nest
from .manager import Context, Pass
from .rewrite import sweep

Stays = Callable[[Instruction, Function], bool]
"""Whether an instruction goes on to run a function as a kernel."""


def _is_update(kernel: Function) -> bool:
    """Whether a kernel is one rule for flat parameters, as ``update`` makes it; text may call any kernel so."""
    flat = {r.type.shape for r in kernel.results}
    arguments = set(kernel.arguments)
    for i in kernel.instructions:
        if isinstance(i.op, Elementwise):
            flat.add(i.result.type.shape)
        elif isinstance(i.op, View):
            if i.op.name != "broadcast_to" or i.operands[0] not in arguments or i.operands[0].type.rank:
                return False
        elif not isinstance(i.op, Source):
            return False
    return kernel.attrs.get("class") == "update" and len(flat) == 1


def _is_nest(kernel: Function) -> bool:
    """Whether a kernel is one nest of loops, and what its checks look at is in memory before it runs."""
    try:
        kernel_nest(kernel)
    except UnfitError:
        return False
    return True


def _inline_function(function: Function, module: Module, context: Context, stays: Stays) -> bool:
    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        if not isinstance(i.op, Control) or len(i.op.bodies) != 1:
            return None
        kernel = module[i.attrs[i.op.bodies[0]]]
        if stays(i, kernel):
            return None
        recorder = build.recorder
        assert isinstance(recorder, GraphBuilder)
        made = dict(zip(kernel.arguments, i.operands, strict=True))
        for inner in kernel.instructions:
            recorder.at = inner.location or i.location
            operands = tuple([made[o] for o in inner.operands])
            if isinstance(inner.op, Control):  # its types were inferred from the function that it names
                copied = Instruction(inner.op, operands, inner.attrs, [r.type for r in inner.results], recorder.at)
                recorder.instructions.append(copied)
                results = copied.results
            else:
                results = recorder.bind(inner.op, operands, inner.attrs)
            made.update(zip(inner.results, results, strict=True))
        return [made[r] for r in kernel.results]

    return sweep(function, visit, context)


def _inline_all(module: Module, context: Context, stays: Stays) -> bool:
    """Functions after those that they name, so that kernels inside of kernels are seen."""
    found: dict[Symbol | str, None] = {}
    pending: list[Symbol | str] = list(module.functions)[::-1]
    while pending:
        missing = [name for name in sorted(module[pending[-1]].symbols()) if name not in found]
        if not missing:
            found[pending.pop()] = None
        pending += missing
    changes = [_inline_function(module[name], module, context, stays) for name in found]
    return any(changes)


def _inline(module: Module, context: Context) -> bool:
    """Kernels become ops again, for a target without loops of its own."""
    return _inline_all(module, context, lambda i, kernel: _is_update(kernel) or not context.spend("inline", i))


def _dissolve(module: Module, context: Context) -> bool:
    """Kernels that are no single nest of loops become ops again.  It costs no fuel: no target runs them as they are."""
    return _inline_all(module, context, lambda i, kernel: _is_nest(kernel))


inline = Pass("inline", _inline)
dissolve = Pass("dissolve", _dissolve)
