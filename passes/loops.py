"""Loops of a kernel: which dimensions it runs over, and where every value it touches lies as seen from them.

A kernel runs over ``outer x n x inner`` elements, ``n`` being what its reductions combine (a kernel without one has only
outer dimensions).  Each value is met under an ``Access``: the position of an element in the value's own row-major order as an
affine function of the loop indices.  Elementwise ops pass the access on, views change it, so no view moves anything.  Where a view
needs a finer dimension than there is (``[6]`` seen as ``[2, 3]``), the dimension is split and the analysis starts again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from ..ir import Function, Instruction, Value
from ..ir.op import Elementwise, Gather, Join, Layout, Random32, Reduce, Source, View
from ..ir.types import Shape

COMBINED = ("sum", "max", "min")
"""How the reductions of a kernel combine elements."""
MOST_DIMS = 12
"""Loops of a kernel, unless an array in it has more axes."""
OUTER, REDUCED, INNER = "outer", "reduced", "inner"


class UnfitError(ValueError):
    """A function that is no single nest of loops, and why."""


class _SplitError(Exception):
    def __init__(self, dim: int, size: int) -> None:
        self.dim, self.size = dim, size


@dataclass(frozen=True)
class Access:
    """``offset + sum(strides[d] * index[d])``: a position in elements."""

    offset: int
    strides: tuple[int, ...]
    lies: bool = False
    """Whether it is a place in an argument's memory, not a position among its elements."""


@dataclass(frozen=True)
class Bound:
    """A condition on the loop indices: ``0 <= position < size``."""

    position: Access
    size: int


@dataclass(frozen=True)
class Dim:
    """A loop: how many steps, and whether it is outer, reduced or inner."""

    size: int
    role: str


def grouped(rank: int, axes: Shape) -> tuple[Shape, Shape, Shape]:
    """The axes of a reduction as (outer, reduced, inner); the order of all is unchanged where the reduced are neighbours."""
    kept = tuple(a for a in range(rank) if a not in axes)
    if axes and axes != tuple(range(axes[0], axes[-1] + 1)):
        return kept, axes, ()
    outer = tuple(a for a in kept if not axes or a < axes[0])
    return outer, axes, kept[len(outer) :]


def split_of(i: Instruction) -> Shape:
    """A reduction's operand as sizes ``(outer, n, inner)``."""
    shape, axes = i.operands[0].type.shape, i.attrs["axes"]
    sizes = [math.prod(shape[a] for a in group) for group in grouped(len(shape), axes)]
    return sizes[0], sizes[1], sizes[2]


def are_neighbours(axes: Shape) -> bool:
    """Whether a reduction's axes follow each other, so that its operand needs no move."""
    return not axes or axes == tuple(range(axes[0], axes[-1] + 1))


def rules(i: Instruction) -> Any:
    """The op's lowering rules, whatever its family."""
    return i.op


def _unravel(position: int, shape: Shape) -> list[int]:
    coordinates: list[int] = []
    for n in reversed(shape):
        coordinates.append(position % n)
        position //= n
    return coordinates[::-1]


def _unravel_nearest(position: int, shape: Shape) -> list[int]:
    """Coordinates that may be negative: each as near to 0 as it can be, but for the first."""
    coordinates: list[int] = []
    for n in reversed(shape[1:]):
        c = position % n
        c -= n if 2 * c > n else 0
        coordinates.append(c)
        position = (position - c) // n
    return [position, *reversed(coordinates)] if shape else []


def _runs(shape: Shape, strides: Sequence[Shape], apart: Set[int] = frozenset()) -> list[tuple[int, int]]:
    """Neighbouring axes as one where they follow each other evenly under all strides: the size of each, and its last axis.

    An axis that is ``apart`` stays by itself.
    """
    runs: list[tuple[int, int]] = []
    for a, n in enumerate(shape):
        if n == 1 and a not in apart:
            continue
        before = runs[-1][1] if runs else a
        even = runs and not {a, before} & apart and all(s[before] == n * s[a] for s in strides)
        if even:
            runs[-1] = runs[-1][0] * n, a
        else:
            runs.append((n, a))
    return runs


def _viewed(layout: Layout | None, views: Sequence[Instruction]) -> Layout | None:
    """How an array lies after views, the last of them first; None where they move its elements."""
    for i in reversed(views):
        layout = rules(i).layout(layout, **i.attrs) if layout is not None else None
    return layout


class Checked(NamedTuple):
    """An instruction of a kernel that can fail, and what its check looks at: a constant of the kernel, or an argument under a layout."""

    instruction: Instruction
    operand: Value
    layout: Layout | None


def checks_of(function: Function, layouts: Sequence[Layout] | None = None) -> list[Checked]:
    """The checks of a kernel, in order; they run before it.  Raises ``UnfitError`` where one looks at what the kernel computes.

    ``layouts`` says how each argument lies in memory (row-major contiguous where not given).
    """
    given = [Layout.contiguous(a.type.shape) for a in function.arguments] if layouts is None else layouts
    lie = dict(zip(function.arguments, given, strict=True))
    found: list[Checked] = []
    for i in function.instructions:
        if i.op.check is None or not i.op.check.applies(tuple([o.type for o in i.operands])):
            continue
        operand, views = i.operands[i.op.check.operand], list[Instruction]()
        source = operand
        while source.owner is not None and isinstance(source.owner.op, View):
            views.append(source.owner)
            source = source.owner.operands[0]
        if source.owner is not None and isinstance(source.owner.op, Source):
            found.append(Checked(i, operand, None))
            continue
        layout = _viewed(lie[source], views) if source in lie else None
        if layout is None:
            raise UnfitError(f"the operand that {i.op.name} checks is computed in it")
        found.append(Checked(i, source, layout))
    return found


def kernel_nest(function: Function, layouts: tuple[Layout, ...] | None = None) -> Nest:
    """The nest of a function that is to be a kernel over arguments that lie so.  Raises ``UnfitError`` for one that cannot be."""
    checks_of(function, layouts)
    return Nest(function, layouts)


class Nest:
    """The loops of a kernel function.

    ``layouts`` says how each argument lies in memory and ``targets`` each result (row-major contiguous where not given).  Raises
    ``UnfitError`` for a function that is no single nest.
    """

    def __init__(
        self, function: Function, layouts: tuple[Layout, ...] | None = None, targets: tuple[Layout, ...] | None = None
    ) -> None:
        self.function = function
        self.targets = targets or tuple(Layout.contiguous(r.type.shape) for r in function.results)
        self.layouts = layouts or tuple(Layout.contiguous(a.type.shape) for a in function.arguments)
        self.argument_index = {a: n for n, a in enumerate(function.arguments)}
        reductions = [i for i in function.instructions if isinstance(i.op, Reduce)]
        splits = {split_of(i) for i in reductions}
        if any(rules(i).combine not in COMBINED for i in reductions):
            raise UnfitError(f"it combines otherwise than by {', '.join(COMBINED)}")
        if len(splits) > 1 or any(not are_neighbours(i.attrs["axes"]) for i in reductions):
            raise UnfitError("its reductions combine different things")
        self.reductions = reductions
        if splits:
            outer, n, inner = splits.pop()
            dims = [Dim(outer, OUTER), Dim(n, REDUCED), Dim(inner, INNER)]
        else:
            dims = [Dim(max((r.type.size for r in function.results), default=0), OUTER)]
        self.size = math.prod(d.size for d in dims)
        self.kept = math.prod(d.size for d in dims if d.role != REDUCED)
        self.dims = tuple(d for d in dims if d.size != 1 or d.role == REDUCED) or (dims[0],)
        while True:
            try:
                self._analyse()
                return
            except _SplitError as split:
                d = self.dims[split.dim]
                parts = (Dim(d.size // split.size, d.role), Dim(split.size, d.role))
                self.dims = (*self.dims[: split.dim], *parts, *self.dims[split.dim + 1 :])
                if len(self.dims) > max(MOST_DIMS, *(v.type.rank for v in function.values())):
                    raise UnfitError("it needs too many loops") from None

    # Accesses

    def _contiguous(self, dims: tuple[Dim, ...], keep: bool) -> Access:
        strides: list[int] = []
        step = 1
        for d in reversed(dims):
            counted = keep or d.role != REDUCED
            strides.append(step if counted and d.size != 1 else 0)
            step *= d.size if counted else 1
        return Access(0, tuple(reversed(strides)))

    def full(self) -> Access:
        """Every element in order."""
        return self._contiguous(self.dims, True)

    def reduced(self) -> Access:
        """Every element of a reduction's result in order."""
        return self._contiguous(self.dims, False)

    def access_of(self, value: Value) -> Access:
        """How a result of the kernel is met."""
        if value.type.size == self.size and not (self.kept == self.size and self._is_reduced(value)):
            return self.full()
        if value.type.size != self.kept or not self.reductions:
            raise UnfitError(f"{value.type} is neither of the kernel's size nor of its reductions'")
        return self.reduced()

    def _is_reduced(self, value: Value) -> bool:
        return value.owner is not None and isinstance(value.owner.op, Reduce)

    def coordinates(self, access: Access, shape: Shape) -> list[Access]:
        """A position in a row-major array of ``shape`` as one position per axis; may ask for a finer dimension."""
        dims = self.dims
        base = _unravel(access.offset, shape)
        if any(abs(t) >= max(math.prod(shape), 1) and d.size > 1 for d, t in zip(dims, access.strides, strict=True)):
            raise UnfitError("an index runs out of its array")
        # A position has one set of coordinates: steps under which all stay inside their axes are right, however they were found.
        for unravel in (_unravel_nearest, _unravel):
            steps = self._steps(access, shape, unravel)
            outside = [a for a, n in enumerate(shape) if not self._is_inside(base[a], [s[a] for s in steps], n)]
            if not outside:
                return [Access(base[a], tuple(s[a] for s in steps)) for a in range(len(shape))]
            for n, a in product(range(len(dims)), reversed(outside)):
                part = shape[a] // step if (step := abs(steps[n][a])) and shape[a] % step == 0 else 0
                if 1 < part < dims[n].size and dims[n].size % part == 0:
                    raise _SplitError(n, part)
        raise UnfitError(f"an index does not follow the axes of {list(shape)}")

    def _steps(self, access: Access, shape: Shape, unravel: Callable[[int, Shape], list[int]]) -> list[list[int]]:
        """What one step of each dimension adds to the coordinates."""
        none = [0] * len(shape)
        return [
            [(-c if t < 0 else c) for c in unravel(abs(t), shape)] if t and d.size > 1 else none
            for d, t in zip(self.dims, access.strides, strict=True)
        ]

    def _is_inside(self, base: int, steps: Sequence[int], size: int) -> bool:
        """Whether a coordinate stays in its axis for all indices."""
        reach = [s * (d.size - 1) for d, s in zip(self.dims, steps, strict=True)]
        return base + sum(min(0, r) for r in reach) >= 0 and base + sum(max(0, r) for r in reach) < size

    def through(self, access: Access, shape: Shape, layout: Layout) -> Access:
        """The access to where the elements of an array of ``shape`` lie, given their layout."""
        if layout.is_contiguous:
            return Access(access.offset + layout.offset, access.strides)
        offset, strides = layout.offset, [0] * len(self.dims)
        runs = _runs(shape, [layout.strides])
        for axis, (_, a) in zip(self.coordinates(access, tuple(n for n, _ in runs)), runs, strict=True):
            step = layout.strides[a]
            offset += axis.offset * step
            strides = [s + t * step for s, t in zip(strides, axis.strides, strict=True)]
        return Access(offset, tuple(strides))

    def argument_access(self, argument: Value, access: Access) -> Access:
        """Where an argument's element lies in its memory."""
        if access.lies:
            return access
        return self.through(access, argument.type.shape, self.layouts[self.argument_index[argument]])

    def view(self, i: Instruction, access: Access) -> Access:
        """The access to a view's operand from that to its result."""
        source = i.operands[0].type.shape
        layout = rules(i).layout(Layout.contiguous(source), **i.attrs)
        if layout is None:
            raise UnfitError("a view moves its elements")
        return self.through(access, i.result.type.shape, layout)

    def _behind(self, value: Value) -> tuple[Value, Layout, bool]:
        """The value behind a chain of views, and how the view lies in that value's own order or, if true, in its memory."""
        views: list[Instruction] = []
        while value.owner is not None and isinstance(value.owner.op, View):
            views.append(value.owner)
            value = value.owner.operands[0]
        while (layout := _viewed(Layout.contiguous(value.type.shape), views)) is None:
            value = views.pop().result
        if value in self.argument_index:
            own = self.layouts[self.argument_index[value]]
            if not own.is_contiguous and (lies := _viewed(own, views)) is not None:
                return value, lies, True
        return value, layout, False

    def blocks(self, i: Instruction, access: Access) -> list[tuple[Value, Access, list[Bound]]]:
        """The operands of a join, or what they are views of, under their own accesses, and where each of them is met.

        Where it is not met a position may lie outside, so that views of an operand are resolved here, where its axes are known.
        """
        found: list[tuple[Value, Access, list[Bound]]] = []
        blocks = rules(i).blocks(tuple([o.type for o in i.operands]), **i.attrs)
        met = [(o, b, *self._behind(o)) for o, b in zip(i.operands, blocks, strict=True) if o.type.size]
        whole = i.result.type.shape
        parted = {a for a, n in enumerate(whole) if any(o.type.shape[a] != n for o, *_ in met)}
        runs = _runs(whole, [layout.strides for _, _, _, layout, _ in met], parted)
        axes = self.coordinates(access, tuple(n for n, _ in runs))
        for operand, block, source, layout, lies in met:
            if any(s != 1 and n != 1 for s, n in zip(block.step, operand.type.shape, strict=True)):
                raise UnfitError("a join spreads its operand")
            bounds: list[Bound] = []
            offset, strides = layout.offset, [0] * len(self.dims)
            for axis, (size, a) in zip(axes, runs, strict=True):
                start, step = block.start[a], layout.strides[a]
                position = Access(axis.offset - start, axis.strides)
                if a in parted and (n := operand.type.shape[a]) != size:
                    bounds.append(Bound(position, n))
                    position = self._within(axis, start, n, size) or position
                offset += position.offset * step
                strides = [s + t * step for s, t in zip(strides, position.strides, strict=True)]
            found.append((source, Access(offset, tuple(strides), lies), bounds))
        return found

    def _within(self, axis: Access, start: int, n: int, whole: int) -> Access | None:
        """The position inside a block of equal blocks, given that the block is met: what the dimensions inside of it add."""
        if axis.offset or start % n or whole % n or min(axis.strides, default=0) < 0:
            return None
        inside: list[int] = []
        reach = 0
        for d, (dim, stride) in enumerate(zip(self.dims, axis.strides, strict=True)):
            if stride % n == 0:
                inside.append(0)
                continue
            if stride * (dim.size - 1) >= n:
                part = n // stride
                if n % stride == 0 and 1 < part < dim.size and dim.size % part == 0:
                    raise _SplitError(d, part)
                return None
            inside.append(stride)
            reach += stride * (dim.size - 1)
        return Access(0, tuple(inside)) if reach < n else None

    def gather(self, i: Instruction, access: Access) -> tuple[Access, Access, int]:
        """Of a gather's result: the access to its index, to the gathered array at index 0, and the step of one index there."""
        walk = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs)
        if not walk.size:
            raise UnfitError("a gather chooses from no elements")
        outer, count, inner = self.coordinates(access, (walk.outer, walk.count, walk.inner))
        step = walk.size * walk.inner
        base = Access(
            outer.offset * step + inner.offset,
            tuple(o * step + n for o, n in zip(outer.strides, inner.strides, strict=True)),
        )
        return (count if walk.shared else access), base, walk.inner

    def is_picked(self, i: Instruction) -> bool:
        """Whether a gather takes one element of each reduced row of a value that the kernel computes."""
        return isinstance(i.op, Gather) and i.operands[0] not in self.argument_index

    # Analysis

    def reads(self, i: Instruction, access: Access) -> Iterator[tuple[Value, Access]]:
        """The operands of an instruction and the accesses under which it reads them."""
        op = i.op
        if isinstance(op, Elementwise):
            for o in i.operands:
                yield o, access
        elif isinstance(op, View):
            yield i.operands[0], self.view(i, access)
        elif isinstance(op, Reduce):
            if access != self.reduced():
                raise UnfitError("a reduction's result is met in another order")
            yield i.operands[0], self.full()
        elif isinstance(op, Join):
            for operand, inner, _ in self.blocks(i, access):
                yield operand, inner
        elif isinstance(op, Gather):
            if self.is_picked(i):
                walk = op.walk(tuple([o.type for o in i.operands]), **i.attrs)
                reduced = [d.size for d in self.dims if d.role == REDUCED]
                row = bool(reduced) and (self.kept, walk.size) == (walk.outer, math.prod(reduced))
                if not row or walk.count != 1 or walk.inner != 1 or walk.shared or access != self.reduced():
                    raise UnfitError("a gather meets its operand in another order")
                yield i.operands[1], access
                yield i.operands[0], self.full()
            else:
                index, _, _ = self.gather(i, access)
                yield i.operands[1], index
        elif isinstance(op, Source):
            if op.element is not None:
                self.coordinates(access, i.result.type.shape)
        elif not isinstance(op, Random32):
            raise UnfitError(f"{op.name} is no part of a nest of loops")

    def _analyse(self) -> None:
        """Visit everything once, so that every dimension is fine enough."""
        self.levels: dict[Value, int] = {}
        seen: set[tuple[Value, Access]] = set()
        pending = [(v, self.access_of(v)) for v in self.function.results]
        self.accesses = tuple(access for _, access in pending)
        self.stores = tuple(
            self.through(access, v.type.shape, target)
            for (v, access), target in zip(pending, self.targets, strict=True)
        )
        self.argument_accesses: dict[Value, set[Access]] = {a: set() for a in self.function.arguments}
        while pending:
            value, access = pending.pop()
            if (value, access) in seen:
                continue
            seen.add((value, access))
            if value in self.argument_index:
                self.argument_accesses[value].add(self.argument_access(value, access))
            else:
                assert value.owner is not None
                if isinstance(value.owner.op, Gather) and not self.is_picked(value.owner):
                    self.argument_accesses[value.owner.operands[0]].add(Access(-1, ()))
                pending += self.reads(value.owner, access)
        for a in self.function.arguments:
            self.levels[a] = 0
        for i in self.function.instructions:
            level = max((self.levels[o] for o in i.operands), default=0)
            level += isinstance(i.op, Reduce)
            for r in i.results:
                self.levels[r] = level

    @property
    def reduced_dims(self) -> tuple[int, ...]:
        """The numbers of the reduced dimensions."""
        return tuple(n for n, d in enumerate(self.dims) if d.role == REDUCED)

    @property
    def lanes_reduced(self) -> bool:
        """Whether vectors lie along the reduced dimension (a row kernel)."""
        return self.dims[-1].role == REDUCED

    @property
    def kind(self) -> str:
        """``map``, ``row`` or ``column``."""
        if not self.reductions:
            return "map"
        return "row" if self.lanes_reduced else "column"

    @property
    def phases(self) -> int:
        """How often the reduced dimension is run through."""
        return 1 + max((self.levels[v] for v in self.function.results), default=0)

    def overwrites(self) -> set[tuple[int, int]]:
        """Pairs (argument, result) that may share memory: the argument is met only where and not later than the result is written."""
        found: set[tuple[int, int]] = set()
        if self.reductions or any(r in self.argument_index for r in self.function.results):
            return found  # a later phase, or a copy, may read what was written over
        for a, argument in enumerate(self.function.arguments):
            accesses = self.argument_accesses[argument]
            for r, (result, store) in enumerate(zip(self.function.results, self.stores, strict=True)):
                if accesses == {store} and argument.type.nbytes == result.type.nbytes:
                    if argument.type.dtype.bits == result.type.dtype.bits:
                        found.add((a, r))
        return found
