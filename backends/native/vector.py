"""Scalar primitives as LLVM text at a vector width.

A kernel's loop body is written by lowering its ops onto a ``VectorBuilder`` of 16 lanes, what is left by one of 1 lane: the same
primitives in the same order, hence the same bits.  Nothing here allows LLVM to reassociate, contract or assume: there are no
fast-math flags, and minima are comparisons and selects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from ...ir.scalar import COMPARISONS, EXACT_PRIMITIVES, Scalar, ScalarBuilder
from ...ir.types import DType, bool_, f32, f64, u16
from . import narrow
from .math import FUNCTIONS

_BINARY = {
    "add": ("add", "add", "fadd"), "sub": ("sub", "sub", "fsub"), "mul": ("mul", "mul", "fmul"), "div": ("sdiv", "udiv", "fdiv"),
    "fmod": ("srem", "urem", "frem"), "and": ("and", "and", ""), "or": ("or", "or", ""), "xor": ("xor", "xor", ""),
    "shift_left": ("shl", "shl", ""), "shift_right": ("ashr", "lshr", ""),
}  # fmt: skip
"""LLVM's opcode on signed, unsigned and floating elements."""
_ON_BOOL = {"add": "or", "mul": "and", "sub": "xor", "and": "and", "or": "or", "xor": "xor"}
_INTRINSICS = {"sqrt": "sqrt", "floor": "floor", "rint": "roundeven", "fma": "fma", "abs": "fabs"}
_FLOAT_RELATIONS = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


class VectorBuilder(ScalarBuilder):
    """Prints primitives as LLVM instructions on ``width`` elements at once; a ``Scalar``'s code is an operand without its type.

    ``lines`` is the function's body so far and ``label`` the block it is in; ``declarations`` and ``functions`` (by name) are
    what the module needs besides.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.functions: dict[str, str] = {}
        self.label = "entry"
        self._count = 0

    def fresh(self, hint: str = "t") -> str:
        """A name no other value of the function has."""
        self._count += 1
        return f"%{hint}{self._count - 1}"

    def scalar_type(self, dtype: DType) -> str:
        """The LLVM type of one element in a register; a 16-bit float is held as float32."""
        if dtype is bool_:
            return "i1"
        return f"i{dtype.bits}" if dtype.integer else "double" if dtype is f64 else "float"

    def type_of(self, dtype: DType) -> str:
        """The LLVM type of ``width`` elements in a register."""
        element = self.scalar_type(dtype)
        return element if self.width == 1 else f"<{self.width} x {element}>"

    def op(self, text: str, dtype: DType) -> Scalar:
        """The value of an instruction."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return Scalar(dtype, name)

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        if dtype is bool_:
            text = "true" if value else "false"
        elif dtype.floating:
            with np.errstate(over="ignore"):
                rounded = float(dtype.numpy.type(value))
            text = f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
            if rounded != rounded:
                text = "0x7FF8000000000000"
        else:
            word = int(value) & ((1 << dtype.bits) - 1)
            text = str(word - (1 << dtype.bits) if word >> (dtype.bits - 1) else word)
        return Scalar(dtype, text if self.width == 1 else f"splat ({self.scalar_type(dtype)} {text})")

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        if dtype.narrow or any(a.dtype.narrow for a in arguments):
            return self._narrow(primitive, arguments, dtype)
        if primitive in FUNCTIONS:
            return FUNCTIONS[primitive](self, *arguments)
        a = arguments[0]
        if primitive in COMPARISONS:
            return self._compare(primitive, a, arguments[1])
        if primitive in _BINARY:
            return self._binary(primitive, a, arguments[1])
        if primitive == "convert":
            return self._convert(a, dtype)
        if primitive == "bits":
            return self._bits(a, dtype)
        if primitive == "select":
            _, x, y = arguments
            kind = self.type_of(dtype)
            return self.op(f"select {self.type_of(bool_)} {a.code}, {kind} {x.code}, {kind} {y.code}", dtype)
        if primitive == "not":
            return self._binary("xor", a, self.constant(True if dtype is bool_ else -1, dtype))
        if dtype.floating and primitive in _INTRINSICS:
            return self._call(_INTRINSICS[primitive], arguments, dtype)
        return self._unary(primitive, a)

    def _narrow(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        """A primitive on 16-bit floats, or one that makes them: in float32, and rounded."""
        if primitive == "bits":
            a = arguments[0]
            word = narrow.word(self, a) if a.dtype.narrow else Scalar(u16, a.code)
            return narrow.loaded(self, word.code, dtype) if dtype.narrow else Scalar(dtype, word.code)
        wide = tuple([Scalar(f32, a.code) if a.dtype.narrow else a for a in arguments])
        made = wide[0] if primitive == "convert" else self.emit(primitive, wide, f32 if dtype.narrow else dtype)
        if not dtype.narrow or primitive in EXACT_PRIMITIVES:
            return Scalar(dtype, made.code)
        return narrow.rounded(self, made, dtype)

    def rare(self, condition: Scalar, common: Scalar, function: Callable[..., Scalar], *arguments: Scalar) -> Scalar:
        """``function(self, *arguments)`` where ``condition``, else ``common``: a call in a branch not taken while no lane needs it."""
        dtype, taken, after = common.dtype, self.fresh("rare")[1:], self.fresh("after")[1:]
        flag = condition.code
        if self.width > 1:
            mask = self.op(f"bitcast {self.type_of(bool_)} {flag} to i{self.width}", bool_)
            flag = self.op(f"icmp ne i{self.width} {mask.code}, 0", bool_).code
        name = self._helper(condition, common, function, arguments)
        passed = ", ".join(f"{self.type_of(x.dtype)} {x.code}" for x in (condition, common, *arguments))
        before = self.label
        self.lines += [f"  br i1 {flag}, label %{taken}, label %{after}", f"{taken}:"]
        called = self.op(f"call {self.type_of(dtype)} @{name}({passed})", dtype)
        self.lines += [f"  br label %{after}", f"{after}:"]
        self.label = after
        return self.op(f"phi {self.type_of(dtype)} [ {common.code}, %{before} ], [ {called.code}, %{taken} ]", dtype)

    def _helper(
        self, condition: Scalar, common: Scalar, function: Callable[..., Scalar], arguments: tuple[Scalar, ...]
    ) -> str:
        """The name of the function that ``rare`` calls, written if this is its first use."""
        dtypes = "_".join(x.dtype.name for x in (common, *arguments))
        name = f"{function.__name__.strip('_')}_{dtypes}_x{self.width}"
        if name in self.functions:
            return name
        inner = VectorBuilder(self.width)
        inner.declarations, inner.functions = self.declarations, self.functions
        mask, otherwise = Scalar(condition.dtype, "%mask"), Scalar(common.dtype, "%otherwise")
        given = tuple(Scalar(x.dtype, f"%a{n}") for n, x in enumerate(arguments))
        result = inner.select(mask, function(inner, *given), otherwise)
        kind = self.type_of(common.dtype)
        parameters = ", ".join(f"{self.type_of(x.dtype)} {x.code}" for x in (mask, otherwise, *given))
        head = f"define internal {kind} @{name}({parameters}) noinline {{\nentry:\n"
        self.functions[name] = head + "\n".join(inner.lines) + f"\n  ret {kind} {result.code}\n}}"
        return name

    def _call(self, intrinsic: str, arguments: tuple[Scalar, ...], dtype: DType, more: str = "") -> Scalar:
        """An intrinsic overloaded on the type of its operands alone."""
        kind = self.type_of(dtype)
        name = f"@llvm.{intrinsic}.{self._suffix(dtype)}"
        parameters = ", ".join([kind] * len(arguments)) + (", i1" if more else "")
        self.declarations.add(f"declare {kind} {name}({parameters})")
        passed = ", ".join(f"{kind} {x.code}" for x in arguments)
        return self.op(f"call {kind} {name}({passed}{more})", dtype)

    def _suffix(self, dtype: DType) -> str:
        element = f"f{dtype.bits}" if dtype.floating else f"i{dtype.bits}"
        return element if self.width == 1 else f"v{self.width}{element}"

    def _binary(self, primitive: str, a: Scalar, b: Scalar) -> Scalar:
        if a.dtype is bool_:
            code = _ON_BOOL[primitive]
        else:
            code = _BINARY[primitive]["iuf".index(a.dtype.kind)]
        return self.op(f"{code} {self.type_of(a.dtype)} {a.code}, {b.code}", a.dtype)

    def _compare(self, relation: str, a: Scalar, b: Scalar) -> Scalar:
        if a.dtype.floating:
            code = f"fcmp {_FLOAT_RELATIONS[relation]}"
        else:
            sign = "" if relation in ("eq", "ne") else "s" if a.dtype.kind == "i" else "u"
            code = f"icmp {sign}{relation}"
        return self.op(f"{code} {self.type_of(a.dtype)} {a.code}, {b.code}", bool_)

    def _unary(self, primitive: str, a: Scalar) -> Scalar:
        kind = self.type_of(a.dtype)
        if primitive == "is_nan":
            return (
                self.op(f"fcmp uno {kind} {a.code}, {a.code}", bool_)
                if a.dtype.floating
                else self.constant(False, bool_)
            )
        if primitive == "neg":
            return self.op(
                f"fneg {kind} {a.code}" if a.dtype.floating else f"sub {kind} {self.like(a, 0).code}, {a.code}", a.dtype
            )
        if primitive == "abs" and a.dtype.kind == "i":
            return self._call("abs", (a,), a.dtype, ", i1 false")
        if primitive in ("abs", "floor", "rint"):
            return a
        raise AssertionError(f"there is no primitive {primitive} of {a.dtype}")

    def _bits(self, a: Scalar, dtype: DType) -> Scalar:
        if bool_ in (a.dtype, dtype):
            return self._convert(a, dtype)
        if a.dtype.floating == dtype.floating:
            return Scalar(dtype, a.code)
        return self.op(f"bitcast {self.type_of(a.dtype)} {a.code} to {self.type_of(dtype)}", dtype)

    def _convert(self, a: Scalar, dtype: DType) -> Scalar:
        source = a.dtype
        if source is dtype:
            return a
        if dtype is bool_:
            return self._compare("ne", a, self.like(a, 0))
        if source.floating and dtype.integer:
            name = f"@llvm.fpto{'s' if dtype.kind == 'i' else 'u'}i.sat.{self._suffix(dtype)}.{self._suffix(source)}"
            self.declarations.add(f"declare {self.type_of(dtype)} {name}({self.type_of(source)})")
            return self.op(f"call {self.type_of(dtype)} {name}({self.type_of(source)} {a.code})", dtype)
        if source.floating:
            code = "fpext" if dtype.bits > source.bits else "fptrunc"
        elif dtype.floating:
            code = "sitofp" if source.kind == "i" else "uitofp"
        elif source is not bool_ and source.bits == dtype.bits:
            return Scalar(dtype, a.code)
        elif source is not bool_ and source.bits > dtype.bits:
            code = "trunc"
        else:
            code = "sext" if source.kind == "i" else "zext"
        return self.op(f"{code} {self.type_of(source)} {a.code} to {self.type_of(dtype)}", dtype)
