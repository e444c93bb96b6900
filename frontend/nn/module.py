"""``Module``, ``Parameter`` and ``Buffer``: what a model declares.

A runtime walks the module once, in attribute order, and owns the arrays.  While a model runs, a parameter or buffer that an
op meets asks the active frame for its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any, ClassVar, NamedTuple
from typing import cast as typed

from ...ir import types
from ...ir.errors import ShapeError, TraceError
from ...ir.literal import need_fit
from ...ir.record import current_frame, here
from ...ir.source import user_line
from ...ir.types import DType, Shape
from ..arguments import Number, called, checked
from ..convert import as_value, builder, cast
from ..functional.apply import located_errors
from ..tensor import Operators
from . import init as initialisers

Init = Callable[[Any, Shape], Any]
_numbers = count(1)
ASSIGNMENTS = [0]
"""A number that is another one after each assignment to an attribute of any module."""


class Declared(Operators):
    """Base of parameters and buffers: a shape, an optional fixed dtype and an initialiser ``init(key, shape)``."""

    @checked
    def __init__(self, shape: int | tuple[int, ...], init: Init | Number = 0.0, dtype: Any = None) -> None:
        self.shape: Shape = types.static_shape(shape if isinstance(shape, Iterable) else (shape,))
        self.fixed: DType | None = None if dtype is None else types.dtype(dtype)
        if not callable(init) and self.fixed is not None:
            with located_errors(f"the initial value of a {type(self).__name__}"):
                need_fit(init, self.fixed)
        self.init: Init = init if callable(init) else initialisers.Constant(init)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.shape)}, {self.init!r})"


class Parameter(Declared):
    """A trained tensor.  It has the runtime's dtype."""

    @checked
    def __init__(self, shape: int | tuple[int, ...], init: Init | Number = 0.0) -> None:
        super().__init__(shape, init)


class Buffer(Declared):
    """State that training updates without gradients.  It has the runtime's dtype unless one is given."""

    def assign(self, value: Any) -> None:
        """Make ``value`` the buffer's new value: reads after this see it, and a training step commits it.

        No gradient passes.  Raises ``ShapeError`` when the shapes differ.
        """
        active = current_frame()
        if active is None or active.state is None:
            raise TraceError(
                "a buffer is assigned outside a runtime\n  remedy: call the module through tp.Runtime", here()
            )
        new = as_value(value)
        if new.type.shape != self.shape:
            raise ShapeError(
                f"assign of {new.type} to a buffer of shape {list(self.shape)}\n  rule: shapes are equal", here()
            )
        old = active.state.read(self)
        active.state.assign(self, builder().stop_gradient(cast(new, old.type.dtype)))


class _Inside(NamedTuple):
    """A container, and the one that it is in."""

    item: Any
    around: _Inside | None


def _is_within(item: Any, around: _Inside | None) -> bool:
    while around is not None and around.item is not item:
        around = around.around
    return around is not None


class Module:
    """Base of all layers and models: declare parameters, buffers and modules as attributes, compute in ``forward``."""

    _made_at: tuple[str, int] | None = None
    """The user's line that made it."""
    _assigned_at: dict[str, tuple[str, int] | None]
    """For each attribute that was assigned again, the user's line of the last assignment."""
    INTERNAL: ClassVar = ("_made_at", "_assigned_at")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        object.__setattr__(self, "_made_at", user_line(2))
        object.__setattr__(self, "_assigned_at", {})
        return self

    forward: Callable[..., Any]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.  Programs that were recorded from the module are recorded again where that matters.

        Raises ``TraceError`` inside ``forward`` for a name that holds a parameter or buffer.
        """
        held = vars(self)
        if name in held:
            if held[name] is value:
                return
            if isinstance(held[name], Declared) and current_frame() is not None:
                raise _assigned_in_forward(self, name, held[name])
            self._assigned_at[name] = user_line(2)
        ASSIGNMENTS[0] = next(_numbers)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._assigned_at[name] = user_line(2)
        ASSIGNMENTS[0] = next(_numbers)
        object.__delattr__(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active = current_frame()
        if active is None:
            raise TraceError(
                f"{type(self).__name__} was called outside a runtime; a module holds no arrays\n"
                "  remedy: rt = tp.Runtime(model), then rt.predict(x)",
                here(),
            )
        if not hasattr(self, "forward"):
            raise TraceError(f"{type(self).__name__} has no method forward\n  remedy: define forward(self, x)", here())
        path = active.state.path(self) if active.state is not None else ""
        active.path.append((path, self._made_at))
        try:
            return called(self.forward, args, kwargs)
        finally:
            active.path.pop()

    @property
    def training(self) -> bool:
        """Whether the active frame is in train mode; raises ``TraceError`` outside one."""
        active = current_frame()
        if active is None or active.mode is None:
            raise TraceError(
                "training is a property of a run, not of the module\n  remedy: call the module through tp.Runtime",
                here(),
            )
        return active.mode == "train"

    def children(self) -> Iterator[tuple[str, Any]]:
        """Declared parameters, buffers and modules with their attribute paths, in attribute order; containers are entered.

        A container inside itself is not entered again.
        """
        own = [(k, v) for k, v in vars(self).items() if k not in self.INTERNAL]
        stack: list[tuple[str, Any, _Inside | None]] = [(k, v, None) for k, v in reversed(own)]
        while stack:
            name, item, around = stack.pop()
            if isinstance(item, (Declared, Module)):
                yield name, item
            elif isinstance(item, (list, tuple, dict)) and not _is_within(item, around):
                named, held = isinstance(item, dict), typed(Any, item)
                pairs: Iterable[tuple[Any, Any]] = held.items() if named else enumerate(typed(list[Any], held))
                stack.extend((f"{name}.{k}", x, _Inside(held, around)) for k, x in reversed(list(pairs)))

    def walk(self, path: str = "", above: tuple[Module, ...] = ()) -> Iterator[tuple[str, Any]]:
        """This module and everything below it with dotted paths, depth first; shared objects come once per path.

        A module that holds one of those ``above`` it, its parent say, is not above itself.
        """
        yield path, self
        above = (*above, self)
        for name, item in self.children():
            below = f"{path}.{name}" if path else name
            if isinstance(item, Module):
                if not any(item is m for m in above):
                    yield from item.walk(below, above)
            else:
                yield below, item

    def __repr__(self) -> str:
        return self._shown(())

    def _shown(self, above: tuple[Module, ...]) -> str:
        """Numbers and texts of its own, and the modules below it."""
        own = [
            f"{name}={x!r}" for name, x in vars(self).items()
            if not name.startswith("_")
            and all(isinstance(y, (bool, int, float, str)) for y in (x if isinstance(x, tuple) else (x,)))  # pyright: ignore[reportUnknownVariableType]
        ]  # fmt: skip
        above = (*above, self)
        for name, item in self.children():
            if isinstance(item, Module) and not any(item is m for m in above):
                own.append(f"{name}={item._shown(above)}")
        return f"{type(self).__name__}({', '.join(own)})"


def _assigned_in_forward(module: Module, name: str, held: Declared) -> TraceError:
    kind, owner = type(held).__name__, type(module).__name__
    remedy = (
        f"self.{name}.assign(value) gives it a new value, which a training step keeps"
        if isinstance(held, Buffer)
        else "the optimizer changes parameters; an nn.Buffer has assign(value)"
    )
    return TraceError(
        f"{owner}.{name} is a {kind}, and assigning to the name while the model runs would lose the value\n  remedy: {remedy}",
        here(),
    )


def assigned_at(module: Module, name: str) -> tuple[str, int] | None:
    """The user's line that last assigned an attribute anew or deleted it; None where that never happened."""
    return module._assigned_at.get(name)  # pyright: ignore[reportPrivateUsage]


def line_of(module: Module) -> tuple[str, int] | None:
    """The user's line that made a module."""
    return module._made_at  # pyright: ignore[reportPrivateUsage]
