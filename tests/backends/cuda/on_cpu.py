"""CUDA programs run on the CPU: their source behind ``shim.h``, compiled by the machine's C++ compiler."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tapeir.backends import kernels
from tapeir.backends.base import Sizes
from tapeir.backends.compiled import lower
from tapeir.backends.cuda.attention import TENSOR_CORES
from tapeir.backends.cuda.device import ALIGNMENT, Device, Launch
from tapeir.backends.cuda.executable import CudaExecutable
from tapeir.backends.cuda.lanes import LANES
from tapeir.backends.cuda.program import CudaProgram
from tapeir.ir import OPS, Module
from tapeir.ir.types import Array, DType
from tapeir.passes import UNFUSED

once = pytest.mark.skipif(
    kernels.table().name != "native",
    reason="CUDA text does not depend on the kernel table: it is tested beside the native one",
)
fuzzed = settings(
    max_examples=int(os.environ.get("TAPEIR_FUZZ", "60")) // 10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
SHIM = Path(__file__).with_name("shim.h")
HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\((.*)\) \{')


@cache
def compiler() -> str | None:
    """A C++ compiler that knows C++20's barriers, or None."""
    found = shutil.which("c++") or shutil.which("g++")
    if found is None:
        return None
    probe = [found, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(probe, input="#include <barrier>\n", capture_output=True, text=True, check=False)
    return found if done.returncode == 0 else None


SANITIZER = os.environ.get("TAPEIR_SANITIZE")
FLAGS = [
    "-std=c++20", "-march=native", "-ffp-contract=off", "-w", "-pthread", "-fPIC",
    *(["-O1", "-g1", f"-fsanitize={SANITIZER}"] if SANITIZER else ["-O0"]),
]  # fmt: skip


@cache
def _prepared() -> tuple[Path, ctypes.CDLL]:
    """The shim's header in a folder where it lies precompiled too, and the loaded library that runs launches."""
    found = compiler()
    assert found is not None
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (SHIM, SHIM.with_suffix(".cpp")):
        shutil.copy(file, folder)
    header, library = folder / SHIM.name, folder / "shim.so"
    subprocess.run([found, *FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch"], check=True)
    subprocess.run([found, *FLAGS, "-shared", str(folder / "shim.cpp"), "-o", str(library)], check=True)
    return header, ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@contextmanager
def last_first() -> Generator[None]:
    """Launches begin with their last block, those whose threads never meet with its last thread."""
    flag = ctypes.c_int.in_dll(_prepared()[1], "shim_reversed")
    flag.value = 1
    try:
        yield
    finally:
        flag.value = 0


def program_of(module: Module, name: str = "main", *, fused: bool = True, numerics: str = "exact") -> CudaProgram:
    """The CUDA program of a traced function, fused or with a kernel for each op."""
    planned = lower(module, "planned" if fused else UNFUSED, "cuda", numerics)
    return CudaProgram(planned[name], planned, numerics == "fast")


def _wrapped(source: str) -> str:
    source = source.replace(TENSOR_CORES, "")
    parts = [source]
    texts = re.split(r"(?=extern \"C\" __global__)", source)
    for text in texts:
        head = HEAD.match(text)
        if head is None:
            continue
        passed: list[str] = []
        for n, parameter in enumerate(head[2].split(", ")):
            kind = parameter[: parameter.index("*") + 1] if "*" in parameter else None
            passed.append(f"({kind})args[{n}]" if kind else f"args[{n}]")
        together = "true" if re.search(r"__shfl|__sync", text) else "false"
        parts.append(
            f'extern "C" void run_{head[1]}(unsigned long long *args, unsigned blocks, unsigned x, unsigned y) {{\n'
            f"  shim_launch([](unsigned long long *args) {{ {head[1]}({', '.join(passed)}); }}, args, blocks, x, y, {together});\n}}"
        )
    return "\n".join(parts)


@lru_cache(maxsize=64)
def compiled(source: str) -> Any:
    """A library with ``run_NAME(arguments, blocks, x, y)`` for every kernel of a source."""
    found = compiler()
    assert found is not None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "program.so"
        done = subprocess.run(
            [found, *FLAGS, "-include", str(_prepared()[0]), "-shared", "-x", "c++", "-", "-o", str(library)],
            input=_wrapped(source), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stderr}\n{source}"
        return ctypes.CDLL(str(library))


def contracted(dtype: DType, a: int, b: int, out: int, sizes: Sizes) -> None:
    """A product of row-major matrices at addresses, by the kernel table."""
    batches, m, k, n, ta, tb = sizes

    def array(address: int, *shape: int) -> Array:
        count = int(np.prod(shape)) * dtype.numpy.itemsize
        raw = (ctypes.c_uint8 * count).from_address(address)
        return np.ctypeslib.as_array(raw).view(dtype.numpy).reshape(shape)

    x, y = array(a, batches, *((k, m) if ta else (m, k))), array(b, batches, *((n, k) if tb else (k, n)))
    with np.errstate(all="ignore"):
        kernels.table().contract(dtype)(
            np.ascontiguousarray(x), np.ascontiguousarray(y), array(out, batches, m, n), ta, tb
        )


def with_epilogue(dtype: DType, a: int, b: int, out: int, sizes: Sizes, bias: int, activation: str) -> None:
    """A product of matrices, a bias for each column, and an activation."""
    contracted(dtype, a, b, out, sizes)
    _, m, _, n, _, _ = sizes
    y, added = (
        np.ctypeslib.as_array((ctypes.c_uint8 * (count * dtype.numpy.itemsize)).from_address(place)).view(dtype.numpy)
        for place, count in ((out, m * n), (bias, n))
    )
    total = y.reshape(m, n).astype(np.float32) + added.astype(np.float32)
    if activation == "relu":
        total = np.maximum(total, 0)
    elif activation == "gelu":
        total = OPS["gelu"].eval(np, total, approximate="tanh")
    y.reshape(m, n)[...] = total


Work = Callable[[], None]


class Queue:
    """Work in order, done up to somewhere."""

    def __init__(self, work: Sequence[Work] = ()) -> None:
        self.work = list(work)
        self.done = 0

    def run(self, end: int | None = None) -> None:
        end = len(self.work) if end is None else end
        while self.done < end:
            self.done += 1
            self.work[self.done - 1]()


class CpuDevice(Device):
    """The host as a device: memory is NumPy's, kernels are compiled behind the shim, products are the kernel table's.

    Work is done when memory is used.  Of what lanes may do in any order, ``first`` is done first.
    """

    def __init__(self) -> None:
        self.launched = 0
        self.compiled: dict[str, Any] = {}
        self.lanes = [Queue() for _ in range(LANES)]
        self.first = 0
        self.held: list[Array] = []
        """Memory that was given back: work that is still to be done may use it."""

    def done(self) -> None:
        """Do all work."""
        for queue in sorted(self.lanes, key=lambda q: q is not self.lanes[self.first]):
            queue.run()

    def edge(self, lane: int, to: int) -> tuple[Work, Work]:
        queue, noted = self.lanes[lane], 0

        def note() -> None:
            nonlocal noted
            noted = len(queue.work)

        def wait() -> None:
            end = noted
            self.lanes[to].work.append(lambda: queue.run(end))

        return note, wait

    def _asked(self, lane: int, work: Work) -> Work:
        def start() -> None:
            self.launched += 1
            self.lanes[lane].work.append(work)

        return start

    def allocate(self, nbytes: int, zeroed: bool = True) -> Array:
        raw = np.zeros(nbytes + 2 * ALIGNMENT, np.uint8)
        self.held.append(raw)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + nbytes + 8]

    def address(self, memory: Any) -> int:
        return int(memory.ctypes.data)

    def write(self, memory: Any, offset: int, array: Array) -> None:
        self.done()
        memory[offset : offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)

    def clear(self, memory: Any, offset: int, nbytes: int) -> None:
        self.done()
        memory[offset : offset + nbytes] = 0

    def read(self, memory: Any, offset: int, out: Array) -> None:
        self.done()
        out.reshape(-1).view(np.uint8)[:] = memory[offset : offset + out.nbytes]

    def copy(self, to: Any, to_offset: int, source: Any, offset: int, nbytes: int) -> None:
        self.done()
        to[to_offset : to_offset + nbytes] = source[offset : offset + nbytes]

    def compile(self, sources: Sequence[str], names: Sequence[str], fast: bool) -> dict[str, Any]:
        kernels: dict[str, Any] = {}
        for source in sources:
            if source not in self.compiled:
                self.compiled[source] = compiled(source)
            kernels.update({n: getattr(self.compiled[source], f"run_{n}") for n in names if f" {n}(" in source})
        return kernels

    def launch(self, kernel: Any, launch: Launch, arguments: Sequence[int], lane: int = 0) -> Work:
        words = (ctypes.c_uint64 * len(arguments))(*arguments)
        return self._asked(lane, lambda: kernel(words, launch.blocks, *launch.threads))

    def upload(self, memory: Any, offset: int, pinned: Array, aside: bool = False) -> None:
        self.done()
        memory[offset : offset + pinned.nbytes] = pinned

    def download(self, memory: Any, offset: int, pinned: Array) -> None:
        self.done()
        pinned[:] = memory[offset : offset + pinned.nbytes]

    def mark(self) -> Any:
        return self.launched + 1

    def wait(self, mark: Any) -> None:
        """Everything is done at once."""

    def product(self, dtype: DType, a: int, b: int, out: int, sizes: Sizes, fast: bool, lane: int = 0) -> Work:
        return self._asked(lane, lambda: contracted(dtype, a, b, out, sizes))

    def layer(
        self, dtype: DType, a: int, b: int, out: int, sizes: Sizes, bias: int, activation: str, lane: int = 0
    ) -> Work:
        return self._asked(lane, lambda: with_epilogue(dtype, a, b, out, sizes, bias, activation))


def executable(
    module: Module, name: str = "main", *, fused: bool = True, in_place: bool = False, numerics: str = "exact"
) -> CudaExecutable:
    """The CUDA program of a traced function on the host."""
    return CudaExecutable(program_of(module, name, fused=fused, numerics=numerics), module[name], CpuDevice(), in_place)
