"""Writing kernels: reductions in 16 lanes, their fixed folds, NaN and ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...ir import Instruction
from ...ir.op import Reduce
from ...ir.scalar import Scalar
from ...ir.types import f32
from ...passes.loops import rules
from ..sums import waiting
from . import narrow
from .nest_positions import LANES, Carry, Section, Spot
from .nest_values import ValueWriter


@dataclass
class Running:
    """A reduction under way in one vector: its lanes, and for floating maxima whether a NaN was met."""

    reduction: Instruction
    lanes: Carry
    nan: Carry | None = None
    spot: Spot = field(default_factory=Spot)

    @property
    def in_blocks(self) -> bool:
        """Whether it is a sum whose order counts."""
        return rules(self.reduction).combine == "sum" and self.reduction.result.type.dtype.floating


class ReductionWriter(ValueWriter):
    """Combines vectors into lanes and lanes into one."""

    def _start(self, phase: int, spots: Sequence[Spot]) -> list[Running]:
        """The reductions of a phase, one for each vector that they run in."""
        running: list[Running] = []
        for i in self.nest.reductions:
            if self.nest.levels[i.result] != phase + 1:
                continue
            dtype = i.result.type.dtype
            kind, first = self.vector(dtype), self._identity(i)
            for spot in spots:
                r = Running(i, Carry(kind, first), spot=spot)
                if _finds_extremum(i) and dtype.floating:
                    r.nan = Carry(f"<{LANES} x i1>", "zeroinitializer")
                running.append(r)
        return running

    def _identity(self, i: Instruction, width: int = LANES) -> str:
        dtype = i.result.type.dtype
        op: Reduce = i.op  # type: ignore[assignment]
        value = -0.0 if op.combine == "sum" and dtype.floating else op.identity(dtype)
        return str(self.entry.builder(width).constant(value, dtype).code)

    def _combine(self, i: Instruction, a: str, b: str, section: Section, kind: str) -> str:
        """``a`` combined with ``b``; of two equal extrema the second."""
        dtype, name = i.result.type.dtype, self.fresh("r")
        combine: str = rules(i).combine
        if combine == "sum":
            section.lines.append(f"  {name} = {'fadd' if dtype.floating else 'add'} {kind} {a}, {b}")
            return name
        sign = "u" if dtype.kind == "u" else "s"
        relation = {"max": "gt", "min": "lt"}[combine]
        compare = f"fcmp o{relation}" if dtype.floating else f"icmp {sign}{relation}"
        better = self.fresh("c")
        flags = kind.split(" x ")[0] + " x i1>" if kind.startswith("<") else "i1"
        section.lines += [
            f"  {better} = {compare} {kind} {a}, {b}",
            f"  {name} = select {flags} {better}, {kind} {a}, {kind} {b}",
        ]
        return name

    def _accumulate(self, r: Running, spot: Spot) -> None:
        """One more vector into a reduction's lanes."""
        i, here = r.reduction, self.here
        x = self.operand(i.operands[0], self.nest.full(), spot, LANES)
        new = self._combine(i, r.lanes.now, str(x.code), here, r.lanes.type)
        keep = spot.mask if self.nest.lanes_reduced else None
        if keep is not None:
            chosen = self.fresh("r")
            here.lines.append(
                f"  {chosen} = select <{LANES} x i1> {keep}, {r.lanes.type} {new}, {r.lanes.type} {r.lanes.now}"
            )
            new = chosen
        r.lanes.now = new
        if r.nan is not None:
            flag, name = self.fresh("c"), self.fresh("c")
            here.lines.append(f"  {flag} = fcmp uno {r.lanes.type} {x.code}, {x.code}")
            flag = self._both(flag, keep, here) or flag
            here.lines.append(f"  {name} = or <{LANES} x i1> {r.nan.now}, {flag}")
            r.nan.now = name

    def in_blocks(
        self, running: Sequence[Running], whole: int, block: Callable[[str], None], rest: Callable[[str], None] | None
    ) -> None:
        """``block(number)`` for so many whole blocks, then ``rest`` for what is left; sums are added up as ``backends/sums.py`` says."""
        sums, count = [r for r in running if r.in_blocks], whole + (rest is not None)
        going_on = [c for r in running for c in ((r.nan,) if r.in_blocks else (r.nan, r.lanes)) if c is not None]
        if count == 1:
            (rest or block)("0")
            return
        stacks = [self._stack(r.lanes.type, count.bit_length()) for r in sums]

        def one(number: str, body: Callable[[str], None]) -> None:
            for r in sums:
                r.lanes.now = self._identity(r.reduction)
            body(number)
            self._push(sums, stacks, number)

        self.loop("0", str(whole), going_on, lambda n: one(n, block))
        if rest is not None:
            one(str(whole), rest)
        for r, stack in zip(sums, stacks, strict=True):
            lowest, *others = waiting(count)
            r.lanes.now = self._waiting(r, stack, str(lowest))
            for level in others:
                r.lanes.now = self._combine(
                    r.reduction, self._waiting(r, stack, str(level)), r.lanes.now, self.here, r.lanes.type
                )

    def _stack(self, kind: str, levels: int) -> str:
        """Memory for the sums that wait."""
        name = self.fresh("stack")
        self.allocated.append(f"  {name} = alloca [{levels} x {kind}], align 64")
        return name

    def _at(self, r: Running, stack: str, level: str) -> str:
        name = self.fresh("p")
        self.here.lines.append(f"  {name} = getelementptr {r.lanes.type}, ptr {stack}, i64 {level}")
        return name

    def _waiting(self, r: Running, stack: str, level: str) -> str:
        at, name = self._at(r, stack, level), self.fresh("s")
        self.here.lines.append(f"  {name} = load {r.lanes.type}, ptr {at}, align 64")
        return name

    def _push(self, sums: Sequence[Running], stacks: Sequence[str], number: str) -> None:
        """A block's sums take in what waits for them, and wait."""
        if not sums:
            return
        parent, label = self.here, self.fresh("push")[1:]
        bits, level, odd = self.fresh("m"), self.fresh("m"), self.fresh("m")
        bits_after, level_after = self.fresh("m"), self.fresh("m")
        now = [self.fresh("s") for _ in sums]
        up = self.here = Section(self, f"{label}.up")
        merged = [
            self._combine(r.reduction, self._waiting(r, stack, level), x, up, r.lanes.type)
            for r, stack, x in zip(sums, stacks, now, strict=True)
        ]
        self.here = parent
        came = f"%{parent.label}"
        parent.lines += [
            f"  br label %{label}",
            f"{label}:",
            f"  {bits} = phi i64 [ {number}, {came} ], [ {bits_after}, %{label}.up ]",
            f"  {level} = phi i64 [ 0, {came} ], [ {level_after}, %{label}.up ]",
            *(
                f"  {x} = phi {r.lanes.type} [ {r.lanes.now}, {came} ], [ {y}, %{label}.up ]"
                for r, x, y in zip(sums, now, merged, strict=True)
            ),
            f"  {odd} = trunc i64 {bits} to i1",
            f"  br i1 {odd}, label %{label}.up, label %{label}.done",
            *(f"{label}.up:", *up.lines),
            f"  {bits_after} = lshr i64 {bits}, 1",
            f"  {level_after} = add i64 {level}, 1",
            f"  br label %{label}",
            f"{label}.done:",
        ]
        parent.label = f"{label}.done"
        for r, stack, x in zip(sums, stacks, now, strict=True):
            parent.lines.append(f"  store {r.lanes.type} {x}, ptr {self._at(r, stack, level)}, align 64")

    def fold(self, i: Instruction, lanes: str, section: Section) -> str:
        """16 lanes to one: lane ``j`` with ``j + h`` for ``h`` = 8, 4, 2, 1."""
        dtype = i.result.type.dtype
        one = self.entry.builder(1).type_of(dtype)
        width, now = LANES, lanes
        while width > 1:
            half = width // 2
            kind, small = f"<{width} x {one}>", f"<{half} x {one}>"
            low, high = self.fresh("f"), self.fresh("f")
            for name, start in ((low, 0), (high, half)):
                mask = ", ".join(f"i32 {start + n}" for n in range(half))
                section.lines.append(f"  {name} = shufflevector {kind} {now}, {kind} poison, <{half} x i32> <{mask}>")
            now = self._combine(i, low, high, section, small)
            width = half
        name = self.fresh("f")
        section.lines.append(f"  {name} = extractelement <1 x {one}> {now}, i64 0")
        return name

    def _with_nan(self, r: Running, result: str, section: Section) -> str:
        """A floating extremum, NaN where one was met (in any lane of a row, in its own lane of a column)."""
        if r.nan is None:
            return result
        dtype, row = r.reduction.result.type.dtype, self.nest.lanes_reduced
        builder = section.builder(1 if row else LANES)
        nan = builder.constant(float("nan"), dtype).code
        flag = r.nan.now
        if row:
            bits, flag = self.fresh("c"), self.fresh("c")
            section.lines += [
                f"  {bits} = bitcast <{LANES} x i1> {r.nan.now} to i{LANES}",
                f"  {flag} = icmp ne i{LANES} {bits}, 0",
            ]
        name, kind = self.fresh("r"), builder.type_of(dtype)
        section.lines.append(
            f"  {name} = select {'i1' if row else f'<{LANES} x i1>'} {flag}, {kind} {nan}, {kind} {result}"
        )
        return name

    def _finished(self, r: Running, result: str) -> None:
        key = (r.reduction.result, self.nest.reduced(), None if self.nest.lanes_reduced else r.spot.vector, None, None)
        scope, dtype = self.scope(self.nest.reduced(), Spot()), r.reduction.result.type.dtype
        found = Scalar(dtype, self._with_nan(r, result, self.here))
        if dtype.narrow and rules(r.reduction).combine == "sum":  # added up in float32
            builder = self.here.builder(1 if self.nest.lanes_reduced else LANES)
            found = narrow.rounded(builder, Scalar(f32, found.code), dtype)
        self.memo[scope][key] = found

    def _together(self, running: list[Running]) -> list[Running]:
        """The sums of ``fast`` rows brought together; exact rows have one each."""
        first: dict[Instruction, Running] = {}
        for r in running:
            known = first.setdefault(r.reduction, r)
            if known is r:
                continue
            known.lanes.now = self._combine(r.reduction, known.lanes.now, r.lanes.now, self.here, r.lanes.type)
            if known.nan is not None and r.nan is not None:
                name = self.fresh("c")
                self.here.lines.append(f"  {name} = or <{LANES} x i1> {known.nan.now}, {r.nan.now}")
                known.nan.now = name
        return list(first.values())


def _finds_extremum(i: Instruction) -> bool:
    return rules(i).combine in ("max", "min")
