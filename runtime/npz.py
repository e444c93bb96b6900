"""Reading ``.npz`` archives: only the arrays that are asked for, of sizes that the archive can hold, and no Python objects.

What an archive says of itself is checked before memory is taken: the size that a member declares against the shape in its header, and all
of them together against what an archive of that length is believed to hold.
"""

from __future__ import annotations

import ast
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, cast

import numpy as np

from ..ir.errors import DataError
from ..ir.types import Array, Shape

FREE_BYTES = 1 << 30
"""What the arrays of any archive may take."""
RATIO = 100
"""How many times its own length an archive may hold beyond that."""
HEADER = 10_000
"""Bytes of the text that describes an array, as NumPy limits it."""
AXES = 32
_MAGIC = b"\x93NUMPY"
_ENDING = ".npy"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_NUMBERS = re.compile(r"[<>=|]?[biufc]\d{1,2}")
_PART = 1 << 20


_FOREIGN = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What reading a damaged archive raises."""


class Npz(Mapping[str, Array]):
    """The arrays of an archive by name, each read when it is asked for.  Reading raises ``DataError`` with the file and the reason."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._left = FREE_BYTES
        with _told(path, "it is no .npz archive: "), _regular(path) as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                raise ValueError("it holds one bare array")
            self._left += RATIO * os.fstat(file.fileno()).st_size
            members = {info.filename: info for info in zipfile.ZipFile(file).infolist()}
        self._members = {n.removesuffix(_ENDING): info for n, info in members.items() if n.endswith(_ENDING)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> Array:
        info = self._members[name]
        with _told(self._path, f"array {name!r} cannot be read: "):
            if info.flag_bits & _ENCRYPTED:
                raise ValueError("it is encrypted")
            if info.compress_type not in _METHODS:
                raise ValueError(f"it is compressed by method {info.compress_type}; numpy.savez_compressed deflates")
            with _regular(self._path) as file, zipfile.ZipFile(file).open(info) as member:
                return self._array(member, info.file_size)

    def _array(self, member: IO[bytes], size: int) -> Array:
        """The array in a member that declares to hold so many bytes."""
        dtype, shape, columns, length = _described(member)
        count = math.prod(shape)
        wanted = length + count * dtype.itemsize
        if wanted != size:
            raise ValueError(f"{dtype}{list(shape)} takes {wanted:,} bytes, and the archive declares {size:,}")
        if wanted > self._left:
            raise ValueError(
                f"it would take {wanted:,} bytes, which an archive of this length is not believed to hold\n"
                "  remedy: numpy.load reads it, and tp.data.arrays takes what that gives"
            )
        self._left -= wanted
        array = np.empty(count, dtype)
        into, done = array.view(np.uint8), 0
        while done < len(into):
            part = member.read(min(_PART, len(into) - done))
            if not part:
                raise EOFError("it ends too early")
            into[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
        member.read(1)  # compares the checksum
        array = array.reshape(shape[::-1]).T if columns else array.reshape(shape)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


@contextmanager
def _told(path: str | os.PathLike[str], what: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except MemoryError:
        raise DataError(f"{path} cannot be read: {what}there is no memory for it") from None
    except _FOREIGN as error:
        raise DataError(f"{path} cannot be read: {what}{str(error) or type(error).__name__}") from None


@contextmanager
def _regular(path: str | os.PathLike[str]) -> Generator[IO[bytes]]:
    """An open file; a pipe is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        yield file


def _described(member: IO[bytes]) -> tuple[np.dtype[Any], Shape, bool, int]:
    """Dtype and shape in a member's header, whether columns come first, and how long the header is."""
    begin = member.read(8)
    if len(begin) < 8 or begin[:6] != _MAGIC or begin[6] not in (1, 2, 3):
        raise ValueError("it is no array of NumPy")
    kind = "<H" if begin[6] == 1 else "<I"
    size = member.read(struct.calcsize(kind))
    (length,) = struct.unpack(kind, size)
    if length > HEADER:
        raise ValueError(f"its header has {length:,} bytes")
    text = member.read(length).decode("utf-8" if begin[6] == 3 else "latin1")
    try:
        found: Any = ast.literal_eval(text.strip())
        descr, columns, shape = found["descr"], found["fortran_order"], found["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError("its header describes no array") from None
    if not (isinstance(descr, str) and _NUMBERS.fullmatch(descr)):
        objects = isinstance(descr, str) and "O" in descr
        raise ValueError(
            "it holds Python objects" if objects else f"it holds elements of {str(descr)[:40]}, not numbers"
        )
    if not _is_shape(shape) or not isinstance(columns, bool):
        raise ValueError("its header describes no array")
    try:
        return np.dtype(descr), shape, columns, len(begin) + len(size) + length
    except TypeError:
        raise ValueError(f"it holds elements of {descr}, not numbers") from None


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, tuple):
        return False
    sizes = cast(tuple[Any, ...], shape)
    return len(sizes) <= AXES and all(type(n) is int and 0 <= n < 1 << 62 for n in sizes)
