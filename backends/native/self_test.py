"""A test of the compiler: LLVM 22 compiled some partial vectors for AVX-512 to wrong code, without an error.

The test runs small kernels that read their lanes in every way that kernels do, with casts between wide and narrow elements.  Its outcome
depends on the processor, on LLVM and on ``VERSION`` of the passes.  It is kept in the disk cache, so later processes only read it.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import types
from ...ir.build import Builder
from ...ir.graph import Function
from ...ir.record import GraphBuilder, located
from ...ir.types import Array, DType
from ...passes import VERSION
from ...passes.loops import Nest
from .. import cache as disk
from . import engine
from .nest import NestWriter
from .nest_memory import LANES

Look = Callable[[Any, Any], Any]

WIDE = (types.i64, types.f64, types.u64)
NARROW = (types.f32, types.i32, types.i16, types.u8, types.i8, types.u32)
TAILS = (1, 2, 3, 4, 7, 8, 9, 10, 12, 15)
"""Lanes of the last vector: about the powers of two at which LLVM splits vectors."""
SAMPLE = 100
"""Elements are below this, so that every dtype holds them and a cast changes none."""


@dataclass(frozen=True)
class View:
    """A way of reading ``[n, factor]`` elements: as ops, and as NumPy indexes them.  A result has ``n * columns``."""

    name: str
    factor: int
    columns: int
    ops: Look
    array: Callable[[Array], Array]


def _reversed(build: Any, x: Any) -> Any:
    return build.flip(x, axes=(0,))


def _step(build: Any, x: Any) -> Any:
    return build.slice(x, start=(0, 1), stop=(x.type.shape[0], 2), step=(1, 1))


def _step_back(build: Any, x: Any) -> Any:
    return _step(build, _reversed(build, x))


def _window(build: Any, x: Any) -> Any:
    return build.slice(x, start=(0, 1), stop=x.type.shape, step=(1, 1))


def _row_reversed(build: Any, x: Any) -> Any:
    return build.flip(x, axes=(1,))


def _repeated(build: Any, x: Any) -> Any:
    return build.broadcast_to(x, shape=(x.type.shape[0], 2))


def _padded(build: Any, x: Any) -> Any:
    return build.pad(x, low=(1, 0), high=(1, 0), interior=(0, 0))


VIEWS = (
    View("contiguous", 1, 1, lambda _, x: x, lambda x: x),
    View("reversed", 1, 1, _reversed, lambda x: x[::-1]),
    View("step", 2, 1, _step, lambda x: x[:, 1:2]),
    View("step backwards", 3, 1, _step_back, lambda x: x[::-1, 1:2]),
    View("padded", 1, 1, _padded, lambda x: np.pad(x, ((1, 1), (0, 0)))),
    View("window", 3, 2, _window, lambda x: x[:, 1:]),
    View("rows reversed", 2, 2, _row_reversed, lambda x: x[:, ::-1]),
    View("repeated", 1, 2, _repeated, lambda x: np.repeat(x, 2, axis=1)),
)


@dataclass(frozen=True)
class Case:
    """One kernel: a view of an array of each dtype of ``read``, cast to those of ``cast``."""

    view: View
    rows: int
    read: tuple[DType, ...]
    cast: tuple[DType, ...]

    def function(self) -> Function:
        recorder = GraphBuilder()
        build = Builder(recorder)
        with located(recorder, ()):
            arguments = [recorder.argument(d[self.rows, self.view.factor]) for d in self.read]
            results = [build.cast(self.view.ops(build, x), dtype=d) for x, d in zip(arguments, self.cast, strict=True)]
        return recorder.function("case", [(a, None) for a in arguments], [(r, None) for r in results])

    def wrong(self, address: int, units: int) -> str | None:
        """What the kernel at an address gets wrong; None if it is right."""
        count = self.rows * self.view.factor
        whole = (np.arange(count) * 37 % SAMPLE).reshape(self.rows, self.view.factor)
        given = [np.ascontiguousarray(whole, d.numpy) for d in self.read]
        expected = self.view.array(whole)
        found = [np.zeros(expected.shape, d.numpy) for d in self.cast]
        pointers = (ctypes.c_void_p * (2 * len(given)))(*[a.ctypes.data for a in (*given, *found)])
        kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
        kernel(pointers, 0, units)
        for source, target, x in zip(self.read, self.cast, found, strict=True):
            if not np.array_equal(x, expected):
                return f"{self.view.name} {source}[{count}] cast to {target}"
        return None


def cases() -> Iterator[Case]:
    """Every view with every tail, dtypes in turn."""
    number = 0
    for view in VIEWS:
        for lanes in TAILS:
            if lanes % view.columns == 0:
                wide, narrow = WIDE[number % len(WIDE)], NARROW[number // 2 % len(NARROW)]
                yield Case(view, (LANES + lanes) // view.columns, (wide, narrow), (narrow, wide))
                number += 1


def _run() -> str | None:
    written = [(case, NestWriter(Nest(case.function()), f"case{n}")) for n, case in enumerate(cases())]
    declarations = sorted({d for _, writer in written for d in writer.declarations})
    text = "\n".join([*declarations, *(writer.text for _, writer in written)])
    library = engine.Library(engine.emit_object(text))
    found = (case.wrong(library.address(f"case{n}"), writer.units) for n, (case, writer) in enumerate(written))
    return next((wrong for wrong in found if wrong), None)


def fault() -> str | None:
    """Why native code cannot be trusted here; None if every kernel of the test is right."""
    key = hashlib.sha256(f"self test {VERSION} {engine.target_description()}".encode()).hexdigest()
    kept = disk.read("kernels", key)
    wrong = _run() or "" if kept is None else kept.decode()
    if kept is None:
        disk.write("kernels", key, wrong.encode(), "self test of vectors")
    if not wrong:
        return None
    return f"llvmlite compiles vectors wrongly for {engine.processor()} ({wrong}); install another version of llvmlite"
