"""The CUDA devices that programs can run on, by name (``cuda``, ``cuda:1``), and why one cannot be used."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Lock

from ...ir import BackendError
from .device import Device

NAME = re.compile(r"cpu|cuda(:\d+)?")
"""What names of devices look like."""
_DEVICES: dict[str, Device] = {}
_OPENING = Lock()
NEEDED = {"cupy": "cupy-cuda13x", "nvmath": "nvmath-python"}
"""What is imported, and the package that has it."""


def _number(name: str) -> int | None:
    """The number in a device's name; None for no name of a CUDA device."""
    kind, _, number = name.partition(":")
    return None if kind != "cuda" or (number and not number.isdigit()) else int(number or 0)


def unavailable(name: str) -> str | None:
    """None where a device can be used, else the reason and the remedy."""
    if name in _DEVICES:
        return None
    number = _number(name)
    if number is None:
        return "there is no such device; cpu, cuda or cuda:N"
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed (pip install {' '.join(missing)})"
    try:
        from .cupy_device import count

        devices = count()
    except ImportError as error:
        return f"CuPy or nvmath cannot be imported: {error}"
    except BackendError as error:
        return f"CUDA finds no device: {error.message}"
    return None if number < devices else f"CUDA finds {devices} device{'' if devices == 1 else 's'}, numbered from 0"


def find(name: str) -> Device:
    """The device of a name, opened at its first use; raises ``BackendError`` where it cannot be used."""
    found = _DEVICES.get(name)
    if found is None:
        with _OPENING:
            found = _DEVICES.get(name) or _open(name)
    return found


def _open(name: str) -> Device:
    reason = unavailable(name)
    if reason is not None:
        raise BackendError(f"there is no device {name!r}: {reason}")
    from .cupy_device import CupyDevice

    number = _number(name) or 0
    _DEVICES["cuda" if not number else f"cuda:{number}"] = device = CupyDevice(number)
    _DEVICES[name] = device
    return device


def forget() -> None:
    """Close all devices: what was made on them stays valid, the next ``find`` opens them anew."""
    _DEVICES.clear()


@contextmanager
def registered(name: str, device: Device) -> Generator[Device]:
    """A device under a name, for as long as the block runs."""
    before = _DEVICES.get(name)
    _DEVICES[name] = device
    try:
        yield device
    finally:
        del _DEVICES[name]
        if before is not None:
            _DEVICES[name] = before
