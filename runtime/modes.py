"""The mode of a runtime: its own, and inside a block that of the thread that runs the block."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

from ..ir.errors import ArgumentValueError

_BLOCKS: ContextVar[tuple[tuple[Modes, list[str]], ...]] = ContextVar("tapeir_modes", default=())
"""The ``in_mode`` blocks that are open in this thread, the innermost last, each with its runtime and mode."""


def _known_mode(mode: str) -> str:
    if mode not in ("train", "eval"):
        raise ArgumentValueError(f"mode {mode!r} is not known; train or eval")
    return mode


class Modes:
    """What has a mode."""

    _mode: str = "train"

    @property
    def mode(self) -> str:
        """``train`` or ``eval``: that of the innermost ``in_mode`` block of this thread, else the runtime's own."""
        block = self._block() if _BLOCKS.get() else None
        return self._mode if block is None else block[0]

    @mode.setter
    def mode(self, mode: str) -> None:
        block = self._block()
        if block is None:
            self._mode = _known_mode(mode)
        else:
            block[0] = _known_mode(mode)

    def _block(self) -> list[str] | None:
        """The mode of the innermost block that is open in this thread."""
        return next((held for owner, held in reversed(_BLOCKS.get()) if owner is self), None)

    def train(self) -> Self:
        """Switch to train mode."""
        self.mode = "train"
        return self

    def eval(self) -> Self:
        """Switch to eval mode."""
        self.mode = "eval"
        return self

    @contextmanager
    def in_mode(self, mode: str) -> Generator[Self]:
        """Inside the block the runtime is in ``mode``, for the thread that runs the block."""
        block = (self, [_known_mode(mode)])
        token = _BLOCKS.set((*_BLOCKS.get(), block))
        try:
            yield self
        finally:
            _BLOCKS.reset(token)
