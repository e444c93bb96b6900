"""Recording: the one door through which ops enter, and the frame that says where they go.

The active frame is a context variable.  Its recorder decides what an op does: a ``GraphBuilder`` infers the type and
appends an instruction; the eager tape, a subclass elsewhere, also computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from . import types
from .errors import IRError, TraceError
from .graph import Function, Instruction, Location, Mark, Value, location
from .source import user_line
from .types import DType, TensorType

if TYPE_CHECKING:
    from .op import Op


class Recorder(Protocol):
    """Takes ops in order.  ``at`` overrides the location of what is recorded next."""

    instructions: list[Instruction]
    at: tuple[Location, ...] | None

    def bind(self, op: Op, operands: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Value, ...]: ...

    def argument(self, type: TensorType, name: str | None = None, array: Any = None) -> Value: ...


class StateSource(Protocol):
    """Gives a declared parameter or buffer its current value, and takes a buffer's new one."""

    def read(self, declared: Any) -> Value: ...

    def assign(self, declared: Any, value: Value) -> None: ...

    def path(self, module: Any) -> str: ...


@dataclass
class Frame:
    """What surrounds the code being recorded."""

    recorder: Recorder
    dtype: DType = types.f32
    mode: str | None = None
    state: StateSource | None = None
    key: Callable[[], Value] | None = None
    path: list[tuple[str, tuple[str, int] | None]] = field(default_factory=list[tuple[str, tuple[str, int] | None]])
    """Stack of the modules that are running: dotted path and the line that constructed the module."""
    draws: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def module(self) -> str:
        """Dotted path of the module that is running."""
        return self.path[-1][0] if self.path else ""


default_recorder: list[Callable[[], Recorder]] = []
"""What records ops met outside every frame, and computes them: the package sets it to the eager tape."""

_FRAME: ContextVar[Frame | None] = ContextVar("tapeir_frame", default=None)


def current_frame() -> Frame | None:
    """The active frame, or None outside every recording."""
    return _FRAME.get()


@contextmanager
def frame(new: Frame) -> Generator[Frame]:
    """Make a frame the active one."""
    token = _FRAME.set(new)
    try:
        yield new
    finally:
        _FRAME.reset(token)


def here() -> tuple[Location, ...]:
    """The user's place at this moment."""
    active = _FRAME.get()
    line = user_line(2)
    if active is None or not active.path:
        return location(*line, "") if line else ()
    if line is None:
        line = next((made for _, made in reversed(active.path) if made), None)
    return location(*line, active.module) if line else ()


def blame(error: IRError, name: str, operands: tuple[TensorType, ...], at: tuple[Location, ...]) -> IRError:
    """The error with the user's place, the op and the operand types added, each unless it has it already."""
    if error.op or error.locations:
        error.locations = error.locations or at
        return error
    shown = f"\n  operands: {', '.join(map(str, operands))}" if operands else ""
    blamed = type(error)(f"{name}: {error.message}{shown}", at)
    blamed.op = name
    return blamed


class GraphBuilder:
    """A recorder that only writes down: each op's type is inferred and an instruction appended."""

    def __init__(self) -> None:
        self.arguments: list[Value] = []
        self.instructions: list[Instruction] = []
        self.at: tuple[Location, ...] | None = None

    def argument(self, type: TensorType, name: str | None = None, array: Any = None) -> Value:
        """A new function argument; ``array`` is ignored here and kept by the tape."""
        value = Value(type, name)
        self.arguments.append(value)
        return value

    def bind(self, op: Op, operands: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Value, ...]:
        at = self.at
        if at is None:
            at = here()
        types = tuple([o.type for o in operands])
        try:
            inferred = op.result_types(types, attrs)
        except IRError as error:
            raise blame(error, op.name, types, at) from None
        instruction = Instruction(op, operands, attrs, inferred, at)
        self.instructions.append(instruction)
        return instruction.results

    def function(
        self,
        name: str,
        arguments: list[tuple[Value, str | None]],
        results: list[tuple[Value, Mark | None]],
        attrs: dict[str, Any] | None = None,
    ) -> Function:
        """What was recorded as a function, with the arguments in the given order."""
        return Function(
            name,
            [v for v, _ in arguments],
            [role for _, role in arguments],
            self.instructions,
            [v for v, _ in results],
            [mark for _, mark in results],
            dict(attrs or {}),
        )


@contextmanager
def located(recorder: Recorder, at: tuple[Location, ...] | None) -> Generator[None]:
    """Everything recorded inside gets the location ``at``; None leaves it to the caller's line."""
    before, recorder.at = recorder.at, at if at is not None else recorder.at
    try:
        yield
    finally:
        recorder.at = before


def draw_key(build: Any) -> Value:
    """The key of the next random draw: the entry's key folded with the place in the model that draws.

    Raises ``TraceError`` where there is no random state (no runtime, and no key given).
    """
    active = current_frame()
    if active is None or active.key is None:
        raise TraceError(
            "a random op was met outside a runtime\n  remedy: run it through tp.Runtime, or pass key=", here()
        )
    path = active.module
    number = active.draws.get(path, 0)
    active.draws[path] = number + 1
    return build.fold_in(active.key(), site=f"{path}:{number}")
