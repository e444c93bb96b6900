"""Valid files of every kind that is read, and what damages them: bits, cuts, pieces, extreme numbers, headers and deep nesting."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any, cast

import numpy as np

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
PIECES = (
    b"", b"\0", b"\xff" * 16, b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\0", b"\x93NUMPY\x03\0",
    b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"(" * 300, b"-" * 4000, b"9" * 5000, b"1e999", b"NaN", b"Infinity", b"null",
    b"true", b'"', b"'", b"\\", b"\n", b"\r", b",", b"\xef\xbb\xbf", b"\xff\xfe", b"\xd8\x00", b"\\ud800", b"lambda: 0",
    b"__import__('os')", b"|O", b"<f8", b">f4", b"V8", b"m8[s]", b"<U4", b"F64", b"BF16", b"F8_E4M3", b"I4", b"-1",
    b"18446744073709551616", b"shape", b"# coding: utf-7\n", b"# coding: zip\n", b"(" * 100 + b")" * 100,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1.5, 1e308, 1 << 31, 1 << 63, 1 << 64, 10**400, "", "F32", "F64", "BF16", "I64", "U8",
    "BOOL", "F8_E5M2", "\0", "a" * 300, "é", [], [0], [2, 3], [1 << 40, 1 << 40], [-1], [1.5], [[1]], {}, {"a": 1}, [0, 0],
    [8, 4], [0, 1 << 62],
)  # fmt: skip


def damaged(data: bytes, other: bytes, random: Random) -> bytes:
    """A file after one to four edits; pieces come from ``other`` too."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(EDITS)(data, other, random)
    return data


def _flip(data: bytes, other: bytes, random: Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 3, 20))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(data: bytes, other: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] if random.random() < 0.5 else data[:at] + data[at + random.choice((1, 2, 8, 64, 1000)) :]


def _insert(data: bytes, other: bytes, random: Random) -> bytes:
    at, start = random.randrange(len(data) + 1), random.randrange(len(other) + 1)
    piece = random.choice((random.choice(PIECES), other[start : start + random.choice((1, 8, 100, 5000))]))
    return data[:at] + piece + data[at + random.choice((0, 0, 1, len(piece))) :]


def _number(data: bytes, other: bytes, random: Random) -> bytes:
    size, kind = random.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q"), (4, ">I")))
    at = random.randrange(max(len(data) - size, 0) + 1)
    number = random.choice(EXTREMES) & ((1 << 8 * size) - 1)
    return data[:at] + struct.pack(kind, number) + data[at + size :]


def _word(data: bytes, other: bytes, random: Random) -> bytes:
    """One word or number of text becomes something else."""
    parts = data.split(random.choice((b" ", b",", b":", b'"', b"\n")))
    joined = random.choice((b" ", b",", b":", b'"', b"\n"))
    parts[random.randrange(len(parts))] = random.choice(PIECES)
    return joined.join(parts)


EDITS: tuple[Callable[[bytes, bytes, Random], bytes], ...] = (_flip, _cut, _insert, _number, _word)


# Headers


def _changed(value: Any, random: Random) -> Any:
    """JSON with one part of it replaced, removed or nested."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        found: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
        name = random.choice(sorted(found))
        match random.randrange(6):
            case 0:
                del found[name]
            case 1:
                found[random.choice(("", "\0", "__metadata__", "tapeir", "x" * 300))] = found.pop(name)
            case _:
                found[name] = _changed(found[name], random)
        return found
    if isinstance(value, list) and value and random.random() < 0.6:
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        at = random.randrange(len(items))
        items[at] = _changed(items[at], random)
        return items
    return random.choice(VALUES)


def header_damaged(data: bytes, random: Random) -> bytes:
    """A safetensors file with another header, whose length fits, and with other metadata in it."""
    (size,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    for _ in range(random.choice((1, 1, 2, 5))):
        if random.random() < 0.5 and isinstance(header.get("__metadata__"), dict):
            own: dict[str, Any] = header["__metadata__"]
            deep = random.choice(("[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900))
            try:
                inner: Any = json.loads(own["tapeir"])
            except (ValueError, KeyError, TypeError, RecursionError):
                inner = {}
            header["__metadata__"] = {"tapeir": deep if random.random() < 0.1 else json.dumps(_changed(inner, random))}
        else:
            changed = _changed(header, random)
            header = cast(dict[str, Any], changed) if isinstance(changed, dict) else header
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def npz_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of members as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    """An array as a member of an archive."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=allow_pickle)
    return buffer.getvalue()


def described(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """A member with any description."""
    content = text.encode("latin1" if version < 3 else "utf-8")
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(content)) + content + data
    )


def member_damaged(data: bytes, random: Random) -> bytes:
    """An archive whose checksums are right and one of whose members is damaged, or compressed in another way."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = random.choice(sorted(members))
    members[name] = damaged(members[name], data, random)
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return npz_of(members, random.choice(methods))
