"""dce: an op whose results nobody uses goes away, unless running it may raise."""

from __future__ import annotations

from ..ir import Function, Instruction, Module, Value
from ..ir.composite import can_fail
from .manager import Context, Pass


def _sweep(function: Function, module: Module, context: Context) -> bool:
    used: set[Value] = set(function.results)
    kept: list[Instruction] = []
    for i in reversed(function.instructions):
        used_by = any(r in used for r in i.results)
        needed = used_by or can_fail(i, module)
        if needed:
            context.note(i, "dce: its result is used" if used_by else "dce: running it may raise")
        if needed or not context.spend("dce", i):
            used.update(i.operands)
            kept.append(i)
    if len(kept) == len(function.instructions):
        return False
    function.instructions = kept[::-1]
    return True


def _dce(module: Module, context: Context) -> bool:
    """Ops nobody uses go away, and kernels that no op names."""
    named = set[str]().union(*[f.symbols() for f in module])
    swept = [_sweep(f, module, context) for f in module]
    changed = any(swept)
    while dead := (named & set(module.functions)) - set[str]().union(*[f.symbols() for f in module]):
        for name in dead:
            del module.functions[name]
        changed = True
    return changed


dce = Pass("dce", _dce)
