"""The disk cache of compiled code: entries of two kinds, ``kernels`` (object code) and ``programs`` (planned programs).

An entry is one file, written whole or not at all, so any number of processes may share the folder.  It carries a checksum: a damaged
entry counts as absent and is removed.  A folder that cannot be read or written is no error, it merely caches nothing.

Entries are code that runs.  A folder or an entry that another user owns or can write is not used, and a line says so.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..ir.escape import printable

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


def refusal() -> str | None:
    """Why the folder is not used although there is one, and what helps; None where it is used.

    Others could replace what is in a folder that they can write, or in one above it, unless that is sticky as ``/tmp`` is.  Systems
    without numbers of users are not checked.
    """
    root = folder()
    if root is None or not hasattr(os, "geteuid"):
        return None
    own = [path for path in (root, *(root / kind for kind in KINDS)) if path.exists()]
    for path in own:
        reason = _foreign(path, path.stat())
        if reason is not None:
            return reason
    for path in dict.fromkeys((*root.parents, *Path(os.path.realpath(root)).parents)):
        if path.exists() and not (status := path.stat()).st_mode & stat.S_ISVTX and _others_write(status):
            return _refused(path, "its group or others can write it", f"chmod go-w '{path}', or {_ELSEWHERE}")
    return None


_ELSEWHERE = "TAPEIR_CACHE=a folder that is yours alone, or TAPEIR_CACHE=off"


def _foreign(path: Path, status: os.stat_result) -> str | None:
    """Why a folder or an entry is not used; None where it is the user's and nobody else can write it."""
    if status.st_uid != os.geteuid():
        return _refused(path, f"it belongs to user {status.st_uid}, and this is user {os.geteuid()}", _ELSEWHERE)
    if _others_write(status):
        return _refused(path, "its group or others can write it", f"chmod go-w '{path}'")
    return None


def _refused(path: Path, fact: str, remedy: str) -> str:
    return printable(f"{path} is not used as a cache of code: {fact}\n  remedy: {remedy}")


def _others_write(status: os.stat_result) -> bool:
    """Whether another user may write a file; the group of a user's own name has no other member."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private(status.st_gid)


def _is_private(group: int) -> bool:
    from grp import getgrgid
    from pwd import getpwuid

    try:
        user, found = getpwuid(os.geteuid()), getgrgid(group)
    except KeyError:
        return False
    return (user.pw_gid, user.pw_name) == (group, found.gr_name) and set(found.gr_mem) <= {user.pw_name}


_said: set[str] = set()


def _say(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        print(reason, file=sys.stderr)


def _usable() -> Path | None:
    """The folder, unless it is refused, which is said once."""
    reason = refusal()
    if reason is None:
        return folder()
    _say(reason)
    return None


def _path(kind: str, key: str) -> Path | None:
    if kind not in KINDS or not re.fullmatch(r"[0-9A-Za-z_-]{1,128}", key):
        raise ValueError(
            f"no cache entry is called {kind}/{key}: kinds are {', '.join(KINDS)}, keys letters and digits"
        )
    root = _usable()
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
        content = _content(path)
    except OSError:
        return None
    if content is None:
        return None
    head, _, rest = content.partition(b"\n")
    about, _, data = rest.partition(b"\n")
    if head != _MAGIC + b" " + _checksum(kind, key, about, data):
        _remove(path)
        return None
    with contextlib.suppress(OSError):  # a folder that is only readable keeps its times
        os.utime(path)
    return data


def _content(path: Path) -> bytes | None:
    """What is in an entry, which is checked after it was opened; None where it is refused, which is said once."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        reason = _foreign(path, os.fstat(descriptor)) if hasattr(os, "geteuid") else None
        if reason is None:
            return file.read()
    _say(reason)
    return None


def _make(path: Path) -> None:
    """A folder and those above it, for the user alone."""
    for missing in reversed([p for p in (path, *path.parents) if not p.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def write(kind: str, key: str, data: bytes, about: str) -> None:
    """Keep ``data`` under ``key``; ``about`` is one line for ``irc cache ls``.  Nothing happens where the cache is off."""
    path = _path(kind, key)
    if path is None:
        return
    line = " ".join(about.split()).encode("utf-8", "replace")[:_ABOUT]
    partial: str | None = None
    try:
        _make(path.parent)
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
    root = _usable()
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
