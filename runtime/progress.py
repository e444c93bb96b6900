"""What training shows while it runs: a bar on a terminal, plain lines otherwise, and the JSON-lines log."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

from ..ir.atomic import remove_left, write_atomically
from ..ir.errors import DataError

REFRESH = 0.1
"""Seconds between two losses on the bar."""


class Reporter:
    """Prints the loss every ``log_every`` updates, and shows a bar where ``bar`` (by default on a terminal)."""

    def __init__(self, total: int, log_every: int, bar: bool | None) -> None:
        self.total, self.log_every = total, log_every
        self._shown = 0.0
        self._bar = _bar() if (sys.stdout.isatty() if bar is None else bar) else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, loss: SupportsFloat) -> None:
        """Report one update; the loss is read only where it is shown."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            if time.monotonic() - self._shown >= REFRESH or step == self.total:
                self._shown = time.monotonic()
                self._bar.update(self._task, description=f"loss {float(loss):.4f}")
        if self.log_every and (step % self.log_every == 0 or step == self.total):
            self.line(f"step {step:>{len(str(self.total))}}  loss {float(loss):.6g}")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, flush=True)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(highlight=False, soft_wrap=True), transient=True)


class RunLog:
    """One JSON object a line and an update: step, loss, lr, seconds, memory.

    A resumed run keeps the lines up to its first step; the file is replaced whole where it holds others.  A log that cannot be written
    any more is named on standard error, and ``error`` says so; the run goes on.
    """

    def __init__(self, path: str | os.PathLike[str] | None, first: int) -> None:
        self.error: str | None = None
        self._descriptor: int | None = None
        if path is None:
            return
        self._path = Path(path)
        try:
            self._descriptor = self._open(first)
        except (OSError, ValueError) as error:
            raise DataError(f"log {path} cannot be used: {error}") from None
        self._named = os.fstat(self._descriptor).st_nlink > 0

    def _open(self, first: int) -> int:
        """Keep the lines up to step ``first`` and open the file behind them."""
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left(path)
        if first and path.is_file():
            content = path.read_bytes()
            kept = b"".join(_kept(content, first))
            if kept != content:
                write_atomically(path, kept)
        fresh = 0 if first else os.O_TRUNC
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, **record: Any) -> None:
        """Append one line.  A number that is not finite is null, since JSON has no word for it."""
        if self._descriptor is None:
            return
        known = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in record.items()}
        rest = json.dumps(known, allow_nan=False).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            removed = self._named and not os.fstat(self._descriptor).st_nlink
        except OSError as error:
            self._fail(error.strerror)
        else:
            if removed:
                self._fail("it was removed")

    def sync(self) -> None:
        """Write the lines to the disk, so that they are there whenever a state saved later is."""
        if self._descriptor is not None and stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._fail(error.strerror)

    def _fail(self, reason: str | None) -> None:
        self.error = f"log {self._path} cannot be written: {reason}\n  the lines from this step on are missing"
        print(f"{self.error}; the run goes on", file=sys.stderr)
        self.close()

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:
                self.error = self.error or f"log {self._path} cannot be written: {error.strerror}"


def _kept(content: bytes, first: int) -> Iterator[bytes]:
    """The lines of a log up to a step.  A last line that a crash cut short goes; other lines that are no record of a step stay."""
    *lines, last = content.split(b"\n")
    for line in lines:
        if (_step(line) or 0) <= first:
            yield line + b"\n"
    step = _step(last)
    if step is not None and step <= first:
        yield last + b"\n"


def _step(line: bytes) -> int | None:
    """The step of a log line; None for one that is no record of a step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
