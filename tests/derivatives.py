"""The derivative of one op in forward and in reverse mode, on either backend, and operands at which the two may part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from outcomes import same_bits
from strategies import operand_types

from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend
from tapeir.backends.eager import EagerBackend
from tapeir.ir import Absent, Builder, GraphBuilder, Module, Op, Sample, TensorType, forward, reverse
from tapeir.ir.types import Array

Run = Callable[[Sequence[Array]], tuple[Array, ...]]
FINITE = (0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 0.5, 1e-3, 30.0, -30.0, 88.0, -104.0)
"""Values at which ops have ties, kinks, zeros or the ends of a range."""
EXTREME = (math.nan, math.inf, -math.inf, 5e-324, 1e-40, -1e-310, 1e30, -1e30, 1e300, 3e38)
POOLS = (
    (0.0,), (1.0,), (0.0, 1.0), (0.0, -0.0, 2.0), FINITE, FINITE, (*FINITE, *EXTREME), (math.inf, 1.0), (-math.inf, 0.0),
    (math.nan, 1.0),
)  # fmt: skip
"""What operands are drawn from: one value, few values (so that they tie), special ones, extreme ones too."""


@dataclass(frozen=True)
class Derivative:
    """``run(operands, tangents, cotangents)`` gives the tangents of the results and the cotangents of the active operands."""

    run: Run
    inward: tuple[TensorType, ...]
    results: tuple[TensorType, ...]

    def along(self, operands: Sequence[Array], tangent: Array, cotangent: Array) -> tuple[Array, Array]:
        """The derivative of flat directions, flat: of the results along ``tangent``, of the operands along ``cotangent``."""
        found = self.run([*operands, *_parts(tangent, self.inward), *_parts(cotangent, self.results)])
        ahead, back = found[: len(self.results)], found[len(self.results) :]
        return np.concatenate([np.ravel(a) for a in ahead]), np.concatenate([np.ravel(a) for a in back])

    @property
    def sizes(self) -> tuple[int, int]:
        """Elements of the active operands and of the results."""
        return sum(t.size for t in self.inward), sum(t.size for t in self.results)

    def matrices(self, operands: Sequence[Array]) -> tuple[Array, Array]:
        """The matrix ``[elements of results, elements of active operands]``, by columns ahead and by rows back."""
        columns, rows = self.sizes
        dtype = self.results[0].dtype.numpy
        nothing = np.zeros(columns, dtype), np.zeros(rows, dtype)
        ahead = [self.along(operands, basis, nothing[1])[0] for basis in np.eye(columns, dtype=dtype)]
        back = [self.along(operands, nothing[0], basis)[1] for basis in np.eye(rows, dtype=dtype)]
        return np.stack(ahead, axis=1), np.stack(back)


def _parts(flat: Array, types: Sequence[TensorType]) -> list[Array]:
    ends = np.cumsum([t.size for t in types])[:-1]
    return [p.reshape(t.shape) for p, t in zip(np.split(flat, ends), types, strict=True)]


def active_operands(op: Op, sample: Sample) -> tuple[int, ...]:
    """The operands through which a floating result has a derivative."""
    types = operand_types(op, sample.operands)
    result = op.result_types(types, op.attributes(sample.attrs))[0]
    if isinstance(op.vjp, Absent) or not result.dtype.floating:
        return ()
    return tuple(n for n, t in enumerate(types) if t.dtype is result.dtype)


def derivatives(op: Op, sample: Sample, active: Sequence[int]) -> tuple[Derivative, Derivative]:
    """The derivative with respect to some operands, on the tape and compiled."""
    types, attrs = operand_types(op, sample.operands), op.attributes(sample.attrs)
    results, inward = op.result_types(types, attrs), tuple(types[n] for n in active)
    recorder = GraphBuilder()
    recorder.at = ()
    build = Builder(recorder)
    operands = [recorder.argument(t, f"x{n}") for n, t in enumerate(types)]
    tangents = [recorder.argument(t, f"t{n}") for n, t in enumerate(inward)]
    cotangents = [recorder.argument(r, f"c{n}") for n, r in enumerate(results)]
    ys = recorder.bind(op, tuple(operands), attrs)
    recorded, wrt = list(recorder.instructions), [operands[n] for n in active]
    found = [*forward(recorder, recorded, ys, wrt, tangents), *reverse(recorder, recorded, ys, cotangents, wrt)]
    outputs = [build.splat(0.0, t) if v is None else v for v, t in zip(found, (*results, *inward), strict=True)]
    arguments: list[Any] = [(v, "input") for v in (*operands, *tangents, *cotangents)]
    module = Module("ops", [recorder.function("main", arguments, [(v, None) for v in outputs])])
    runs = [compile_module(b, module, "main", "cpu").run for b in (EagerBackend(), CompiledBackend())]
    first, second = (Derivative(run, inward, results) for run in runs)
    return first, second


def backends_agree(
    tape: Derivative, compiled: Derivative, operands: Sequence[Array], random: np.random.Generator
) -> bool:
    """Whether the tape and the compiled program give the same bits along a random direction and along none."""
    dtype = tape.results[0].dtype.numpy
    for scale in (1.0, 0.0):
        tangent, cotangent = (np.asarray(scale * random.uniform(-1, 1, n)).astype(dtype) for n in tape.sizes)
        found = (d.along(operands, tangent, cotangent) for d in (tape, compiled))
        if not all(same_bits(a, b) for a, b in zip(*found, strict=True)):
            return False
    return True


def agree(ahead: Array, back: Array, operands: Sequence[Array], spreads: bool) -> bool:
    """Whether two matrices are one to rounding, NaN where NaN.

    With operands that are not finite, or so large that products overflow, one direction may have NaN alone: ``0 * inf`` of an element
    that is not asked for, in place of 0, or of anything where sums spread it.
    """
    floating = [np.abs(a) for a in operands if a.dtype.kind == "f"]
    finite = [float(np.abs(m[np.isfinite(m)]).max(initial=0)) for m in (ahead, back)]
    # Terms of sums are as large as products of the operands, also where they cancel.
    terms = max(float(np.fmax.reduce(a, axis=None, initial=1)) for a in floating) if spreads else 1.0
    with np.errstate(all="ignore"):
        same = np.abs(ahead - back) <= 64 * np.finfo(ahead.dtype).eps * np.square(terms) * max(1.0, *finite)
    same |= (ahead == back) | (np.isnan(ahead) & np.isnan(back))
    if not all((a < 1e6).all() for a in floating):
        same |= (np.isnan(ahead) & (spreads | (back == 0))) | (np.isnan(back) & (spreads | (ahead == 0)))
    return bool(same.all())


def special_operands(sample: Sample, random: np.random.Generator) -> Iterator[tuple[Array, ...]]:
    """A sample with other floating elements, drawn from each of ``POOLS``."""
    for pool in POOLS:
        with np.errstate(all="ignore"):
            made = [np.asarray(random.choice(pool, a.shape)).astype(a.dtype) for a in sample.operands]
        yield tuple(m if a.dtype.kind == "f" else a for m, a in zip(made, sample.operands, strict=True))
