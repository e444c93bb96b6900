"""The eager backend: the tape that records and computes, and the interpreter of an IR function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir import Function, Instruction
from .. import kernels
from ..base import Executable
from ..cuda import devices
from .interpret import HOST, Host, Interpreter
from .tape import Tape


def host_or(device: str) -> Host:
    """What computes ops on a device."""
    if device == "cpu":
        return HOST
    from ..cuda.eager import DeviceOps

    return DeviceOps.of(devices.find(device))


class EagerBackend:
    """Runs the user's Python line by line on a tape; ``compile`` gives the interpreter of an IR function."""

    name = "eager"

    def unavailable(self, device: str) -> str | None:
        return None if device == "cpu" else devices.unavailable(device)

    def supports(self, op: Instruction, device: str) -> bool:
        return True

    def compile(self, func: Function, *, device: str, options: Mapping[str, Any]) -> Executable:
        return Interpreter(func, options.get("module"), host_or(device))

    def cache_key(self) -> str:
        return f"eager {kernels.table().description}"


__all__ = ["EagerBackend", "Interpreter", "Tape", "host_or"]
