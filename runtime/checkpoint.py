"""State files: safetensors with one JSON metadata entry, written atomically.  No pickle is ever read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ir.errors import CheckpointError
from ..ir.files import METADATA, read_tensors, tensors_bytes, write_atomically
from ..ir.types import Array


def write(path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata; the file appears whole or not at all.  Raises ``CheckpointError``."""
    try:
        write_atomically(Path(path), tensors_bytes(arrays, metadata))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from None


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
