"""Scalar primitives as CUDA C: a statement a primitive, each into a constant of its own.

Elementary functions are those of the CPU, written out by the same rules.  NVRTC is told not to contract (``--fmad=false``), so an
operation is rounded where it stands; ``fma`` is asked for by name.  Signed arithmetic is done on unsigned words, which wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import numpy as np

from ...ir.scalar import COMPARISONS, Scalar, ScalarBuilder
from ...ir.types import DType, bool_, f32
from ..native.math import FUNCTIONS

_NAMES = {
    "bool": "bool", "i8": "signed char", "i16": "short", "i32": "int", "i64": "long long", "u8": "unsigned char",
    "u16": "unsigned short", "u32": "unsigned", "u64": "unsigned long long", "f32": "float", "f64": "double",
    "key": "unsigned long long",
}  # fmt: skip
_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^"}
_ON_BOOL = {"add": "|", "mul": "&", "sub": "^", "and": "&", "or": "|", "xor": "^"}
_RELATIONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FAST = {
    "exp": "expf({0})", "log": "logf({0})", "tanh": "tanhf({0})", "erf": "erff({0})", "sigmoid": "1.0f / (1.0f + expf(-({0})))",
}  # fmt: skip
"""CUDA's own float functions, which ``--use_fast_math`` makes shorter still: in fast numerics only."""
_FUNCTIONS = {"sqrt": "sqrt", "floor": "floor", "rint": "rint", "fma": "fma", "abs": "fabs", "fmod": "fmod"}


def register_type(dtype: DType) -> str:
    """The C type of a value."""
    return _NAMES[dtype.name]


def memory_type(dtype: DType) -> str:
    """The C type of an element in memory; a bool is a byte."""
    return "unsigned char" if dtype is bool_ else _NAMES[dtype.name]


def _unsigned(dtype: DType) -> str:
    """An unsigned type that holds a word of the dtype and that C does not promote to a signed one."""
    return "unsigned long long" if dtype.bits == 64 else "unsigned"


def number(value: float | bool, dtype: DType) -> str:
    """A constant in C, exactly."""
    if dtype is bool_:
        return "true" if value else "false"
    if not dtype.floating:
        word = int(value) & ((1 << dtype.bits) - 1)
        signed = word - (1 << dtype.bits) if dtype.kind == "i" and word >> (dtype.bits - 1) else word
        if dtype.kind == "i" and signed == -(1 << (dtype.bits - 1)):
            return f"({_NAMES[dtype.name]})0x{word:x}{'ull' if dtype.bits == 64 else 'u'}"
        suffix = {"i64": "ll", "u64": "ull", "u32": "u"}.get(dtype.name, "")
        return f"{signed}{suffix}" if dtype.bits >= 32 else f"({_NAMES[dtype.name]}){signed}"
    with np.errstate(over="ignore"):
        rounded = dtype.numpy.type(value)
    if np.isfinite(rounded):
        return f"{rounded!s}{'f' if dtype is f32 else ''}"
    if dtype is f32:
        return f"__uint_as_float(0x{int(rounded.view(np.uint32)):08x}u)"
    return f"__longlong_as_double((long long)0x{int(rounded.view(np.uint64)):016x}ull)"


class CBuilder(ScalarBuilder):
    """Writes statements into ``lines``; a ``Scalar``'s code is a name or a constant."""

    def __init__(self, fast: bool = False) -> None:
        self.fast = fast
        self.lines: list[str] = []
        self.depth = 1
        self._count = 0

    def fresh(self, hint: str = "v") -> str:
        """A name that no other value of the kernel has."""
        self._count += 1
        return f"{hint}{self._count - 1}"

    def line(self, text: str) -> None:
        """A line of the kernel."""
        self.lines.append("  " * self.depth + text)

    def name(self, expression: str, dtype: DType) -> Scalar:
        """An expression's value under a name."""
        name = self.fresh()
        self.line(f"const {register_type(dtype)} {name} = {expression};")
        return Scalar(dtype, name)

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """What is written inside stands in braces after ``head``, if there is one."""
        if not head:
            yield
            return
        self.line(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, number(value, dtype))

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        if self.fast and dtype is f32 and primitive in _FAST:
            return self.name(_FAST[primitive].format(*[x.code for x in arguments]), dtype)
        if primitive in FUNCTIONS:
            return FUNCTIONS[primitive](self, *arguments)
        a, codes = arguments[0], [str(x.code) for x in arguments]
        if primitive in COMPARISONS:
            return self.name(f"{codes[0]} {_RELATIONS[primitive]} {codes[1]}", bool_)
        if primitive == "select":
            return self.name(f"{codes[0]} ? {codes[1]} : {codes[2]}", dtype)
        if primitive == "is_nan":
            return self.name(f"{codes[0]} != {codes[0]}" if a.dtype.floating else "false", bool_)
        if primitive == "convert":
            return self._convert(a, dtype)
        if primitive == "bits":
            return self._bits(a, dtype)
        if dtype.floating:
            return self.name(self._floating(primitive, codes, dtype), dtype)
        return self.name(self._integer(primitive, codes, dtype), dtype)

    def rare(self, condition: Scalar, common: Scalar, function: Callable[..., Scalar], *arguments: Scalar) -> Scalar:
        name = self.fresh()
        self.line(f"{register_type(common.dtype)} {name} = {common.code};")
        with self.block(f"if ({condition.code})"):
            self.line(f"{name} = {function(self, *arguments).code};")
        return Scalar(common.dtype, name)

    def _floating(self, primitive: str, codes: list[str], dtype: DType) -> str:
        if primitive in _FUNCTIONS:
            return f"{_FUNCTIONS[primitive]}{'f' if dtype is f32 else ''}({', '.join(codes)})"
        if primitive == "neg":
            return f"-{codes[0]}"
        return f"{codes[0]} {_OPERATORS[primitive]} {codes[1]}"

    def _integer(self, primitive: str, codes: list[str], dtype: DType) -> str:
        kind, a = register_type(dtype), codes[0]
        if dtype is bool_:
            return f"!{a}" if primitive == "not" else f"{a} {_ON_BOOL[primitive]} {codes[1]}"
        if primitive in ("abs", "floor", "rint") and (dtype.kind == "u" or primitive != "abs"):
            return a
        wide = _unsigned(dtype)
        if primitive == "abs":
            return f"{a} < 0 ? ({kind})(0 - ({wide}){a}) : {a}"
        if primitive == "neg":
            return f"({kind})(0 - ({wide}){a})"
        if primitive == "not":
            return f"({kind})~{a}"
        b = codes[1]
        if primitive == "shift_left":
            return f"({kind})(({wide}){a} << (int){b})"
        if primitive == "shift_right":
            return f"({kind})({a} >> (int){b})"
        if primitive in ("div", "fmod"):
            return f"({kind})({a} {'/' if primitive == 'div' else '%'} {b})"
        return f"({kind})(({wide}){a} {_OPERATORS[primitive]} ({wide}){b})"

    def _bits(self, a: Scalar, dtype: DType) -> Scalar:
        if bool_ in (a.dtype, dtype):
            return self._convert(a, dtype)
        if a.dtype.floating == dtype.floating:
            return self.name(f"({register_type(dtype)}){a.code}", dtype)
        if dtype.floating:
            call = "__int_as_float((int)" if dtype is f32 else "__longlong_as_double((long long)"
        else:
            call = f"({register_type(dtype)})({'__float_as_int' if a.dtype is f32 else '__double_as_longlong'}("
            return self.name(f"{call}{a.code}))", dtype)
        return self.name(f"{call}{a.code})", dtype)

    def _convert(self, a: Scalar, dtype: DType) -> Scalar:
        kind, source = register_type(dtype), a.dtype
        if source is dtype:
            return a
        if dtype is bool_:
            return self.name(f"{a.code} != {number(0, source)}", bool_)
        if source.floating and dtype.integer:
            limits = np.iinfo(dtype.numpy)
            above, below = (number(float(x), source) for x in (int(limits.max) + 1, int(limits.min)))
            most, least = number(int(limits.max), dtype), number(int(limits.min), dtype)
            x = a.code
            return self.name(
                f"{x} != {x} ? {number(0, dtype)} : {x} >= {above} ? {most} : {x} <= {below} ? {least} : ({kind}){x}",
                dtype,
            )
        return self.name(f"({kind}){a.code}", dtype)


HELPERS = """\
// Philox4x32-10: the words of a counter.
__device__ __forceinline__ void philox(unsigned c[4], unsigned k0, unsigned k1) {
#pragma unroll
  for (int n = 0; n < 10; ++n) {
    const unsigned long long p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    c[0] = (unsigned)(p1 >> 32) ^ c[1] ^ k0;
    c[1] = (unsigned)p1;
    c[2] = (unsigned)(p0 >> 32) ^ c[3] ^ k1;
    c[3] = (unsigned)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// The word at a position of a draw.
__device__ __forceinline__ unsigned philox_word(unsigned long long position, unsigned k0, unsigned k1) {
  const unsigned long long block = position >> 2;
  unsigned c[4] = {(unsigned)block, (unsigned)(block >> 32), 0u, 0u};
  philox(c, k0, k1);
  const unsigned word = (unsigned)position & 3u;
  return word == 0u ? c[0] : word == 1u ? c[1] : word == 2u ? c[2] : c[3];
}
"""
"""What kernels call besides CUDA's own functions."""
