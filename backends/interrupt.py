"""Work that Ctrl-C must not meet in the middle."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Uninterrupted:
    """Inside the block of a ``with`` Ctrl-C waits for its end; in other threads than the main one it never comes."""

    __slots__ = ("_before", "_met")

    def __enter__(self) -> None:
        self._before: Any = None
        self._met: Any = None
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._met = number, frame

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._met is not None:
                self._before(*self._met)
