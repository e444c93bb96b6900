"""``Runtime``: owns parameters, buffers, optimiser state, mode and compiled artefacts of one model."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from threading import RLock
from typing import Any, NamedTuple

import numpy as np

from ..backends import Backend, Executable, get
from ..backends.base import compile_module
from ..backends.cuda.device import DeviceArray
from ..backends.eager import Tape, host_or
from ..backends.eager.interpret import HOST
from ..backends.state import state_on
from ..frontend.arguments import checked
from ..frontend.convert import to_array
from ..frontend.nn import Module
from ..frontend.nn import objective as objective_of
from ..frontend.nn.losses import OBJECTIVES
from ..frontend.nn.module import ASSIGNMENTS
from ..frontend.optim import SGD, Optimizer
from ..ir import (
    BackendError,
    CheckpointError,
    Function,
    TensorType,
    TraceError,
    Value,
    philox,
)
from ..ir import Module as IRModule
from ..ir.errors import ArgumentTypeError, ArgumentValueError
from ..ir.float_mode import standard_mode
from ..ir.memory import copy_of, shortage
from ..ir.source import public, user_line
from ..ir.types import Array, DType, dtype, holds_floats, key, type_of
from . import checkpoint
from .artifacts import Artifact, Artifacts, Form, Key
from .entries import (
    STEP,
    Declarations,
    Setting,
    entries_module,
    entry_and_mode,
    function_of,
    name_of,
    record,
    rehearsal,
    state_types,
)
from .fixed import Fixed
from .guard import Guards, is_finite, nonfinite_error
from .initial import first_state
from .modes import Modes
from .recorded import difference, generator_states, refuse, replaced
from .reference import distances
from .results import Arrays, Loss, Packed

NUMERICS = ("exact", "fast")


class Chosen(NamedTuple):
    """What ``configure`` can change about how entries run."""

    backend: Backend
    numerics: str
    guard: str | None
    guards: Guards


def runtime_dtype(spelling: Any) -> DType:
    """The dtype of a runtime; raises ``ValueError`` for one that is not floating."""
    try:
        chosen = dtype(spelling)
    except TypeError:
        chosen = None
    if chosen is None or not chosen.floating:
        raise ArgumentValueError(f"dtype {spelling!r} is not known; float (= float64), float32, float16 or bfloat16")
    return chosen


class Runtime(Modes, Fixed):
    """A model with its state.

    ``backend="eager"`` runs the model's Python on a tape; others compile each entry once per batch type, and again where an attribute
    of a module has changed what is recorded.  A step that fails leaves everything as it was.  Threads may share a runtime: its methods
    run one at a time.
    """

    SETTABLE = ("mode",)
    REMEDY = (
        "rt.configure(optimizer=..., objective=..., backend=..., numerics=..., guard=...); all else takes a new Runtime"
    )

    @checked
    def __init__(
        self,
        model: Module,
        *,
        objective: Any = "mse",
        optimizer: Optimizer | None = None,
        dtype: Any = "float32",
        backend: str = "eager",
        device: str = "cpu",
        seed: int = 0,
        numerics: str = "exact",
        guard: str | None = None,
        name: str = "model",
    ) -> None:
        if not isinstance(model, Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"model is an nn.Module, not {type(model).__name__}")
        if optimizer is not None and not isinstance(optimizer, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"optimizer={optimizer!r}: it is an optimizer such as optim.Adam(lr=1e-3)")
        self.name = name
        chosen = objective_of(objective, user_line(2))
        self.setting = Setting(Declarations(model), chosen, optimizer or SGD(), runtime_dtype(dtype))
        self.device = device
        self.seed = int(seed)
        self._tape: Tape | None = None
        self._artifacts = Artifacts(name)
        self._assignments = ASSIGNMENTS[0]
        self._checked: set[str] = set()
        self._calls = 0
        self._key = philox.key_of_seed(self.seed)
        self._choose(backend, numerics, guard)
        self._on: Any = host_or(device)
        self._lock: Any = RLock() if self._on is HOST else self._on.device.lock
        self._state = state_on(device, state_types(self.setting))
        with standard_mode():
            self._state.load(first_state(self.setting, self._key))
        self._made = True

    # Construction and settings

    def _choose(self, backend: str, numerics: str, guard: str | None) -> None:
        check_choices(numerics, guard)
        chosen = get(backend)
        reason = chosen.unavailable(self.device)
        if reason is not None:
            raise BackendError(f"backend {backend!r} cannot use device {self.device!r}: {reason}")
        self._chosen = Chosen(chosen, numerics, guard, Guards.of(guard))

    @property
    def backend(self) -> Backend:
        """What runs the entries."""
        return self._chosen.backend

    @property
    def numerics(self) -> str:
        """``exact`` or ``fast``."""
        return self._chosen.numerics

    @property
    def guard(self) -> str | None:
        """The checks that are on."""
        return self._chosen.guard

    @property
    def artifacts(self) -> Mapping[Key, Executable]:
        """What was compiled, by entry, batch types, numerics and guard."""
        return self._artifacts.executables

    @property
    def tape(self) -> Tape | None:
        """Under the eager backend, the tape of the last call."""
        return self._tape

    @public
    def configure(self, **changes: Any) -> Runtime:
        """Change ``optimizer`` (one with the same slots), ``objective``, ``backend``, ``numerics`` or ``guard``."""
        known = ("optimizer", "objective", "backend", "numerics", "guard")
        for name in changes:
            if name not in known:
                raise ArgumentTypeError(f"configure has no setting {name!r}; it has {', '.join(known)}")
        with self._lock:
            self._configure(changes)
        return self

    def _configure(self, changes: Mapping[str, Any]) -> None:
        setting = self.setting
        if "optimizer" in changes:
            if tuple(changes["optimizer"].slots) != tuple(setting.optimizer.slots):
                raise ArgumentValueError("the new optimizer keeps other state; make a new Runtime")
            setting = replace(setting, optimizer=changes["optimizer"])
        if "objective" in changes:
            setting = replace(setting, objective=objective_of(changes["objective"], user_line(2)))
        self._choose(
            changes.get("backend", self.backend.name),
            changes.get("numerics", self.numerics),
            changes.get("guard", self.guard),
        )
        object.__setattr__(self, "setting", setting)
        self._artifacts.clear()
        self._checked.clear()

    # Running

    @public
    def predict(self, *inputs: Any) -> Any:
        """The model's output for one batch in the current mode; a tuple of arrays if it returns several."""
        with self._lock:
            outputs = self._run(f"forward_{self.mode}", inputs)
        return outputs[0] if len(outputs) == 1 and not isinstance(outputs, Packed) else tuple(outputs)

    @public
    def loss(self, *batch: Any) -> float:
        """The loss of one batch (inputs, then target) in the current mode.  Nothing is updated."""
        with self._lock:
            return float(self._run(f"loss_{self.mode}", batch)[0])

    @public
    def loss_and_grads(self, *batch: Any) -> tuple[float, dict[str, Array]]:
        """The loss of one batch and the gradient of every parameter.  Nothing is stored."""
        with self._lock:
            loss, *grads = self._run(f"grads_{self.mode}", batch)
        return float(loss), dict(zip(self.setting.declared.parameters, grads, strict=True))

    @public
    def step(self, *batch: Any) -> Loss:
        """One optimiser update on one batch, in train mode; on an error the state stays bitwise what it was."""
        with self._lock:
            if self.mode != "train":
                raise ArgumentValueError("step trains, and the runtime is in eval mode; call rt.train() first")
            return Loss(self._run("train_step", batch, commit=True)[0])

    def _run(self, entry: str, batch: Sequence[Any], commit: bool = False) -> tuple[Array, ...]:
        if ASSIGNMENTS[0] != self._assignments:
            self._follow()
        arrays = [self._prepare(x) for x in batch]
        return (self._run_tape if self._chosen.backend.name == "eager" else self._run_compiled)(entry, arrays, commit)

    def _prepare(self, x: Any) -> Any:
        """Data at the boundary: floating arrays take the runtime's dtype, integers and bools keep theirs.

        An array on the runtime's device stays there.
        """
        if self._on is not HOST and not isinstance(x, np.ndarray):
            found = self._on.device.take(x, self.setting.dtype)
            if found is not None:
                return found
        array = to_array(x)
        wanted = self.setting.dtype.numpy
        if holds_floats(array) and array.dtype != wanted:
            with standard_mode():
                array = array.astype(wanted)
        return array

    def _follow(self) -> None:
        """After an attribute of some module was assigned: what is not recorded from this model as it is now is recorded again.

        Raises ``TraceError`` where a parameter, buffer or module is another object than the runtime was made with.
        """
        declared = self.setting.declared
        error = replaced(declared.held, declared.model)
        if error is not None:
            raise error
        self._assignments = ASSIGNMENTS[0]
        self._artifacts.follow(declared.model)

    def _record(self, entry: str, arrays: Sequence[Array], tape: Tape) -> Function:
        name, mode = entry_and_mode(entry)
        batch = [(_type(a), a) for a in arrays]
        grads = entry.startswith("grads")
        rehearsed = self._rehearsed(entry, [t for t, _ in batch])
        states = generator_states() if rehearsed is not None else None
        function = record(self.setting, name, mode, batch, tape, self._state.array, self._key, grads)
        if rehearsed is not None:
            found = difference(function, rehearsed, prefix=True)
            if found is not None or generator_states() != states:
                refuse(found, lambda: rehearsal(self.setting, name, mode, [t for t, _ in batch]), name_of(self.setting))
        self._assignments = ASSIGNMENTS[0]
        tape.layout = (function.name, list(zip(function.arguments, function.roles, strict=True)),
                       list(zip(function.results, function.marks, strict=True)), function.attrs)  # fmt: skip
        return function

    def _rehearsed(self, entry: str, types: Sequence[TensorType]) -> Function | None:
        """Before an entry runs on a tape for the first time: its trace, to be compared; None for one that reads values."""
        if entry in self._checked:
            return None
        self._checked.add(entry)
        try:
            return rehearsal(self.setting, *entry_and_mode(entry), types)
        except TraceError:  # the tape runs it, or raises this too
            return None

    def _run_tape(self, entry: str, arrays: Sequence[Array], commit: bool) -> tuple[Array, ...]:
        tape = self._tape = Tape(self._on)
        kept = [a if isinstance(a, DeviceArray) else np.array(a) for a in arrays]
        function = self._record(entry, kept, tape)
        on_device = any(isinstance(a, DeviceArray) for a in arrays)
        outputs = tuple(
            v.array if on_device else copy_of(v)
            for v, m in zip(function.results, function.marks, strict=True)
            if m is None or m.kind == "grad"
        )
        if self._chosen.guards.nonfinite and (error := nonfinite_error(function)):
            raise error
        if commit:
            updates = {
                m.of.name or "": v.array
                for v, m in zip(function.results, function.marks, strict=True)
                if m and m.kind == "update"
            }
            self._state.load(updates)
        return Packed(outputs) if function.attrs.get("tuple") else outputs

    def _run_compiled(self, entry: str, arrays: Sequence[Array], commit: bool) -> tuple[Array, ...]:
        form = (entry, *[(a.shape, a.dtype) for a in arrays])
        artifact = self._artifacts.find(form)
        if artifact is None:
            artifact = self._artifacts.keep(self._compile(entry, form, tuple([_type(a) for a in arrays])))
        guards = self._chosen.guards
        if guards.recorded:
            self._check_recorded(entry, artifact)
        try:
            outputs = artifact.call(*arrays, self._key) if artifact.takes_key else artifact.call(*arrays)
        except MemoryError:
            raise shortage(artifact.results, f"the result of {entry}") from None
        if guards.nonfinite and not (
            all(map(is_finite, outputs))
            and all(is_finite(self._state.next(n)) for n in self._state.types if n not in artifact.unchanged)
        ):
            tape = Tape(self._on)
            error = nonfinite_error(self._record(entry, arrays, tape))
            if error is not None:
                raise error
        if commit and not artifact.executable.commits:
            self._state.commit(artifact.unchanged)
        return Packed(outputs) if artifact.packs else outputs

    def _traced(self, entry: str, types: Sequence[TensorType]) -> Function:
        name, mode = entry_and_mode(entry)
        function = function_of(self.setting, name, mode, types, grads=entry.startswith("grads"))
        self._assignments = ASSIGNMENTS[0]
        return function

    def _check_recorded(self, entry: str, artifact: Artifact) -> None:
        """Under the guard ``recorded``, now and then: raise ``TraceError`` where recording again gives another program."""
        self._calls += 1
        if self._chosen.guards.is_due(self._calls):
            found = difference(artifact.function, self._traced(entry, artifact.key.types))
            if found is not None:
                raise found.error(f"@{artifact.function.name} was recorded from Python values that have changed since")

    def _compile(self, entry: str, form: Form, types: tuple[TensorType, ...]) -> Artifact:
        begin = time.perf_counter()
        function = self._traced(entry, types)
        earlier = self._artifacts.recorded(form, function, self.setting.declared.model)
        if earlier is not None:
            return earlier
        options = {"in_place": entry == "train_step" and not self._chosen.guards.nonfinite, "numerics": self.numerics}
        executable = compile_module(self.backend, IRModule(self.name, [function]), function.name, self.device, options)
        executable.compile_seconds = time.perf_counter() - begin
        executable.lock = self._lock
        updated = {m.of.name for m in function.marks if m is not None and m.kind == "update"}
        return Artifact(
            Key(entry, types, self.numerics, self.guard),
            form,
            function,
            executable,
            executable.bind(self._state),
            takes_key=any(v.type.dtype is key for v in function.inputs()),
            packs=bool(function.attrs.get("tuple")),
            results=sum(v.type.nbytes for v in function.results),
            unchanged=tuple(n for n in self._state.types if n not in updated),
        )

    def device_memory(self) -> Mapping[str, int] | None:
        """Bytes ``used``, ``reserved``, ``free`` and ``total`` of the device's memory; None on the CPU."""
        return None if self._on is HOST else self._on.device.used()

    @public
    def distance(self, *batch: Any) -> dict[str, float]:
        """How far the loss and the gradients of a batch are from a float64 evaluation, in exact numerics and in the runtime's.

        The largest difference in any element, relative to the largest element of all gradients.  Nothing is updated.
        """
        with self._lock:
            return self._distance(f"grads_{self.mode}", [self._prepare(x) for x in batch])

    def _distance(self, entry: str, arrays: Sequence[Array]) -> dict[str, float]:
        function = self._record(entry, arrays, Tape(self._on))
        marked = zip(function.results, function.marks, strict=True)
        found = {"exact": [v.array for v, m in marked if m is None or m.kind == "grad"]}
        if self.backend.name != "eager":
            found[self.numerics] = list(self._run_compiled(entry, arrays, commit=False))
        return distances(function, found)

    @public
    def arguments(self, function: Function, *batch: Any) -> list[Array]:
        """The arrays that an entry's function would be run on now: a batch, the state and the seed's key."""
        inputs = iter([self._prepare(x) for x in batch])

        def array(value: Value, role: str | None) -> Array:
            if value.type.dtype is key:
                return self._key.copy()
            return np.asarray(next(inputs)) if role == "input" else np.array(self._state[value.name or ""])

        with self._lock:
            return [array(v, role) for v, role in zip(function.arguments, function.roles, strict=True)]

    @public
    def module(self, *batch: Any) -> IRModule:
        """The traced IR of every entry for a batch (arrays or types; inputs, then target)."""
        types = [x if isinstance(x, TensorType) else _type(self._prepare(x)) for x in batch]
        return entries_module(self.setting, self.name, types)

    # State

    def _view(self, names: Sequence[str]) -> Arrays:
        def read(name: str) -> Array:
            with self._lock:
                return np.array(self._state[name])

        return Arrays(names, read)

    @property
    def params(self) -> Arrays:
        """Parameters by name."""
        return self._view(list(self.setting.declared.parameters))

    @property
    def buffers(self) -> Arrays:
        """Buffers by name."""
        return self._view(list(self.setting.declared.buffers))

    @property
    def optimizer_state(self) -> Arrays:
        """Optimiser slots and the step, by name."""
        return self._view([n for n in self._state.types if n.startswith("optimizer/")])

    @property
    def step_count(self) -> int:
        """Updates done so far."""
        with self._lock:
            return int(self._state[STEP])

    @property
    def dtype(self) -> DType:
        """The floating dtype of parameters."""
        return self.setting.dtype

    @public
    def load_state(self, arrays: Mapping[str, Any]) -> None:
        """Replace state by name, parameters and buffers all at once; slots and step may be left out and then stay.

        Aliases of tied weights are accepted.  Raises ``CheckpointError`` for an unknown, missing or mis-shaped name or a dtype of
        another kind, and then nothing changes.
        """
        new = checkpoint.fitted(arrays, self._state.types, self.setting.declared.aliases)
        with self._lock, standard_mode():
            self._state.load(new)

    def load_file(self, path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
        """``load_state`` with what a file held; its errors name the file."""
        try:
            self.load_state(arrays)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}") from None

    @public
    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write all state as safetensors, atomically; ``load`` resumes from it bit for bit."""
        optimizer = self.setting.optimizer
        chosen = self.setting.objective
        metadata = {
            "format": checkpoint.FORMAT, "seed": self.seed, "dtype": self.setting.dtype.name,
            "objective": chosen.name if chosen.built_in else f"function {chosen.name}",
            "optimizer": {"name": type(optimizer).__name__, **asdict(optimizer)}, "extra": dict(extra or {}),
        }  # fmt: skip
        with self._lock:
            checkpoint.write(path, {n: self._state[n] for n in self._state.types}, metadata)

    @classmethod
    @public
    def load(cls, path: str | os.PathLike[str], model: Module, **overrides: Any) -> Runtime:
        """A runtime as ``save`` left it; ``overrides`` are arguments of ``Runtime``.

        Raises ``CheckpointError`` where the objective is a function, or the optimizer is not built in, and it is no override.
        """
        arrays, metadata = checkpoint.read(path)
        found = checkpoint.described(path, metadata)
        saved: dict[str, Any] = {"dtype": found.dtype, "seed": found.seed, "objective": found.objective}
        overrides = {n: v for n, v in overrides.items() if v is not None or n != "optimizer"}
        if found.optimizer is None and "optimizer" not in overrides:
            raise CheckpointError(
                f"{path} was trained with {found.optimizer_name}, which is not built in\n  remedy: Runtime.load(path, model, optimizer=...)"
            )
        chosen: Any = overrides.setdefault("optimizer", found.optimizer)
        slots = dict.fromkeys(n.split("/")[1] for n in arrays if n.startswith("optimizer/") and n != STEP)
        if foreign := [s for s in slots if s not in chosen.slots]:
            raise CheckpointError(
                f"{path} was trained with {found.optimizer_name}; {type(chosen).__name__} has no state {', '.join(foreign)}\n"
                "  remedy: an optimizer of the same kind, or Runtime(model, optimizer=...) and load_state with parameters and buffers"
            )
        if found.objective not in OBJECTIVES and "objective" not in overrides:
            raise CheckpointError(
                f"{path} was trained with {found.objective} as objective\n  remedy: Runtime.load(path, model, objective=...)"
            )
        runtime = cls(model, **{**saved, **overrides})
        checkpoint.check_whole(path, arrays, runtime.optimizer_state)
        runtime.load_file(path, arrays)
        return runtime


def check_choices(numerics: str, guard: str | None) -> None:
    """Raise ``ValueError`` for numerics or a guard that there is none of."""
    if numerics not in NUMERICS:
        raise ArgumentValueError(f"numerics={numerics!r}: it is {' or '.join(NUMERICS)}")
    Guards.of(guard)


def _type(array: Any) -> TensorType:
    """The type of an array on the host or a device."""
    return array.type if isinstance(array, DeviceArray) else type_of(array)
