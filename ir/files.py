"""IR files: ``NAME.ir`` and, for its large constants, ``NAME.safetensors`` beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from .atomic import write_together
from .errors import IRError
from .graph import Module
from .parse import parse
from .print import print
from .types import Array, bf16

METADATA = "tapeir"
_KIND = {"kind": "constants"}
_FOREIGN = (
    SafetensorError,
    OSError,
    KeyError,
    ValueError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
    MemoryError,
)
"""What the reader of safetensors and of their metadata raises for a file that is none."""
_REFERENCE = re.compile(r"@sha256_")


def tensors_bytes(arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file's content with one JSON metadata entry (the order of several would be random)."""
    stored = {n: np.ascontiguousarray(a).reshape(a.shape) for n, a in sorted(arrays.items())}
    return to_safetensors(stored, {METADATA: json.dumps(metadata, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, Array], Any]:
    """Arrays and metadata (an empty dict where there is none) of a safetensors file.

    Raises ``FileNotFoundError``, and ``ValueError`` for a file that is none.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no regular file")
        opened: Any = safe_open(str(path), framework="numpy")
        with opened as file:
            arrays: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored: dict[str, str] = file.metadata() or {}
            return arrays, json.loads(stored.get(METADATA, "{}"))
    except FileNotFoundError:
        raise
    except _FOREIGN as error:
        reason = "its metadata is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not a readable safetensors file: {reason or type(error).__name__}") from None


def side_file(path: Path) -> Path:
    """Where the large constants of an IR file are."""
    return path.with_suffix(".safetensors")


def save(module: Module, path: str | os.PathLike[str], *, locations: bool = False, base: str | None = None) -> None:
    """Write a module's text, and its large constants beside it if it has any.

    Raises ``IRError`` where a file cannot be written, or the side file would replace one that holds something else.
    """
    target = Path(path)
    if not target.name or os.path.isdir(target):
        raise IRError(f"{target} is a folder\n  remedy: the name of a file in it")
    side = side_file(target)
    if side == target:
        raise IRError(f"{target} cannot hold text: files of constants end so\n  remedy: another ending, such as .ir")
    text, data = print(module, locations=locations, base=base)
    ours = _is_ours(side)
    if data and ours is False:
        raise IRError(
            f"{side} is there and holds no constants of IR\n  remedy: another name for {target.name}, whose large constants go there"
        )
    contents = {target: text.encode()}
    if data:
        # NumPy's reader of safetensors has no bfloat16; its words are kept instead.
        words = {n: a.view(np.uint16) if a.dtype == bf16.numpy else a for n, a in data.items()}
        contents = {side: tensors_bytes(words, _KIND), **contents}
    try:
        write_together(contents)
        if ours and not data:
            side.unlink()
    except OSError as error:
        raise IRError(f"{target} cannot be written: {error.strerror}") from None


def _is_ours(side: Path) -> bool | None:
    """Whether a side file holds constants of IR; None where there is none."""
    try:
        return read_tensors(side)[1] == _KIND
    except FileNotFoundError:
        return None
    except ValueError:
        return False


def load(path: str | os.PathLike[str]) -> Module:
    """The module in an IR file, verified.

    Raises ``IRError`` for a file that cannot be read, ``ParseError`` and ``VerifyError`` with the place in it.
    """
    source = Path(path)
    try:
        text = source.read_text("utf-8-sig")
    except OSError as error:
        raise IRError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise IRError(f"{path} is not IR text: it is not UTF-8") from None
    except ValueError as error:  # a name that no file has
        raise IRError(f"{path} cannot be read: {error}") from None
    if not _REFERENCE.search(text):
        return parse(text, file=str(path)).verify()
    side = side_file(source)
    where = f"{side} does not hold them" if side.exists() else f"{side}, where they belong, is not there"
    return parse(
        text, _beside(source), file=str(path), missing=f"{where}\n  remedy: the file that was written with the text"
    ).verify()


def _beside(path: Path) -> dict[str, Array]:
    """The large constants of an IR file; empty where they are not there."""
    try:
        arrays, _ = read_tensors(side_file(path))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise IRError(f"{error}\n  it should hold the large constants of {path}") from None
    return arrays
