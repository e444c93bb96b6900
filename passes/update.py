"""update: one kernel of class ``update`` for the optimiser rule of all parameters.

Where the new values of several parameters come from one rule of elementwise ops, the rule runs once.
For leaves ``a_1, ..., a_n`` and an elementwise rule ``f``::

    f(a_1, b_1), ..., f(a_n, b_n)  is  the slices of  f(concat(a_1, ..., a_n), concat(b_1, ..., b_n))

Each leaf is reshaped flat and padded with zeros to the alignment of state buffers; plan makes these moves aliases.  Only ops
with one possible answer take part, so bits do not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir import Builder, Function, GraphBuilder, Instruction, Location, Module, Symbol, Value
from ..ir.literal import Literal
from ..ir.op import OPS, Elementwise
from ..ir.types import DType, TensorType
from .manager import Context, Pass
from .plan import padded
from .rewrite import splat_of

MAX_DEPTH = 64
Column = tuple[Value, ...]


@dataclass
class Group:
    """Parameters of one dtype with the same slots, and their new values: under ``""``, and those of a slot under ``"/slot"``."""

    parameters: list[Value] = field(default_factory=list[Value])
    columns: dict[str, list[int]] = field(
        default_factory=dict[str, list[int]]
    )  # positions among the function's results


def _groups(function: Function) -> list[Group]:
    updates = {m.of: n for n, m in enumerate(function.marks) if m is not None and m.kind == "update"}
    slots: dict[str, dict[str, int]] = {}
    for value, role in function.state():
        name = value.name or ""
        kind, _, rest = name.partition("/")
        slot, found, path = rest.partition("/")
        if role == "optimizer" and value in updates and kind == "optimizer" and found:
            slots.setdefault(path, {})[slot] = updates[value]
    groups: dict[tuple[DType, tuple[str, ...]], Group] = {}
    for value, role in function.state():
        if role != "param" or value not in updates or not value.type.dtype.floating:
            continue
        own = {"": updates[value]}
        for slot, position in slots.get(value.name or "", {}).items():
            if function.results[position].type == value.type:
                own[f"/{slot}"] = position
        group = groups.setdefault((value.type.dtype, tuple(own)), Group())
        group.parameters.append(value)
        for column, position in own.items():
            group.columns.setdefault(column, []).append(position)
    return [g for g in groups.values() if len(g.parameters) > 1]


def _scalar_source(value: Value) -> Value | None:
    """The 0-d value that a value repeats, if it does."""
    if not value.type.rank:
        return value
    owner = value.owner
    if owner is not None and owner.op.name == "broadcast_to" and not owner.operands[0].type.rank:
        return owner.operands[0]
    return None


class _Rule:
    """Builds the kernel of one group: what the columns have in common becomes ops, the rest its arguments."""

    def __init__(self, group: Group, alignment: int) -> None:
        self.group = group
        self.shapes = [p.type.shape for p in group.parameters]
        self.unit = group.parameters[0].type.dtype.bits // 8
        self.sizes = [padded(p.type.size, self.unit, alignment) for p in group.parameters]
        self.kernel = GraphBuilder()
        self.build = Builder(self.kernel)
        self.leaves: list[Column | Value] = []
        self.made: dict[Column | Value, Value] = {}
        self.locations: dict[Location, None] = {}
        self.ops = 0

    def flat(self, dtype: DType) -> TensorType:
        return TensorType(dtype, (sum(self.sizes),))

    def _argument(self, leaf: Column | Value, type: TensorType) -> Value:
        value = self.made[leaf] = self.kernel.argument(type)
        self.leaves.append(leaf)
        return value

    def _common(self, column: Column) -> list[Column] | None:
        """The operand columns, where all values come from one elementwise op of their parameter's shape."""
        owners = [v.owner for v in column]
        first = owners[0]
        if first is None or not isinstance(first.op, Elementwise) or first.op.rounding != "correct":
            return None
        for owner, shape in zip(owners, self.shapes, strict=True):
            if owner is None or owner.op is not first.op or owner.attrs != first.attrs:
                return None
            if any(o.type.shape != shape for o in owner.operands):
                return None
            if any(o.type.dtype is not p.type.dtype for o, p in zip(owner.operands, first.operands, strict=True)):
                return None
        return list(zip(*[o.operands for o in owners if o is not None], strict=True))

    def lower(self, column: Column, depth: int = 0) -> Value:
        """The kernel's value for a column."""
        if column in self.made:
            return self.made[column]
        literals = [splat_of(v) for v in column]
        first = literals[0]
        if first is not None and all(x is not None and x.data.tobytes() == first.data.tobytes() for x in literals):
            value = self.build.constant(value=Literal.splat(first.data, self.flat(first.type.dtype)))
            self.made[column] = value
            return value
        sources = {_scalar_source(v) for v in column}
        source = next(iter(sources))
        if len(sources) == 1 and source is not None:
            given = self.made.get(source) or self._argument(source, source.type)
            value = self.made[column] = self.build.broadcast_to(given, shape=self.flat(source.type.dtype).shape)
            return value
        operands = self._common(column) if depth < MAX_DEPTH else None
        if operands is None:
            return self._argument(column, self.flat(column[0].type.dtype))
        inner = tuple([self.lower(o, depth + 1) for o in operands])
        owner = column[0].owner
        assert owner is not None
        self.ops += 1
        for v in column:
            assert v.owner is not None
            self.locations.update(dict.fromkeys(v.owner.location))
        value = self.made[column] = self.kernel.bind(owner.op, inner, owner.attrs)[0]
        return value

    def join(self, build: Builder, leaf: Column | Value) -> Value:
        """The operand of the fused op for a leaf."""
        if isinstance(leaf, Value):
            return leaf
        parts: list[Value] = []
        for value, size in zip(leaf, self.sizes, strict=True):
            count = value.type.size
            if value.type.shape != (count,):
                value = build.reshape(value, shape=(count,))
            if size != count:
                value = build.pad(value, low=(0,), high=(size - count,), interior=(0,))
            parts.append(value)
        return build.concat(*parts, axis=0)


def _update(module: Module, context: Context) -> bool:
    """One optimiser rule over all parameters, as one kernel."""
    changed = False
    for function in list(module):
        for group in _groups(function):
            changed |= _fuse_group(module, function, group, context)
    return changed


def _fuse_group(module: Module, function: Function, group: Group, context: Context) -> bool:
    rule = _Rule(group, context.alignment)
    rule.kernel.at = ()
    results = [rule.lower(tuple([function.results[n] for n in column])) for column in group.columns.values()]
    if not rule.ops or not context.spend("update", function.instructions[-1]):
        return False
    name = next(f"k{n}" for n in range(len(module.functions) + 1) if f"k{n}" not in module.functions)
    kernel = rule.kernel.function(
        name, [(v, None) for v in rule.kernel.arguments], [(v, None) for v in results], {"class": "update"}
    )
    module.add(kernel)
    recorder = GraphBuilder()
    recorder.at = at = tuple(rule.locations)
    build = Builder(recorder)
    operands = tuple([rule.join(build, leaf) for leaf in rule.leaves])
    fused = Instruction(OPS["fused"], operands, {"kernel": Symbol(name)}, [v.type for v in results], at)
    recorder.instructions.append(fused)
    for flat, positions in zip(fused.results, group.columns.values(), strict=True):
        start = 0
        for position, shape, size in zip(positions, rule.shapes, rule.sizes, strict=True):
            count = function.results[position].type.size
            part = build.slice(flat, start=(start,), stop=(start + count,), step=(1,))
            function.results[position] = part if shape == (count,) else build.reshape(part, shape=shape)
            start += size
    function.instructions.extend(recorder.instructions)
    return True


update = Pass("update", _update)
