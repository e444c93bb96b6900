"""Composites that CUDA computes whole in fast numerics: which, and the calls that do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...ir import Instruction
from ...ir.op import Layout
from ...ir.types import DType, bf16, f16, f32
from ..base import Sizes
from ..compiled.lowering import product_sizes
from ..compiled.memory import Ref
from . import attention
from .calls import Call, ProductCall
from .device import Device

if TYPE_CHECKING:
    from .program import CudaProgram

Writer = Callable[["CudaProgram", Instruction, Sequence[Ref], Sequence[Ref]], "list[Call]"]


class Whole(NamedTuple):
    """How a composite is computed: whether a device can (some device, if none is given), and its calls."""

    fits: Callable[[Instruction, Device | None], bool]
    write: Writer


def keeps(i: Instruction, device: Device | None = None) -> bool:
    """Whether a composite is computed whole: one of floats of at most 32 bits, none of them empty."""
    whole = WHOLE.get(i.op.name)
    if whole is None or i.results[0].type.dtype not in (f32, f16, bf16):
        return False
    return all(v.type.size for v in (*i.operands, *i.results)) and whole.fits(i, device)


def _has_registers(i: Instruction, device: Device | None) -> bool:
    floats = [v.type for v in (*i.operands, *i.results) if v.type.dtype.floating]
    fits = all(t.shape[-1] <= attention.MOST_COLUMNS for t in floats)
    return fits and (device is None or device.tensor_cores)


def _layer_sizes(i: Instruction) -> Sizes:
    return product_sizes(i.operands[0].type, i.operands[1].type, i.attrs["transpose_a"], i.attrs["transpose_b"])


def _has_layer(i: Instruction, device: Device | None) -> bool:
    """No size is 1: of such products cuBLASLt has few, and they are no work."""
    sizes = _layer_sizes(i)
    has = device is None or device.has_layer(i.results[0].type.dtype, sizes, i.attrs["activation"])
    return min(sizes[1:4]) > 1 and has


def _masking(i: Instruction, mask: Sequence[Ref]) -> tuple[DType | None, bool, float]:
    """The dtype of attention's mask, if there is one, and its attributes."""
    return mask[0].dtype if mask else None, i.attrs["causal"], i.attrs["scale"]


def _attention(program: CudaProgram, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]) -> list[Call]:
    """One kernel."""
    layouts, out = [o.layout for o in operands], results[0].layout
    dtype, attrs = results[0].dtype, _masking(i, operands[3:])
    return [
        program.named(
            ("attention", dtype, tuple(layouts), out, *attrs),
            "attention",
            operands,
            results,
            lambda name: attention.attention(layouts, out, dtype, *attrs, name),
        )
    ]


def _attention_grad(
    program: CudaProgram, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]
) -> list[Call]:
    """Two kernels; the first leaves two floats of every row of queries to the second."""
    dy, *others = [o.layout for o in operands]
    dq, dk, dv = [r.layout for r in results]
    dtype, attrs = results[0].dtype, _masking(i, operands[4:])
    form = (dtype, tuple(o.layout for o in operands), *attrs)
    rows = i.results[0].type.size // i.results[0].type.shape[-1]
    stats = Ref("rows", 0, f32, Layout.contiguous((2, rows)))
    program.rows = max(program.rows, 8 * rows)
    return [
        program.named(
            ("dq", dq, *form),
            "attention_dq",
            operands,
            [results[0], stats],
            lambda name: attention.query_gradient(others, dy, dq, dtype, *attrs, name),
        ),
        program.named(
            ("dk", dk, dv, *form),
            "attention_dk",
            operands,
            [*results[1:], stats],
            lambda name: attention.key_gradient(others, dy, (dk, dv), dtype, *attrs, name),
        ),
    ]


def _matmul_bias(program: CudaProgram, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]) -> list[Call]:
    """One product of cuBLASLt."""
    a, b, bias, out = [r.started() for r in (*operands, *results)]
    return [ProductCall(a, b, out, _layer_sizes(i), bias, i.attrs["activation"])]


WHOLE: Mapping[str, Whole] = {
    "scaled_dot_product_attention": Whole(_has_registers, _attention),
    "scaled_dot_product_attention_grad": Whole(_has_registers, _attention_grad),
    "matmul_bias": Whole(_has_layer, _matmul_bias),
}
"""The composites, by name."""
