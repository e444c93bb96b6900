"""The compiled backend: a function becomes a program for the best target of the device.

On the CPU that is native code through LLVM, and NumPy where the kernel table is NumPy's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...ir import BackendError, Function, Instruction, Module
from ...ir.types import Array
from ...passes import NUMPY, PASSES, PIPELINES, UNFUSED, VERSION, PassManager, Provenance
from ...passes.plan import ALIGNMENT as HOST_ALIGNMENT
from .. import kernels
from ..base import Executable, compile_module, get
from ..cuda import devices
from ..cuda.device import ALIGNMENT
from ..eager.interpret import run_instruction
from .numpy_target import NumpyProgram

__all__ = ["CompiledBackend", "NumpyProgram", "lower", "pass_manager", "program_text"]


def one_answer(i: Instruction, arrays: Sequence[Array], module: Module | None = None) -> tuple[Array, ...]:
    """``run_instruction`` where any computer gives the same bits; else an error: the device has its own order of additions."""
    if i.op.rounding != "correct":
        raise BackendError(f"{i.op.name} is computed by the device")
    return run_instruction(i, arrays, module)


def pass_manager(device: str = "cpu", numerics: str = "exact", **options: Any) -> PassManager:
    """What runs passes for programs of a device and numerics; ``options`` are its other fields."""
    target: dict[str, Any] = {"evaluate": run_instruction, "alignment": HOST_ALIGNMENT}
    if device.startswith("cuda"):
        target = {"evaluate": one_answer, "alignment": ALIGNMENT}
        if numerics == "fast":
            from ..cuda.whole import keeps

            target["keeps"] = keeps
    return PassManager(PASSES, **{**target, **options})


def lower(
    module: Module,
    stage: str | Sequence[str] = "planned",
    device: str = "cpu",
    numerics: str = "exact",
    **options: Any,
) -> Module:
    """A copy of a module taken to a stage of the pipeline (``optimized``, ``fused``, ``planned``), or through passes by name.

    ``device`` and ``numerics`` are those of the program that it is for.  ``options`` are fields of the pass manager; a ``provenance``
    also tells which value of the copy stands for which of the module.
    """
    manager = pass_manager(device, numerics, **options)
    copy = module.clone()
    if manager.provenance is not None:
        for f, g in zip(module, copy, strict=True):
            manager.provenance.became.update(zip(f.values(), g.values(), strict=True))
    return manager.run(copy, PIPELINES[stage] if isinstance(stage, str) else stage)


class CompiledBackend:
    """Optimises, fuses, plans and compiles to a program that equals the tape bit for bit."""

    name = "compiled"

    def unavailable(self, device: str) -> str | None:
        return None if device == "cpu" else devices.unavailable(device)

    def supports(self, op: Instruction, device: str) -> bool:
        return True

    def compile(self, func: Function, *, device: str, options: Mapping[str, Any]) -> Executable:
        """``options``: ``module`` around the function, ``verify_each``, a ``Provenance`` to fill as
        ``provenance`` (the program is then not cached), ``in_place`` for new state over the old, ``numerics``, and ``unfused``.
        """
        begin = time.perf_counter()
        source: Module | None = options.get("module")
        module = Module(source.name if source else func.name, [func])
        pending = [func]
        while pending:
            for name in pending.pop().symbols():
                if name not in module.functions and source is not None:
                    pending.append(module.add(source[name]))
        verify_each, in_place = bool(options.get("verify_each", False)), bool(options.get("in_place", False))
        provenance: Provenance | None = options.get("provenance")

        def lowered() -> Module:
            native = UNFUSED if options.get("unfused") else "planned"
            passes = native if target() == "native" else NUMPY
            return lower(module, passes, verify_each=verify_each, provenance=provenance)

        numerics = options.get("numerics", "exact")
        fast = numerics == "fast"
        program: Executable
        if device != "cpu":
            from ..cuda.executable import CudaExecutable
            from ..cuda.program import CudaProgram
            from ..cuda.whole import keeps

            stage = UNFUSED if options.get("unfused") else "planned"
            on = devices.find(device)
            more: dict[str, Any] = {"keeps": partial(keeps, device=on)} if fast else {}
            planned = lower(module, stage, device, numerics, verify_each=verify_each, provenance=provenance, **more)
            program = CudaExecutable(CudaProgram(planned[func.name], planned, fast), func, on, in_place)
        elif target() == "numpy":
            planned = lowered()
            program = NumpyProgram(planned[func.name], planned)
        else:
            from .llvm_program import compile_native

            key = self.cache_key() if provenance is None else None
            program = compile_native(module, func, lowered, key, in_place, fast, begin)
        program.compile_seconds = time.perf_counter() - begin
        return program

    def cache_key(self) -> str:
        return f"compiled {VERSION} {kernels.table().description}"


_said: list[str] = []


def target() -> str:
    """``native`` or ``numpy``; says once why it is not native."""
    if kernels.table().name == "native":
        return "native"
    reason = kernels.fallback_reason()
    if reason is not None and reason not in _said and not reason.startswith("TAPEIR_NATIVE="):
        _said.append(reason)
        print(f"compiled: a NumPy program runs, not native code: {reason}", file=sys.stderr)
    return "numpy"


def program_text(module: Module, name: str, device: str, numerics: str = "exact", backend: str = "compiled") -> str:
    """The generated program of a traced function; of this backend CUDA C for a CUDA device, which need not be there."""
    if backend != CompiledBackend.name or not device.startswith("cuda"):
        return compile_module(get(backend), module, name, device, {"numerics": numerics}).source
    from ..cuda.program import CudaProgram

    planned = lower(module, device=device, numerics=numerics)
    return CudaProgram(planned[name], planned, numerics == "fast").listing
