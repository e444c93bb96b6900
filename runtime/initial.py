"""The first state of a runtime: what initialisers make of its seed, what the optimiser begins with, and step 0.

An initialiser is traced, and what it states is computed in f64; large parameters, or many that are drawn alike, by one compiled program,
which gives the bits that the interpreter gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends import get, kernels
from ..backends.base import compile_module
from ..backends.eager import Tape
from ..backends.eager.interpret import run
from ..frontend.arguments import called
from ..frontend.nn.module import Declared
from ..frontend.tensor import Tensor
from ..ir import Builder, Frame, Function, GraphBuilder, Module, TensorType, TraceError, Value, frame, philox
from ..ir.errors import ArgumentValueError, DtypeError
from ..ir.graph import location
from ..ir.literal import need_fit
from ..ir.types import Array, DType, f32, f64, key
from ..passes.fuse import form_of
from ..passes.rewrite import splat_of
from .entries import STEP, Setting
from .recorded import drawing_line, generator_states

COMPILED = 1 << 20
"""Elements, of all parameters that are drawn alike, from which their initialiser is compiled."""


def first_state(setting: Setting, seed: Array) -> dict[str, Array]:
    """Every state array by name, for the words of a seed's key."""
    declared = {**setting.declared.parameters, **setting.declared.buffers}
    before = generator_states()
    types = setting.declared.types(setting.dtype)
    arrays: dict[str, Array] = {}
    alike: dict[object, list[tuple[str, Function, Array]]] = {}
    for name, item in declared.items():
        seeded = philox.fold_in(seed, philox.site_word(f"init:{name}"))
        made = _traced(item, seeded, types[name].dtype)
        if isinstance(made, Function):
            alike.setdefault(form_of(made), []).append((name, made, seeded))
        else:
            arrays[name] = made
    if generator_states() != before:
        _refuse_draws(declared)
    for drawn in alike.values():
        arrays.update(_drawn(drawn))
    found: dict[str, Array] = {}
    for name, item in declared.items():
        if arrays[name].shape != item.shape:
            raise ArgumentValueError(f"the initialiser of {name} gave shape {arrays[name].shape}, not {item.shape}")
        found[name] = _held(name, arrays[name], types[name].dtype)
    for name in setting.declared.parameters:
        graph = GraphBuilder()
        with frame(Frame(graph)):
            slots = setting.optimizer.init(Builder(graph), types[name])
        found.update({f"optimizer/{slot}/{name}": _constant(graph, value) for slot, value in slots.items()})
    found[STEP] = np.zeros((), np.int64)
    return found


def _refuse_draws(declared: Mapping[str, Declared]) -> None:
    """Raise ``TraceError`` for an initialiser that moves a global generator; other threads may have moved one too."""
    for name, item in declared.items():
        line = drawing_line(lambda item=item: _traced(item, np.zeros(2, np.uint32), f64))
        if line is not None:
            raise TraceError(
                f"the initialiser of {name} draws from a generator of NumPy or Python, so its values do not follow from the seed\n"
                "  remedy: nn.init.Normal, or tp.ops.random_normal(shape, key=key) in an initialiser of your own",
                location(*line, ""),
            )


def _held(name: str, array: Array, dtype: DType) -> Array:
    """What an initialiser gave, in the state's dtype.  Raises ``DtypeError`` for an element that an integer dtype does not hold."""
    if not dtype.floating and array.dtype != dtype.numpy:
        with np.errstate(invalid="ignore"):
            changed = array[array.astype(dtype.numpy) != array]
        for element in changed[:1]:
            try:
                need_fit(element, dtype)
            except DtypeError as error:
                raise DtypeError(f"the initialiser of {name}: {error.message}") from None
    return array.astype(dtype.numpy, copy=False)


def _traced(item: Any, seeded: Array, dtype: DType) -> Function | Array:
    """What an initialiser does with a key; or what it makes of this one, where that does not depend on it or looks at values."""
    graph = GraphBuilder()
    argument = graph.argument(TensorType(key, ()), "key")
    try:
        with frame(Frame(graph, dtype=f64)):
            made = called(item.init, (Tensor(argument), item.shape))
    except TraceError:  # only a tape has values to look at
        tape = Tape()
        with frame(Frame(tape, dtype=f64)):
            made = called(item.init, (Tensor(tape.argument(argument.type, array=seeded)), item.shape))
        return made.value.array if isinstance(made, Tensor) else np.asarray(made)
    if not isinstance(made, Tensor):
        return np.asarray(made)
    value = made.value
    if splat_of(value) is not None:
        return _constant(graph, value)
    if dtype is f32 and value.type.dtype is f64:
        value = Builder(graph).cast(value, dtype=f32)
    return graph.function("init", [(argument, "input")], [(value, None)])


def _drawn(alike: Sequence[tuple[str, Function, Array]]) -> dict[str, Array]:
    """The arrays of parameters whose initialisers do the same with their keys."""
    _, function, _ = alike[0]
    if len(alike) * function.results[0].type.size < COMPILED or kernels.table().name != "native":
        return {name: run(f, [seeded])[0] for name, f, seeded in alike}
    program = compile_module(get("compiled"), Module("init", [function]), "init", "cpu")
    return {name: program.run([seeded])[0] for name, _, seeded in alike}


def _constant(graph: GraphBuilder, value: Value) -> Array:
    """The array of a value that depends on nothing; one number, where it is one number everywhere."""
    literal = splat_of(value)
    if literal is None:
        return run(graph.function("init", [], [(value, None)]), [])[0]
    return np.broadcast_to(literal.data.reshape(-1)[:1].reshape(()), value.type.array_shape)
