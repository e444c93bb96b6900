"""Source lines that errors and pages show.

A location of IR text may name any file, so its line is read only from a Python or IR file below the folder that the text is about.  Files
whose code ran in this process, or that were read as IR text, are the user's own wherever they are.
"""

from __future__ import annotations

import linecache
import os
import stat
from functools import lru_cache

from .escape import shortened

LIMIT = 4 << 20
"""Bytes of the largest file that is read for a line."""
WIDTH = 400
"""Characters of a line that are shown."""
ENDINGS = (".py", ".ir")
_OWN: set[str] = set()


def own(file: str) -> None:
    """Declare a file the user's own: its code runs in this process, or its text was read."""
    _OWN.add(file)


def source_line(file: str, line: int, base: str | None = None) -> str:
    """A line of source, fit to be shown; empty where the file is none that is read.

    ``base`` is the folder that files of text have to be below, by default the current one.
    """
    try:
        if file in _OWN:
            return shortened(_own_line(file, line).strip(), WIDTH)
        root = os.path.realpath(base or os.getcwd())
        path = os.path.realpath(os.path.join(root, file))
        if not path.endswith(ENDINGS) or os.path.commonpath([root, path]) != root:
            return ""
        status = os.stat(path)
        rows = _rows(path, status.st_mtime_ns) if _is_readable(status) else ()
    except (OSError, ValueError):  # a name that no file has, such as one with a NUL
        return ""
    return shortened(rows[line - 1].strip(), WIDTH) if 0 < line <= len(rows) else ""


def _is_readable(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size <= LIMIT


def _own_line(file: str, line: int) -> str:
    """What ``linecache`` has; it knows the cells of notebooks too, which are no files."""
    if os.path.exists(file) and not _is_readable(os.stat(file)):
        return ""
    return linecache.getline(file, line)


@lru_cache(maxsize=8)
def _rows(path: str, changed: int) -> tuple[str, ...]:
    """The lines of a file; a pipe that took its place since is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(LIMIT) if _is_readable(os.fstat(descriptor)) else b""
    return tuple(content.decode("utf-8", "replace").split("\n"))
