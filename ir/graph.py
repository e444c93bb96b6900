"""Values, instructions, functions and modules.

A function is a flat list of instructions in SSA form: every value is made once, by an argument or an
instruction, and used after that.  State and gradients are marked by roles on arguments and marks on results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import TraceError, VerifyError
from .types import TensorType

if TYPE_CHECKING:
    from .op import Op
    from .origin import Origin

ROLES = ("input", "param", "buffer", "optimizer")
Attrs = Mapping[str, Any]
STATE_RULE = (
    "rule: parameters, buffers and optimizer state have names, each its own\n"
    "  remedy: name the argument, as in %weight: f32[2] param"
)


class Location(NamedTuple):
    """A line of user code and the module path that was running (empty outside modules)."""

    file: str
    line: int
    module: str = ""


_INTERNED: dict[tuple[str, int, str], tuple[Location, ...]] = {}


def location(file: str, line: int, module: str) -> tuple[Location, ...]:
    """The location as instructions hold it; equal ones are one object."""
    place = (file, line, module)
    found = _INTERNED.get(place)
    if found is None:
        found = _INTERNED[place] = (Location(file, line, module),)
    return found


class Place(NamedTuple):
    """Where a planned value lives: ``arena+offset``, ``alias(value)``, ``state(name)``, or ``caller``: the array that a caller gave."""

    kind: str
    offset: int = 0
    of: Value | None = None

    def __str__(self) -> str:
        return f"arena+{self.offset}" if self.kind == "arena" else self.kind


PLACES = {"arena": False, "alias": True, "state": True, "caller": False}
"""The kinds of places, and whether they name a value."""
PLACE_RULE = "arena+offset, alias(%value), state(%argument) or caller"


class Symbol(str):
    """The name of another function of the module, as an attribute value."""

    __slots__ = ()


class Mark(NamedTuple):
    """What a function result is: the gradient of an argument, or its new value."""

    kind: str  # "grad" | "update"
    of: Value


class Value:
    """One SSA value: its type, its name if it has one, and the instruction that made it (None: an argument).

    ``array`` is what a tape computed for it; in a traced function it is None.
    """

    __slots__ = ("array", "name", "owner", "place", "type")

    def __init__(self, type: TensorType, name: str | None = None, owner: Instruction | None = None) -> None:
        self.type = type
        self.name = name
        self.owner = owner
        self.place: Place | None = None
        self.array: Any = None

    def __repr__(self) -> str:
        return f"<%{self.name or '?'}: {self.type}>"


class Instruction:
    """One application of an op."""

    __slots__ = ("attrs", "location", "op", "operands", "results")

    def __init__(
        self,
        op: Op,
        operands: tuple[Value, ...],
        attrs: Attrs,
        types: Sequence[TensorType],
        location: tuple[Location, ...] = (),
    ) -> None:
        self.op = op
        self.operands = operands
        self.attrs = attrs
        self.location = location
        self.results = tuple([Value(t, None, self) for t in types])

    @property
    def result(self) -> Value:
        """The only result."""
        return self.results[0]

    def __repr__(self) -> str:
        return f"<{self.op.name} : {', '.join(str(r.type) for r in self.results)}>"


@dataclass(eq=False)
class Function:
    """A pure function: arguments with roles (None in a kernel), instructions, results with marks."""

    name: str
    arguments: list[Value] = field(default_factory=list[Value])
    roles: list[str | None] = field(default_factory=list[str | None])
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    results: list[Value] = field(default_factory=list[Value])
    marks: list[Mark | None] = field(default_factory=list[Mark | None])
    attrs: dict[str, Any] = field(default_factory=dict[str, Any])

    def state(self) -> Iterator[tuple[Value, str]]:
        """The arguments that are parameters, buffers or optimiser state, with their roles."""
        for value, role in zip(self.arguments, self.roles, strict=True):
            if role in ("param", "buffer", "optimizer"):
                yield value, role

    def state_fault(self) -> tuple[Value, str] | None:
        """The first state argument without a name of its own, and what is wrong with it: state is kept and saved by name."""
        names = set[str]()
        for value, role in self.state():
            if not value.name:
                return value, f"{role} number {self.arguments.index(value)} has no name\n  {STATE_RULE}"
            if value.name in names:
                return value, f"another argument has the name of {role} {value.name!r}\n  {STATE_RULE}"
            names.add(value.name)
        return None

    def state_types(self) -> dict[str, TensorType]:
        """The types of the state by name.  Raises ``VerifyError`` where an argument of state has no name of its own."""
        if fault := self.state_fault():
            raise VerifyError(f"in @{self.name}: {fault[1]}")
        return {value.name or "": value.type for value, _ in self.state()}

    def inputs(self) -> list[Value]:
        """The arguments that a caller passes at each call."""
        return [v for v, role in zip(self.arguments, self.roles, strict=True) if role in ("input", None)]

    def values(self) -> Iterator[Value]:
        """All arguments, then all results of instructions, in order."""
        yield from self.arguments
        for i in self.instructions:
            yield from i.results

    def symbols(self) -> set[str]:
        """Names of the functions that this one's instructions refer to."""
        return {a for i in self.instructions for a in i.attrs.values() if isinstance(a, Symbol)}

    def closed(self) -> Function:
        """The function itself; raises ``TraceError`` where it uses a value of another recording."""
        known = set(self.arguments)
        for i in self.instructions:
            if not known.issuperset(i.operands):
                raise TraceError(
                    f"{i.op.name} uses a tensor that an earlier run recorded\n"
                    "  remedy: compute it anew in each call, or keep it in an nn.Buffer",
                    i.location,
                )
            known.update(i.results)
        if not known.issuperset(self.results):
            raise TraceError(
                "a result is a tensor that an earlier run recorded\n  remedy: compute it anew in each call"
            )
        return self

    def clone(self) -> Function:
        """An independent copy; passes change functions in place."""
        new: dict[Value, Value] = {}

        def copied(value: Value, to: Value) -> Value:
            to.name, to.array = value.name, None
            new[value] = to
            return to

        arguments = [copied(v, Value(v.type)) for v in self.arguments]
        instructions: list[Instruction] = []
        for i in self.instructions:
            made = Instruction(
                i.op, tuple([new[o] for o in i.operands]), i.attrs, [r.type for r in i.results], i.location
            )
            for old, value in zip(i.results, made.results, strict=True):
                copied(old, value)
            instructions.append(made)
        for value, to in new.items():
            if value.place is not None:
                to.place = value.place._replace(of=new[value.place.of] if value.place.of is not None else None)
        marks = [m and Mark(m.kind, new[m.of]) for m in self.marks]
        return Function(
            self.name,
            arguments,
            list(self.roles),
            instructions,
            [new[v] for v in self.results],
            marks,
            dict(self.attrs),
        )

    def __str__(self) -> str:
        from .print import print_function

        return print_function(self)


class Module:
    """Functions by name.  Two modules are equal when their plain texts are."""

    def __init__(self, name: str, functions: Sequence[Function] = ()) -> None:
        self.name = name
        self.functions: dict[str, Function] = {f.name: f for f in functions}
        self.origin: Origin | None = None
        """The text it was read from, if it was."""

    def add(self, function: Function) -> Function:
        """Add a function under its name, which must be free."""
        if function.name in self.functions:
            raise ValueError(f"module @{self.name} has a function @{function.name} already")
        self.functions[function.name] = function
        return function

    def clone(self) -> Module:
        """An independent copy."""
        return Module(self.name, [f.clone() for f in self])

    def __getitem__(self, name: str) -> Function:
        found = self.functions.get(name) or self.functions.get(name.removeprefix("@"))
        if found is None:
            raise KeyError(
                f"module @{self.name} has no function {name!r}; it has {', '.join(self.functions) or 'none'}"
            )
        return found

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions.values())

    def verify(self) -> Module:
        """Check every rule of the IR and return the module; raises ``VerifyError``."""
        from .verify import verify

        verify(self)
        return self

    def __str__(self) -> str:
        from .print import print_module

        return print_module(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Module) and str(self) == str(other)

    __hash__ = None  # type: ignore[assignment]
