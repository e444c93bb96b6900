"""CUDA programs run on the CPU: their source behind ``shim.h``, compiled by the machine's C++ compiler."""

from __future__ import annotations

import atexit
import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from tapeir.backends import kernels
from tapeir.backends.compiled import lower
from tapeir.backends.compiled.memory import Ref, window
from tapeir.backends.cuda.program import CudaProgram, KernelCall, ProductCall
from tapeir.backends.state import State
from tapeir.ir import Module
from tapeir.ir.types import Array
from tapeir.passes import UNFUSED

SHIM = Path(__file__).with_name("shim.h")
_HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\((.*)\) \{')


@cache
def compiler() -> str | None:
    """A C++ compiler that knows C++20's barriers, or None."""
    found = shutil.which("c++") or shutil.which("g++")
    if found is None:
        return None
    probe = [found, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(probe, input="#include <barrier>\n", capture_output=True, text=True, check=False)
    return found if done.returncode == 0 else None


FLAGS = ["-std=c++20", "-O0", "-march=native", "-ffp-contract=off", "-w", "-pthread", "-fPIC"]


@cache
def _prepared() -> Path:
    """A folder with the shim and its precompiled form, which takes most of the time."""
    found = compiler()
    assert found is not None
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copy(SHIM, folder)
    subprocess.run(
        [found, *FLAGS, "-x", "c++-header", str(folder / SHIM.name), "-o", str(folder / "shim.h.gch")], check=True
    )
    return folder / SHIM.name


def program_of(module: Module, name: str = "main", *, fused: bool = True) -> CudaProgram:
    """The CUDA program of a traced function, fused or with a kernel for each op."""
    planned = lower(module, "planned" if fused else UNFUSED)
    return CudaProgram(planned[name], planned)


def _wrapped(source: str) -> str:
    parts = [source]
    texts = re.split(r"(?=extern \"C\" __global__)", source)
    for text in texts:
        head = _HEAD.match(text)
        if head is None:
            continue
        passed: list[str] = []
        for n, parameter in enumerate(head[2].split(", ")):
            kind = parameter[: parameter.index("*") + 1] if "*" in parameter else None
            passed.append(f"({kind})args[{n}]" if kind else f"*(unsigned long long *)args[{n}]")
        together = "true" if re.search(r"__shfl|__sync", text) else "false"
        parts.append(
            f'extern "C" void run_{head[1]}(void **args, unsigned blocks, unsigned x, unsigned y) {{\n'
            f"  launch([&] {{ {head[1]}({', '.join(passed)}); }}, blocks, x, y, {together});\n}}"
        )
    return "\n".join(parts)


class OnCpu:
    """A program with memory of its own."""

    def __init__(self, program: CudaProgram) -> None:
        self.program = program
        found = compiler()
        assert found is not None
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "program.so"
            done = subprocess.run(
                [found, *FLAGS, "-include", str(_prepared()), "-shared", "-x", "c++", "-", "-o", str(library)],
                input=_wrapped(program.source), capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{done.stderr}\n{program.source}"
            self._library = ctypes.CDLL(str(library))
        memory = program.memory
        self._state = State({v.name or "": v.type for v, _ in program.function.state()})
        arena = np.full(memory.arena_bytes + 64, 0xA5, np.uint8)
        self._buffers = {"arena": arena, **memory.own_arrays(), "constants": program.blob()}
        for side, arrays in zip(("state", "next"), self._state.buffers, strict=True):
            self._buffers.update({f"{side} {d.name}": b for d, b in arrays.items()})
        self._status = np.zeros(8, np.int64)

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """All results for all arguments; raises what a failed check raises."""
        f, made = self.program.function, self.program
        self._status[:] = 0
        for v, array in zip(f.arguments, arrays, strict=True):
            np.copyto(self._window(made.ref(v)), array)
        for _, call in made.calls:
            self._run(call)
            if self._status[0]:
                raise made.fails[self._status[0] - 1](self._status[1:])
        found: list[Array] = []
        for v, mark in zip(f.results, f.marks, strict=True):
            ref = made.memory.state(mark.of, v, "next") if mark is not None and mark.kind == "update" else made.ref(v)
            found.append(np.array(self._window(ref)))
        return tuple(found)

    def _window(self, ref: Ref) -> Array:
        return self.program.constants_array(ref) if ref.buffer == "constants" else window(self._buffers, ref)

    def _run(self, call: KernelCall | ProductCall) -> None:
        if isinstance(call, ProductCall):
            *_, ta, tb = call.sizes
            a, b, out = (self._window(r) for r in (call.a, call.b, call.out))
            kernels.table().contract(call.a.dtype)(np.ascontiguousarray(a), np.ascontiguousarray(b), out, ta, tb)
            return
        places = [self._status.ctypes.data, *(self._buffers[r.buffer].ctypes.data + r.offset for r in call.refs)]
        data = ctypes.c_uint64(call.data or 0)
        if call.data is not None:
            places.insert(-1, ctypes.addressof(data))
        x, y = call.launch.threads
        run = getattr(self._library, f"run_{call.name}")
        run((ctypes.c_void_p * len(places))(*places), call.launch.blocks, x, y)
