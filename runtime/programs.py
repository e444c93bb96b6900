"""How many programs a runtime or a compiled function keeps: one for each type that it meets, but not without bound."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..ir.errors import BackendError

MOST = 256
"""Programs that are kept, if ``TAPEIR_PROGRAMS`` sets no other number."""
K = TypeVar("K")
V = TypeVar("V")


def most_programs() -> int:
    """``TAPEIR_PROGRAMS``, or ``MOST``.  Raises ``BackendError`` for no number from 1 on."""
    asked = os.environ.get("TAPEIR_PROGRAMS", "").strip() or str(MOST)
    if not asked.isdecimal() or not int(asked):
        raise BackendError(f"TAPEIR_PROGRAMS={asked}: it is a number of programs, from 1 on")
    return int(asked)


class Programs(dict[K, V], Generic[K, V]):
    """The programs used last, by form; ``dropped`` is called with each that goes.  The first time, a line tells the user.

    Whoever changes it holds a lock.
    """

    def __init__(self, name: str, dropped: Callable[[V], Any] = lambda _: None) -> None:
        super().__init__()
        self._name, self._dropped, self._said = name, dropped, False
        self.most = most_programs()
        self.half = self.most // 2
        """With more programs than this it matters which was used last."""

    def used(self, form: K) -> None:
        """Make a form the one used last."""
        self[form] = self.pop(form)

    def keep(self, form: K, program: V) -> V:
        """Add a program, and drop what has not been used for the longest time."""
        self[form] = program
        while len(self) > self.most:
            self._say()
            self._dropped(self.pop(next(iter(self))))
        return program

    def _say(self) -> None:
        if not self._said:
            self._said = True
            print(
                f"{self._name} has been compiled for more than {self.most} types of arguments: those not used for long are dropped, "
                "and compiled again when they come back; pad batches to a few shapes, or set TAPEIR_PROGRAMS to keep more",
                file=sys.stderr,
            )
