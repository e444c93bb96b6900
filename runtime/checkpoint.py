"""State files: safetensors with one JSON metadata entry, written atomically.  No pickle is ever read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..frontend.optim import OPTIMIZERS, Optimizer
from ..ir.atomic import write_atomically
from ..ir.errors import CheckpointError
from ..ir.files import METADATA, read_tensors, tensors_bytes
from ..ir.types import Array, DType, TensorType, dtype, holds_floats
from .entries import STEP

FORMAT = 1
IGNORED = "num_batches_tracked"
"""The last part of names that PyTorch's batch norm saves and nothing here reads."""


@dataclass(frozen=True)
class Saved:
    """What the metadata of a state file says of the run; ``optimizer`` is None where ``optimizer_name`` is not built in."""

    dtype: str
    seed: int
    objective: str
    optimizer_name: str
    optimizer: Optimizer | None


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata; the file appears whole or not at all.  Raises ``CheckpointError``."""
    try:
        write_atomically(Path(path), tensors_bytes(arrays, metadata))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from None
    except ValueError as error:  # a name that no file has
        raise CheckpointError(f"{path} cannot be written: {error}") from None


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and metadata of a file (empty metadata for a plain safetensors file).  Raises ``CheckpointError``."""
    try:
        arrays, metadata = read_tensors(Path(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its {METADATA!r} metadata is not an object")
    return arrays, metadata  # pyright: ignore[reportUnknownVariableType]


def described(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> Saved:
    """The metadata that ``Runtime.save`` wrote.  Raises ``CheckpointError`` where it is anything else."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by Runtime.save (format {metadata.get('format')!r}); use load_state for its arrays"
        )
    options = dict(_field(path, metadata, "optimizer", dict))
    name: str = _field(path, options, "name", str)
    del options["name"]
    spelled: str = _field(path, metadata, "dtype", str)
    seed: int = _field(path, metadata, "seed", int)
    if not 0 <= seed < 1 << 64 or isinstance(seed, bool):
        raise _wrong(path, f"seed is {seed}")
    if not _is_floating(spelled):
        raise _wrong(path, f"dtype is {spelled!r}")
    kind = OPTIMIZERS.get(name)
    optimizer = None if kind is None else _optimizer(path, kind, options)
    return Saved(spelled, seed, _field(path, metadata, "objective", str), name, optimizer)


def _is_floating(spelled: str) -> bool:
    try:
        found: DType = dtype(spelled)
    except TypeError:
        return False
    return found.floating


def _field(path: str | os.PathLike[str], metadata: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    value = metadata.get(name)
    if not isinstance(value, kind):
        raise _wrong(path, f"{name} is {str(value)[:40]!r}" if name in metadata else f"it lacks {name}")
    return value


def _wrong(path: str | os.PathLike[str], fact: str) -> CheckpointError:
    return CheckpointError(f"{path}: its metadata is not that of a runtime: {fact}")


def _optimizer(path: str | os.PathLike[str], kind: type[Optimizer], options: dict[str, Any]) -> Optimizer:
    """An optimizer of numbers where its fields are numbers, of flags where they are flags."""
    defaults = asdict(kind())
    given: dict[str, Any] = {}
    for name, value in options.items():
        if not _is_like(value, defaults.get(name)):
            raise _wrong(path, f"{kind.__name__} has {name} {str(value)[:40]}")
        given[name] = tuple(cast(list[Any], value)) if isinstance(value, list) else value
    try:
        return kind(**given)
    except ValueError as error:
        raise _wrong(path, str(error)) from None


def _is_like(value: Any, default: Any) -> bool:
    """Whether a field may have a value: a flag where its default is one, else one number, or as many as the default has."""
    if isinstance(default, tuple):
        numbers = cast(list[Any], value) if isinstance(value, list) else []
        return len(numbers) == len(cast(tuple[Any, ...], default)) and all(map(_is_number, numbers))
    return isinstance(value, bool) if isinstance(default, bool) else isinstance(default, float) and _is_number(value)


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def check_whole(path: str | os.PathLike[str], arrays: Mapping[str, Array], needed: Mapping[str, Any]) -> None:
    """Raise ``CheckpointError`` where a state file lacks state of an optimizer that the runtime has, or the step."""
    missing = [name for name in needed if name not in arrays]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{path} is not the whole state of a runtime: it lacks {missing[0]}{more}\n"
            "  remedy: Runtime(model, ...) and load_state with its parameters and buffers"
        )


def fitted(arrays: Mapping[str, Any], types: Mapping[str, TensorType], aliases: Mapping[str, str]) -> dict[str, Array]:
    """Given arrays as state by name.  Raises ``CheckpointError`` for what ``Runtime.load_state`` refuses."""
    new: dict[str, Array] = {}
    spelled: dict[str, str] = {}
    for given, value in arrays.items():
        if given.rsplit(".", 1)[-1] == IGNORED:
            continue
        name = aliases.get(given, given)
        if name not in types:
            raise CheckpointError(
                f"state {given!r} is not in the model; it has {', '.join(list(types)[:12])}{' ...' if len(types) > 12 else ''}"
            )
        array, type_ = np.asarray(value), types[name]
        if array.shape != type_.shape:
            raise CheckpointError(f"state {given!r} has shape {list(array.shape)}; the model's is {list(type_.shape)}")
        kind = "f" if holds_floats(array) else array.dtype.kind
        fits = kind == "f" or np.can_cast(array.dtype, type_.dtype.numpy, "same_kind")
        if kind not in ("f" if type_.dtype.floating else "iub") or not fits:
            raise CheckpointError(f"state {given!r} is {array.dtype}; the model's is {type_.dtype}")
        if name in new and not np.array_equal(new[name], array, equal_nan=type_.dtype.floating):
            raise CheckpointError(f"state {given!r} and {spelled[name]!r} are one tied tensor with two values")
        new[name], spelled[name] = array, given
    if STEP in new and not 0 <= int(new[STEP]) < 1 << 63:
        raise CheckpointError(f"state {STEP!r} is {new[STEP]}; it counts updates from 0")
    missing = [n for n in types if n not in new and not n.startswith("optimizer/")]
    if missing:
        raise CheckpointError(f"state {', '.join(missing)} is missing")
    return new
