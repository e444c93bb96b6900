"""Scalar primitives as CUDA C: a statement a primitive, each into a constant of its own.

Elementary functions are those of the CPU, written out by the same rules.  NVRTC is told not to contract (``--fmad=false``), so an
operation is rounded where it stands; ``fma`` is asked for by name.  Signed arithmetic is done on unsigned words, which wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import numpy as np

from ...ir.scalar import COMPARISONS, EXACT_PRIMITIVES, Scalar, ScalarBuilder
from ...ir.types import DType, bf16, bool_, f16, f32, u16
from ..native.math import FUNCTIONS

_NAMES = {
    "bool": "bool", "i8": "signed char", "i16": "short", "i32": "int", "i64": "long long", "u8": "unsigned char",
    "u16": "unsigned short", "u32": "unsigned", "u64": "unsigned long long", "f32": "float", "f64": "double",
    "key": "unsigned long long", "f16": "float", "bf16": "float",
}  # fmt: skip
NARROW = (f16, bf16)
"""Floats that are computed with as float32: every op is rounded to them, a sum once at its end."""
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
    """The C type of an element in memory; a bool is a byte, and a narrow float a word of its bits."""
    return "unsigned char" if dtype is bool_ else "unsigned short" if dtype in NARROW else _NAMES[dtype.name]


def loaded(element: str, dtype: DType) -> str:
    """What an element in memory is in a register."""
    return f"{element} != 0" if dtype is bool_ else f"from_{dtype.name}({element})" if dtype in NARROW else element


def stored(code: str, dtype: DType) -> str:
    """What a value is in memory."""
    return f"to_{dtype.name}({code})" if dtype in NARROW else code


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
    if dtype in NARROW:
        return number(float(rounded), f32)
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
        if dtype in NARROW or any(a.dtype in NARROW for a in arguments):
            return self._narrow(primitive, arguments, dtype)
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

    def _narrow(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        """A primitive on narrow floats, or one that makes them: in float32, and rounded."""
        a = arguments[0]
        if primitive == "bits" and bool_ not in (a.dtype, dtype):
            if a.dtype in NARROW:
                word = self.name(stored(str(a.code), a.dtype), u16)
                return word if dtype is u16 else self.emit("bits", (word,), dtype)
            return self.name(loaded(f"(unsigned short){a.code}", dtype), dtype)
        wide = tuple([Scalar(f32, x.code) if x.dtype in NARROW else x for x in arguments])
        if dtype not in NARROW:
            return self.emit(primitive, wide, dtype)
        made = wide[0] if primitive == "convert" else self.emit(primitive, wide, f32)
        return Scalar(dtype, made.code) if primitive in EXACT_PRIMITIVES else self.rounded(made, dtype)

    def rounded(self, wide: Scalar, dtype: DType) -> Scalar:
        """A float32 rounded to a narrow float."""
        return self.name(f"from_{dtype.name}(to_{dtype.name}({wide.code}))", dtype)

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
// Narrow floats, by their bits; to the nearest, ties to even.
__device__ __forceinline__ float from_bf16(unsigned short h) { return __uint_as_float((unsigned)h << 16); }

__device__ __forceinline__ unsigned short to_bf16(float x) {
  const unsigned bits = (unsigned)__float_as_int(x);
  return x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ __forceinline__ float from_f16(unsigned short h) {
  const unsigned sign = ((unsigned)h & 0x8000u) << 16, rest = (unsigned)h & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest << 13));
  if (rest < 0x400u) return (sign ? -1.0f : 1.0f) * ((float)rest * 5.9604644775390625e-08f);
  return __uint_as_float(sign | ((rest << 13) + 0x38000000u));
}

__device__ __forceinline__ unsigned short to_f16(float x) {
  const unsigned bits = (unsigned)__float_as_int(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return 0x7e00;
  if (rest >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);
  if (rest < 0x38800000u) return (unsigned short)(sign | (unsigned)rintf(__uint_as_float(rest) * 16777216.0f));
  return (unsigned short)(sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13));
}

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
