"""The disk cache of compiled code: entries of two kinds, ``kernels`` (object code) and ``programs`` (planned programs).

An entry is one file, written whole or not at all, so any number of processes may share the folder.  It carries a checksum: a damaged
entry counts as absent and is removed.  A folder that cannot be read or written is no error, it merely caches nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("kernels", "programs")
LIMIT = 512 << 20
"""Bytes of all entries together above which the longest unused are deleted."""
ENTRIES = 10_000
"""How many entries are kept."""
SUFFIX = ".entry"
_MAGIC = b"tapeir-cache-1"
_PARTIAL = ".partial-"
_EVERY = 256
_KEPT_PARTIAL = 3600.0  # seconds after which an unfinished file belongs to no living writer
_ABOUT = 500


@dataclass(frozen=True)
class Entry:
    """One cached item: ``size`` in bytes on disk, ``age`` in seconds since it was written or last read, ``about`` says what it is."""

    kind: str
    key: str
    size: int
    age: float
    about: str


def folder() -> Path | None:
    """Where entries are: ``$TAPEIR_CACHE``, else ``tapeir`` in the user's cache folder; ``None`` if the cache is ``off``."""
    given = os.environ.get("TAPEIR_CACHE")
    if given:
        return None if given == "off" else Path(given).absolute()
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
        if not base.is_absolute():  # the XDG specification has relative values ignored
            base = home / ".cache"
    return base / "tapeir"


def _path(kind: str, key: str) -> Path | None:
    if kind not in KINDS or not re.fullmatch(r"[0-9A-Za-z_-]{1,128}", key):
        raise ValueError(
            f"no cache entry is called {kind}/{key}: kinds are {', '.join(KINDS)}, keys letters and digits"
        )
    root = folder()
    return None if root is None else root / kind / (key + SUFFIX)


def _checksum(kind: str, key: str, about: bytes, data: bytes) -> bytes:
    digest = hashlib.sha256(f"{kind} {key}\n".encode() + about + b"\n")
    digest.update(data)
    return digest.hexdigest().encode()


def read(kind: str, key: str) -> bytes | None:
    """The data of an entry, or ``None``; a damaged one is removed."""
    path = _path(kind, key)
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head, _, rest = content.partition(b"\n")
    about, _, data = rest.partition(b"\n")
    if head != _MAGIC + b" " + _checksum(kind, key, about, data):
        _remove(path)
        return None
    with contextlib.suppress(OSError):  # a folder that is only readable keeps its times
        os.utime(path)
    return data


def write(kind: str, key: str, data: bytes, about: str) -> None:
    """Keep ``data`` under ``key``; ``about`` is one line for ``irc cache ls``.  Nothing happens where the cache is off."""
    path = _path(kind, key)
    if path is None:
        return
    line = " ".join(about.split()).encode("utf-8", "replace")[:_ABOUT]
    partial: str | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + b" " + _checksum(kind, key, line, data) + b"\n" + line + b"\n")
            file.write(data)
        os.replace(partial, path)
    except OSError:
        if partial is not None:
            _remove(Path(partial))
        return
    _prune_now_and_then()


def entries() -> list[Entry]:
    """All entries, the latest used first; those without a readable head are left out."""
    now, found = time.time(), list[Entry]()
    for kind, path, status in _files():
        try:
            with path.open("rb") as file:
                head, about = file.readline(128), file.readline(_ABOUT + 1)
        except OSError:
            continue
        if head.startswith(_MAGIC + b" "):
            text = about.decode("utf-8", "replace").rstrip("\n")
            age = max(0.0, now - status.st_mtime)
            found.append(Entry(kind, path.name.removesuffix(SUFFIX), status.st_size, age, text))
    return sorted(found, key=lambda e: (e.age, e.kind, e.key))


def clear() -> int:
    """Delete every entry; returns how many there were."""
    count = 0
    for _, path, _ in _files():
        count += _remove(path)
    for path, _ in _left_by_writers():
        _remove(path)
    return count


def _scan(prefix: str, suffix: str) -> Iterator[tuple[str, Path, os.stat_result]]:
    root = folder()
    if root is None:
        return
    for kind in KINDS:
        try:
            with os.scandir(root / kind) as found:
                named = [e for e in found if e.name.startswith(prefix) and e.name.endswith(suffix)]
        except OSError:
            continue
        for entry in named:
            with contextlib.suppress(OSError):  # another process may have removed it
                yield kind, Path(entry.path), entry.stat()


def _files() -> Iterator[tuple[str, Path, os.stat_result]]:
    return _scan("", SUFFIX)


def _left_by_writers() -> Iterator[tuple[Path, os.stat_result]]:
    return ((path, status) for _, path, status in _scan(_PARTIAL, ""))


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


_writes = 0


def _prune_now_and_then() -> None:
    """At the end of a process that wrote, so that no first step waits for it, and every so many writes."""
    global _writes
    if _writes == 0:
        atexit.register(prune)
    _writes += 1
    if _writes % _EVERY == 0:
        prune()


def prune(limit: int = LIMIT, entries: int = ENTRIES) -> None:
    """Delete the longest unused until ``entries`` of ``limit`` bytes together are left, and what killed writers left."""
    files = sorted(((status.st_mtime, status.st_size, path) for _, path, status in _files()), key=lambda f: f[0])
    total, left = sum(size for _, size, _ in files), len(files)
    for _, size, path in files:
        if total <= limit and left <= entries:
            break
        _remove(path)
        total, left = total - size, left - 1
    now = time.time()
    for path, status in _left_by_writers():
        if now - status.st_mtime > _KEPT_PARTIAL:
            _remove(path)
