"""Recording a model's entries: ``forward``, ``loss``, ``loss_and_grads`` and ``train_step``, on a tape or a graph alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..frontend.arguments import called
from ..frontend.convert import as_value
from ..frontend.nn import Buffer, Module, Objective, Parameter
from ..frontend.nn.module import Declared, line_of
from ..frontend.optim import Optimizer
from ..frontend.tensor import Tensor
from ..frontend.transforms import argument_names, returned_attrs
from ..ir import Builder, Frame, Function, GraphBuilder, Mark, ShapeError, TensorType, TraceError, Value, frame, reverse
from ..ir import Module as IRModule
from ..ir.float_mode import standard_mode
from ..ir.graph import location
from ..ir.record import here, located
from ..ir.source import boundary
from ..ir.types import Array, DType, f64, i64, key
from .recorded import repeatable

OPTIMIZER = "optimizer/"
STEP = f"{OPTIMIZER}step"
ENTRIES = ("forward", "loss", "train_step")


class Declarations:
    """What a model declares, walked once in attribute order: each object under its first path, further paths as aliases."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.parameters: dict[str, Parameter] = {}
        self.buffers: dict[str, Buffer] = {}
        self.aliases: dict[str, str] = {}
        self.names: dict[int, str] = {}
        self.modules: dict[int, str] = {}
        self.held: dict[str, Module | Declared] = dict(model.walk())
        """Every module, parameter and buffer by path."""
        for path, item in model.walk():
            if isinstance(item, Module):
                self.modules.setdefault(id(item), path)
            elif not path.isprintable() or not path or path.startswith(OPTIMIZER):
                raise TraceError(
                    f"a {type(item).__name__} of the model is called {path!r}\n"
                    f"  rule: names of state have characters that can be printed, and {OPTIMIZER} begins those of the optimizer's\n"
                    "  remedy: another attribute name or dictionary key",
                    location(*made, "") if (made := line_of(model)) else (),
                )
            elif id(item) in self.names:
                self.aliases[path] = self.names[id(item)]
            elif path in self.parameters or path in self.buffers:
                raise TraceError(
                    f"two parameters or buffers of the model are called {path!r}\n  remedy: no dots in names"
                )
            else:
                self.names[id(item)] = path
                (self.parameters if isinstance(item, Parameter) else self.buffers)[path] = item

    def types(self, dtype: DType) -> dict[str, TensorType]:
        """The types of all parameters, then all buffers, by name."""
        declared: dict[str, Declared] = {**self.parameters, **self.buffers}
        return {name: TensorType(d.fixed or dtype, d.shape) for name, d in declared.items()}


@dataclass(frozen=True)
class Setting:
    """Everything an entry depends on besides the batch."""

    declared: Declarations
    objective: Objective
    optimizer: Optimizer
    dtype: DType


@dataclass
class Recording:
    """An entry in the making: state arguments, current buffer values, and results with marks."""

    setting: Setting
    recorder: GraphBuilder
    arrays: Callable[[str], Array] | None
    seed: Array | None
    inputs: list[Value] = field(default_factory=list[Value])
    state: dict[str, Value] = field(default_factory=dict[str, Value])
    seed_key: Value | None = None
    current: dict[str, Value] = field(default_factory=dict[str, Value])
    results: list[tuple[Value, Mark | None]] = field(default_factory=list[tuple[Value, Mark | None]])
    entry_key: Value | None = None

    def input(self, name: str, type: TensorType, array: Array | None = None) -> Value:
        """A new argument that the caller passes."""
        self.inputs.append(self.recorder.argument(type, name, array))
        return self.inputs[-1]

    def held(self, name: str, type: TensorType) -> Value:
        """The state argument of a name, made on first use."""
        if name not in self.state:
            array = self.arrays(name) if self.arrays is not None else None
            self.state[name] = self.recorder.argument(type, name, array)
        return self.state[name]

    # StateSource
    def read(self, declared: Any) -> Value:
        name = self.setting.declared.names.get(id(declared))
        if name is None:
            raise TraceError(
                f"{declared!r} is not an attribute of the model\n  remedy: declare it in __init__, as an attribute of a module",
                here(),
            )
        return self.current[name]

    def assign(self, declared: Any, value: Value) -> None:
        self.read(declared)
        self.current[self.setting.declared.names[id(declared)]] = value

    def path(self, module: Any) -> str:
        return self.setting.declared.modules.get(id(module), "")

    def step(self) -> Value:
        """The number of updates done, ``i64[]``."""
        return self.held(STEP, TensorType(i64, ()))

    def draw_key(self) -> Value:
        """The entry's random key: the seed's, folded with the step."""
        if self.entry_key is None:
            self.seed_key = self.recorder.argument(TensorType(key, ()), "key", self.seed)
            made: Value = Builder(self.recorder).fold_in(self.seed_key, self.step())
            self.entry_key = made
        return self.entry_key

    def ordered(self) -> list[tuple[Value, str | None]]:
        """Arguments in their fixed order: batch, parameters, buffers, optimiser slots, key, step."""
        declared = self.setting.declared

        def role(name: str) -> str:
            return "param" if name in declared.parameters else "buffer" if name in declared.buffers else "optimizer"

        pairs: list[tuple[Value, str | None]] = [(v, "input") for v in self.inputs]
        pairs += [(self.state[n], role(n)) for n in state_types(self.setting) if n in self.state and n != STEP]
        pairs += [(self.seed_key, "input")] if self.seed_key is not None else []
        return pairs + ([(self.state[STEP], "optimizer")] if STEP in self.state else [])


def record(
    setting: Setting,
    entry: str,
    mode: str,
    batch: Sequence[tuple[TensorType, Array | None]],
    recorder: GraphBuilder,
    arrays: Callable[[str], Array] | None = None,
    seed: Array | None = None,
    grads: bool = False,
) -> Function:
    """Record an entry on a recorder and return it as a function (whose values hold arrays if the recorder is a tape).

    ``arrays`` gives a tape the state of a name, and ``seed`` is the key of the runtime's seed.  ``entry`` is ``forward``,
    ``loss`` or ``train_step``; ``grads`` adds the gradients of all parameters to the first two.
    """
    r = Recording(setting, recorder, arrays, seed)
    model, declared = setting.declared.model, setting.declared
    has_target = entry != "forward"
    if has_target and len(batch) < 2:
        raise ShapeError(f"entry {entry} takes inputs and a target, not {len(batch)} arrays")
    names = argument_names(getattr(model, "forward", model), len(batch) - has_target)
    if has_target:
        names.append((argument_names(setting.objective.loss, 2)[1]) or "target")
    values = [
        r.input(name or f"input{n}", type_, array)
        for n, (name, (type_, array)) in enumerate(zip(names, batch, strict=True))
    ]
    for name, type_ in declared.types(setting.dtype).items():
        r.current[name] = r.held(name, type_)
    begin_frame = Frame(recorder, setting.dtype, mode, r, r.draw_key)
    with frame(begin_frame), standard_mode():
        inputs = values[:-1] if has_target else values
        outputs = model(*map(Tensor, inputs))
        if outputs is None:
            raise TraceError(f"{type(model).__name__}.forward returned None\n  remedy: return a tensor")
        if has_target:
            chosen = setting.objective
            begin_frame.path.append(("", chosen.line or line_of(model)))
            if chosen.built_in and isinstance(outputs, (tuple, list)):
                raise TraceError(
                    f"objective {chosen.name} takes one tensor, and {type(model).__name__}.forward returns a {type(outputs).__name__}\n"  # pyright: ignore[reportUnknownArgumentType]
                    "  remedy: return a tensor, or give a function as objective that takes it apart",
                    here(),
                )
            loss = as_value(called(chosen.loss, (outputs, Tensor(values[-1]))))
            if loss.type.rank or not loss.type.dtype.floating:
                raise ShapeError(
                    f"objective {setting.objective.name} returned {loss.type}\n  rule: a loss is a floating scalar",
                    here(),
                )
            begin_frame.path.pop()
            results = [loss]
        else:
            results = [as_value(o) for o in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]  # pyright: ignore[reportUnknownVariableType]
        r.results = [(v, None) for v in results]
        updates = {name: r.current[name] for name in declared.buffers}
        if entry == "train_step" or grads:
            parameters = [r.state[name] for name in declared.parameters]
            build, recorded = Builder(recorder), list(recorder.instructions)
            with located(recorder, ()):
                if has_target:
                    cotangents = [build.splat(1.0, results[0].type)]
                else:
                    cotangents = [r.input("cotangent", results[0].type), *[None] * (len(results) - 1)]
                found = reverse(recorder, recorded, results, cotangents, parameters)
            if entry == "train_step":
                updates = {**_optimise(r, dict(zip(declared.parameters, found, strict=True))), **updates}
            else:
                with located(recorder, ()):
                    r.results += [
                        (build.splat(0.0, p.type) if g is None else g, Mark("grad", p))
                        for p, g in zip(parameters, found, strict=True)
                    ]
    for name, argument in r.state.items():
        if name in updates and updates[name] is not argument:
            r.results.append((updates[name], Mark("update", argument)))
    order = {id(v): n for n, (v, _) in enumerate(r.ordered())}
    marked = sorted(
        (x for x in r.results if x[1] is not None and x[1].kind == "update"),
        key=lambda x: order[id(x[1].of)] if x[1] else 0,
    )
    r.results = [x for x in r.results if x[1] is None or x[1].kind != "update"] + marked
    name = entry if entry == "train_step" else f"{entry}_{mode}"
    attrs = {"mode": mode, **({} if has_target else returned_attrs(outputs))}
    return recorder.function(name, r.ordered(), r.results, attrs).closed()


boundary(record.__code__)


def _optimise(r: Recording, gradients: Mapping[str, Value | None]) -> dict[str, Value]:
    """New values of parameters, slots and the step.  A parameter that the loss does not reach stays as it is."""
    optimizer = r.setting.optimizer
    build = Builder(r.recorder)
    updates: dict[str, Value] = {}
    line: tuple[str, int] | None = getattr(optimizer, "line", None)
    with located(r.recorder, location(*line, "") if line else ()):
        step = build.add(r.step(), 1)
        shared = optimizer.scalars(build, build.cast(step, dtype=f64))
        for name, gradient in gradients.items():
            parameter = r.state[name]
            # Slots that no rule reads are arguments too: the layout of state is that of all of it.
            slots = {s: r.held(f"optimizer/{s}/{name}", parameter.type) for s in optimizer.slots}
            if gradient is None:
                continue
            updates[name], new = optimizer.update(build, shared, parameter, gradient, slots)
            updates.update({f"optimizer/{s}/{name}": v for s, v in new.items()})
        updates[STEP] = step
    return updates


def state_types(setting: Setting) -> dict[str, TensorType]:
    """Types of all state in layout order: parameters, buffers, each slot of all parameters, the step."""
    types = setting.declared.types(setting.dtype)
    for slot in setting.optimizer.slots:
        for name in setting.declared.parameters:
            types[f"optimizer/{slot}/{name}"] = types[name]
    types[STEP] = TensorType(i64, ())
    return types


def function_of(setting: Setting, entry: str, mode: str, types: Sequence[TensorType], grads: bool = False) -> Function:
    """The traced IR of an entry for a batch of the given types.

    The model's part is recorded twice.  Raises ``TraceError`` where the two recordings differ.
    """
    batch = [(t, None) for t in types]
    made = record(setting, entry, mode, batch, GraphBuilder(), grads=grads)
    return recorded_alike(made, setting, entry, mode, types)


def recorded_alike(made: Function, setting: Setting, entry: str, mode: str, types: Sequence[TensorType]) -> Function:
    """A recorded entry whose model gives the same ops when it is recorded again; else ``TraceError``."""
    return repeatable(made, lambda: rehearsal(setting, entry, mode, types), name_of(setting))


def rehearsal(setting: Setting, entry: str, mode: str, types: Sequence[TensorType]) -> Function:
    """The model's part of an entry, recorded for comparison."""
    return record(setting, "loss" if entry == "train_step" else entry, mode, [(t, None) for t in types], GraphBuilder())


def name_of(setting: Setting) -> str:
    """The model's forward, as messages call it."""
    return f"{type(setting.declared.model).__name__}.forward"


def entries_module(setting: Setting, name: str, types: Sequence[TensorType]) -> IRModule:
    """The module of all entries: forward and loss in both modes, and train_step (the last type is the target's)."""
    module = IRModule(name)
    for entry in ("forward", "loss"):
        for mode in ("train", "eval"):
            module.add(function_of(setting, entry, mode, types[:-1] if entry == "forward" else types))
    module.add(function_of(setting, "train_step", "train", types))
    return module


def entry_and_mode(entry: str) -> tuple[str, str]:
    """Of what a runtime calls: the entry that is recorded, and its mode."""
    if entry == "train_step":
        return entry, "train"
    name, _, mode = entry.rpartition("_")
    return ("loss" if name == "grads" else name), mode
