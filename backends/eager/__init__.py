"""The eager backend: the tape that records and computes, and the interpreter of an IR function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir import Function, Instruction
from .. import kernels
from ..base import Executable
from .interpret import Interpreter
from .tape import Tape


def cpu_only(device: str) -> str | None:
    """None for the CPU, else why not."""
    return None if device == "cpu" else "this version runs on the CPU only"


class EagerBackend:
    """Runs the user's Python line by line on a tape; ``compile`` gives the interpreter of an IR function."""

    name = "eager"

    def unavailable(self, device: str) -> str | None:
        return cpu_only(device)

    def supports(self, op: Instruction, device: str) -> bool:
        return device == "cpu"

    def compile(self, func: Function, *, device: str, options: Mapping[str, Any]) -> Executable:
        return Interpreter(func, options.get("module"))

    def cache_key(self) -> str:
        return f"eager {kernels.table().description}"


__all__ = ["EagerBackend", "Interpreter", "Tape", "cpu_only"]
