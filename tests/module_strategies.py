"""Hypothesis strategies of whole modules: every op and dtype, kernels of kernels, odd names, attributes, places, locations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from program_strategies import programs, update_programs
from strategies import (
    VIEWS,
    elementwise_samples,
    fill,
    generators,
    indexed_samples,
    join_samples,
    matmul_samples,
    operand_types,
    reduce_samples,
    shapes,
    view_samples,
)

from tapeir.backends.eager.interpret import run_instruction
from tapeir.ir import (
    DTYPES,
    OPS,
    Function,
    GraphBuilder,
    IRError,
    Location,
    Mark,
    Module,
    Op,
    Place,
    Sample,
    Symbol,
    TensorType,
    Value,
)
from tapeir.ir.graph import ROLES
from tapeir.ir.literal import Literal
from tapeir.ir.op import Control, Elementwise, Gather, Reduce, Scatter
from tapeir.ir.types import DType, Shape, bool_, key
from tapeir.ir.verify import PLANNED
from tapeir.passes import PASSES, PIPELINES, PassManager

Draw = Callable[..., Any]
Application = tuple[tuple[TensorType, ...], dict[str, Any]]
STATE_NAMES = (
    "0.weight",
    "0.bias",
    "layers.3.norm.scale",
    "optimizer/step",
    "optimizer/m/0.weight",
    "downsample-1.bias",
)
ODD_NAMES = (
    "x", "h", "h_1", "h_1_1", "h_2", "x_1", "", "0", "1", "3", "007", "1.5", "..", "_", "a/b", "/", "a//b", "a/", "%x", "@f", '"', "\\",
    '\\"', "\n", "\r\n", "\t", "\0", "\x1b[31m", "\x7f", "\u2028", "é", "日本", "👍", "٣", "\udcff", "true", "f32", "nan", "inf", "at",
    "loc", "in", "with", "func", "return", "module", "bytes", "-1", "+8", " ", "a b", "{", "}", "// c", "->", "name\n", "x" * 4096,
    "x" * 4097, "9" * 5000, "/".join("a" * 65), "/".join("a" * 66),
)  # fmt: skip
ODD_FILES = (
    "model.py",
    "/home/me/my model.py",
    "C:\\net\\model.py",
    "<stdin>",
    "",
    "a\nb.py",
    '"".py',
    "日本.py",
    "\udcff",
    "f" * 300,
)
WORDS = ("mode", "arena", "in", "at", "inf", "nan", "true", "f32", "with", "a.b", "_", "bytes", "value", "w" * 256)
CONSTANT_DTYPES = [d for d in DTYPES.values() if d is not key]
SIDES = ((), (1,), (3,), (2, 3), (4, 4), (17,), (5, 7), (0,), (2, 0, 3), (1, 1, 40))


@cache
def names() -> st.SearchStrategy[str]:
    """Names for values, functions and modules, most of them odd."""
    return st.sampled_from(ODD_NAMES) | st.sampled_from(STATE_NAMES) | st.text(max_size=8)


@cache
def words() -> st.SearchStrategy[str]:
    """Names for attributes."""
    return st.sampled_from(WORDS) | st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,9}", fullmatch=True)


SOME_OPS = st.lists(st.sampled_from(list(OPS.values())), max_size=6)


def as_tuple(items: list[Any]) -> tuple[Any, ...]:
    return tuple(items)


@cache
def attribute_values() -> st.SearchStrategy[Any]:
    """Values for attributes of functions."""
    number = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats()
    word = st.text(max_size=8) | names().map(Symbol) | st.sampled_from(list(DTYPES.values()))
    one: st.SearchStrategy[Any] = st.booleans() | number | word
    return one | st.lists(one, max_size=20).map(as_tuple)


def _allowed(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in attributes.items() if k not in PLANNED or (type(v) is int and v >= 0)}


SOME_ATTRIBUTES = st.dictionaries(words(), attribute_values(), max_size=3).map(_allowed)


@cache
def places_in_files() -> st.SearchStrategy[tuple[Location, ...]]:
    """What an instruction's location may be."""
    one = st.builds(Location, st.sampled_from(ODD_FILES) | st.text(max_size=5), st.integers(0, 1 << 70), names())
    return st.lists(one, max_size=3).map(tuple)


@st.composite
def literals(draw: Draw, dtype: DType | None = None) -> Literal:
    """Constants: splats, lists and those of more than 16 elements, special values among them."""
    d: DType = dtype or draw(st.sampled_from(CONSTANT_DTYPES))
    shape: Shape = draw(st.sampled_from(SIDES) | shapes())
    array = fill(draw(generators()), TensorType(d, shape), draw(st.booleans()))
    if array.size and draw(st.booleans()):
        return Literal.splat(array.reshape(-1)[0], TensorType(d, shape))
    return Literal.of(array, d)


@cache
def _stated(op: Op) -> tuple[Sample, ...]:
    return tuple(op.samples(np.random.default_rng(0)))


@cache
def _samples(op: Op) -> st.SearchStrategy[Sample]:
    stated = st.sampled_from(_stated(op))
    if isinstance(op, Elementwise):
        return stated | elementwise_samples(op)
    if isinstance(op, Reduce):
        return stated | reduce_samples(op)
    if isinstance(op, (Gather, Scatter)):
        return stated | indexed_samples(op.name)
    if op.name in VIEWS:
        return stated | view_samples(op.name)
    if op.name in ("pad", "concat"):
        return stated | join_samples(op.name)
    return stated | matmul_samples() if op.name == "matmul" else stated


def _accepts(op: Op, types: tuple[TensorType, ...], attrs: dict[str, Any]) -> bool:
    try:
        op.result_types(types, attrs)
    except IRError:
        return False
    return True


@st.composite
def applications(draw: Draw, op: Op) -> Application:
    """Operand types and attributes that an op takes, of any dtype that it takes."""
    if op.name == "constant":
        return (), {"value": draw(literals())}
    sample: Sample = draw(_samples(op))
    types, attrs = operand_types(op, sample.operands), op.attributes(sample.attrs)
    target: DType = draw(st.sampled_from(list(DTYPES.values())))
    for old in dict.fromkeys(t.dtype for t in types):
        changed = tuple(t.with_dtype(target) if t.dtype is old else t for t in types)
        if old is not bool_ and _accepts(op, changed, attrs):
            types = changed
    if "dtype" in attrs:
        other = {**attrs, "dtype": draw(st.sampled_from(list(DTYPES.values())))}
        attrs = other if _accepts(op, types, other) else attrs
    return types, attrs


class _Writer:
    """Writes one function, an instruction at a time."""

    def __init__(self, draw: Draw, kernels: Sequence[Function]) -> None:
        self.draw = draw
        self.kernels = kernels
        self.recorder = GraphBuilder()
        self.locations: list[tuple[Location, ...]] = [(), *draw(st.lists(places_in_files(), max_size=2))]
        self.values: list[Value] = []

    def one(self, options: Sequence[Any]) -> Any:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def operand(self, type: TensorType) -> Value:
        """A value of the type: one that is there, or a new argument."""
        fitting = [v for v in self.values if v.type == type]
        if not fitting or self.draw(st.integers(0, 3)) == 3:
            self.values.append(self.recorder.argument(type))
            return self.values[-1]
        return self.one(fitting)

    def op(self, op: Op) -> None:
        """Apply an op; ``fused`` where there is a kernel."""
        self.recorder.at = self.one(self.locations)
        if isinstance(op, Control):
            if self.kernels:
                self.fused(op, self.one(self.kernels))
            return
        types, attrs = self.draw(applications(op))
        self.values += self.recorder.bind(op, tuple([self.operand(t) for t in types]), attrs)

    def fused(self, op: Op, kernel: Function) -> None:
        operands = tuple([self.operand(a.type) for a in kernel.arguments])
        made = self.recorder.bind(op, operands, {"kernel": kernel})
        self.recorder.instructions[-1].attrs = {"kernel": Symbol(kernel.name)}
        self.values += made

    def function(self, name: str, kernel: bool) -> Function:
        """What was written; a kernel has a result, so that a ``fused`` of it does."""
        if kernel and not self.values:
            self.op(OPS["constant"])
        results = [self.one(self.values) for _ in range(self.draw(st.integers(kernel, 4)))] if self.values else []
        pairs: list[tuple[Value, str | None]] = [
            (a, None if kernel else self.one((*ROLES, None))) for a in self.recorder.arguments
        ]
        marks: list[Mark | None] = []
        for value in results:
            marks.append(self.mark(value, pairs, marks))
        return self.recorder.function(name, pairs, list(zip(results, marks, strict=True)))

    def mark(
        self, value: Value, pairs: Sequence[tuple[Value, str | None]], taken: Sequence[Mark | None]
    ) -> Mark | None:
        """No mark, or one that the value may have and no other result has."""
        free = [
            Mark(kind, a)
            for a, role in pairs
            for kind in ("grad", "update")
            if a.type == value.type and (kind == "grad" or role not in ("input", None)) and Mark(kind, a) not in taken
        ]
        return self.one([None, *free])


@st.composite
def functions(draw: Draw, name: str, kernels: Sequence[Function], kernel: bool, op: Op | None = None) -> Function:
    """A function of up to six instructions, ``op`` among them."""
    writer = _Writer(draw, kernels)
    for chosen in draw(SOME_OPS):
        writer.op(chosen)
    if op is not None:
        writer.op(op)
    return writer.function(name, kernel)


def _rename(draw: Draw, function: Function) -> None:
    """Odd names for some values; state has names of its own."""
    values = list(function.values())
    for _ in range(draw(st.integers(0, min(6, len(values))))):
        values[draw(st.integers(0, len(values) - 1))].name = draw(st.none() | names())
    taken: set[str] = set()
    for n, (value, _) in enumerate(function.state()):
        if not value.name or value.name in taken:
            value.name = f"state\0{n}"
        taken.add(value.name)


def _lay_out(draw: Draw, function: Function) -> None:
    """Places of every kind on some values."""
    before: list[Value] = []
    groups: list[tuple[Value, ...]] = [(a,) for a in function.arguments]
    for group in groups + [i.results for i in function.instructions]:
        for value in group:
            kind: int = draw(st.integers(0, 3))
            offset: int = draw(st.sampled_from([0, 8, 64, (1 << 63) - 1]))
            if kind == 1:
                value.place = Place("arena", offset)
            elif kind > 1 and before:
                of: int = draw(st.integers(0, len(before) - 1))
                value.place = Place("alias" if kind == 2 else "state", offset, before[of])
        before += group


def _dress(draw: Draw, module: Module, laid_out: bool) -> Module:
    for function in module:
        _rename(draw, function)
        function.attrs.update(draw(SOME_ATTRIBUTES))
        if laid_out and draw(st.booleans()):
            _lay_out(draw, function)
    return module


@st.composite
def compiled_modules(draw: Draw) -> Module:
    """A random program or update after the passes of some stage."""
    module: Module = draw(programs(12) | update_programs(4)).module
    stage: str = draw(st.sampled_from(list(PIPELINES)))
    PassManager(PASSES, strict=True, evaluate=run_instruction).run(module, list(PIPELINES[stage]))
    module.name = draw(names())
    return _dress(draw, module, False)


@st.composite
def written_modules(draw: Draw, op: Op | None = None) -> Module:
    """Up to three kernels, of which later ones call earlier ones, and up to three functions; ``op`` is in one."""
    least = int(isinstance(op, Control))
    called: list[str] = draw(st.lists(names(), min_size=least + 1, max_size=6, unique=True))
    split: int = draw(st.integers(least, min(3, len(called) - 1)))
    made: list[Function] = []
    for n, name in enumerate(called):
        wanted = op if n == len(called) - 1 else None
        made.append(draw(functions(name, made[:split], n < split, wanted)))
    return _dress(draw, Module(draw(names()), made if draw(st.booleans()) else made[::-1]), True)


@cache
def modules() -> st.SearchStrategy[Module]:
    """Whole valid modules."""
    return written_modules() | written_modules() | compiled_modules()


# Text

TOKEN = re.compile(
    r'[%@]?"(?:[^"\\]|\\.)*"|[%@][A-Za-z0-9_./]+|->|-?[0-9][0-9.]*(?:[eE][-+]?[0-9]+)?|\+[0-9]+|-?[A-Za-z_][A-Za-z0-9_.]*|[{}()\[\],:=]'
)
GAPS = (" ", "\n", "\t", "\r\n", "\f", "  \n\n ", "//\n", '// ) " %x {\n', "\n\t// é\r\n", "")


def tokens(text: str) -> list[str]:
    """The tokens of canonical text."""
    return TOKEN.findall(text)


def laid_out(text: str, random: Random) -> str:
    """The tokens of a text with other gaps between them; none only beside punctuation."""
    parts = [random.choice(GAPS)]
    for token in tokens(text):
        glued = token in "{}()[],:=" or parts[-2:-1] == [] or parts[-2] in "{}()[],:="
        if not parts[-1] and not glued:
            parts[-1] = " "
        parts += [token, random.choice(GAPS)]
    return "".join(parts)
