"""Registry-wide: at ties, kinks, zeros, infinities, NaN and large arguments forward mode equals reverse mode, compiled equals the tape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from derivatives import EXTREME, FINITE, active_operands, agree, backends_agree, derivatives, special_operands
from outcomes import same_bits
from strategies import operand_types

import tapeir as tp
from tapeir import ops
from tapeir.ir import OPS, DtypeError, Op, Sample, ShapeError, TensorType
from tapeir.ir.op import Control, Elementwise, Gather, Join, Reduce, Scatter, View
from tapeir.ir.ops.clip import Clip
from tapeir.ir.ops.convolution import Pool
from tapeir.ir.ops.nn import Activation, Softmax
from tapeir.ir.types import f32, holds_floats, i32

NAMES = sorted(name for name, op in OPS.items() if not isinstance(op, Control))
CONTAINED = (Reduce, View, Join, Gather, Scatter, Pool, Softmax)
"""Families in which ``0 * inf`` of one element reaches no other."""
LARGEST = 30
"""Elements of operands: each costs a run in both directions."""


def _results(op: Op, sample: Sample) -> tuple[TensorType, ...]:
    return op.result_types(operand_types(op, sample.operands), op.attributes(sample.attrs))


def forms(op: Op) -> list[Sample]:
    """Differentiable samples, the smallest few of each dtype, for each form of operands and attributes."""
    found: dict[object, Sample] = {}
    for sample in op.samples(np.random.default_rng(0)):
        size = sum(a.size for a in sample.operands)
        if any(holds_floats(a) and a.dtype.itemsize < 4 for a in sample.operands):
            continue  # each rounding of 16 bits makes the two directions differ
        if 0 < size <= LARGEST and active_operands(op, sample) and all(r.size for r in _results(op, sample)):
            found.setdefault((tuple((a.shape, a.dtype) for a in sample.operands), repr(sample.attrs)), sample)
    return list(found.values())


def _all(name: str) -> list[Sample]:
    return list(OPS[name].samples(np.random.default_rng(0)))


DIFFERENTIABLE = [n for n in NAMES if forms(OPS[n])]
DIAGONAL = [n for n in DIFFERENTIABLE if isinstance(OPS[n], (Elementwise, Activation, Clip))]


def test_every_differentiable_op_is_met() -> None:
    left = {n for n in NAMES if n not in DIFFERENTIABLE and any(active_operands(OPS[n], s) for s in _all(n))}
    assert left == set()


def grids(sample: Sample) -> tuple[np.ndarray, ...]:
    """Every combination of special values in the floating operands."""
    values = np.array((*FINITE, *EXTREME))
    floating = [n for n, a in enumerate(sample.operands) if a.dtype.kind == "f"]
    made = [g.reshape(-1) for g in np.meshgrid(*[values] * len(floating))]
    with np.errstate(all="ignore"):
        cast = {n: g.astype(sample.operands[n].dtype) for n, g in zip(floating, made, strict=True)}
    return tuple(cast.get(n, np.resize(a, made[0].shape)) for n, a in enumerate(sample.operands))


@pytest.mark.parametrize("name", DIAGONAL)
def test_elementwise_derivatives_have_one_value(name: str) -> None:
    """Every element's slope, at all special values of all operands: the same bits in both directions and on both backends."""
    op, random = OPS[name], np.random.default_rng(5)
    kinds = {(tuple(a.dtype for a in s.operands), repr(s.attrs)): s for s in forms(op)}
    for sample in kinds.values():
        operands = grids(sample)
        wide = Sample(operands, sample.attrs)
        for n in active_operands(op, wide):
            tape, compiled = derivatives(op, wide, [n])
            one = np.ones(operands[0].shape, operands[n].dtype)
            ahead, back = tape.along(operands, one, one)
            assert same_bits(ahead, back), f"{name} {dict(sample.attrs)}, operand {n}\n{ahead}\n{back}"
            assert backends_agree(tape, compiled, operands, random), f"{name} {dict(sample.attrs)}, operand {n}"


def check_directions(name: str, samples: Iterable[Sample]) -> None:
    op, random = OPS[name], np.random.default_rng(5)
    spreads = not isinstance(op, CONTAINED)
    for sample in samples:
        for n in active_operands(op, sample):
            if not sample.operands[n].size:
                continue
            tape, compiled = derivatives(op, sample, [n])
            for operands in special_operands(sample, random):
                ahead, back = tape.matrices(operands)
                place = f"{name} {dict(sample.attrs)}, operand {n} at {operands}"
                assert agree(ahead, back, operands, spreads), place
                assert backends_agree(tape, compiled, operands, random), place


MIXING = [n for n in DIFFERENTIABLE if n not in DIAGONAL]


@pytest.mark.parametrize("name", MIXING)
def test_forward_mode_is_reverse_mode(name: str) -> None:
    """Of the smallest form with several elements, in each dtype."""
    several = sorted(forms(OPS[name]), key=_several)
    check_directions(name, {s.operands[0].dtype: s for s in reversed(several)}.values())


def _several(sample: Sample) -> tuple[bool, int]:
    size = sum(a.size for a in sample.operands)
    return size < 4, size


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXING)
def test_forward_mode_is_reverse_mode_in_every_form(name: str) -> None:
    check_directions(name, forms(OPS[name]))


X, Y, N = TensorType(f32, (2, 3)), TensorType(f32, (3,)), TensorType(i32, (2, 3))
WINDOW = {"size": (2,), "stride": (1,), "dilation": (1,)}


@pytest.mark.parametrize(
    ("name", "types", "attrs", "error", "text"),
    [
        ("clip", (X,), {"lower": False, "upper": False}, ShapeError, "clip of 1 operands.*rule: x and one operand for each bound"),
        ("clip", (X, X), {}, ShapeError, "clip of 2 operands, lower = True, upper = True"),
        ("clip", (X, X, Y), {}, ShapeError, r"clip of f32\[2, 3\] with a bound f32\[3\]\n  rule: bounds have the type of x"),
        ("clip", (X, N), {"upper": False}, DtypeError, r"with a bound i32\[2, 3\]"),
        ("max_pool", (X,), {**WINDOW, "low": (1, 1)}, ShapeError, r"padded by \[1, 1\] and \[\]\n  rule: one number, not negative"),
        ("max_pool", (X,), {**WINDOW, "high": (-1,)}, ShapeError, r"padded by \[\] and \[-1\]"),
    ],
)  # fmt: skip
def test_type_rules(
    name: str, types: tuple[TensorType, ...], attrs: dict[str, object], error: type[Exception], text: str
) -> None:
    op = OPS[name]
    with pytest.raises(error, match=f"(?s){text}"):
        op.result_types(types, op.attributes(attrs))


def test_a_second_derivative_of_a_power_of_zero_is_finite() -> None:
    def power(a: Any, b: Any) -> Any:
        return ops.sum(a**b)

    def slope(a: Any, b: Any) -> Any:
        return ops.sum(tp.grad(power, 1)(a, b))

    def second(a: Any, b: Any) -> Any:
        return tp.grad(slope)(a, b)

    for backend in ("eager", "compiled"):
        found = tp.compile(second, backend=backend)(np.zeros(2), np.array([2.0, 3.0]))
        assert found.tolist() == [0, 0]
