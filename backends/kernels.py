"""Kernel tables: the one implementation of every pinned op on a CPU.

``table()`` is the one in use: native code where llvmlite is there (``backends/native``), else NumPy's.  Tape, interpreter, folding and
compiled programs all call its entries, so they agree bit for bit.  Entries are keyed by scalar primitive, reduction or ``contract``, and
dtype, never by op.  An elementwise entry is called as ``entry(*operands, out, *scratch)``: ``out`` may be one of the operands, scratch
arrays have the result's shape, and operands of pinned entries are row-major contiguous.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np

from ..ir import types
from ..ir.types import Array, DType
from ..passes.loops import grouped
from .cores import wanted_threads
from .sums import BLOCK, add_columns

Call = Callable[..., Any]


@dataclass(frozen=True)
class Kernel:
    """An elementwise entry: how it is written in a program, what it calls, and the dtypes of its scratch arrays."""

    name: str
    call: Call
    scratch: tuple[DType, ...] = ()


UFUNCS: dict[str, np.ufunc] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "abs": np.absolute,
    "sqrt": np.sqrt, "floor": np.floor, "rint": np.rint, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "is_nan": np.isnan, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "shift_left": np.left_shift, "shift_right": np.right_shift,
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "pow": np.power, "floor_divide": np.floor_divide, "remainder": np.remainder,
}  # fmt: skip


def select(condition: Array, a: Array, b: Array, out: Array, flipped: Array) -> None:
    """``out = a`` where ``condition``, else ``b``; ``out`` may be ``a`` or ``b``."""
    if a is out:
        np.logical_not(condition, flipped)
        np.copyto(out, b, where=flipped)
        return
    if b is not out:
        np.copyto(out, b)
    np.copyto(out, a, where=condition)


def bits(x: Array, out: Array) -> None:
    """The bytes of ``x`` read as ``out``'s dtype."""
    np.copyto(out.view(x.dtype), x)


def convert(x: Array, out: Array) -> None:
    """A cast that NumPy's own rule serves: to floats, between integers (wrapping), to and from bool."""
    np.copyto(out, x, casting="unsafe")


def saturate(x: Array, out: Array, wide: Array, flag: Array) -> None:
    """Float to integer: out of range saturates and NaN gives 0."""
    info = np.iinfo(out.dtype)
    np.copyto(wide, x)
    np.copyto(wide, 0.0, where=np.isnan(wide, flag))
    # The largest float64 below 2**63 (2**64) is the clamp that converts without overflow; what is above it saturates.
    top = float(info.max) if info.bits < 64 else np.nextafter(float(info.max), 0.0)
    np.greater(wide, top, flag)
    np.maximum(wide, float(info.min), out=wide)
    np.minimum(wide, top, out=wide)
    np.copyto(out, wide, casting="unsafe")
    np.copyto(out, info.max, where=flag)


def sigmoid(x: Array, out: Array, e: Array, positive: Array) -> None:
    """``e = exp(-|x|)``, then 1 or ``e`` over ``1 + e``: no overflow on either side."""
    np.greater_equal(x, 0, positive)
    np.absolute(x, e)
    np.negative(e, e)
    np.exp(e, e)
    np.add(e, 1, out)
    np.copyto(e, 1, where=positive)
    np.divide(e, out, out)


# Rational approximations of fdlibm's s_erf.c (Sun Microsystems, 1993), highest power first.
_ERF_SMALL = (
    (
        -2.37630166566501626084e-05,
        -5.77027029648944159157e-03,
        -2.84817495755985104766e-02,
        -3.25042107247001499370e-01,
        1.28379167095512558561e-01,
    ),
    (
        -3.96022827877536812320e-06,
        1.32494738004321644526e-04,
        5.08130628187576562776e-03,
        6.50222499887672944485e-02,
        3.97917223959155352819e-01,
        1.0,
    ),
)
_ERF_ONE = (
    (
        -2.16637559486879084300e-03,
        3.54783043256182359371e-02,
        -1.10894694282396677476e-01,
        3.18346619901161753674e-01,
        -3.72207876035701323847e-01,
        4.14856118683748331666e-01,
        -2.36211856075265944077e-03,
    ),
    (
        1.19844998467991074170e-02,
        1.36370839120290507362e-02,
        1.26171219808761642112e-01,
        7.18286544141962662868e-02,
        5.40397917702171048937e-01,
        1.06420880400844228286e-01,
        1.0,
    ),
)
_ERF_MIDDLE = (
    (
        -9.81432934416914548592e00,
        -8.12874355063065934246e01,
        -1.84605092906711035994e02,
        -1.62396669462573470355e02,
        -6.23753324503260060396e01,
        -1.05586262253232909814e01,
        -6.93858572707181764372e-01,
        -9.86494403484714822705e-03,
    ),
    (
        -6.04244152148580987438e-02,
        6.57024977031928170135e00,
        1.08635005541779435134e02,
        4.29008140027567833386e02,
        6.45387271733267880336e02,
        4.34565877475229228821e02,
        1.37657754143519042600e02,
        1.96512716674392571292e01,
        1.0,
    ),
)
_ERF_LARGE = (
    (
        -4.83519191608651397019e02,
        -1.02509513161107724954e03,
        -6.37566443368389627722e02,
        -1.60636384855821916062e02,
        -1.77579549177547519889e01,
        -7.99283237680523006574e-01,
        -9.86494292470009928597e-03,
    ),
    (
        -2.24409524465858183362e01,
        4.74528541206955367215e02,
        2.55305040643316442583e03,
        3.19985821950859553908e03,
        1.53672958608443695994e03,
        3.25792512996573918826e02,
        3.03380607434824582924e01,
        1.0,
    ),
)


def _rational(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]], out: Array, below: Array) -> None:
    for polynomial, target in zip(coefficients, (out, below), strict=True):
        np.multiply(x, polynomial[0], target)
        np.add(target, polynomial[1], target)
        for c in polynomial[2:]:
            np.multiply(target, x, target)
            np.add(target, c, target)
    np.divide(out, below, out)


def erf(
    x: Array, out: Array, wide: Array, size: Array, s: Array, r: Array, below: Array, y: Array, flag: Array
) -> None:
    """The error function in float64 by regions of ``|x|`` (below 0.84375, 1.25, 1/0.35, 6), rounded to ``out``'s dtype."""
    np.copyto(wide, x)
    np.absolute(wide, size)
    # |x| >= 1.25: 1 - exp(-x*x - 0.5625 + R(1/x**2) / S(1/x**2)) / |x|
    np.maximum(size, 1.0, out=r)
    np.minimum(r, 6.0, out=r)
    np.multiply(r, r, s)
    np.divide(1.0, s, s)
    _rational(s, _ERF_MIDDLE, y, below)
    np.greater_equal(size, 1 / 0.35, flag)
    _rational(s, _ERF_LARGE, r, below)
    np.copyto(y, r, where=flag)
    np.maximum(size, 1.0, out=r)
    np.minimum(r, 6.0, out=r)
    np.multiply(r, r, s)
    np.subtract(y, s, y)
    np.subtract(y, 0.5625, y)
    np.exp(y, y)
    np.divide(y, r, y)
    np.subtract(1.0, y, y)
    # 0.84375 <= |x| < 1.25
    np.less(size, 1.25, flag)
    np.minimum(size, 1.25, out=s)
    np.subtract(s, 1.0, s)
    _rational(s, _ERF_ONE, r, below)
    np.add(r, 8.45062911510467529297e-01, r)
    np.copyto(y, r, where=flag)
    np.copysign(y, wide, y)
    # |x| < 0.84375: x + x * P(x**2) / Q(x**2); NaN takes this branch
    np.minimum(size, 0.84375, out=s)
    np.multiply(s, s, s)
    _rational(s, _ERF_SMALL, r, below)
    np.multiply(r, wide, r)
    np.add(r, wide, r)
    np.greater_equal(size, 0.84375, flag)
    np.copyto(r, y, where=flag)
    np.copyto(out, r, casting="unsafe")


@cache
def primitive(name: str, operand: DType, result: DType) -> Kernel:
    """The entry of a scalar primitive for its first data operand's dtype and its result's."""
    if name == "select":
        return Kernel("select", select, (types.bool_,))
    if name == "convert":
        if operand.floating and result.integer:
            return Kernel("saturate", saturate, (types.f64, types.bool_))
        return Kernel("convert", convert)
    if name == "bits":
        return Kernel("bits", bits)
    if name == "sigmoid":
        return Kernel("sigmoid", sigmoid, (result, types.bool_))
    if name == "erf":
        return Kernel("erf", erf, (*[types.f64] * 6, types.bool_))
    return Kernel(UFUNCS[name].__name__, UFUNCS[name])


def _sum(x: Array, out: Any) -> None:
    outer, n, inner = x.shape
    if (
        n <= BLOCK or x.dtype.kind in "iub" or (inner == 1 and x.dtype.kind == "f")
    ):  # of rows of floats NumPy adds pairs itself
        np.add.reduce(x, 1, out.dtype, out)
    elif outer and inner:
        add_columns(x, out)


def _max(x: Array, out: Any) -> None:
    np.maximum.reduce(x, 1, None, out)


def _min(x: Array, out: Any) -> None:
    np.minimum.reduce(x, 1, None, out)


def _argmax(x: Array, out: Any) -> None:
    np.argmax(x, 1, out)


REDUCTIONS: dict[str, Call] = {"sum": _sum, "max": _max, "min": _min, "argmax": _argmax}


def rows(array: Array) -> Array:
    """The array row-major contiguous with the strides of its shape, copied if it is not.

    NumPy calls a one-element array contiguous whatever its strides, and then chooses another loop by them.
    """
    step, strides = array.itemsize, list[int]()
    for n in reversed(array.shape):
        strides.append(step)
        step *= n
    return array if array.strides == tuple(strides[::-1]) else np.array(array, order="C")


def arranged(x: Array, axes: tuple[int, ...]) -> Array:
    """``x`` as contiguous ``[outer, n, inner]`` with ``axes`` in the middle; copied only where they are not neighbours."""
    groups = grouped(x.ndim, axes)
    moved = rows(np.transpose(x, sum(groups, ())))
    return moved.reshape([int(np.prod([x.shape[a] for a in group], dtype=np.int64)) for group in groups])


class _Blas:
    """NumPy's own BLAS library, held at one thread: then a product's bits depend on its shape alone."""

    def __init__(self) -> None:
        self.description = "numpy.matmul; its BLAS threads could not be fixed, so bits may depend on their number"
        core: Any = getattr(np, "_core", None)
        try:
            library = ctypes.CDLL(core._multiarray_umath.__file__)
        except (AttributeError, OSError):
            return
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
            setter = getattr(library, name, None)
            if setter is not None:
                setter.argtypes, setter.restype = [ctypes.c_int], None
                self._setter = setter
                self.fix()
                self.description = "NumPy's OpenBLAS, one thread a block"
                return

    def fix(self) -> None:
        """Set the library to one thread."""
        self._setter(1)


@lru_cache(maxsize=1)
def blas() -> _Blas:
    """The BLAS behind ``contract``; the first call fixes its threads for the process."""
    return _Blas()


BLOCK_WORK = 1 << 24
"""Multiply-adds above which a product is cut into two blocks of rows; a rule of the shape alone."""


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="tapeir-contract")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def is_blocked(m: int, k: int, n: int, batches: int, floating: bool) -> bool:
    """Whether ``contract`` cuts a product into blocks."""
    return floating and batches == 1 and m >= 64 and m * k * n >= BLOCK_WORK


def contract(a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """``out = a @ b`` over the last two axes, each operand's swapped where its flag says so; all are row-major contiguous."""
    if transpose_a:
        a = a.swapaxes(-1, -2)
    if transpose_b:
        b = b.swapaxes(-1, -2)
    if np.may_share_memory(a, b):
        b = b.copy("K")  # of an array and its transpose BLAS computes one half, in another order
    m, k = a.shape[-2:]
    if a.ndim == 2 and is_blocked(m, k, b.shape[-1], 1, a.dtype.kind == "f"):
        cut = (m // 2 + 15) // 16 * 16
        first = _pool().submit(np.matmul, a[:cut], b, out[:cut]) if wanted_threads() > 1 else None
        try:
            np.matmul(a[cut:], b, out[cut:])
        finally:  # an interrupt must not leave the other block being written
            if first is None:
                np.matmul(a[:cut], b, out[:cut])
            else:
                first.result()
        return
    np.matmul(a, b, out)


def in_float32(call: Call, operands: int) -> Call:
    """A reduction or product of 16-bit floats by its float32 entry: operands are widened, and the result is rounded once."""

    def entry(*given: Any) -> None:
        out: Array = given[operands]
        wide: Array = np.empty(out.shape, np.float32) if types.dtype(out.dtype).narrow else out
        call(*[a.astype(np.float32) for a in given[:operands]], wide, *given[operands + 1 :])
        if wide is not out:
            np.copyto(out, wide, casting="unsafe")

    return entry


class Table:
    """NumPy's kernel table, and what another one must offer."""

    name = "numpy"

    @property
    def description(self) -> str:
        """What its bits depend on."""
        return f"NumPy; products by {blas().description}"

    @property
    def summary(self) -> str:
        """What it is, for a person."""
        return self.description

    def primitive(self, name: str, operand: DType, result: DType) -> Kernel:
        """The entry of a scalar primitive for its first data operand's dtype and its result's."""
        return primitive(name, operand, result)

    def reduction(self, combine: str, dtype: DType) -> Call:
        """``entry(x, out)``: combines ``x``, contiguous ``[outer, n, inner]``, over its middle axis into ``out``, ``[outer, inner]``."""
        return in_float32(self.reduction(combine, types.f32), 1) if dtype.narrow else REDUCTIONS[combine]

    def contract(self, dtype: DType) -> Call:
        """``entry(a, b, out, transpose_a, transpose_b)``: the matrix product."""
        if dtype.narrow:
            return in_float32(self.contract(types.f32), 2)
        blas()
        return contract


_choosing = Lock()
_current: list[Table] = []
_reason: list[str | None] = []


def _choose() -> tuple[Table, str | None]:
    if os.environ.get("TAPEIR_NATIVE") == "0":
        return Table(), "TAPEIR_NATIVE=0"
    if find_spec("llvmlite") is None:
        return Table(), "llvmlite is not installed (pip install llvmlite)"
    try:
        from .native import blas as native_blas
        from .native import self_test
        from .native.table import NativeTable
    except (ImportError, OSError, RuntimeError) as error:  # what llvmlite raises where its library cannot be loaded
        return Table(), f"llvmlite cannot be loaded: {' '.join(str(error).split())}"
    reason = native_blas.unavailable() or self_test.fault()
    return (NativeTable(), None) if reason is None else (Table(), reason)


def table() -> Table:
    """The kernel table in use; chosen once a process."""
    if not _current:
        with _choosing:
            if not _current:
                chosen, reason = _choose()
                _reason.append(reason)
                _current.append(chosen)
    return _current[-1]


def fallback_reason() -> str | None:
    """Why the table in use is NumPy's; None when it is native."""
    return _reason[0] if table() and table().name == "numpy" and _reason else None


@contextmanager
def using(chosen: Table) -> Generator[None]:
    """Inside the block another table is in use; for comparing tables."""
    table()
    _current.append(chosen)
    try:
        yield
    finally:
        _current.pop()


def flat_index(index: Array, base: Array, inner: int, out: Array) -> None:
    """Positions in the flattened ``[outer, size, inner]`` array, ``index * inner + base``, into ``out`` (i64)."""
    np.copyto(out, index, casting="unsafe")
    if inner != 1:
        np.multiply(out, inner, out)
    np.add(out, base, out)


def gather(whole: Array, positions: Array, out: Array) -> None:
    """``out = whole[positions]`` of a flat array; positions are inside it."""
    np.take(whole, positions, None, out, "clip")


def scatter_add(part: Array, positions: Array, out: Array) -> None:
    """Zeros, then ``part`` added at ``positions`` in row-major order; all arrays are flat.  16-bit floats are added up in float32."""
    total = np.empty(out.shape, np.float32) if types.dtype(out.dtype).narrow else out
    total.fill(0)
    np.add.at(total, positions, part.astype(total.dtype, copy=False))
    if total is not out:
        np.copyto(out, total, casting="unsafe")
