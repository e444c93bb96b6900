"""What runs IR: the backend protocol and registry, the kernel tables, and the built-in backends."""

from .base import Backend, Executable, available, get, register
from .state import State

__all__ = ["Backend", "Executable", "State", "available", "get", "register"]
