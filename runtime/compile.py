"""``tp.compile``: a plain function of arrays, compiled once per argument type."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends import Executable, get
from ..backends.base import compile_module
from ..frontend.transforms import trace
from ..ir.types import TensorType, f32, f64, type_of


class Compiled:
    """A function compiled by a backend; ``artifacts`` maps argument types to executables."""

    def __init__(self, function: Callable[..., Any], backend: str, device: str) -> None:
        self.function = function
        self.backend = get(backend)
        self.device = device
        self.artifacts: dict[tuple[TensorType, ...], Executable] = {}
        functools.update_wrapper(self, function)

    def executable(self, *arguments: Any) -> Executable:
        """The executable for arguments like the given arrays or types."""
        types = tuple([a if isinstance(a, TensorType) else type_of(np.asarray(a)) for a in arguments])
        if types not in self.artifacts:
            dtype = f64 if any(t.dtype is f64 for t in types) else f32
            module = trace(self.function, *types, dtype=dtype)
            self.artifacts[types] = compile_module(self.backend, module, next(iter(module.functions)), self.device)
        return self.artifacts[types]

    def __call__(self, *arrays: Any) -> Any:
        return self.executable(*arrays)(*arrays)


def compile(function: Callable[..., Any], backend: str = "compiled", device: str = "cpu") -> Compiled:
    """``function`` (of arrays, in ops) as a compiled function of arrays; raises ``BackendError`` for what a backend cannot serve."""
    return Compiled(function, backend, device)
