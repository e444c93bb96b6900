"""State files: safetensors with one JSON metadata entry, written atomically.  No pickle is ever read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..ir.errors import CheckpointError
from ..ir.types import Array

METADATA = "tapeir"


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata; the file appears whole or not at all.  Raises ``CheckpointError``."""
    target = Path(path)
    data = save(
        {n: np.ascontiguousarray(a).reshape(a.shape) for n, a in arrays.items()},
        {METADATA: json.dumps(metadata, sort_keys=True)},
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror}") from None


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and metadata of a file (empty metadata for a plain safetensors file).  Raises ``CheckpointError``."""
    try:
        opened: Any = safe_open(str(path), framework="numpy")
        with opened as file:
            arrays: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored: dict[str, str] = file.metadata() or {}
            metadata: Any = json.loads(stored.get(METADATA, "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its {METADATA!r} metadata is not an object")
    return arrays, metadata  # pyright: ignore[reportUnknownVariableType]
