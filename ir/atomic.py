"""Writing files of which each appears whole or not at all, whatever kills the process or stops the machine meanwhile.

Content goes to a temporary file beside the target, to the disk, and then takes the target's name.  What writers that were killed left of
a target is removed when it is next written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which removes no file that is open
    fcntl = None

_LONGEST_NAME = 180
"""Bytes of a name that a temporary file's name repeats; longer ones become a hash."""
_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""What file systems say that cannot write a folder to the disk."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, and the folders above it.  Raises ``OSError``."""
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of which each appears whole, and none before all are on the disk.

    Pipes and devices are written to, not replaced; links are followed; the mode of a file that is replaced is kept.
    """
    with contextlib.ExitStack() as stack:
        staged: list[tuple[Path, Path]] = []
        for path, content in contents.items():
            if path.exists() and not (path.is_file() or path.is_dir()):
                path.write_bytes(content)
                continue
            target = _followed(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_left(target)
            temporary = stack.enter_context(_temporary(target, content))
            staged.append((temporary, target))
        for temporary, target in staged:
            os.replace(temporary, target)
        for folder in dict.fromkeys(target.parent for _, target in staged):
            _sync_folder(folder)


def _followed(path: Path) -> Path:
    """The file that a link stands for, whether that is there or not."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _stem(path: Path) -> str:
    """How the names of a target's temporary files begin."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()[:32]


@contextlib.contextmanager
def _temporary(target: Path, content: bytes) -> Generator[Path]:
    """A file beside a target that holds its content, on the disk; it is locked as long as its writer lives, and goes afterwards."""
    path, descriptor = _created(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _keep_mode(descriptor, target)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            if fcntl is not None:  # else it cannot be renamed before it is closed
                yield path
        if fcntl is None:
            yield path
    finally:
        path.unlink(missing_ok=True)


def _created(target: Path) -> tuple[Path, int]:
    """A new file beside a target, open and locked."""
    while True:
        path = target.with_name(f".{_stem(target)}.{secrets.token_hex(8)}.partial")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return path, descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another writer takes it for one that was left, and removes it
        except OSError:
            return path, descriptor  # a file system without locks, where nothing is removed either
        else:
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        os.close(descriptor)


def _keep_mode(descriptor: int, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(target.stat().st_mode)
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, mode)


def remove_left(target: Path) -> None:
    """Remove the temporary files of a target whose writers are no more: nobody holds their locks."""
    ours = re.compile(rf"\.{re.escape(_stem(target))}\.[0-9a-f]{{16}}\.partial")
    try:
        names = [name for name in os.listdir(target.parent) if ours.fullmatch(name)]
    except PermissionError:  # a folder that takes files and does not list them
        return
    for name in names:
        with contextlib.suppress(OSError):  # held by its writer, or gone
            path = target.with_name(name)
            if fcntl is None:
                path.unlink()
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where the system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise
