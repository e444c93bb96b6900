"""The backend protocol, what a backend compiles to, and the registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import entry_points
from threading import RLock
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import numpy as np

from ..ir import Function, Instruction, Module, Value
from ..ir.errors import BackendError
from ..ir.float_mode import standard_mode
from ..ir.memory import shortage
from ..ir.types import Array, holds_floats
from .state import State

GROUP = "tapeir.backends"
T = TypeVar("T")
Bound = Callable[..., tuple[Array, ...]]
Sizes = tuple[int, int, int, int, bool, bool]
"""Of a product: batches, m, k, n, whether a and whether b is transposed."""


class PlannedMemory(int):
    """Bytes that a program holds besides state.

    ``values`` is what they would be if every value had memory of its own, and ``bound`` what is alive at one time, below which they
    cannot be.
    """

    values: int
    bound: int

    def __new__(cls, planned: int, values: int, bound: int) -> PlannedMemory:
        made = super().__new__(cls, planned)
        made.values, made.bound = values, bound
        return made

    @classmethod
    def of(cls, function: Function, besides: int) -> PlannedMemory:
        """Of a planned function, with what the program holds besides its arena."""
        arena, values, bound = (int(function.attrs.get(name, 0)) for name in ("arena", "values", "bound"))
        return cls(arena + besides, values + besides, bound + besides)


def timed(do: Callable[[T], None], things: Iterable[T]) -> list[float]:
    """The seconds that doing something takes with each of some things, in order."""
    clock = time.perf_counter
    found: list[float] = []
    for x in things:
        begin = clock()
        do(x)
        found.append(clock() - begin)
    return found


class Steps(Protocol):
    """A compiled program run kernel by kernel: ``function`` is what it was made from, and each of its instructions a kernel.

    ``write`` and ``read`` reach the memory in which the program itself keeps a value; ``run`` runs its own code for one instruction, and
    ``kernel`` is the name of that code in ``Executable.kernels`` (of an instruction without code, its op's).  ``times`` runs
    instructions in order and tells how many seconds each took.
    """

    function: Function

    def write(self, value: Value, array: Array) -> None: ...

    def read(self, value: Value) -> Array: ...

    def run(self, i: Instruction) -> None: ...

    def kernel(self, i: Instruction) -> str: ...

    def times(self, instructions: Sequence[Instruction]) -> list[float]:
        return timed(self.run, instructions)


class Executable:
    """A compiled function.

    ``source`` is the generated program text, ``kernels`` maps each kernel to the ops and source lines in it, ``memory`` is the
    planned bytes and ``compile_seconds`` the time it took.  Calls hold ``lock``, since they share the program's memory.
    """

    source: str = ""
    commits: bool = False
    """Whether a bound call itself makes the new state current (it then wrote it in place)."""
    memory: PlannedMemory = PlannedMemory(0, 0, 0)
    compile_seconds: float = 0.0
    lock: AbstractContextManager[Any]

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made.lock = RLock()
        return made

    def __init__(self, function: Function) -> None:
        self.function = function
        self.kernels: dict[str, list[str]] = {}

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """All results for all arguments, in order."""
        raise BackendError(f"{type(self).__name__} does not run on plain arrays")

    def __call__(self, *arrays: Any, out: Sequence[Array] | None = None) -> Any:
        """Results for one array per argument; fresh arrays, or written to ``out``.

        One result comes bare, unless the function's attribute ``tuple`` says that it was returned in a tuple.

        What ``out`` holds is undefined if the call raises.
        """
        expected = self.function.arguments
        if len(arrays) != len(expected):
            raise TypeError(f"@{self.function.name} takes {len(expected)} arrays, not {len(arrays)}")
        if out is not None:
            self._writable(out)
        try:
            with self.lock:
                given = [self.accept(value, array) for value, array in zip(expected, arrays, strict=True)]
                results = self.run(given) if out is None else self.run_into(given, out)
        except MemoryError:
            needed = sum(v.type.nbytes for v in self.function.results)
            raise shortage(needed, f"the result of @{self.function.name}") from None
        return results[0] if len(results) == 1 and not self.function.attrs.get("tuple") else results

    def _writable(self, out: Sequence[Array]) -> None:
        """Raise ``TypeError`` for arrays that results cannot be written to."""
        results, name = self.function.results, self.function.name
        if not isinstance(out, (list, tuple)):
            raise TypeError(f"@{name}: out is a list of arrays, one for each result, not a {type(out).__name__}")
        if len(out) != len(results):
            raise TypeError(f"@{name} has {len(results)} results, and out has {len(out)} arrays")
        for n, (value, array) in enumerate(zip(results, out, strict=True)):
            type_, given = value.type, (getattr(array, "shape", None), getattr(array, "dtype", None))
            if given != (type_.array_shape, type_.dtype.numpy):
                raise TypeError(f"@{name}: result {n} is {type_}, and out[{n}] is of {given[1]} and shape {given[0]}")

    def accept(self, value: Value, array: Any) -> Any:
        """An array as the argument ``value``: row-major and of its dtype.  Raises ``TypeError`` for another shape."""
        a = np.asarray(array)
        if a.shape != value.type.array_shape:
            raise TypeError(f"@{self.function.name}: %{value.name} is {value.type}, not an array of shape {a.shape}")
        if a.dtype.kind == "c" or (holds_floats(a) and not value.type.dtype.floating):
            raise TypeError(f"@{self.function.name}: %{value.name} is {value.type}, not an array of {a.dtype}")
        wanted = value.type.dtype.numpy
        if a.dtype != wanted:
            with standard_mode():
                a = a.astype(wanted)
        return np.ascontiguousarray(a).reshape(a.shape)

    def run_into(self, arrays: Sequence[Array], out: Sequence[Array]) -> tuple[Array, ...]:
        """All results for all arguments, written to ``out``, whose contents are undefined if this raises."""
        results = self.run(arrays)
        # A backend may hand out its arguments as results, and a target may be one of them.
        kept = [np.array(r) if any(np.may_share_memory(r, o) for o in out) else r for r in results]
        for target, result in zip(out, kept, strict=True):
            np.copyto(target, result)
        return tuple(out)

    def steps(self) -> Steps | None:
        """The program for running kernel by kernel on memory of its own; None where it cannot be taken apart."""
        return None

    def bind(self, state: State) -> Bound:
        """A callable of the inputs that reads state, writes the updates to its other set and returns the other results.

        Whoever calls it holds ``lock``, which may be replaced by that of the state's owner.
        """
        marks = self.function.marks
        roles = self.function.roles

        def call(*inputs: Array) -> tuple[Array, ...]:
            rest = iter(inputs)
            arrays = [
                next(rest) if role in ("input", None) else _read_only(state[cast(str, v.name)])
                for v, role in zip(self.function.arguments, roles, strict=True)
            ]
            outputs: list[Array] = []
            for mark, result in zip(marks, self.run(arrays), strict=True):
                if mark is not None and mark.kind == "update":
                    np.copyto(state.next(cast(str, mark.of.name)), result)
                else:
                    outputs.append(result)
            return tuple(outputs)

        return call


def _read_only(array: Array) -> Array:
    """A view that cannot be written to: state changes by its updates alone."""
    view = array.view()
    view.flags.writeable = False
    return view


@runtime_checkable
class Backend(Protocol):
    """What a backend offers; CONTRIBUTING.md has the recipe."""

    name: str

    def unavailable(self, device: str) -> str | None:
        """None when the device can be used, else the reason."""
        ...

    def supports(self, op: Instruction, device: str) -> bool:
        """Whether the backend can compile an instruction for a device."""
        ...

    def compile(self, func: Function, *, device: str, options: Mapping[str, Any]) -> Executable:
        """The function as an executable; ``options["module"]`` is the module it is in."""
        ...

    def cache_key(self) -> str:
        """Names everything outside the IR that the compiled program depends on."""
        ...


_BUILT_IN = {"eager": "tapeir.backends.eager:EagerBackend", "compiled": "tapeir.backends.compiled:CompiledBackend"}
_REGISTERED: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make a backend known under its name; raises ``ValueError`` for a taken name and ``TypeError`` for a foreign object."""
    if not isinstance(backend, Backend):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"{backend!r} does not follow the Backend protocol: name, unavailable, supports, compile, cache_key"
        )
    if backend.name in _BUILT_IN or backend.name in _REGISTERED:
        raise ValueError(f"a backend named {backend.name!r} is registered already")
    _REGISTERED[backend.name] = backend
    return backend


def available() -> list[str]:
    """Names of all backends, without importing them."""
    return list(dict.fromkeys([*_BUILT_IN, *_REGISTERED, *(e.name for e in entry_points(group=GROUP))]))


def get(name: str) -> Backend:
    """The backend of a name, imported now if need be; raises ``BackendError`` for an unknown one."""
    if name in _REGISTERED:
        return _REGISTERED[name]
    target = _BUILT_IN.get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        backend: Backend = getattr(import_module(module), attribute)()
    else:
        found = [e for e in entry_points(group=GROUP) if e.name == name]
        if not found:
            raise BackendError(f"backend {name!r} is not known; one of {', '.join(available())}")
        try:
            backend = found[0].load()()
        except (ImportError, AttributeError, TypeError) as error:
            raise BackendError(f"backend {name!r} ({found[0].value}) cannot be loaded: {error}") from None
        if not isinstance(backend, Backend) or backend.name != name:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BackendError(
                f"backend {name!r} ({found[0].value}) does not follow the Backend protocol: name = {name!r}, unavailable, supports, "
                "compile, cache_key"
            )
    return _REGISTERED.setdefault(name, backend)


def compile_module(
    backend: Backend, module: Module, name: str, device: str, options: Mapping[str, Any] | None = None
) -> Executable:
    """Compile one function of a module, after asking the backend for the device and every op.

    Raises ``BackendError`` naming the device or the ops that it does not serve.
    """
    reason = backend.unavailable(device)
    if reason is not None:
        raise BackendError(f"backend {backend.name!r} cannot use device {device!r}: {reason}")
    function = module[name]
    refused = [i for i in function.instructions if not backend.supports(i, device)]
    if refused:
        names = ", ".join(sorted({i.op.name for i in refused}))
        raise BackendError(f"backend {backend.name!r} does not support {names} on {device}", refused[0].location)
    with standard_mode():  # constants are computed meanwhile
        return backend.compile(function, device=device, options={"module": module, **(options or {})})
