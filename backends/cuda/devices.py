"""The CUDA devices that programs can run on, by name (``cuda``, ``cuda:1``)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ...ir import BackendError
from .device import Device

_DEVICES: dict[str, Device] = {}


def find(name: str) -> Device:
    """The device of a name; raises ``BackendError`` where there is none."""
    if name not in _DEVICES:
        raise BackendError(f"there is no device {name!r}")
    return _DEVICES[name]


def is_known(name: str) -> bool:
    """Whether there is a device of that name."""
    return name in _DEVICES


@contextmanager
def registered(name: str, device: Device) -> Generator[Device]:
    """A device under a name, for as long as the block runs."""
    _DEVICES[name] = device
    try:
        yield device
    finally:
        del _DEVICES[name]
