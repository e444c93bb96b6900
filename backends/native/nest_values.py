"""Writing kernels: what a value is at a spot in the loops, and what one phase keeps for the next."""

from __future__ import annotations

from collections.abc import Collection

from ...ir import Instruction, Value
from ...ir.op import Elementwise, Gather, Join, Random32, Reduce, Source, View
from ...ir.scalar import Scalar, scalar_of
from ...ir.types import bool_, i64, u32, u64
from ...passes.loops import REDUCED, Access, Bound, Nest, rules
from ...passes.rewrite import repeated_number
from . import philox
from .nest_memory import MemoryWriter, to_memory
from .nest_positions import LANES, SIDE_BY_SIDE, Mask, Section, Spot, item_size, memory_type

TEMPORARY_BYTES = 1 << 17
RECOMPUTED_COST = 2
COSTS = {"div": 6, "sqrt": 6, "exp": 20, "log": 20, "log1p": 25, "expm1": 25, "tanh": 25, "sigmoid": 22, "erf": 30, "sin": 30,
         "cos": 30, "pow": 80, "floor_divide": 20, "remainder": 20}  # fmt: skip


class ValueWriter(MemoryWriter):
    """Computes values where they are first needed, outside every loop that they do not depend on."""

    def __init__(self, nest: Nest, fast: bool, streamed: Collection[int]) -> None:
        super().__init__(nest, fast, streamed)
        self._costs: dict[Value, int] = {}
        self.band = 1
        """How many vectors a unit of columns takes side by side."""

    def operand(self, v: Value, access: Access, spot: Spot, width: int, only: Mask | None = None) -> Scalar:
        """A value at a width: constants are written in, narrower values spread over the lanes."""
        constant = repeated_number(v)
        if constant is not None:
            return self.entry.builder(width).constant(constant, v.type.dtype)
        found = self.evaluate(v, access, spot, only)
        if width == 1 or self.is_wide(access, spot):
            return found
        return self.spread(found, self.met(access, spot, only))

    def spread(self, x: Scalar, scope: str) -> Scalar:
        memo, section = self.memo[scope], self.section(scope)
        key = ("spread", x.code)
        if key not in memo:
            kind, one = self.vector(x.dtype), self.entry.builder(1).type_of(x.dtype)
            first, name = self.fresh("s"), self.fresh("s")
            section.lines += [
                f"  {first} = insertelement {kind} poison, {one} {x.code}, i64 0",
                f"  {name} = shufflevector {kind} {first}, {kind} poison, <{LANES} x i32> zeroinitializer",
            ]
            memo[key] = Scalar(x.dtype, name)
        return memo[key]

    def evaluate(self, v: Value, access: Access, spot: Spot, only: Mask | None = None) -> Scalar:
        """A value under an access, computed where it is first needed and outside every loop that it does not depend on."""
        scope, wide = self.met(access, spot, only), self.is_wide(access, spot)
        memo = self.memo[scope]
        if v.owner is not None and isinstance(v.owner.op, Reduce):
            return memo[(v, access, spot.vector if wide else None, None, None)]
        each = wide or (scope == "loop" and self.nest.lanes_reduced)
        if only is not None:
            only = self._mask_at(only, LANES if wide else 1)
        key = (v, access, spot.vector if each else None, spot.point, only)
        found = memo.get(key)
        if found is None:
            found = memo[key] = self._compute(v, access, spot, scope, wide, only)
            if scope == "loop" and only is None and self.saved.get(v) == self.phase and access == self.nest.full():
                self._keep(v, found, spot)
        return found

    def _mask_at(self, mask: Mask, width: int) -> Mask:
        """A mask at another width: of all lanes whether one is set, or one flag for all lanes."""
        if mask.width == width:
            return mask
        name, first = self.fresh("m"), self.fresh("m")
        if width == 1:
            self.section(mask.scope).lines += [
                f"  {first} = bitcast <{LANES} x i1> {mask.code} to i{LANES}",
                f"  {name} = icmp ne i{LANES} {first}, 0",
            ]
        else:
            self.section(mask.scope).lines += [
                f"  {first} = insertelement <{LANES} x i1> poison, i1 {mask.code}, i64 0",
                f"  {name} = shufflevector <{LANES} x i1> {first}, <{LANES} x i1> poison, <{LANES} x i32> zeroinitializer",
            ]
        return Mask(name, width, mask.scope)

    def _compute(self, v: Value, access: Access, spot: Spot, scope: str, wide: bool, only: Mask | None) -> Scalar:
        nest, width = self.nest, LANES if wide else 1
        if v in self.places:
            lies = nest.argument_access(v, access)
            if only is not None and wide and not self.is_wide(lies, spot):
                only = self._mask_at(only, 1)
            found = self.load(self.places[v], v.type.dtype, lies, spot, only)
            return self.spread(found, scope) if wide and not self.is_wide(lies, spot) else found
        if scope == "loop" and access == nest.full() and self.saved.get(v, self.phase) < self.phase:
            return self._kept(v, spot)
        i = v.owner
        assert i is not None
        op, section = i.op, self.section(scope)
        if isinstance(op, View):
            inner = nest.view(i, access)
            return self.operand(i.operands[0], inner, spot, width, only)
        if isinstance(op, Elementwise):
            operands = [self.operand(o, access, spot, width, only) for o in i.operands]
            builder = section.builder(width)
            result = scalar_of(op, builder, operands, i.attrs, v.type.dtype)
            section.end(builder)
            return result
        if isinstance(op, Source):
            return self._source(i, access, spot, section, width)
        if isinstance(op, Join):
            return self._join(i, access, spot, section, width, only)
        if isinstance(op, Random32):
            return self._random(op, i, access, spot, section, width)
        if isinstance(op, Gather):
            return (
                self._picked(i, access, spot)
                if nest.is_picked(i)
                else self._taken(i, access, spot, section, width, only)
            )
        raise AssertionError(f"{op.name} was not finished before it is read")

    def _source(self, i: Instruction, access: Access, spot: Spot, section: Section, width: int) -> Scalar:
        axes = self.nest.coordinates(access, i.result.type.shape)
        builder = section.builder(width)

        def index(axis: int) -> Scalar:
            return Scalar(i64, self.lanes(axes[axis], spot, section, width))

        made: Scalar = rules(i).element(builder, index, **i.attrs)
        section.end(builder)
        return made

    def _condition(self, bounds: list[Bound], spot: Spot, section: Section, width: int) -> str | None:
        """Whether the bounds hold, i1 or a vector of them."""
        flags: list[str] = []
        for b in bounds:
            flag = self.fresh("c")
            if width != 1 and self.is_wide(b.position, spot):
                bits = 32 if self.reach(b.position) < 1 << 31 else 64
                at = self.lanes(b.position, spot, section, LANES, bits)
                section.lines.append(f"  {flag} = icmp ult <{LANES} x i{bits}> {at}, splat (i{bits} {b.size})")
                flags.append(flag)
                continue
            section.lines.append(f"  {flag} = icmp ult i64 {self.lanes(b.position, spot, section, 1)}, {b.size}")
            if width != 1:
                one, first, flag = flag, self.fresh("c"), self.fresh("c")
                section.lines += [
                    f"  {first} = insertelement <{LANES} x i1> poison, i1 {one}, i64 0",
                    f"  {flag} = shufflevector <{LANES} x i1> {first}, <{LANES} x i1> poison, <{LANES} x i32> zeroinitializer",
                ]
            flags.append(flag)
        while len(flags) > 1:
            name = self.fresh("c")
            section.lines.append(
                f"  {name} = and {'i1' if width == 1 else f'<{width} x i1>'} {flags.pop()}, {flags.pop()}"
            )
            flags.append(name)
        return flags[0] if flags else None

    def _join(
        self, i: Instruction, access: Access, spot: Spot, section: Section, width: int, only: Mask | None
    ) -> Scalar:
        dtype = i.result.type.dtype
        builder = section.builder(width)
        total = builder.constant(0, dtype)
        for operand, inner, bounds in self.nest.blocks(i, access):
            condition = self._condition(bounds, spot, section, width)
            allowed = only
            if condition is not None:
                both = condition
                if only is not None:
                    both = self.fresh("c")
                    kind = "i1" if width == 1 else f"<{width} x i1>"
                    section.lines.append(f"  {both} = and {kind} {condition}, {only.code}")
                allowed = Mask(both, width, self.met(access, spot, only))
            part = self.operand(operand, inner, spot, width, allowed)
            if condition is None:
                total = part
            else:
                builder = section.builder(width)
                total = builder.select(Scalar(bool_, condition), part, total)
                section.end(builder)
        return total

    def _random(self, op: Random32, i: Instruction, access: Access, spot: Spot, section: Section, width: int) -> Scalar:
        key = self.places[i.operands[0]]
        words = [self.fresh("k"), self.fresh("k")]
        at = self.fresh("p")
        self.entry.lines += [
            f"  {at} = getelementptr i32, ptr {key}, i64 1",
            f"  {words[0]} = load i32, ptr {key}, align 4",
            f"  {words[1]} = load i32, ptr {at}, align 4",
        ]
        aligned = width != 1 and self.offsets(access) == SIDE_BY_SIDE and access.offset % 4 == 0
        aligned = aligned and all(
            s % 4 == 0 or d in self.lane_dims or self.nest.dims[d].size == 1 for d, s in enumerate(access.strides)
        )
        name = self.fresh("w")
        if aligned:
            self.functions["philox_run"] = philox.RUN
            at = self.lanes(access, spot, section, 1)
            section.lines.append(f"  {name} = call <16 x i32> @philox_run(i64 {at}, i32 {words[0]}, i32 {words[1]})")
        else:
            function = f"philox_each_{width}"
            self.functions[function] = philox.each(width)
            kinds = ("i64", "i32") if width == 1 else (f"<{width} x i64>", f"<{width} x i32>")
            at = self.lanes(access, spot, section, width)
            section.lines.append(
                f"  {name} = call {kinds[1]} @{function}({kinds[0]} {at}, i32 {words[0]}, i32 {words[1]})"
            )
        builder = section.builder(width)
        result = scalar_of(op, builder, [Scalar(u32, name)], i.attrs, i.result.type.dtype)
        section.end(builder)
        return result

    def _inside(self, i: Instruction, index: Scalar, size: int, section: Section, width: int) -> str:
        """An index as i64, moved inside its axis where it is not (the check has raised then)."""
        builder = section.builder(width)
        wide = builder.convert(index, u64)
        inside = builder.compare("lt", wide, builder.constant(size, u64))
        chosen = builder.select(inside, wide, builder.constant(0, u64))
        section.end(builder)
        return str(chosen.code)

    def _picked(self, i: Instruction, access: Access, spot: Spot) -> Scalar:
        size = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs).size
        index = self.operand(i.operands[1], access, spot, 1)
        at = self._inside(i, index, size, self.row, 1)
        return self.operand(i.operands[0], self.nest.full(), Spot(point=at), 1)

    def _taken(
        self, i: Instruction, access: Access, spot: Spot, section: Section, width: int, only: Mask | None
    ) -> Scalar:
        whole, dtype = i.operands[0], i.operands[0].type.dtype
        size = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs).size
        to_index, base, step = self.nest.gather(i, access)
        base = Access(base.offset + self.nest.layouts[self.nest.argument_index[whole]].offset, base.strides)
        wide_index = self.is_wide(to_index, spot)
        index = self.operand(i.operands[1], to_index, spot, LANES if wide_index else 1, only)
        home = self.section(self.scope(to_index, spot))
        at = self._inside(i, index, size, home, LANES if wide_index else 1)
        if not wide_index:
            start = self.fresh("p")
            home.lines.append(
                f"  {start} = getelementptr {memory_type(dtype)}, ptr {self.places[whole]}, i64 {self.int(home, 'mul', at, str(step))}"
            )
            found = self.load(start, dtype, base, spot, only, section)
            return found if width == 1 or self.is_wide(base, spot) else self.spread(found, self.met(access, spot, only))
        lanes = self.lanes(base, spot, section, LANES)
        scaled, total, pointers = self.fresh("i"), self.fresh("i"), self.fresh("g")
        section.lines += [
            f"  {scaled} = mul <{LANES} x i64> {at}, splat (i64 {step})",
            f"  {total} = add <{LANES} x i64> {scaled}, {lanes}",
            f"  {pointers} = getelementptr {memory_type(dtype)}, ptr {self.places[whole]}, <{LANES} x i64> {total}",
        ]
        name = self._gather(pointers, dtype, self._both(spot.mask, only.code if only else None, section), section)
        return self._from_memory(name, dtype, LANES, section)

    # What is kept from one phase to the next

    def cost(self, v: Value) -> int:
        """About how many cycles a vector of a value takes from what is in memory."""
        pending = [v]
        while pending:
            x = pending[-1]
            if x in self._costs:
                pending.pop()
                continue
            i = x.owner
            if x in self.places or i is None or isinstance(i.op, (Source, Reduce)):
                self._costs[x] = 0
                continue
            missing = [o for o in i.operands if o not in self._costs]
            if missing:
                pending += missing
                continue
            own = COSTS.get(i.op.name, 1) if isinstance(i.op, Elementwise) else 40 if isinstance(i.op, Random32) else 0
            self._costs[x] = own + sum(self._costs[o] for o in set(i.operands))
        return self._costs[v]

    def _plan_phases(self) -> None:
        """Decide what is kept: values of one phase that a later one reads and that cost more than to read them again."""
        full = self.nest.full()
        first: dict[Value, int] = {}
        for phase in range(self.nest.phases):
            pending = [(o, full) for o in self._phase_operands(phase)]
            pending += [(r, full) for r, _ in self._phase_results(phase)]
            seen: set[tuple[Value, Access]] = set()
            while pending:
                v, access = pending.pop()
                if (v, access) in seen or v in self.places or self.scope(access, Spot()) != "loop":
                    continue
                seen.add((v, access))
                if access == full:
                    if first.setdefault(v, phase) < phase and self.cost(v) > RECOMPUTED_COST:
                        self.saved[v] = first[v]
                        continue
                assert v.owner is not None
                if not isinstance(v.owner.op, Reduce):
                    pending += self.nest.reads(v.owner, access)
        dims = self.nest.dims
        count = 1
        for d in dims:
            count *= d.size if d.role == REDUCED else 1
        room = -(-count // LANES) * LANES if self.nest.lanes_reduced else count * LANES * self.band
        written = {r: n for n, r in enumerate(self.nest.function.results) if self.nest.accesses[n] == full}
        for v in list(self.saved):
            if v in written and self.nest.levels[v] == self.saved[v]:
                continue
            size = room * item_size(v.type.dtype)
            if sum(room * item_size(t.type.dtype) for t in self.temporaries) + size > TEMPORARY_BYTES:
                del self.saved[v]
                continue
            name = self.temporaries[v] = self.fresh("kept")
            self.entry.lines.append(f"  {name} = alloca [{room} x {memory_type(v.type.dtype)}], align 64")

    def _phase_operands(self, phase: int) -> list[Value]:
        return [i.operands[0] for i in self.nest.reductions if self.nest.levels[i.result] == phase + 1]

    def _phase_results(self, phase: int) -> list[tuple[Value, int]]:
        full, levels = self.nest.full(), self.nest.levels
        return [
            (r, n)
            for n, r in enumerate(self.nest.function.results)
            if self.nest.accesses[n] == full and levels[r] == phase
        ]

    def _slot(self, v: Value, spot: Spot) -> tuple[str, Access] | str:
        """Where a kept value lies: a result's memory, or a temporary."""
        if v not in self.temporaries:
            n = next(n for n, r in enumerate(self.nest.function.results) if r is v)
            return self.results[n], self.nest.full()
        at = spot.index
        if not self.nest.lanes_reduced:
            scaled = self.int(self.here, "mul", spot.index, str(LANES * self.band))
            at = self.int(self.here, "add", scaled, str(spot.vector * LANES))
        pointer = self.fresh("p")
        self.here.lines.append(
            f"  {pointer} = getelementptr {memory_type(v.type.dtype)}, ptr {self.temporaries[v]}, i64 {at}"
        )
        return pointer

    def _keep(self, v: Value, x: Scalar, spot: Spot) -> None:
        slot = self._slot(v, spot)
        if isinstance(slot, tuple):
            return  # the result itself is written at the end of the phase
        kind, code = f"<{LANES} x {memory_type(x.dtype)}>", to_memory(self.here.builder(LANES), x)
        self.here.lines.append(f"  store {kind} {code}, ptr {slot}, align {item_size(x.dtype)}")

    def _kept(self, v: Value, spot: Spot) -> Scalar:
        slot, dtype = self._slot(v, spot), v.type.dtype
        if isinstance(slot, tuple):
            return self.load(slot[0], dtype, slot[1], spot, None)
        name = self.fresh("x")
        self.here.lines.append(
            f"  {name} = load <{LANES} x {memory_type(dtype)}>, ptr {slot}, align {item_size(dtype)}"
        )
        return self._from_memory(name, dtype, LANES, self.here)
