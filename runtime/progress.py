"""What training shows while it runs: a bar on a terminal, plain lines otherwise, and the JSON-lines log."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

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
    """One JSON object a line and an update: step, loss, lr, seconds, memory.  A resumed run keeps the lines up to its first step."""

    def __init__(self, path: str | os.PathLike[str] | None, first: int) -> None:
        self._file: Any = None
        if path is None:
            return
        target = Path(path)
        try:
            kept = (
                [line for line in target.read_text("utf-8").splitlines() if _step(line) <= first]
                if first and target.exists()
                else []
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = target.open("w", buffering=1, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"log {target} cannot be used: {error}") from None
        self._file.writelines(line + "\n" for line in kept)

    def write(self, **record: Any) -> None:
        """Append one line."""
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            self._file.close()


def _step(line: str) -> float:
    """The step of a log line; infinity for one that a crash cut short, so that it is not kept."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
