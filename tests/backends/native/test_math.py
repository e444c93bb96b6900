"""The native table's functions against exact values: special values, errors in ulp, and the same bits wherever an element stands.

``TAPEIR_FUZZ`` set takes a million points a function instead of 20,000.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tapeir.ir import types
from tapeir.ir.scalar import Scalar
from tapeir.ir.types import DType, bool_, f32, f64

pytest.importorskip("llvmlite", reason="native code needs llvmlite")

from tapeir.backends.native import elementwise, engine, vector

POINTS = 1_000_000 if "TAPEIR_FUZZ" in os.environ else 20_000
Array = np.ndarray[Any, Any]

BOUNDS: dict[tuple[str, DType], float] = {
    ("exp", f32): 1.1, ("log", f32): 0.9, ("log1p", f32): 2, ("expm1", f32): 2, ("tanh", f32): 1.4, ("sigmoid", f32): 2.5,
    ("erf", f32): 1.2, ("sin", f32): 2, ("cos", f32): 2, ("pow", f32): 2,
    ("exp", f64): 1.0, ("log", f64): 0.9, ("log1p", f64): 2, ("expm1", f64): 2, ("tanh", f64): 1.4, ("sigmoid", f64): 2.5,
    ("erf", f64): 4, ("sin", f64): 1.5, ("cos", f64): 1.5, ("pow", f64): 2,
}  # fmt: skip
INTEGERS = [types.i8, types.i16, types.i32, types.i64, types.u8, types.u16, types.u32, types.u64]
BINARY = ("pow", "floor_divide", "remainder")
CASES = [*BOUNDS, *((n, d) for n in ("floor_divide", "remainder") for d in (f32, f64))]
FORBIDDEN = re.compile(r"reassoc|contract|afn|arcp|nsz|nnan|ninf|fast|fmuladd|llvm.vector.reduce.f")

named = pytest.mark.parametrize(("name", "dtype"), CASES, ids=lambda x: str(x))
bounded = pytest.mark.parametrize(("name", "dtype"), BOUNDS, ids=lambda x: str(x))


def run(name: str, dtype: DType, *operands: Array, result: DType | None = None) -> Array:
    result = result or dtype
    out = np.empty(operands[0].shape, result.numpy)
    elementwise.entry(name, dtype, result, len(operands))(*map(np.ascontiguousarray, operands), out)
    return out


def bits(x: Array) -> Array:
    """The bits of floats, every NaN alike."""
    return np.where(np.isnan(x), np.full_like(x, np.nan), x).view(f"u{x.dtype.itemsize}")


def points(dtype: DType, n: int, seed: int = 0) -> Array:
    """Random bit patterns, a normal sample, uniform ones over the useful range, and numbers of every size."""
    random, k = np.random.default_rng(seed), n // 5
    words = random.integers(0, 1 << dtype.bits, k, dtype=f"u{dtype.bits // 8}")
    edge = 120 if dtype is f32 else 760
    parts = [
        words.view(dtype.numpy),
        random.standard_normal(k) * 2,
        random.uniform(-10, 10, k),
        random.uniform(-edge, edge, k),
        np.exp2(random.uniform(-40, 14, k)) * random.choice([-1.0, 1.0], k),
    ]
    return np.concatenate([p.astype(dtype.numpy) for p in parts])


def operands(name: str, dtype: DType, n: int) -> list[Array]:
    x = points(dtype, n)
    if name not in BINARY:
        return [x]
    random = np.random.default_rng(1)
    y = random.permutation(points(dtype, n, 2))
    if name == "pow":  # half of the results inside the range
        k, edge = len(x) // 2, (88 if dtype is f32 else 709)
        x = random.permutation(x)
        x[: k + k // 2] = np.abs(x[: k + k // 2])
        with np.errstate(all="ignore"):
            y[:k] = (random.uniform(-edge, edge, k) / np.log(np.abs(x[:k]).astype(np.float64))).astype(dtype.numpy)
    return [x, y]


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def exact(name: str, given: list[Array]) -> Array:
    """The function in 80-bit long double (erf in mpmath)."""
    wide = [x.astype(np.longdouble) for x in given]
    if name == "erf":
        return _exact_erf(given[0])
    functions: dict[str, Callable[..., Array]] = {"pow": np.power, "sigmoid": _sigmoid}
    function = functions[name] if name in functions else getattr(np, name)
    return function(*wide)


def _exact_erf(x: Array) -> Array:
    mp: Any = pytest.importorskip("mpmath")
    with mp.workprec(90):
        return np.array([_long(mp.erf(mp.mpf(float(v)))) if v == v else np.longdouble(np.nan) for v in x])


def _long(value: Any) -> np.longdouble:
    high = float(value)
    return np.longdouble(high) + np.longdouble(float(value - high)) if np.isfinite(high) else np.longdouble(high)


def ulps(got: Array, want: Array) -> Array:
    """Distances in units of the last place of the exact value."""
    rounded = want.astype(got.dtype)
    unit = np.spacing(np.minimum(np.abs(rounded), np.finfo(got.dtype).max)).astype(np.longdouble)
    error = np.abs(got.astype(np.longdouble) - want) / unit
    error = np.where((got == rounded) & ~np.isfinite(rounded), 0, error)
    error = np.where(np.isnan(got) & np.isnan(want), 0, error)
    return np.where(np.isnan(error), np.inf, error)


@bounded
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here")
def test_errors_stay_in_bounds(name: str, dtype: DType) -> None:
    given = operands(name, dtype, min(POINTS, 100_000) if name == "erf" else POINTS)
    with np.errstate(all="ignore"):
        got, want = run(name, dtype, *given), exact(name, given)
        error = ulps(got, want)
        worst = int(np.argmax(error))
        assert error[worst] <= BOUNDS[name, dtype], (error[worst], [float(x[worst]).hex() for x in given])
        assert not np.any((got == 0) & (want == 0) & (np.signbit(got) != np.signbit(want)))


def specials(dtype: DType) -> Array:
    info = np.finfo(dtype.numpy)
    some = [
        0.0,
        info.smallest_subnormal,
        info.tiny,
        info.tiny * 0.75,
        1e-20,
        0.5,
        1.0,
        1.5,
        2.0,
        3.0,
        88.0,
        1e10,
        info.max,
        np.inf,
    ]
    return np.array([*some, *(-x for x in some), np.nan], dtype.numpy)


@bounded
def test_special_values(name: str, dtype: DType) -> None:
    mp: Any = pytest.importorskip("mpmath")
    some = specials(dtype)
    given = [g.ravel() for g in np.meshgrid(some, some)] if name == "pow" else [some]
    got = run(name, dtype, *given)
    with mp.workprec(2200), np.errstate(all="ignore"):
        for n, y in enumerate(got):
            arguments = [g[n] for g in given]
            want = _special(mp, name, arguments)
            same = bool(want == y and np.signbit(want) == np.signbit(y)) or bool(np.isnan(want) and np.isnan(y))
            error = ulps(np.array([y]), np.array([want]))[0]
            assert same or (want != 0 and error <= BOUNDS[name, dtype]), (arguments, y, want)


def _sigmoid_at(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _special(mp: Any, name: str, arguments: list[Any]) -> np.longdouble:
    """The function's value as a long double; C99's where it is not finite."""
    if name == "pow":
        a, b = (np.array(a, np.longdouble) for a in arguments)
        return np.longdouble(np.power(a, b))
    x = float(arguments[0])
    if x == 0 or not np.isfinite(x):
        at: dict[str, Callable[[float], float]] = {"sigmoid": _sigmoid_at, "erf": np.tanh}
        return np.longdouble(at[name](x) if name in at else getattr(np, name)(x))
    if (name == "log" and x < 0) or (name == "log1p" and x <= -1):
        return np.longdouble(-np.inf if name == "log1p" and x == -1 else np.nan)
    wide = mp.mpf(x)
    return _extended(mp, 1 / (1 + mp.exp(-wide)) if name == "sigmoid" else getattr(mp, name)(wide))


def _extended(mp: Any, value: Any) -> np.longdouble:
    """A long double within a rounding, of any exponent."""
    if value == 0:
        return np.longdouble(0)
    fraction, power = mp.frexp(value)
    with np.errstate(all="ignore"):
        return np.ldexp(_long(fraction), int(max(min(power, 20000), -20000)))


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_angles_of_any_size(dtype: DType) -> None:
    mp: Any = pytest.importorskip("mpmath")
    random = np.random.default_rng(5)
    top = 127.9 if dtype is f32 else 1023.9
    hard = [
        6381956970095103.0 * 2.0**797,
        5319372648326541.0 * 2.0**-52,
        16367173.0 * 2.0**72,
        1e5,
        1e7,
        99999.99,
        10000001.0,
    ]
    with np.errstate(over="ignore"):
        x = np.array(
            [*np.exp2(random.uniform(10, top, 400)), *(h for h in hard if h < np.finfo(dtype.numpy).max)], dtype.numpy
        )
    x = np.concatenate([x, -x])
    with mp.workprec(1300):
        for name in ("sin", "cos"):
            want = np.array([_extended(mp, getattr(mp, name)(mp.mpf(float(v)))) for v in x])
            assert ulps(run(name, dtype, x), want).max() <= BOUNDS[name, dtype]


@named
def test_an_element_has_the_same_bits_in_any_place(name: str, dtype: DType) -> None:
    n = 20_000
    given = [np.concatenate([g, specials(dtype)]) for g in operands(name, dtype, n)]
    whole = bits(run(name, dtype, *given))
    for length in range(1, 41):
        start = (length * 977) % n
        part = [g[start : start + length] for g in given]
        assert np.array_equal(bits(run(name, dtype, *part)), whole[start : start + length]), length


@named
def test_one_lane_has_the_bits_of_sixteen(name: str, dtype: DType) -> None:
    given = [np.concatenate([g, specials(dtype)]) for g in operands(name, dtype, 20_000)]
    narrow = bits(_narrow(name, dtype, *given))
    wide = bits(run(name, dtype, *given))
    different = np.flatnonzero(narrow != wide)
    assert not different.size, [[float(g[i]) for g in given] for i in different[:3]]


def _narrow(name: str, dtype: DType, *given: Array) -> Array:
    """The function by a loop of single elements."""
    builder = vector.VectorBuilder(1)
    builder.label = "loop"
    kind = builder.type_of(dtype)
    values: list[Scalar] = []
    for k in range(len(given)):
        builder.lines.append(f"  %at{k} = getelementptr {kind}, ptr %p{k}, i64 %i")
        values.append(builder.op(f"load {kind}, ptr %at{k}", dtype))
    y = builder.emit(name, tuple(values), dtype)
    parameters = ", ".join(f"ptr %p{k}" for k in range(len(given)))
    lines = [
        *sorted(builder.declarations), *builder.functions.values(), f"define void @narrow({parameters}, ptr %out, i64 %n) {{",
        "entry:", "  br label %loop", "loop:", f"  %i = phi i64 [ 0, %entry ], [ %next, %{builder.label} ]", *builder.lines,
        f"  %to = getelementptr {kind}, ptr %out, i64 %i", f"  store {kind} {y.code}, ptr %to", "  %next = add i64 %i, 1",
        "  %more = icmp ult i64 %next, %n", "  br i1 %more, label %loop, label %exit", "exit:", "  ret void", "}", "",
    ]  # fmt: skip
    library = engine.Library(engine.emit_object("\n".join(lines)))
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(given) + 1), ctypes.c_int64)(library.address("narrow"))
    out = np.empty_like(given[0])
    call(*(g.ctypes.data for g in given), out.ctypes.data, out.size)
    return out


@named
def test_text_leaves_llvm_no_freedom(name: str, dtype: DType) -> None:
    text = elementwise.text(name, dtype, dtype, 2 if name in BINARY else 1)
    assert not FORBIDDEN.search(text)
    assert ("<16 x float>" if dtype is f32 else "<16 x double>") in text


@pytest.mark.parametrize("name", ["floor_divide", "remainder"])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_division_of_floats_is_numpys(name: str, dtype: DType) -> None:
    random, some = np.random.default_rng(3), specials(dtype)
    grid = [g.ravel() for g in np.meshgrid(some, some)]
    small = random.integers(-40, 40, (2, 4000)) * 0.25
    given = operands(name, dtype, POINTS)
    with np.errstate(all="ignore"):
        near = given[0].copy(), np.abs(given[0]) * dtype.numpy.type(0.1)
        for a, b in (grid, small.astype(dtype.numpy), given, near):
            a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
            want, got = getattr(np, name)(a, b), run(name, dtype, a, b)
            different = np.flatnonzero(bits(want) != bits(got))
            assert not different.size, [(a[i], b[i], want[i], got[i]) for i in different[:3]]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers(dtype: DType) -> None:
    info, random = np.iinfo(dtype.numpy), np.random.default_rng(4)
    edges = np.array(
        [info.min, info.max, 0, 1, 2, 3, 7, info.max // 2, *([-1, -2, -7] if info.min else [])], dtype.numpy
    )
    a, b = (g.ravel() for g in np.meshgrid(edges, edges))
    drawn = random.integers(info.min, info.max, (2, 300), dtype=dtype.numpy, endpoint=True)
    small = random.integers(0, 20, (2, 300)).astype(dtype.numpy)
    a, b = np.concatenate([a, drawn[0], small[0], drawn[0]]), np.concatenate([b, drawn[1], small[1], small[1]])
    whole = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    quotients = [_wrapped(x // y, dtype) if y else 0 for x, y in whole]
    assert run("floor_divide", dtype, a, b).tolist() == quotients
    assert run("remainder", dtype, a, b).tolist() == [_wrapped(x % y, dtype) if y else 0 for x, y in whole]
    natural = b >= 0
    a, b = a[natural], b[natural]
    want = [_wrapped(pow(int(x), int(y), 1 << dtype.bits), dtype) for x, y in zip(a, b, strict=True)]
    assert run("pow", dtype, a, b).tolist() == want


def _wrapped(value: int, dtype: DType) -> int:
    value &= (1 << dtype.bits) - 1
    return value - (1 << dtype.bits) if dtype.kind == "i" and value >> (dtype.bits - 1) else value


def samples(dtype: DType) -> Array:
    random = np.random.default_rng(6)
    if dtype is bool_:
        return random.integers(0, 2, 200).astype(np.bool_)
    if dtype.floating:
        return np.concatenate(
            [specials(dtype), points(dtype, 1000), random.integers(-300, 300, 500).astype(dtype.numpy) * 0.5]
        )
    info = np.iinfo(dtype.numpy)
    drawn = random.integers(info.min, info.max, 500, dtype=dtype.numpy, endpoint=True)
    return np.concatenate([np.array([0, 1, info.min, info.max], dtype.numpy), drawn])


def same(got: Array, want: Array) -> bool:
    return np.array_equal(bits(got), bits(want)) if got.dtype.kind == "f" else np.array_equal(got, want)


ALL = [f32, f64, *INTEGERS, bool_]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_arithmetic_and_comparisons(dtype: DType) -> None:
    a = samples(dtype)
    b = np.random.default_rng(7).permutation(a)
    ufuncs: dict[str, Any] = {"add": np.add, "mul": np.multiply}
    if dtype is not bool_:
        ufuncs |= {"sub": np.subtract}
    if dtype.floating:
        ufuncs |= {"div": np.divide}
    else:
        ufuncs |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    with np.errstate(all="ignore"):
        for name, ufunc in ufuncs.items():
            assert same(run(name, dtype, a, b), ufunc(a, b)), name
    relations = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
    for name, ufunc in zip(("eq", "ne", "lt", "le", "gt", "ge"), relations, strict=True):
        assert same(run(name, dtype, a, b, result=bool_), ufunc(a, b)), name
    condition = np.random.default_rng(8).integers(0, 2, a.size).astype(np.bool_)
    assert same(run("select", dtype, condition, a, b), np.where(condition, a, b))


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_functions_of_one(dtype: DType) -> None:
    a = samples(dtype)
    ufuncs: dict[str, Any] = {}
    if dtype is not bool_:
        ufuncs = {"neg": np.negative, "abs": np.absolute}
    if dtype.floating:
        ufuncs |= {"sqrt": np.sqrt, "floor": np.floor, "rint": np.rint}
    else:
        ufuncs |= {"not": np.invert}
    with np.errstate(all="ignore"):
        for name, ufunc in ufuncs.items():
            assert same(run(name, dtype, a), ufunc(a)), name
    assert same(run("is_nan", dtype, a, result=bool_), np.isnan(a))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_shifts(dtype: DType) -> None:
    a = samples(dtype)
    b = (np.arange(a.size) % dtype.bits).astype(dtype.numpy)
    assert same(run("shift_left", dtype, a, b), np.left_shift(a, b))
    assert same(run("shift_right", dtype, a, b), np.right_shift(a, b))


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_conversions(dtype: DType) -> None:
    a = samples(dtype)
    for result in ALL:
        if result is dtype:
            continue
        got = run("convert", dtype, a, result=result)
        with np.errstate(all="ignore"):
            if dtype.floating and result.integer:
                info = np.iinfo(result.numpy)
                want = [0 if x != x else max(min(x, info.max), info.min) for x in a.tolist()]
                assert got.tolist() == [int(x) for x in want], result
            else:
                assert same(got, a.astype(result.numpy)), result


@pytest.mark.parametrize(
    ("source", "result"), [(f32, types.u32), (types.i32, f32), (f64, types.i64), (types.u64, f64)], ids=str
)
def test_bits(source: DType, result: DType) -> None:
    a = samples(source)
    a = a[~np.isnan(a.view(f"f{a.dtype.itemsize}"))]
    assert np.array_equal(run("bits", source, a, result=result), a.view(result.numpy))


def test_constants_are_exact() -> None:
    builder = vector.VectorBuilder(16)
    assert builder.constant(0.1, f32).code == "splat (float 0x3FB99999A0000000)"
    assert builder.constant(1e300, f32).code == "splat (float 0x7FF0000000000000)"
    assert builder.constant(-1, types.u8).code == "splat (i8 -1)"
    assert vector.VectorBuilder(1).constant(float("nan"), f64).code == "0x7FF8000000000000"
    assert vector.VectorBuilder(1).constant(True, bool_).code == "true"


def test_out_may_be_the_operand() -> None:
    x = np.linspace(-3, 3, 1003, dtype=np.float32)
    want = run("tanh", f32, x)
    elementwise.entry("tanh", f32, f32, 1)(x, x)
    assert np.array_equal(x, want)


def test_fused_multiply_add_rounds_once() -> None:
    a, c = np.full(3, 1 + 2.0**-23, np.float32), np.full(3, -1 - 2.0**-22, np.float32)
    assert run("fma", f32, a, a, c).tolist() == [2.0**-46] * 3
