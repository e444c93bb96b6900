"""Running a function of an IR module: which one, on what arrays, and under which names its results go."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import Executable
from ..ir import Function, IRError, Module, Symbol, TensorType, philox
from ..ir.atomic import write_atomically
from ..ir.errors import DataError
from ..ir.memory import need_memory
from ..ir.print import number, quote
from ..ir.types import Array, bf16, holds_floats, key
from .npz import Npz


class EntryError(IRError):
    """A function that is not in the module, or has to be chosen among several."""


def entry_of(module: Module, name: str | None = None) -> Function:
    """The function called ``name`` (with or without ``@``), else the only one that no other names, else ``@main``.

    Raises ``EntryError`` with the names there are.
    """
    if name is not None and (name in module.functions or name.removeprefix("@") in module.functions):
        return module[name]
    named = set[Symbol | str]().union(*[f.symbols() for f in module])
    roots = [f for f in module if f.name not in named]
    if name is None and len(roots) == 1:
        return roots[0]
    if name is None and "main" in module.functions:
        return module["main"]
    if not roots:
        raise EntryError(f"module @{module.name} has no functions")
    listed = ", ".join(f"@{quote(f.name)}" for f in roots)
    missing = (
        f"module @{module.name} has no function {name}" if name else f"module @{module.name} has several functions"
    )
    raise EntryError(f"{missing}: {listed}\n  remedy: --entry NAME")


def example_array(type: TensorType, seed: int) -> Array:
    """Random elements of a type: normal floats, integers 0 and 1 (which index anything), bools; for a key that of the seed."""
    need_memory(type.nbytes, f"an argument of {type}")
    random = np.random.Generator(np.random.Philox(seed))
    if type.dtype is key:
        return np.broadcast_to(philox.key_of_seed(seed), type.array_shape).copy()
    if type.dtype.floating:
        return random.standard_normal(type.shape).astype(type.dtype.numpy)
    return random.integers(0, 2, type.shape).astype(type.dtype.numpy)


def example_arrays(function: Function, seed: int) -> list[Array]:
    """A random array for each argument, from a seed; keys are the seed's."""
    return [example_array(v.type, seed if v.type.dtype is key else seed + n) for n, v in enumerate(function.arguments)]


def argument_names(function: Function) -> list[str]:
    """The names under which arguments are given: their own, else ``in0``, ``in1``, ... by position."""
    return _unique([v.name for v in function.arguments], "in")


def _unique(names: Sequence[str | None], rest: str) -> list[str]:
    """Names of which none comes twice: ``rest`` and the position where there is none, and a number behind those taken before."""
    found: dict[int, str] = {}
    taken = set[str]()
    for n in sorted(range(len(names)), key=lambda n: not names[n]):  # those that have a name keep it
        own = names[n] or f"{rest}{n}"
        name, count = own, 0
        while name in taken:
            count += 1
            name = f"{own}_{count}"
        taken.add(name)
        found[n] = name
    return [found[n] for n in range(len(names))]


def read_arrays(path: str | os.PathLike[str]) -> Mapping[str, Array]:
    """The arrays of an ``.npz`` file, each read when it is asked for.  Raises ``DataError``, then too; no pickle is read."""
    return Npz(path)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an ``.npz`` file, whole or not at all; bfloat16 goes as its 16-bit words.  Raises ``DataError``."""
    buffer = io.BytesIO()
    stored: dict[str, Any] = {n: a.view(np.uint16) if a.dtype == bf16.numpy else a for n, a in arrays.items()}
    np.savez(buffer, allow_pickle=False, **stored)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None


def _fitted(name: str, array: Array, type: TensorType) -> Array:
    """An array as an argument: floating ones of any width, integers whose values fit."""
    dtype = type.dtype
    if dtype is bf16 and array.dtype == np.uint16:
        array = array.view(bf16.numpy)
    if array.shape != type.array_shape:
        raise DataError(f"argument {name} is {type}, not an array of shape {list(array.shape)}")
    wanted = {"f": "f", "i": "iu", "u": "iu", "b": "b", "k": "iu"}[dtype.kind]
    kind = "f" if holds_floats(array) else array.dtype.kind
    if kind not in wanted:
        raise DataError(f"argument {name} is {type}, not an array of {array.dtype}")
    if kind in "iu" and array.size:
        info = np.iinfo(dtype.numpy)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise DataError(f"argument {name} is {type}, and the array goes from {array.min()} to {array.max()}")
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array.astype(dtype.numpy)).reshape(array.shape)


def arguments(function: Function, given: Mapping[str, Array], seed: int = 0) -> list[Array]:
    """The arrays of a function's arguments by name; keys that are not given come from the seed.

    Other names are left alone.  Raises ``DataError`` naming every argument that is missing, or one that does not fit.
    """
    names = argument_names(function)
    missing = [
        f"{name}: {v.type}"
        for name, v in zip(names, function.arguments, strict=True)
        if name not in given and v.type.dtype is not key
    ]
    if missing:
        there = f"; given are {', '.join(given)}" if given else ""
        raise DataError(
            f"@{function.name} needs {', '.join(missing)}{there}\n  remedy: --inputs FILE.npz with these names"
        )
    return [
        _fitted(name, np.asarray(given[name]), v.type)
        if name in given
        else np.broadcast_to(philox.key_of_seed(seed), v.type.array_shape).copy()
        for name, v in zip(names, function.arguments, strict=True)
    ]


def checked(function: Function, arrays: Mapping[str, Array] | Sequence[Array]) -> list[Array]:
    """The arrays of a function's arguments, given by name or in order.  Raises ``DataError`` where they do not fit."""
    if isinstance(arrays, Mapping):
        return arguments(function, arrays)
    names = argument_names(function)
    if len(arrays) != len(names):
        raise DataError(f"@{function.name} takes {len(names)} arrays ({', '.join(names)}), not {len(arrays)}")
    return [_fitted(n, np.asarray(a), v.type) for n, a, v in zip(names, arrays, function.arguments, strict=True)]


def result_names(function: Function) -> list[str]:
    """A name for each result: a new state's is that state's, others' their value's, else ``out0``, ``out1``, ... by position."""
    given = dict(zip(function.arguments, argument_names(function), strict=True))
    names: list[str | None] = []
    for v, mark in zip(function.results, function.marks, strict=True):
        own = v.name
        if mark is not None and mark.kind == "update":
            own = given[mark.of]
        elif mark is not None and not own:
            own = f"grad({given[mark.of]})"
        names.append(own)
    return _unique(names, "out")


def run_steps(function: Function, program: Executable, arrays: Sequence[Array], steps: int) -> dict[str, Array]:
    """The results by name after ``steps`` runs, each fed with the new state of the one before."""
    at = {v: n for n, v in enumerate(function.arguments)}
    given = list(arrays)
    results: tuple[Array, ...] = ()
    for _ in range(steps):
        results = program.run(given)
        for mark, array in zip(function.marks, results, strict=True):
            if mark is not None and mark.kind == "update":
                given[at[mark.of]] = array
    return dict(zip(result_names(function), results, strict=True))


def shown(arrays: Mapping[str, Array], function: Function) -> Iterator[str]:
    """A line per result: its name, type and, if it is small, its elements in row-major order."""
    for (name, array), value in zip(arrays.items(), function.results, strict=True):
        dtype = value.type.dtype
        if array.size > 8 or dtype is key:
            yield f"{name}: {value.type}"
        elif array.ndim == 0:
            yield f"{name}: {value.type} = {number(array[()], dtype)}"
        else:
            yield f"{name}: {value.type} = [{', '.join(number(x, dtype) for x in array.reshape(-1))}]"


def listed(array: Array) -> Any:
    """An array as nested lists for JSON; what JSON has no word for is text."""
    flat: Any = array if array.dtype.kind in "iub" else array.astype(np.float64).astype(object)
    if array.dtype.kind not in "iub":
        flat = np.where(
            np.isfinite(array.astype(np.float64)), flat, np.asarray(array.astype(np.float64).astype(str), object)
        )
    return flat.tolist()
