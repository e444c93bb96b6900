"""What an op is: one class that states every rule, registered when it is defined.

``Op.__init_subclass__`` makes the single instance of a class that has a ``name``, puts it in ``OPS`` and refuses, at
import, a class that lacks a docstring or a rule.  A rule that cannot exist is ``Absent("why")``.  The families below
give the type rule and say which lowering rule a code generator reads; a backend lowers families, and names an op only where it
computes a composite whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .build import install
from .errors import ArgumentTypeError, DtypeError, ShapeError, TraceError, shortened
from .graph import Symbol, Value
from .literal import Literal
from .scalar import Scalar, ScalarBuilder, widened
from .types import DTYPES, Array, DType, Shape, TensorType, bool_, dtype, f32, f64, i64

Namespace = Any
Random = np.random.Generator
Cotangent = Callable[[], Value] | None
OPS: dict[str, Op] = {}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KINDS = {"f": "floating", "i": "signed integer", "u": "unsigned integer", "b": "bool", "k": "key"}
REQUIRED: Any = object()
BITS = 64
"""Of an integer in an attribute: signed or unsigned."""


@dataclass(frozen=True)
class Absent:
    """A rule that does not exist, and why."""

    reason: str


@dataclass(frozen=True)
class Attr:
    """An attribute: ``kind`` is int, float, bool, str, dtype, ints, symbol or literal; without a default it is required."""

    kind: str
    default: Any = REQUIRED

    def coerce(self, value: Any) -> Any:
        """The value as instructions hold it; raises ``TypeError`` when it is not of the kind."""
        if value is None:
            return self._none()
        if self.kind == "bool" and _is(value, bool, np.bool_):
            return bool(value)
        if self.kind == "int" and _is_integer(value):
            return _bounded(value)
        if self.kind == "float" and (_is_integer(value) or _is(value, float, np.floating)):
            return _as_float(value)
        if self.kind == "ints" and _is(value, tuple, list) and all(map(_is_integer, value)):
            return tuple(map(_bounded, value))
        if self.kind == "dtype":
            return dtype(value)
        if self.kind in _CLASSES and _is(value, _CLASSES[self.kind]):
            return value
        raise self._foreign(value)

    def _none(self) -> None:
        if self.default is not None:
            raise self._foreign(None)

    def _foreign(self, value: Any) -> TypeError:
        return TypeError(f"{value!r} is not {'a list of integers' if self.kind == 'ints' else self.kind}")


def _is(value: Any, *classes: type) -> bool:
    return isinstance(value, classes)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _bounded(number: Any) -> int:
    if not -(1 << BITS - 1) <= number < 1 << BITS:
        raise TypeError(f"{shortened(str(number), 40)} is outside {BITS} bits")
    return int(number)


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        raise TypeError("an integer of that size is not a float") from None


_CLASSES: dict[str, type] = {"str": str, "symbol": Symbol, "literal": Literal}


@dataclass(frozen=True)
class Sample:
    """Example operands and attributes; ``smooth`` where finite differences may be compared with the gradient."""

    operands: tuple[Array, ...]
    attrs: Mapping[str, Any]
    smooth: bool = True


@dataclass(frozen=True)
class Check:
    """What can fail at run time: ``condition(s, element, types, attrs)`` must hold for each element of one operand."""

    operand: int
    condition: Callable[..., Any]
    error: type[Exception]
    message: Callable[..., str]  # (bad element, types, attrs) -> text
    applies: Callable[[tuple[TensorType, ...]], bool] = lambda types: True

    def holds(self, s: ScalarBuilder, element: Scalar, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> Any:
        """The condition on one element; a 16-bit float is widened for it."""
        return self.condition(s, widened(s, element), types, attrs)


class Op:
    """Base of all ops; see the module docstring.

    ``rounding`` is ``"correct"`` where IEEE 754 or exact arithmetic fixes the result and ``"pinned"`` where only the
    device's kernel table does.  ``infer(*types, **attrs)`` gives the result type (a tuple for several results) and
    raises ``ShapeError`` or ``DtypeError``; ``eval(xp, *arrays, **attrs)`` is the meaning, in NumPy;
    ``vjp(build, dy, y, *operands, **attrs)`` gives per operand a function of no arguments or None;
    ``jvp(build, tangents, y, *operands, **attrs)`` gives the result's tangent, where None is a zero tangent.
    """

    name: ClassVar[str] = ""
    arity: ClassVar[int | None] = None
    results: ClassVar[int] = 1
    attrs: ClassVar[Mapping[str, Attr]] = {}
    rounding: ClassVar[str]
    check: ClassVar[Check | None] = None
    family: ClassVar[str] = ""
    lowering: ClassVar[tuple[str, ...]] = ()
    infer: Callable[..., Any]
    eval: Callable[..., Any]
    vjp: Any
    jvp: Any
    samples: Callable[[Random], Iterable[Sample]]

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            if "lowering" in cls.__dict__:
                cls.family = cls.__name__.lower()
            return
        missing = [
            r for r in ("infer", "eval", "rounding", "vjp", "jvp", "samples", *cls.lowering) if not hasattr(cls, r)
        ]
        if not cls.__dict__.get("__doc__") and sys.flags.optimize < 2:  # python -OO removes them
            missing.insert(0, "a docstring")
        if missing:
            raise TypeError(
                f"op {cls.name!r} ({cls.__name__}) lacks {', '.join(missing)}; say Absent(reason) where none exists"
            )
        if cls.name in OPS:
            raise TypeError(f"op {cls.name!r} is registered already, by {type(OPS[cls.name]).__name__}")
        if not NAME.fullmatch(cls.name):
            raise TypeError(f"op {cls.name!r}: the text holds names of letters, digits and _ that begin with no digit")
        op = cls()
        install(op)
        OPS[cls.name] = op

    def attributes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Checked attributes in declared order; raises ``TypeError`` for a foreign, missing or ill-typed one."""
        for name in given:
            if name not in self.attrs:
                known = ", ".join(self.attrs) or "none"
                raise ArgumentTypeError(f"op {self.name} has no attribute {name!r}; it has {known}")
        result: dict[str, Any] = {}
        for name, attr in self.attrs.items():
            value = given.get(name, attr.default)
            if value is REQUIRED:
                raise ArgumentTypeError(f"op {self.name} needs attribute {name!r} ({attr.kind})")
            try:
                value = attr.coerce(value)
            except TypeError as error:
                raise ArgumentTypeError(f"op {self.name}, attribute {name!r}: {error}") from None
            if value is not None:
                result[name] = value
        return result

    def result_types(self, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
        """``infer`` with the number of operands checked, always a tuple."""
        if self.arity is not None and len(types) != self.arity:
            raise ShapeError(f"{self.name} takes {self.arity} operands, not {len(types)}")
        inferred = self.infer(*types, **attrs)
        return (inferred,) if self.results == 1 else tuple(inferred)


def need_kind(name: str, type: TensorType, kinds: str) -> None:
    """Raise ``DtypeError`` unless the dtype is of one of the kinds (letters of ``KINDS``)."""
    if type.dtype.kind not in kinds:
        wanted = " or ".join(KINDS[k] for k in kinds)
        raise DtypeError(f"{name} does not take {type.dtype}\n  rule: the element type is {wanted}")


class Elementwise(Op):
    """Element by element, operands and result of one shape.  Lowering rule: ``scalar(s, *elements, **attrs)``.

    All operands have one dtype, of a kind in ``accepts``; the result has it too, or bool where ``compares``.  ``widens`` is False for
    an op whose rule rounds nothing: it then runs on 16-bit floats themselves.
    """

    lowering = ("scalar",)
    accepts: ClassVar[str] = "f"
    compares: ClassVar[bool] = False
    widens: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (-2.0, 2.0)
    scalar: Callable[..., Any]

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType:
        first = types[0]
        if first.dtype.kind not in self.accepts:
            need_kind(self.name, first, self.accepts)
        for other in types[1:]:
            if other is not first and other != first:
                rule = (
                    "operands have one shape; broadcast explicitly"
                    if other.dtype is first.dtype
                    else "operands have one dtype"
                )
                error = ShapeError if other.dtype is first.dtype else DtypeError
                raise error(f"{self.name} of {first} and {other}\n  rule: {rule}")
        return first.with_dtype(bool_) if self.compares else first

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, *operands: Value, **attrs: Any
    ) -> Value | None:
        """The derivative is diagonal, hence its own transpose: the cotangent rules applied to the tangents."""
        total: Value | None = None
        for i, tangent in enumerate(tangents):
            if tangent is None:
                continue
            if isinstance(self.vjp, Absent):
                raise TraceError(f"{self.name} has no jvp: {self.vjp.reason}")
            rule = self.vjp(build, tangent, y, *operands, **attrs)[i]
            if rule is not None:
                term = rule()
                total = term if total is None else build.add(total, term)
        return total

    def example(self, random: Random, dtype: DType, shape: Shape, position: int) -> Array:
        """Random elements inside the op's domain."""
        if dtype is bool_:
            return random.integers(0, 2, shape).astype(np.bool_)
        if dtype.integer:
            return random.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype.numpy)
        return random.uniform(*self.domain, shape).astype(dtype.numpy)

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (d for d in DTYPES.values() if d.kind in self.accepts):
            for shape in ((2, 3), (), (1,), (0, 2), (17,)) if d in (f32, f64, bool_, i64) else ((5,),):
                for attrs in self.examples():
                    yield Sample(
                        tuple(self.example(random, d, shape, i) for i in range(self.arity or 0)), attrs, d is f64
                    )

    def examples(self) -> Iterable[Mapping[str, Any]]:
        """Attribute values for ``samples``."""
        return ({},)


class Reduce(Op):
    """Combines the elements along ``axes``.  Lowering rules: ``combine`` (a name of the kernel table) and ``identity``."""

    lowering = ("combine", "identity")
    arity = 1
    attrs = {"axes": Attr("ints"), "keepdims": Attr("bool", False)}
    rounding = "pinned"
    accepts: ClassVar[str] = "fiu"
    combine: ClassVar[str]
    identity: Callable[[DType], Any]
    needs_element: ClassVar[bool] = False

    def result_dtype(self, dtype: DType) -> DType:
        return dtype

    def infer(self, x: TensorType, *, axes: Shape, keepdims: bool) -> TensorType:
        need_kind(self.name, x, self.accepts)
        if list(axes) != sorted(set(axes)) or any(not 0 <= a < x.rank for a in axes):
            raise ShapeError(
                f"{self.name} over axes {list(axes)} of {x}\n  rule: axes are increasing and inside the rank {x.rank}"
            )
        if self.needs_element and x.size == 0 and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(f"{self.name} over an empty axis of {x}\n  rule: there is an element to choose")
        shape = [1 if a in axes else n for a, n in enumerate(x.shape) if keepdims or a not in axes]
        return TensorType(self.result_dtype(x.dtype), shape)

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32, i64):
            if d.kind not in self.accepts:
                continue
            for shape, axes in (
                ((3, 4), (1,)),
                ((3, 4), (0,)),
                ((2, 3, 4), (0, 2)),
                ((2, 3, 4), (1,)),
                ((), ()),
                ((1,), (0,)),
                ((5, 0), (0,)),
                ((0, 3), (1,)),
                ((70,), (0,)),
                ((2, 3), ()),
                ((2, 1, 5), (1, 2)),
            ):
                x = random.uniform(-2, 2, shape) if d.floating else random.integers(-9, 10, shape)
                for keepdims in (False, True):
                    yield Sample((np.asarray(x).astype(d.numpy),), {"axes": axes, "keepdims": keepdims}, d is f64)


@dataclass(frozen=True)
class Layout:
    """Where elements lie in a buffer: ``strides`` and ``offset`` count elements."""

    shape: Shape
    strides: Shape
    offset: int = 0

    @classmethod
    def contiguous(cls, shape: Shape) -> Layout:
        """Row-major order without gaps."""
        strides: list[int] = []
        step = 1
        for n in reversed(shape):
            strides.append(step)
            step *= max(n, 1)
        return cls(shape, tuple(reversed(strides)))

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in row-major order."""
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n == 0:
                return True
            if n != 1 and stride != step:
                return False
            step *= n
        return True


class View(Op):
    """The same elements in another order or shape, of any type but keys.  Lowering rule: ``layout(layout, **attrs)``.

    ``layout`` maps the operand's layout to the result's, or to None where the elements would have to move.
    """

    lowering = ("layout",)
    arity = 1
    rounding = "correct"
    layout: Callable[..., Layout | None]

    def result_types(self, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
        for t in types:
            need_kind(self.name, t, "fiub")
        return super().result_types(types, attrs)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, *operands: Value, **attrs: Any
    ) -> Value | None:
        """Linear: the op applied to the tangent."""
        return None if tangents[0] is None else build.recorder.bind(self, (tangents[0],), attrs)[0]


@dataclass(frozen=True)
class Block:
    """Where an operand of a ``Join`` lands: its first element at ``start``, its steps ``step`` apart."""

    start: Shape
    step: Shape


class Join(Op):
    """Operands laid as blocks into a result filled with zeros.  Lowering rule: ``blocks(types, **attrs)``, one an operand."""

    lowering = ("blocks",)
    rounding = "correct"
    blocks: Callable[..., tuple[Block, ...]]

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, *operands: Value, **attrs: Any
    ) -> Value | None:
        """Linear: the op applied to the tangents, zeros for a missing one."""
        if all(t is None for t in tangents):
            return None
        filled = [build.splat(0, o.type) if t is None else t for t, o in zip(tangents, operands, strict=True)]
        return build.recorder.bind(self, tuple(filled), attrs)[0]


class Gather(Op):
    """Elements chosen by integer indices.  Lowering rule: ``walk(types, **attrs)``, an ``IndexWalk``."""

    lowering = ("walk",)
    arity = 2
    rounding = "correct"
    walk: Callable[..., IndexWalk]

    def result_types(self, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
        for t in types[:1]:
            need_kind(self.name, t, "fiub")
        return super().result_types(types, attrs)


class Scatter(Op):
    """Elements added at integer indices, in the order of the indices.  Lowering rule: ``walk``, as for ``Gather``."""

    lowering = ("walk",)
    arity = 2
    rounding = "pinned"
    walk: Callable[..., IndexWalk]


@dataclass(frozen=True)
class IndexWalk:
    """An array seen as ``[outer, size, inner]`` met by ``count`` indices.

    Shared: ``index[j]`` pairs ``whole[o, index[j], i]`` with ``part[o, j, i]`` for all ``o`` and ``i``.
    Else ``index[o, j, i]`` pairs ``whole[o, index[o, j, i], i]`` with ``part[o, j, i]``.
    """

    outer: int
    size: int
    inner: int
    count: int
    shared: bool


class Contract(Op):
    """A product that sums over an axis: the kernel table's ``contract`` does it."""

    lowering = ("transposes",)
    rounding = "pinned"
    transposes: ClassVar[tuple[str, str]]


class Source(Op):
    """A result that depends on attributes alone.  Lowering rule: ``literal(**attrs)``, its elements.

    Where ``element(s, index, **attrs)`` is stated, ``index(axis)`` being an i64 scalar, a kernel computes them itself.
    """

    lowering = ("literal",)
    arity = 0
    rounding = "correct"
    literal: Callable[..., Array]
    element: Callable[..., Any] | None = None

    def eval(self, xp: Namespace, **attrs: Any) -> Array:
        return self.literal(**attrs)

    vjp = Absent("there is no operand")
    jvp = Absent("there is no operand")


class Random32(Op):
    """Draws from a key, element ``i`` from word ``i`` of its Philox stream.  Lowering rule: ``scalar(s, word, **attrs)``."""

    lowering = ("scalar",)
    arity = 1
    rounding = "correct"
    scalar: Callable[..., Any]
    vjp = Absent("the operand is a key")
    jvp = Absent("the operand is a key")


class Key(Op):
    """Derives a key from a key.  Lowering rule: ``data(*operands, **attrs)``, the 64 bits folded in, or None for operand 1."""

    lowering = ("data",)
    rounding = "correct"
    data: Callable[..., int | None]
    vjp = Absent("the operand is a key")
    jvp = Absent("the operand is a key")


class Composite(Op):
    """An op with a decomposition, which is its value.  Lowering rule: ``decompose(build, *operands, **attrs)``.

    ``infer`` and ``eval`` are stated for errors and tests; without a ``vjp`` or ``jvp`` of its own the walks go over the
    decomposition.  ``reads_rows``: a target that computes it whole reads its operands in rows.
    """

    lowering = ("decompose",)
    rounding = "pinned"
    reads_rows: ClassVar[bool] = False
    decompose: Callable[..., Any]
    vjp = None
    jvp = None

    def expand(self, build: Any, operands: Sequence[Value], attrs: Mapping[str, Any]) -> tuple[Value, ...]:
        """Record the decomposition; its results as a tuple."""
        results: Any = self.decompose(build, *operands, **attrs)
        return results if self.results > 1 else (results,)


class Control(Op):
    """An op that owns functions of the module, named by its ``bodies`` attributes; ``eval`` gets ``call(symbol, *arrays)``."""

    lowering = ("bodies",)
    bodies: ClassVar[tuple[str, ...]]
