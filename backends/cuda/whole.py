"""Composites that CUDA computes whole in fast numerics: which, and the calls that do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir import Instruction
from ...ir.op import Layout
from ...ir.types import bf16, f16, f32
from ..compiled.memory import Ref
from . import attention

if TYPE_CHECKING:
    from .program import Call, CudaProgram

Writer = Callable[["CudaProgram", Instruction, Sequence[Ref], Sequence[Ref]], "list[Call]"]


def keeps(i: Instruction) -> bool:
    """Whether a composite is computed whole: floats of at most 32 bits, and no more columns than the kernel has registers for."""
    types = [v.type for v in (*i.operands, *i.results)]
    if i.op.name not in WHOLE or i.results[0].type.dtype not in (f32, f16, bf16) or any(t.size == 0 for t in types):
        return False
    return all(t.shape[-1] <= attention.MOST_COLUMNS for t in types if t.dtype.floating)


def _attention(program: CudaProgram, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]) -> list[Call]:
    """One kernel."""
    layouts, out = [o.layout for o in operands], results[0].layout
    attrs, dtype = (i.attrs["causal"], i.attrs["scale"]), results[0].dtype
    return [
        program.named(
            ("attention", dtype, tuple(layouts), out, *attrs),
            "attention",
            (*operands, *results),
            lambda name: attention.attention(layouts, out, dtype, *attrs, name),
        )
    ]


def _attention_grad(
    program: CudaProgram, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]
) -> list[Call]:
    """Two kernels; the first leaves two floats of every row of queries to the second."""
    dy, *others = [o.layout for o in operands]
    dq, dk, dv = [r.layout for r in results]
    attrs, dtype = (i.attrs["causal"], i.attrs["scale"]), results[0].dtype
    form = (dtype, tuple(o.layout for o in operands), *attrs)
    rows = i.results[0].type.size // i.results[0].type.shape[-1]
    stats = Ref("scratch", 0, f32, Layout.contiguous((2, rows)))
    program.scratch = max(program.scratch, 8 * rows)
    return [
        program.named(
            ("dq", dq, *form),
            "attention_dq",
            (*operands, results[0], stats),
            lambda name: attention.query_gradient(others, dy, dq, dtype, *attrs, name),
        ),
        program.named(
            ("dk", dk, dv, *form),
            "attention_dk",
            (*operands, *results[1:], stats),
            lambda name: attention.key_gradient(others, dy, (dk, dv), dtype, *attrs, name),
        ),
    ]


WHOLE: Mapping[str, Writer] = {
    "scaled_dot_product_attention": _attention,
    "scaled_dot_product_attention_grad": _attention_grad,
}
"""What computes a composite, by its name."""
