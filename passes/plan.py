"""plan: every value gets a place.

``arena+offset``: bytes of the program's own memory, reused after the last use.  ``alias(%v)``: the operand's memory, for views and
for elementwise ops that write in place.  ``state(%p)``: for an argument its buffer, for a new value the buffer of the next state.
``caller``: an input of ``CALLER_BYTES`` or more is read where the caller has it, and never written; a result of that size is written
where the caller wants it.  An input that a check looks at is copied first, however large: the caller may change it meanwhile.
Constants have no place.  The leaves of a fused update lie in one piece: state leaves already do, gradients are written there.

The ops are put in an order that needs less memory where there is one (``passes/schedule.py``).  The function's attributes tell
``arena``, the bytes of the program's memory; ``bound``, the most that is alive at one time, below which no arena of this order can be;
and ``values``, what they would be if each value had its own.

The function ends in its commit segment: the ops that write new state where the old one lies.  None of them can fail, all that can has run
before, and nobody reads a piece of the old state after it was written.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..ir import Function, Instruction, Module, Place, Value
from ..ir.composite import can_fail
from ..ir.op import Composite, Contract, Control, Elementwise, Gather, Join, Layout, Reduce, Scatter, Source, View
from ..ir.types import DType, TensorType, key
from ..ir.verify import PLANNED
from .loops import Nest, UnfitError, kernel_nest
from .manager import Context, Pass
from .schedule import scheduled

ALIGNMENT = 64
"""Bytes to which slices of state and arena are aligned."""
CALLER_BYTES = 1 << 15
"""From here on, asking an array for its address is quicker than a copy."""


def padded(count: int, itemsize: int, alignment: int = ALIGNMENT) -> int:
    """``count`` elements rounded up to whole alignment units."""
    unit = max(alignment // itemsize, 1)
    return -(-count // unit) * unit


@dataclass(frozen=True)
class StateSlot:
    """Bytes ``offset`` to ``end`` (padding included) of the flat buffer of a dtype."""

    dtype: DType
    offset: int
    end: int


def state_layout(types: Mapping[str, TensorType], alignment: int = ALIGNMENT) -> dict[str, StateSlot]:
    """Where each state value lies: one flat buffer per dtype, slices in the given order, each aligned."""
    ends: dict[DType, int] = {}
    slots: dict[str, StateSlot] = {}
    for name, type_ in types.items():
        offset = ends.get(type_.dtype, 0)
        size = type_.dtype.bits // 8
        ends[type_.dtype] = offset + padded(max(type_.size, 1), size, alignment) * size
        slots[name] = StateSlot(type_.dtype, offset, ends[type_.dtype])
    return slots


def needs_rows(i: Instruction) -> bool:
    """Whether an instruction reads its operands as row-major contiguous."""
    op = i.op
    return (
        isinstance(op, (Reduce, Contract, Scatter, Gather))
        or (isinstance(op, Elementwise) and op.rounding == "pinned")
        or (isinstance(op, Composite) and op.reads_rows)
    )


class Arena:
    """Offsets by best fit among the gaps between what is live."""

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self.alignment = alignment
        self.end = 0
        self.live = self.peak = 0
        """Bytes in use now, and the most there ever were."""
        self._sizes: list[tuple[int, int]] = []  # (size, offset) of every gap, sorted
        self._ends: dict[int, int] = {}  # offset of a gap -> its end
        self._starts: dict[int, int] = {}  # end of a gap -> its offset

    def _add(self, offset: int, end: int) -> None:
        insort(self._sizes, (end - offset, offset))
        self._ends[offset], self._starts[end] = end, offset

    def _remove(self, offset: int) -> int:
        end = self._ends.pop(offset)
        del self._starts[end]
        del self._sizes[bisect_left(self._sizes, (end - offset, offset))]
        return end

    def take(self, size: int) -> int:
        """The offset of ``size`` bytes, now in use."""
        size = _aligned(size, self.alignment)
        self.live += size
        self.peak = max(self.peak, self.live)
        place = bisect_left(self._sizes, (size, 0))
        if place < len(self._sizes):
            offset = self._sizes[place][1]
            end = self._remove(offset)
            if end - offset > size:
                self._add(offset + size, end)
            return offset
        offset = self._starts.get(self.end, self.end)
        if offset != self.end:
            self._remove(offset)
        self.end = offset + size
        return offset

    def give(self, offset: int, size: int) -> None:
        """Return bytes that nobody uses any more."""
        size = _aligned(size, self.alignment)
        end = offset + size
        self.live -= size
        if end in self._ends:
            end = self._remove(end)
        if offset in self._starts:
            offset = self._starts[offset]
            self._remove(offset)
        self._add(offset, end)


def _aligned(size: int, alignment: int) -> int:
    return -(-max(size, 1) // alignment) * alignment


class Planner:
    """Plans one function; ``layouts`` and ``roots`` say where in which other value's memory each value lies."""

    def __init__(
        self, function: Function, module: Module, overwrites: dict[str, set[tuple[int, int]]], alignment: int
    ) -> None:
        self.function, self.module, self.overwrites, self.alignment = function, module, overwrites, alignment
        self.slots = state_layout(function.state_types(), alignment)
        self.ends = {s.dtype: s.end for s in self.slots.values()}  # of the flat buffers: slots come in order
        self.roots: dict[Value, Value] = {}
        self.layouts: dict[Value, Layout] = {}
        self.users: dict[Value, list[Instruction]] = {}
        self.last: dict[Value, int] = {}
        self.inside: dict[
            Value, tuple[Value, int]
        ] = {}  # part -> (the joined value it is written into, elements before it)
        self.moved: dict[Value, Value] = {}  # result written in place -> the memory it is written to
        self.constants: set[Value] = set()
        self.states = {v for v, _ in function.state()}
        self.fits: dict[tuple[str, tuple[Layout, ...]], bool] = {}
        """Whether a kernel is a nest of loops over operands that lie so."""

    def run(self) -> None:
        """Give every value its place."""
        f = self.function
        for v in f.values():
            v.place = None
        f.instructions = scheduled(f, self.module)
        for i in f.instructions:
            for o in i.operands:
                self.users.setdefault(o, []).append(i)
        self._lay_out()
        self._join_updates()
        for v in self.states:
            v.place = Place("state", 0, v)
        self._update_places()
        self._commit_last()
        self._caller_places()
        self._liveness()
        self._allocate()

    def _lay_out(self) -> None:
        """Decide which results are views of their operands' memory: those that all readers can meet there."""
        copied = set[Value]()
        while True:
            self.constants.clear()
            for v in self.function.arguments:
                self._own(v)
            for i in self.function.instructions:
                self._layout(i, copied)
            unmet = {o for i in self.function.instructions for o in self._unmet(i)}
            if not unmet:
                return
            copied |= unmet

    def _unmet(self, i: Instruction) -> list[Value]:
        """Views among a kernel's operands that have to be copied, because it is no nest of loops over what lies so."""
        layouts = tuple(self.layouts[o] for o in i.operands)
        views = [o for o, layout in zip(i.operands, layouts, strict=True) if not layout.is_contiguous]
        if not views or not isinstance(i.op, Control):
            return []
        name = str(i.attrs[i.op.bodies[0]])
        if (name, layouts) not in self.fits:
            try:
                kernel_nest(self.module[name], layouts)
                self.fits[name, layouts] = True
            except UnfitError:
                self.fits[name, layouts] = False
        return [] if self.fits[name, layouts] else views

    def _own(self, v: Value) -> None:
        self.roots[v] = v
        self.layouts[v] = Layout.contiguous(v.type.shape)

    def _layout(self, i: Instruction, copied: Collection[Value]) -> None:
        """Decide whether an instruction's result is a view of its operand's memory; it is none if it is to be ``copied``."""
        if isinstance(i.op, Source):
            self.constants.update(i.results)
        if isinstance(i.op, View):
            o, result = i.operands[0], i.results[0]
            if o in self.constants:
                self.constants.add(result)
                self._own(result)
                return
            result.place = None
            layout = i.op.layout(self.layouts[o], **i.attrs)
            if (
                layout is not None
                and result not in copied
                and (
                    layout.is_contiguous
                    or not any(needs_rows(u) or self._chooses_from(u, result) for u in self.users.get(result, ()))
                )
            ):
                self.roots[result], self.layouts[result] = self.roots[o], layout
                result.place = Place("alias", 0, o)
                return
        for r in i.results:
            self._own(r)

    def _chooses_from(self, i: Instruction, v: Value) -> bool:
        """Whether a kernel chooses elements of an operand by their position: it is read in rows."""
        if not isinstance(i.op, Control):
            return False
        kernel = self.module[str(i.attrs[i.op.bodies[0]])]
        given = {a for a, o in zip(kernel.arguments, i.operands, strict=True) if o is v}
        for inner in kernel.instructions:
            if isinstance(inner.op, View) and inner.operands[0] in given:
                given.add(inner.result)
            if isinstance(inner.op, Gather) and inner.operands[0] in given:
                return True
        return False

    def _join_updates(self) -> None:
        """Lay the leaves of fused updates in one piece: their reshapes, pads and concats then move nothing."""
        returned = set(self.function.results)
        for i in self.function.instructions:
            if i.op.name != "concat" or i.result.type.rank != 1 or i.result in returned:
                continue
            if not all(isinstance(u.op, Control) for u in self.users.get(i.result, ())):
                continue
            parts = [self._unpadded(o) for o in i.operands]
            starts: list[int] = []
            position = 0
            for o in i.operands:
                starts.append(position)
                position += o.type.size
            if self._in_state(i, parts, starts):
                continue
            for (part, pad), start in zip(parts, starts, strict=True):
                root = self.roots[part]
                free = (
                    root not in self.constants
                    and root not in self.states
                    and root.owner is not None
                    and root not in self.inside
                )
                if (
                    free
                    and root.type.size == part.type.size
                    and self.layouts[part].is_contiguous
                    and root.place is None
                ):
                    self.inside[root] = (i.result, start)
                    if pad is not None:
                        self.inside[pad] = (i.result, start)

    def _unpadded(self, value: Value) -> tuple[Value, Value | None]:
        """The value before trailing padding, and the padded one."""
        owner = value.owner
        if owner is not None and owner.op.name == "pad" and self.users[value] and len(self.users[value]) == 1:
            low, interior = owner.attrs["low"], owner.attrs["interior"]
            if value.type.rank == 1 and low == (0,) and interior == (0,):
                return owner.operands[0], value
        return value, None

    def _in_state(self, i: Instruction, parts: list[tuple[Value, Value | None]], starts: list[int]) -> bool:
        """Whether a concat's parts are state arguments that lie just so in their buffer; if so it is an alias of the first."""
        roots = [self.roots[part] for part, _ in parts]
        if any(r not in self.states for r in roots) or len({r.type.dtype for r in roots}) != 1:
            return False
        first = self.slots[roots[0].name or ""].offset
        itemsize = roots[0].type.dtype.bits // 8
        for (part, _), root, start in zip(parts, roots, starts, strict=True):
            whole = self.layouts[part].is_contiguous and part.type.size == root.type.size
            if not whole or self.slots[root.name or ""].offset - first != start * itemsize:
                return False
        for (_, pad), root in zip(parts, roots, strict=True):
            if pad is not None:
                pad.place = Place("state", 0, root)
        i.result.place = Place("state", 0, roots[0])
        return True

    def _liveness(self) -> None:
        """The last instruction that reads each piece of memory."""
        end = len(self.function.instructions)
        for n, i in enumerate(self.function.instructions):
            for o in i.operands:
                self.last[self._memory(o)] = n
        for v in self.function.results:
            self.last[self._memory(v)] = end

    def _memory(self, v: Value) -> Value:
        root = self.roots[v]
        root = self.moved.get(root, root)
        return self.inside[root][0] if root in self.inside else root

    def _update_places(self) -> None:
        """New state whose memory can be the next state's buffer is written there at once."""
        by_root: dict[Value, list[tuple[Value, Value]]] = {}
        for v, mark in zip(self.function.results, self.function.marks, strict=True):
            if mark is not None and mark.kind == "update":
                by_root.setdefault(self.roots[v], []).append((v, mark.of))
        for root, updates in by_root.items():
            if root in self.constants or root.owner is None or root in self.inside or root.place is not None:
                continue
            if isinstance(root.owner.op, Join):
                continue
            itemsize = root.type.dtype.bits // 8
            bases = {self.slots[of.name or ""].offset - self.layouts[v].offset * itemsize for v, of in updates}
            if len(bases) != 1 or not all(self.layouts[v].is_contiguous for v, _ in updates):
                continue
            base = bases.pop()
            owner = next((of for _, of in updates if self.slots[of.name or ""].offset == base), None)
            if owner is not None and base + root.type.nbytes <= self.ends[root.type.dtype]:
                covered = sum(v.type.size for v, _ in updates)
                if covered == root.type.size or isinstance(root.owner.op, Control):
                    root.place = Place("state", 0, owner)

    def _caller_places(self) -> None:
        """Large inputs and results that lie in no other value's memory are the caller's arrays."""
        f = self.function
        outputs = [v for v, m in zip(f.results, f.marks, strict=True) if m is None or m.kind != "update"]
        roots = Counter(self.roots[v] for v in outputs)

        def is_large(v: Value) -> bool:
            return v.type.nbytes >= CALLER_BYTES and v.type.dtype is not key

        checked = self._checked()
        for v in f.inputs():
            if is_large(v) and v not in roots and v not in checked:
                v.place = Place("caller")
        for v in outputs:
            alone = self.roots[v] is v and roots[v] == 1 and v.owner is not None
            free = v.place is None and v not in self.inside and v not in self.constants
            if is_large(v) and alone and free:
                v.place = Place("caller")

    def _checked(self) -> set[Value]:
        """The values in whose memory an element lies that a check looks at."""
        found: set[Value] = set()

        def look(i: Instruction, given: Mapping[Value, Value]) -> None:
            rule = i.op.check
            if rule is not None and rule.applies(tuple([o.type for o in i.operands])):
                operand = i.operands[rule.operand]
                found.add(given.get(operand, operand))

        for i in self.function.instructions:
            look(i, self.roots)
            if not isinstance(i.op, Control):
                continue
            for body in i.op.bodies:
                kernel = self.module[str(i.attrs[body])]
                given = dict(zip(kernel.arguments, map(self.roots.__getitem__, i.operands), strict=False))
                for inner in kernel.instructions:
                    look(inner, given)
                    if isinstance(inner.op, View) and inner.operands[0] in given:
                        given[inner.result] = given[inner.operands[0]]
        return found

    # The commit segment

    def _region(self, v: Value) -> tuple[DType, int, int] | None:
        """The bytes of state, in the flat buffer of a dtype, that a value lies in or is written to."""
        root = self.roots[v]
        place = root.place
        if place is None or place.kind != "state" or place.of is None:
            return None
        slot = self.slots[place.of.name or ""]
        return slot.dtype, slot.offset, slot.offset + max(root.type.nbytes, 1)

    def _writes(self, i: Instruction) -> list[tuple[Value, tuple[DType, int, int]]]:
        found: list[tuple[Value, tuple[DType, int, int]]] = []
        if isinstance(i.op, (View, Join, Source)):
            return found
        for r in i.results:
            region = self._region(r)
            if region is not None:
                found.append((r, region))
        return found

    def _reads(self, i: Instruction) -> list[tuple[int, tuple[DType, int, int]]]:
        """Operands of an instruction that lie in old state, by number."""
        regions = [(n, self._region(o)) for n, o in enumerate(i.operands) if self._is_old(self.roots[o])]
        return [(n, region) for n, region in regions if region is not None]

    def _is_old(self, root: Value) -> bool:
        return root in self.states or (root.owner is not None and isinstance(root.owner.op, Join))

    def _may_overwrite(self, i: Instruction, operand: int, result: int) -> bool:
        """Whether an instruction may write a result over an operand that it reads."""
        if not self.layouts[i.operands[operand]].is_contiguous:
            return False
        if isinstance(i.op, Control):
            return (operand, result) in self._pairs(i)
        return isinstance(i.op, Elementwise) and i.operands[operand].type.nbytes == i.results[result].type.nbytes

    def _pairs(self, i: Instruction) -> set[tuple[int, int]]:
        """Operands and results of a kernel that may share memory."""
        name = str(i.attrs[i.op.bodies[0]])  # type: ignore[attr-defined]
        if name not in self.overwrites:
            try:
                self.overwrites[name] = Nest(self.module[name]).overwrites()
            except UnfitError:  # dissolve has not run
                self.overwrites[name] = set()
        return self.overwrites[name]

    def _commit_last(self) -> None:
        """Move the writers of state to the end; what others read, or what cannot be written there yet, is copied last."""
        instructions = self.function.instructions
        writers: dict[Instruction, None] = {}
        later_reads: list[tuple[DType, int, int]] = []
        for i in reversed(instructions):
            writes = self._writes(i)
            if not writes:
                continue
            written = {r for r, _ in writes}
            early = any(r in written or u not in writers for r in i.results for u in self._readers(r, self.users))
            late_reader = any(_overlap(a, b) for _, a in writes for b in later_reads)
            if early or late_reader or can_fail(i, self.module) or not self._is_safe_alone(i):
                for r in written:
                    r.place = None
            else:
                writers[i] = None
                later_reads += [region for _, region in self._reads(i)]
        if not writers:
            return
        views = self._views_of(writers)
        early = [i for i in instructions if i not in writers and i not in views]
        late = [i for i in instructions if i in writers or i in views]
        self.function.instructions = early + late

    def _readers(self, v: Value, users: Mapping[Value, list[Instruction]]) -> list[Instruction]:
        """Instructions that read a value or a view of it."""
        found: list[Instruction] = []
        pending = [v]
        while pending:
            for u in users.get(pending.pop(), ()):
                if isinstance(u.op, View) and self.roots[u.result] is self.roots[v]:
                    pending.append(u.result)
                else:
                    found.append(u)
        return found

    def _views_of(self, writers: Mapping[Instruction, None]) -> set[Instruction]:
        made = {r for i in writers for r in i.results}
        return {i for i in self.function.instructions if isinstance(i.op, View) and self.roots[i.result] in made}

    def _is_safe_alone(self, i: Instruction) -> bool:
        """Whether an instruction reads every piece of old state no later than it writes it."""
        for r, written in self._writes(i):
            for n, read in self._reads(i):
                if _overlap(written, read):
                    same = written[1] == read[1] and self._may_overwrite(i, n, i.results.index(r))
                    if not same:
                        return False
        return True

    # The arena

    def _allocate(self) -> None:
        arena = Arena(self.alignment)
        held: dict[Value, int] = {}
        ends: list[list[Value]] = [[] for _ in range(len(self.function.instructions) + 1)]

        def place(v: Value) -> None:
            memory = self._memory(v)
            if memory not in held and memory.place is None:
                held[memory] = arena.take(memory.type.nbytes)
                memory.place = Place("arena", held[memory])
                ends[self.last.get(memory, 0)].append(memory)
            if v is not memory and v in self.inside:
                _, start = self.inside[v]
                v.place = Place("arena", held[memory] + start * (v.type.dtype.bits // 8))

        for v in self.function.inputs():
            place(v)
        for n, i in enumerate(self.function.instructions):
            taken: set[Value] = set()  # what one result of this instruction has overwritten is no other's
            for r in i.results:
                if r.place is not None or r in self.constants:
                    continue
                target = self._in_place(i, n, r, held, taken)
                if target is None:
                    place(r)
                    if self.last.get(self._memory(r), -1) < n:
                        ends[n].append(self._memory(r))
                else:
                    memory = self._memory(target)
                    taken.add(memory)
                    r.place = Place("alias", 0, target)
                    self._take_over(memory, r, n, ends)
            for memory in ends[n]:
                if memory in held and self.last.get(memory, n) <= n:
                    arena.give(held.pop(memory), memory.type.nbytes)
        own = {self._memory(r) for i in self.function.instructions for r in i.results if r not in self.constants}
        own.update(self._memory(v) for v in self.function.inputs())
        values = sum(
            _aligned(v.type.nbytes, self.alignment) for v in own if v.place is not None and v.place.kind != "state"
        )
        values += sum(_aligned(r.type.nbytes, self.alignment) for r in self.moved)
        self.function.attrs.update({"arena": arena.end, "bound": arena.peak, "values": values})
        self.function.attrs.pop("alignment", None)
        if self.alignment != ALIGNMENT:
            self.function.attrs["alignment"] = self.alignment

    def _take_over(self, memory: Value, r: Value, n: int, ends: list[list[Value]]) -> None:
        """The in-place result lives on in its operand's memory."""
        self.moved[r] = memory
        self.last[memory] = self.last.get(r, n)
        ends[self.last[memory]].append(memory)

    def _in_place(
        self, i: Instruction, n: int, r: Value, held: Mapping[Value, int], taken: Collection[Value]
    ) -> Value | None:
        """The operand whose memory a result may overwrite: it dies here, has the result's size, and no other result has ``taken`` it."""
        if not isinstance(i.op, (Elementwise, Control)) or r in self.inside:
            return None
        for k, o in reversed(list(enumerate(i.operands))):
            if isinstance(i.op, Control) and (k, i.results.index(r)) not in self._pairs(i):
                continue
            memory = self._memory(o)
            if memory not in held or memory in taken or self.roots[o] in self.inside or self.last.get(memory) != n:
                continue
            if (
                o.type.size != r.type.size
                or o.type.dtype.bits != r.type.dtype.bits
                or o.type.nbytes != memory.type.nbytes
            ):
                continue
            if not self.layouts[o].is_contiguous or any(v is not o and self._memory(v) is memory for v in i.operands):
                continue
            return o
        return None


def _overlap(a: tuple[DType, int, int], b: tuple[DType, int, int]) -> bool:
    return a[0] is b[0] and a[1] < b[2] and b[1] < a[2]


def _plan(module: Module, context: Context) -> bool:
    """Every value gets a place: an arena offset, an alias of its operand, or a state buffer."""
    overwrites: dict[str, set[tuple[int, int]]] = {}
    inside = {name for f in module for name in f.symbols()}
    changes = [_plan_function(f, module, inside, overwrites, context.alignment) for f in module]
    return any(changes)


def _plan_function(
    function: Function,
    module: Module,
    inside: set[str],
    overwrites: dict[str, set[tuple[int, int]]],
    alignment: int,
) -> bool:
    named = function.name in inside and any(role is None for role in function.roles)
    if named:
        return False
    if not function.instructions and not function.arguments:  # what a text says of its memory is not what there is
        return bool([function.attrs.pop(name) for name in PLANNED if name in function.attrs])

    def places() -> list[Place | None]:
        return [v.place for v in function.values()]

    before = places(), function.attrs.get("arena"), list(function.instructions)
    Planner(function, module, overwrites, alignment).run()
    return before != (places(), function.attrs["arena"], function.instructions)


plan = Pass("plan", _plan)
