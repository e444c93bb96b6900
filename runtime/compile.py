"""``tp.compile``: a plain function of arrays, compiled once per argument type."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import RLock
from typing import Any

from ..backends import Executable, get
from ..backends.base import compile_module
from ..backends.cuda import devices
from ..backends.cuda.device import DeviceArray
from ..frontend.arguments import checked
from ..frontend.convert import is_number, to_array, weak_kind
from ..frontend.functional.apply import located_errors
from ..frontend.transforms import trace
from ..ir.literal import need_fit
from ..ir.record import current_frame
from ..ir.source import public
from ..ir.types import TensorType, bool_, f32, f64, i64, type_of
from .programs import Programs
from .recorded import repeatable


class Compiled:
    """A function compiled by a backend; ``artifacts`` maps argument types to executables, of which the last used are kept.

    A Python number, and an array that the function makes, takes the dtype of the first floating array, float32 where there is none;
    integers are i64.
    """

    def __init__(self, function: Callable[..., Any], backend: str, device: str) -> None:
        self.function = function
        self.backend = get(backend)
        self.device = device
        self.artifacts: Programs[tuple[TensorType, ...], Executable] = Programs(
            getattr(function, "__name__", "function")
        )
        self._lock = RLock()
        functools.update_wrapper(self, function)

    def executable(self, *arguments: Any) -> Executable:
        """The executable for arguments like the given arrays or types."""
        given = [a if isinstance(a, TensorType) or is_number(a) else self._type(a) for a in arguments]
        floating = [t.dtype for t in given if isinstance(t, TensorType) and t.dtype.floating]
        weak = {"f": floating[0] if floating else f32, "i": i64, "b": bool_}
        for number in given:
            if not isinstance(number, TensorType):
                with located_errors("an argument"):
                    need_fit(number, weak[weak_kind(number)])
        types = tuple([t if isinstance(t, TensorType) else TensorType(weak[weak_kind(t)], ()) for t in given])
        found = self.artifacts.get(types)
        if found is None or len(self.artifacts) > self.artifacts.half:
            with self._lock:
                found = self.artifacts.get(types)
                if found is None:
                    return self._compile(types)
                self.artifacts.used(types)
        return found

    def _compile(self, types: tuple[TensorType, ...]) -> Executable:
        floating = [t.dtype for t in types if t.dtype.floating]
        dtype = f64 if f64 in floating else floating[0] if floating else f32
        module = trace(self.function, *types, dtype=dtype)
        name = next(iter(module.functions))
        shown = getattr(self.function, "__name__", "the function")
        repeatable(module[name], lambda: trace(self.function, *types, dtype=dtype)[name], shown)
        made = compile_module(self.backend, module, name, self.device)
        return self.artifacts.keep(types, made)

    def _type(self, array: Any) -> TensorType:
        return array.type if isinstance(array, DeviceArray) else type_of(to_array(array))

    @public
    def __call__(self, *arrays: Any) -> Any:
        if current_frame() is not None:
            return self.function(*arrays)  # recorded with what is around it, derivatives included
        if self.device != "cpu":
            device = devices.find(self.device)
            with device.lock:
                arrays = tuple([a if (found := device.take(a)) is None else found for a in arrays])
        return self.executable(*arrays)(*arrays)


@checked
def compile(function: Callable[..., Any], backend: str = "compiled", device: str = "cpu") -> Compiled:
    """``function`` (of arrays, in ops) as a compiled function of arrays; raises ``BackendError`` for what a backend cannot serve."""
    return Compiled(function, backend, device)
