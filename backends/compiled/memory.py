"""Where the values of a planned function lie: buffers, byte offsets and layouts, read from the places that plan gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...ir import Function, Instruction, Module, Value
from ...ir.op import Control, Join, Layout, View
from ...ir.types import DTYPES, Array, DType, Shape, key
from ...passes.loops import Nest
from ...passes.plan import ALIGNMENT, state_layout
from ..state import aligned_bytes


class Ref(NamedTuple):
    """An array of the program: its buffer, byte offset, dtype and layout (in elements)."""

    buffer: str  # "arena", "scratch", "constant N", "state f32", "next f32", "input N" or "output N"
    offset: int
    dtype: DType
    layout: Layout

    def window(self) -> tuple[int, Shape, Shape]:
        """First byte in the buffer, shape and strides (in elements) of the NumPy array; a key is two words."""
        layout, keyed = self.layout, self.dtype is key
        start = self.offset + layout.offset * self.dtype.numpy.itemsize
        return start, (*layout.shape, 2) if keyed else layout.shape, (1,) if keyed else layout.strides

    def started(self) -> Ref:
        """The same elements from an address of their own."""
        start, layout = self.window()[0], self.layout
        return self._replace(offset=start, layout=Layout(layout.shape, layout.strides))

    def shaped(self, shape: Shape) -> Ref:
        """The same contiguous elements under another shape."""
        return self._replace(layout=Layout(shape, Layout.contiguous(shape).strides, self.layout.offset))


class Span(NamedTuple):
    """Bytes ``begin`` to ``end`` of a buffer."""

    buffer: str
    begin: int
    end: int

    def meets(self, other: Span) -> bool:
        """Whether two spans share bytes."""
        return self.buffer == other.buffer and self.begin < other.end and other.begin < self.end


def span(ref: Ref) -> Span:
    """The bytes that an array reaches over; of both sides of the state one, since new state may lie where the old one does."""
    layout, item = ref.layout, ref.dtype.numpy.itemsize * (2 if ref.dtype is key else 1)
    reach = [stride * (n - 1) for n, stride in zip(layout.shape, layout.strides, strict=True)]
    low = layout.offset + sum(min(r, 0) for r in reach)
    high = layout.offset + sum(max(r, 0) for r in reach) + 1
    return Span(ref.buffer.replace("next ", "state ", 1), ref.offset + low * item, ref.offset + high * item)


def same_bytes(a: Ref, b: Ref) -> bool:
    """Whether two refs are the same elements of the same memory."""

    def start(ref: Ref) -> int:
        return ref.offset + ref.layout.offset * ref.dtype.numpy.itemsize

    return (a.buffer, start(a)) == (b.buffer, start(b)) and (
        a.layout.strides == b.layout.strides or (a.layout.is_contiguous and b.layout.is_contiguous)
    )


@dataclass(frozen=True)
class Number:
    """A scalar constant of the program."""

    value: bytes
    dtype: DType


def _made_for(v: Value) -> Value:
    """The value whose memory a value lies in."""
    while v.place is not None and v.place.kind == "alias" and v.place.of is not None:
        v = v.place.of
    return v


class Memory:
    """The refs of a planned function's values, in the order in which they are made."""

    def __init__(self, function: Function) -> None:
        self.function = function
        alignment = int(function.attrs.get("alignment", ALIGNMENT))
        self.slots = state_layout(function.state_types(), alignment)
        self.arena_bytes = int(function.attrs.get("arena", 0))
        self.refs: dict[Value, Ref | Number] = {}
        marked = zip(function.results, function.marks, strict=True)
        self.outputs = [v for v, m in marked if m is None or m.kind != "update"]
        sides = (("input", function.inputs()), ("output", self.outputs))
        numbered = [(f"{kind} {n}", v) for kind, values in sides for n, v in enumerate(values)]
        self.caller = {v: name for name, v in numbered if v.place is not None and v.place.kind == "caller"}
        """Buffers of the values that are a caller's arrays, by their number among inputs or outputs."""

    def resolve(self, v: Value) -> Ref:
        """Where a value lies, from its place."""
        place = v.place
        assert place is not None, f"{v!r} has no place"
        if place.kind == "arena":
            return Ref("arena", place.offset, v.type.dtype, Layout.contiguous(v.type.shape))
        if place.kind == "caller":
            return Ref(self.caller[v], 0, v.type.dtype, Layout.contiguous(v.type.shape))
        assert place.of is not None
        if place.kind == "state":
            # A join of state leaves is the current state itself; everything else placed in state is new.
            reads = v.owner is None or isinstance(v.owner.op, Join)
            return self.state(place.of, v, "state" if reads else "next")
        base = self.refs[place.of]
        assert isinstance(base, Ref)
        assert v.owner is not None
        if isinstance(v.owner.op, View):
            layout = v.owner.op.layout(base.layout, **v.owner.attrs)
            assert layout is not None
            return base._replace(layout=layout)
        return Ref(
            base.buffer,
            base.offset + base.layout.offset * base.dtype.numpy.itemsize,
            v.type.dtype,
            Layout.contiguous(v.type.shape),
        )

    def everywhere(self) -> Memory:
        """With the refs of all values that have a place."""
        for v in self.function.values():
            if v.place is not None and v not in self.refs:
                self.refs[v] = self.resolve(v)
        return self

    def readers(self) -> dict[Value, list[Instruction]]:
        """The instructions that read a value's memory, in order, by the value that it was made for."""
        found: dict[Value, list[Instruction]] = {}
        for i in self.function.instructions:
            for o in i.operands:
                found.setdefault(_made_for(o), []).append(i)
        return found

    def overwritable(self, module: Module) -> list[list[int]]:
        """For each output the inputs that a caller may have written over with it: the kernel that writes it reads them last.

        An input that is itself a result, as it is or as a view, is read once more, at the end.
        """
        returned = set(map(_made_for, self.function.results))
        numbers = {v: n for n, v in enumerate(self.function.inputs()) if v not in returned}
        readers = self.readers()

        def inputs_under(v: Value) -> list[int]:
            i = v.owner
            if i is None or v not in self.caller or not isinstance(i.op, Control):
                return []
            pairs = Nest(module[str(i.attrs[i.op.bodies[0]])]).overwrites()
            over = [o for n, o in enumerate(i.operands) if (n, i.results.index(v)) in pairs and o in numbers]
            return [numbers[o] for o in over if readers[o][-1] is i and i.operands.count(o) == 1]

        return [inputs_under(v) for v in self.outputs]

    def own_arrays(self) -> dict[str, Array]:
        """Memory for every buffer that is else a caller's array."""
        return {name: aligned_bytes(v.type.nbytes) for v, name in self.caller.items()}

    def state(self, of: Value, v: Value, which: str) -> Ref:
        """The current (``state``) or new (``next``) buffer of a state argument, for a value of its size."""
        slot = self.slots[of.name or ""]
        return Ref(f"{which} {slot.dtype.name}", slot.offset, v.type.dtype, Layout.contiguous(v.type.shape))


def window(buffers: Mapping[str, Array], ref: Ref) -> Array:
    """A ref as an array over the bytes of its buffer."""
    offset, shape, strides = ref.window()
    kind = DTYPES[ref.dtype.name].numpy
    if 0 in shape:
        return np.empty(shape, kind)
    return np.ndarray(shape, kind, buffers[ref.buffer], offset, [s * kind.itemsize for s in strides])
