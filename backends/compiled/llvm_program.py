"""A native program that runs: its image in memory or on disk, its arrays, and its steps one by one."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as cache_once
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...ir import Function, Instruction, IRError, Module, Value
from ...ir.float_mode import standard_mode
from ...ir.memory import program_memory
from ...ir.op import Control, Layout, Source
from ...ir.print import print_module, quote
from ...ir.types import DTYPES, Array
from ...passes import PASSES
from ...passes.canonicalize import RULES
from .. import cache
from ..base import Bound, Executable, PlannedMemory, Steps
from ..native import blas, engine, threads
from ..native.nest_memory import STREAM_ALIGNMENT
from ..state import State, aligned_bytes
from .llvm_target import Program
from .memory import Ref, window

PATIENCE = "TAPEIR_PATIENCE"
"""The environment variable that holds the seconds after which a line says what is being compiled; 1 where it is not set."""


class ProgramKey(NamedTuple):
    """What names a program in the cache, in fingerprints: its traced text with locations, what compiles it, and how."""

    text: str
    compiler: str
    settings: str

    @property
    def name(self) -> str:
        """The key of the entry."""
        return _fingerprint(" ".join(self))

    @property
    def about(self) -> str:
        """The parts as ``irc cache why`` looks for them in entries."""
        return ", ".join(f"{part} {value[:8]}" for part, value in self._asdict().items())


def program_key(module: Module, traced: Function, settings: str, fast: bool) -> ProgramKey | None:
    """The key of a function's program; None where code from outside takes part, an op, a rewrite or a pass: nothing says what it does."""
    homes = {type(i.op).__module__ for f in module for i in f.instructions}
    homes |= {type(rule).__module__ for rule in RULES} | {p.run.__module__ for p in PASSES.values()}
    if not all(home.startswith("tapeir.") for home in homes):
        return None
    text = f"@{quote(traced.name)}\n{print_module(module, locations=True)}"
    return ProgramKey(
        _fingerprint(text),
        sources(),
        _fingerprint(f"{settings} fast {fast}"),
    )


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache_once
def sources() -> str:
    """A fingerprint of this package's files: programs of an edited compiler are compiled again."""
    root = Path(__file__).parents[2]
    files = sorted(path for folder in root.iterdir() if folder.is_dir() for path in folder.rglob("*.py"))
    stats = [(str(p.relative_to(root)), s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def compile_native(
    module: Module,
    traced: Function,
    lowered: Callable[[], Module],
    settings: str | None,
    in_place: bool = False,
    fast: bool = False,
    begin: float = 0.0,
) -> LlvmProgram:
    """A traced function as a native program, from the disk cache where it was compiled before.

    ``lowered`` takes its module to the planned stage, ``settings`` names everything else that the program depends on (None: it is not
    cached), ``in_place`` lets it write new state over the old, ``fast`` lets it round otherwise, and ``begin`` is when the user began
    to wait.
    """

    def plan() -> Program:
        planned = lowered()
        return Program(planned[traced.name], planned, fast)

    found = program_key(module, traced, settings, fast) if settings is not None else None
    if found is None:
        made = plan()
        return LlvmProgram(image_of(made, begin), traced, lambda: made, in_place)
    data = cache.read("programs", found.name)
    if data is not None:
        return LlvmProgram(Image.from_bytes(data), traced, plan, in_place)
    made = plan()
    image = image_of(made, begin)
    about = f"@{traced.name} of {module.name}, {len(image.objects) - 1} kernels, {found.about}"
    cache.write("programs", found.name, image.to_bytes(), about)
    return LlvmProgram(image, traced, lambda: made, in_place)


@dataclass(frozen=True)
class Image:
    """Everything that running a program takes: object code, constants, and where inputs and results lie."""

    objects: tuple[bytes, ...]
    constants: bytes
    arena: int
    memory: tuple[int, int, int]  # planned bytes, of all values, alive at one time
    buffers: tuple[str, ...]
    products: tuple[str, ...]  # dtypes
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    over: tuple[tuple[int, ...], ...]  # for each output the inputs that it may be written over
    may_commit: bool

    def to_bytes(self) -> bytes:
        """As one piece: the length of a JSON header, the header, the parts."""
        header = {
            "sizes": [len(self.constants), *map(len, self.objects)], "arena": self.arena, "memory": self.memory,
            "buffers": self.buffers, "products": self.products,
            "inputs": [_ref_to_json(r) for r in self.inputs], "outputs": [_ref_to_json(r) for r in self.outputs],
            "over": self.over, "may_commit": self.may_commit,
        }  # fmt: skip
        text = json.dumps(header).encode()
        return b"".join([len(text).to_bytes(8, "little"), text, self.constants, *self.objects])

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """What ``to_bytes`` wrote."""
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        parts: list[bytes] = []
        for size in header["sizes"]:
            parts.append(data[start : start + size])
            start += size
        return cls(
            tuple(parts[1:]), parts[0], header["arena"], tuple(header["memory"]), tuple(header["buffers"]), tuple(header["products"]),
            tuple(map(_ref_of_json, header["inputs"])), tuple(map(_ref_of_json, header["outputs"])),
            tuple(map(tuple, header["over"])), header["may_commit"],
        )  # fmt: skip


def _ref_to_json(ref: Ref) -> list[Any]:
    return [ref.buffer, ref.offset, ref.dtype.name, ref.layout.shape, ref.layout.strides, ref.layout.offset]


def _ref_of_json(parts: list[Any]) -> Ref:
    buffer, offset, name, shape, strides, start = parts
    return Ref(buffer, offset, DTYPES[name], Layout(tuple(shape), tuple(strides), start))


def image_of(made: Program, begin: float) -> Image:
    """Compile a generated program.  After a second a line says what takes so long; ``begin`` is when the user began to wait."""
    f, texts = made.function, list(made.kernels.values())
    objects: list[bytes] = []
    said, patience = False, float(os.environ.get(PATIENCE, 1.0))
    for n, text in enumerate(texts):
        if not said and time.perf_counter() - begin > patience:
            print(
                f"compiling @{quote(f.name)} of {quote(made.module.name)}: kernel {n} of {len(texts)}", file=sys.stderr
            )
            said = True
        objects.append(engine.object_of(text, about=f"kernel of @{f.name}, {made.module.name}"))
    objects.append(engine.object_of(made.main, about=f"steps of @{f.name}, {made.module.name}"))
    inputs = [made.ref(v) for v, role in zip(f.arguments, f.roles, strict=True) if role in ("input", None)]
    outputs = [made.ref(v) for v in made.memory.outputs]
    constants = made.blob().tobytes()
    memory = PlannedMemory.of(f, len(constants) + made.arena_bytes - made.memory.arena_bytes)
    return Image(
        tuple(objects),
        constants,
        made.arena_bytes,
        (int(memory), memory.values, memory.bound),
        tuple(made.buffers),
        tuple(sorted(made.products)),
        tuple(inputs),
        tuple(outputs),
        tuple(map(tuple, made.memory.overwritable(made.module))),
        made.may_commit,
    )


class _Planned:
    """The generated program behind an image, made when it is first asked for."""

    def __init__(self, plan: Callable[[], Program]) -> None:
        self._plan = plan

    @cached_property
    def program(self) -> Program:
        return self._plan()

    def error(self, code: int, status: Array) -> IRError:
        """The error of the check that failed."""
        return self.program.fails[code - 1](status)


class LlvmProgram(Executable):
    """A program in native code.

    ``plan`` gives the generated program that an image was compiled from; it is asked only for what running does not take: ``source``,
    ``kernels``, ``steps`` and the error of a failed check.
    """

    def __init__(self, image: Image, traced: Function, plan: Callable[[], Program], in_place: bool) -> None:
        self._image, self._traced, self._planned = image, traced, _Planned(plan)
        self.commits = in_place and image.may_commit and bool(traced.state())
        symbols = {f"tapeir_contract_{t}": blas.address(DTYPES[t]) for t in image.products}
        symbols["tapeir_parallel"] = threads.address()
        self._library = engine.Library(image.objects, symbols)
        self._run: Any = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self._library.address("run"))
        self._run.library = self._library  # whoever may call the code keeps it loaded
        outputs = sum(v.type.nbytes for v in traced.results)
        with program_memory(traced, image.arena + len(image.constants) + outputs):
            self._constants = aligned_bytes(len(image.constants))
            self._constants[:] = np.frombuffer(image.constants, np.uint8)
            self._arena = aligned_bytes(image.arena)
        self._status = np.zeros(8, np.int64)
        self._state: State | None = None
        self.memory = PlannedMemory(*image.memory)

    @property
    def program(self) -> Program:
        """The generated program."""
        return self._planned.program

    @property
    def function(self) -> Function:
        """The planned function."""
        return self.program.function

    @property
    def module(self) -> Module:
        """The planned module around the function."""
        return self.program.module

    @property
    def source(self) -> str:  # type: ignore[override]
        """The LLVM text of all kernels and steps."""
        return "\n\n".join([*self.program.kernels.values(), self.program.main])

    @cached_property
    def kernels(self) -> dict[str, list[str]]:  # type: ignore[override]
        """Each kernel, and the ops and source lines in it."""
        made = self.program
        return {kernel_name(i, names): _contents(i, made.module) for i, names in made.names.items()}

    def address_of(self, step: str) -> int:
        """Where the code of a step begins."""
        return self._library.address(step)

    def buffers(self, state: State | None, which: int, own: Mapping[str, Array]) -> dict[str, Array]:
        """The bytes of every buffer by name, for one side of the state; ``own`` has those that only the program's user can name."""
        buffers = {"constants": self._constants, "status": self._status.view(np.uint8), **own}
        if state is not None:
            for side, chosen in (("state", which), ("next", which if self.commits else 1 - which)):
                buffers.update({f"{side} {d.name}": b for d, b in state.buffers[chosen].items()})
        return buffers

    def bases(self, buffers: dict[str, Array]) -> Array:
        """The addresses that ``run`` and the steps take."""
        return np.array([buffers[n].ctypes.data if n in buffers else 0 for n in self._image.buffers], np.uint64)

    def bind(self, state: State) -> Bound:
        call = self._bound(state)
        return lambda *given: call(given)

    def _bound(self, state: State) -> Callable[..., tuple[Array, ...]]:
        """A callable of the inputs and, if wanted, of an array or None for each result.

        It holds what running takes, not the program itself, which then goes, with its code, when nobody holds it any more.
        """
        run, image, planned, status = self._run, self._image, self._planned, self._status
        copyto, count = np.copyto, len(image.outputs)
        slots = {name: slot for slot, name in enumerate(image.buffers)}
        read, written = (
            [(n, slots[r.buffer], r) for n, r in enumerate(refs) if r.buffer == f"{kind} {n}" and r.buffer in slots]
            for kind, refs in (("input", image.inputs), ("output", image.outputs))
        )
        sides: list[tuple[int, list[tuple[int, Array]], list[tuple[int, Array]], Array, dict[str, Array]]] = []
        for which in (0, 1):
            buffers = self.buffers(state, which, {"arena": self._arena})
            bases = self.bases(buffers)
            into, out = (
                [(n, window(buffers, r)) for n, r in enumerate(refs) if r.buffer in buffers]
                for refs in (image.inputs, image.outputs)
            )
            sides.append((bases.ctypes.data, into, out, bases, buffers))

        def call(given: Sequence[Array], wanted: Sequence[Array | None] | None = None) -> tuple[Array, ...]:
            address, into, out, bases, _ = sides[state.current]
            for n, to in into:
                copyto(to, given[n])
            results: list[Any] = [None] * count
            used: dict[int, Array] = {}
            for n, slot, ref in read:
                used[n] = _readable(given[n], ref.dtype.numpy)
                bases[slot] = used[n].ctypes.data
            for n, slot, ref in written:
                array = None if wanted is None else wanted[n]
                if array is None or not _is_writable(array, ref, used, image.over[n]):
                    array = np.empty(ref.layout.shape, ref.dtype.numpy)
                results[n] = used[~n] = array
                bases[slot] = array.ctypes.data
            code = run(address)
            if code:
                raise planned.error(code, status)
            for n, array in out:
                results[n] = array.copy()
            return tuple(results)

        return call

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return self._run_all(arrays, None)

    def run_into(self, arrays: Sequence[Array], out: Sequence[Array]) -> tuple[Array, ...]:
        results = self._run_all(arrays, out)
        for target, result in zip(out, results, strict=True):
            if result is not target:
                np.copyto(target, result)
        return tuple(out)

    def _run_all(self, arrays: Sequence[Array], out: Sequence[Array] | None) -> tuple[Array, ...]:
        f = self._traced
        if self._state is None:
            self._state = State(f.state_types())
            self._call_bound = self._bound(self._state)
        state = self._state
        updates = [m is not None and m.kind == "update" for m in f.marks]
        inputs: list[Array] = []
        for v, role, array in zip(f.arguments, f.roles, arrays, strict=True):
            if role in ("input", None):
                inputs.append(array)
            else:
                np.copyto(state[v.name or ""], array)
        wanted = None if out is None else [a for a, update in zip(out, updates, strict=True) if not update]
        outputs = iter(self._call_bound(inputs, wanted))
        new = state.__getitem__ if self.commits else state.next
        return tuple(
            np.array(new(m.of.name or "")) if update else next(outputs)  # type: ignore[union-attr]
            for m, update in zip(f.marks, updates, strict=True)
        )

    def steps(self) -> Steps:
        return _LlvmSteps(self)


def _readable(array: Array, dtype: Any) -> Array:
    """The array, or a copy that lies as a program reads it."""
    array = np.ascontiguousarray(array, dtype)
    return array if array.flags.aligned else array.copy()


def _is_writable(array: Array, ref: Ref, used: Mapping[int, Array], over: Sequence[int]) -> bool:
    """Whether a program may write its result into an array itself.

    It lies as it must, and shares no memory with the arrays in use, or it is one of those that may be written ``over``.
    """
    fits = type(array) is np.ndarray and array.dtype == ref.dtype.numpy and array.shape == ref.layout.shape
    if not fits or not array.flags.carray or array.ctypes.data % STREAM_ALIGNMENT:
        return False
    shared = [n for n, other in used.items() if np.may_share_memory(array, other)]
    return all(n in over and used[n].ctypes.data == array.ctypes.data for n in shared)


def kernel_name(i: Instruction, names: Sequence[str]) -> str:
    """The name in ``kernels`` of an instruction whose steps have these names."""
    return f"{i.attrs['kernel'] if isinstance(i.op, Control) else i.op.name}_{names[0][1:]}"


def _contents(i: Instruction, module: Module) -> list[str]:
    """The ops and source lines of a kernel."""
    ops = [i.op.name]
    if isinstance(i.op, Control):
        ops = [
            inner.op.name for inner in module[i.attrs[i.op.bodies[0]]].instructions if not isinstance(inner.op, Source)
        ]
    return [*ops, *[f"{p.file}:{p.line}" for p in i.location]]


class _LlvmSteps(Steps):
    """A program's steps run one by one on memory of their own."""

    def __init__(self, program: LlvmProgram) -> None:
        self.function = program.function
        self._program, self._made = program, program.program
        state = State(self.function.state_types())
        memory = self._made.memory
        self._status = np.zeros(8, np.int64)
        own = {
            "arena": aligned_bytes(self._made.arena_bytes),
            "status": self._status.view(np.uint8),
            **memory.own_arrays(),
        }
        self._buffers = program.buffers(state, 0, own)
        self._bases = program.bases(self._buffers)
        self._address = self._bases.ctypes.data
        step = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self._code = {i: [step(program.address_of(n)) for n in names] for i, names in self._made.names.items()}

    def _array(self, value: Value) -> Array:
        ref = self._made.ref(value)
        if ref.buffer == "constants":  # one that no step reads is not in the image
            return self._made.constants_array(ref)
        return window(self._buffers, ref)

    def write(self, value: Value, array: Array) -> None:
        if self._made.ref(value).buffer != "constants":
            np.copyto(self._array(value), array)

    def read(self, value: Value) -> Array:
        return np.array(self._array(value))

    def run(self, i: Instruction) -> None:
        for step in self._code.get(i, ()):
            with standard_mode():
                code = step(self._address)
            if code:
                raise self._made.fails[code - 1](self._status)

    def kernel(self, i: Instruction) -> str:
        names = self._made.names.get(i)
        return kernel_name(i, names) if names else i.op.name
