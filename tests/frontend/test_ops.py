"""The ops namespace against NumPy: promotion, broadcasting, products, powers, reductions, shapes, operators."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import ops

from .closeness import check, random


def result_type(function: Callable[..., Any], *types: tp.TensorType, dtype: Any = tp.f32) -> str:
    """The type of a traced function's result, as text."""
    module = tp.trace(function, *types, dtype=dtype)
    return str(next(iter(module)).results[0].type)


# Promotion

PROMOTION = [
    ("f32 + f32", operator.add, (tp.f32[2], tp.f32[2]), "f32[2]"),
    ("f32 + f64", operator.add, (tp.f32[2], tp.f64[2]), "f64[2]"),
    ("i64 + f32", operator.add, (tp.i64[2], tp.f32[2]), "f32[2]"),
    ("i64 + f64", operator.add, (tp.i64[2], tp.f64[2]), "f64[2]"),
    ("i8 + f32", operator.add, (tp.i8[2], tp.f32[2]), "f32[2]"),
    ("i32 + i64", operator.add, (tp.i32[2], tp.i64[2]), "i64[2]"),
    ("i8 + u8", operator.add, (tp.i8[2], tp.u8[2]), "i16[2]"),
    ("bool + i32", operator.add, (tp.bool_[2], tp.i32[2]), "i32[2]"),
    ("bool + f32", operator.add, (tp.bool_[2], tp.f32[2]), "f32[2]"),
    ("i32 / i32", operator.truediv, (tp.i32[2], tp.i32[2]), "f32[2]"),
    ("i32 // i32", operator.floordiv, (tp.i32[2], tp.i32[2]), "i32[2]"),
    ("i32 % i32", operator.mod, (tp.i32[2], tp.i32[2]), "i32[2]"),
    ("f64 / f64", operator.truediv, (tp.f64[2], tp.f64[2]), "f64[2]"),
    ("i64 < f32", operator.lt, (tp.i64[2], tp.f32[2]), "bool[2]"),
    ("bool & bool", operator.and_, (tp.bool_[2], tp.bool_[2]), "bool[2]"),
    ("i32 | i64", operator.or_, (tp.i32[2], tp.i64[2]), "i64[2]"),
    ("f32 @ f64", operator.matmul, (tp.f32[2, 3], tp.f64[3, 2]), "f64[2, 2]"),
    ("broadcast", operator.add, (tp.f32[3, 1], tp.f32[4]), "f32[3, 4]"),
    ("broadcast a scalar", operator.mul, (tp.f32[()], tp.i64[2, 2]), "f32[2, 2]"),
]


@pytest.mark.parametrize(("function", "types", "expected"), [c[1:] for c in PROMOTION], ids=[c[0] for c in PROMOTION])
def test_promotion_of_tensors(function: Any, types: Any, expected: str) -> None:
    assert result_type(function, *types) == expected


WEAK: list[tuple[str, Callable[[Any], Any], tp.TensorType, str]] = [
    ("f32 + 1", lambda x: x + 1, tp.f32[2], "f32[2]"),
    ("f32 + 1.5", lambda x: x + 1.5, tp.f32[2], "f32[2]"),
    ("f64 + 1.5", lambda x: x + 1.5, tp.f64[2], "f64[2]"),
    ("f32 + True", lambda x: x + True, tp.f32[2], "f32[2]"),
    ("1.5 * f32", lambda x: 1.5 * x, tp.f32[2], "f32[2]"),
    ("f32 + np.float64", lambda x: x + np.float64(1.5), tp.f32[2], "f32[2]"),
    ("np.float64 * f32", lambda x: np.float64(1.5) * x, tp.f32[2], "f32[2]"),
    ("f64 + np.float32", lambda x: x + np.float32(1.5), tp.f64[2], "f64[2]"),
    ("i32 + 1", lambda x: x + 1, tp.i32[2], "i32[2]"),
    ("i8 + np.int64", lambda x: x + np.int64(1), tp.i8[2], "i8[2]"),
    ("i32 + True", lambda x: x + True, tp.i32[2], "i32[2]"),
    ("bool + 1", lambda x: x + 1, tp.bool_[2], "i64[2]"),
    ("where(bool, 1.0, f64)", lambda x: ops.where(x > 0, 1.0, x), tp.f64[2], "f64[2]"),
    ("clip(i32, 0, 3)", lambda x: ops.clip(x, 0, 3), tp.i32[2], "i32[2]"),
    ("maximum(f32, 0)", lambda x: ops.maximum(x, 0), tp.f32[2], "f32[2]"),
    ("sum(bool)", ops.sum, tp.bool_[2], "i64[]"),
    ("sum(u16)", ops.sum, tp.u16[2], "u64[]"),
    ("sum(i32)", ops.sum, tp.i32[2], "i64[]"),
    ("argmax", ops.argmax, tp.f32[2], "i64[]"),
    ("2 - u8", lambda x: 2 - x, tp.u8[2], "u8[2]"),
]


@pytest.mark.parametrize(("function", "type_", "expected"), [c[1:] for c in WEAK], ids=[c[0] for c in WEAK])
def test_python_numbers_are_weak(function: Any, type_: tp.TensorType, expected: str) -> None:
    assert result_type(function, type_, dtype=tp.f64 if type_.dtype is tp.f64 else tp.f32) == expected
    assert result_type(function, type_, dtype=tp.f32) == expected, "a tensor's own dtype wins over the frame's"


FRAME_DTYPE: list[tuple[str, Callable[[Any], Any], tp.TensorType]] = [
    ("i64 + 1.5", lambda x: x + 1.5, tp.i64[2]),
    ("bool * 2.0", lambda x: x * 2.0, tp.bool_[2]),
    ("i64 / 2", lambda x: x / 2, tp.i64[2]),
    ("i64 / i64", lambda x: x / x, tp.i64[2]),
    ("mean(i64)", lambda x: ops.mean(x, 0, keepdims=True) + ops.zeros(2), tp.i64[2]),
    ("exp(i64)", ops.exp, tp.i64[2]),
    ("i64 ** 0.5", lambda x: x**0.5, tp.i64[2]),
    ("i64 + f64 array", lambda x: x + np.array([0.5, 1.5]), tp.i64[2]),
    ("zeros", lambda x: ops.zeros(2), tp.i64[2]),
    ("where(c, 1.0, 0.0)", lambda x: ops.where(x > 0, 1.0, 0.0), tp.i64[2]),
    ("one_hot", lambda x: ops.one_hot(x[0], 2), tp.i64[2]),
    ("softmax(i64)", ops.softmax, tp.i64[2]),
]


@pytest.mark.parametrize(("function", "type_"), [c[1:] for c in FRAME_DTYPE], ids=[c[0] for c in FRAME_DTYPE])
def test_integers_with_python_floats_take_the_frames_dtype(function: Any, type_: tp.TensorType) -> None:
    assert result_type(function, type_) == "f32[2]", "float32 in a plain trace"
    assert result_type(function, type_, dtype=tp.f64) == "f64[2]"


def test_floating_arrays_met_in_a_function_take_the_frames_dtype() -> None:
    constant = np.array([0.1, 0.2])
    assert result_type(lambda x: x + constant, tp.f32[2]) == "f32[2]"
    assert result_type(lambda x: constant * x, tp.f32[2]) == "f32[2]"
    assert result_type(lambda x: x + constant.astype(np.float32), tp.f64[2], dtype=tp.f64) == "f64[2]"
    assert result_type(lambda x: x + np.array([1, 2], np.int32), tp.i32[2]) == "i32[2]"


def test_integers_without_a_common_dtype_are_refused() -> None:
    with pytest.raises(tp.DtypeError, match="astype"):
        tp.trace(operator.add, tp.i64[2], tp.u64[2])


@pytest.mark.parametrize("function", [operator.add, ops.matmul, ops.where], ids=["add", "matmul", "where"])
def test_shapes_that_do_not_fit_name_the_users_line(function: Any) -> None:
    arguments = (True,) if function is ops.where else ()
    with pytest.raises(tp.ShapeError) as caught:
        tp.trace(lambda x, y: function(*arguments, x, y), tp.f32[3, 4], tp.f32[3, 5])
    text = str(caught.value)
    assert "test_ops.py:" in text
    assert "function(*arguments, x, y)" in text
    assert "f32[3, 4]" in text
    assert "f32[3, 5]" in text
    assert "rule:" in text


# Elementwise

ELEMENTWISE: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    ("add", ops.add, np.add),
    ("subtract", ops.subtract, np.subtract),
    ("multiply", ops.multiply, np.multiply),
    ("divide", ops.divide, np.divide),
    ("floor_divide", ops.floor_divide, np.floor_divide),
    ("remainder", ops.remainder, np.remainder),
    ("maximum", ops.maximum, np.maximum),
    ("minimum", ops.minimum, np.minimum),
    ("equal", ops.equal, np.equal),
    ("not_equal", ops.not_equal, np.not_equal),
    ("less", ops.less, np.less),
    ("less_equal", ops.less_equal, np.less_equal),
    ("greater", ops.greater, np.greater),
    ("greater_equal", ops.greater_equal, np.greater_equal),
    ("logical_and", ops.logical_and, np.logical_and),
    ("logical_or", ops.logical_or, np.logical_or),
    ("logical_xor", ops.logical_xor, np.logical_xor),
]


@pytest.mark.parametrize(("function", "reference"), [c[1:] for c in ELEMENTWISE], ids=[c[0] for c in ELEMENTWISE])
def test_two_operands(function: Any, reference: Any) -> None:
    a, b = random(3, 1, 4), random(5, 1, seed=1)
    check(function(a, b), reference(a, b))
    check(function(a, a.copy()), reference(a, a))
    check(function(a, 2.0), reference(a, 2.0))
    check(function(2.0, a), reference(2.0, a))
    m, n = np.arange(-6, 6).reshape(3, 4), np.array([3, -2, 5, 1])
    if function is not ops.divide:
        check(function(m, n), reference(m, n))


UNARY: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    (name, getattr(ops, name), getattr(np, name))
    for name in (
        *("negative", "abs", "sign", "floor", "ceil", "round", "square", "sqrt", "exp", "expm1"),
        *("log", "log1p", "tanh", "sin", "cos", "isnan", "isinf", "isfinite"),
    )
]


@pytest.mark.parametrize(("function", "reference"), [c[1:] for c in UNARY], ids=[c[0] for c in UNARY])
def test_one_operand(function: Any, reference: Any) -> None:
    x = np.abs(random(3, 4)) * 3 + 0.1
    check(function(x), reference(x))
    with np.errstate(all="ignore"):
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.5, -0.5, -2.5])
        check(function(special), reference(special))


def test_one_operand_of_integers() -> None:
    m = np.arange(-3, 4)
    for function, reference in ((ops.negative, np.negative), (ops.abs, np.abs), (ops.sign, np.sign)):
        check(function(m), reference(m))
    for function in (ops.floor, ops.ceil, ops.round):
        check(function(m), m)
    check(ops.bitwise_invert(m), ~m)
    check(ops.bitwise_left_shift(m, 2), m << 2)
    check(ops.bitwise_right_shift(m, 1), m >> 1)
    check(ops.logical_not(m), np.logical_not(m))


def test_functions_of_neural_networks() -> None:
    x = random(4, 5)
    check(ops.sigmoid(x), 1 / (1 + np.exp(-x)))
    check(ops.silu(x), x / (1 + np.exp(-x)))
    check(ops.softplus(x), np.log1p(np.exp(x)))
    check(ops.rsqrt(np.abs(x)), 1 / np.sqrt(np.abs(x)))
    check(ops.softmax(x, axis=0), np.exp(x) / np.exp(x).sum(0))
    check(ops.log_softmax(x), x - np.log(np.exp(x).sum(-1, keepdims=True)))
    check(ops.one_hot(np.array([2, 0, 5]), 3, dtype="f64"), np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], np.float64))
    relu = ops.relu(np.array([-1.0, -0.0, 2.0, np.nan]))
    np.testing.assert_array_equal(relu, [0, 0, 2, np.nan])
    assert not np.signbit(relu[:2]).any(), "relu is where(x <= 0, 0, x)"


def test_maximum_and_minimum_of_nan_and_signed_zero() -> None:
    a, b = np.array([np.nan, 1.0, 0.0, -0.0]), np.array([1.0, np.nan, -0.0, 0.0])
    np.testing.assert_array_equal(ops.maximum(a, b), [np.nan, np.nan, 0, 0])
    assert np.signbit(ops.maximum(a, b)[2:]).tolist() == [False, True], "where(a >= b or isnan(a), a, b)"
    np.testing.assert_array_equal(ops.minimum(a, b), [np.nan, np.nan, 0, 0])


def test_integer_division_by_zero_raises_with_the_users_line() -> None:
    for function in (operator.floordiv, operator.mod):
        with pytest.raises(ZeroDivisionError, match=r"test_ops\.py"):
            tp.compile(lambda x, y, f=function: f(x, y))(np.array([1, 2]), np.array([1, 0]))


def test_casts_saturate_and_nan_gives_zero() -> None:
    x = np.array([1e30, -1e30, np.nan, 2.9, -2.9, 300.0])
    assert np.asarray(ops.astype(x, "i32")).tolist() == [2**31 - 1, -(2**31), 0, 2, -2, 300]
    assert np.asarray(ops.astype(x, tp.u8)).tolist() == [255, 0, 0, 2, 0, 255]
    assert np.asarray(ops.astype(np.array([0, 3]), "bool")).tolist() == [False, True]


def test_shifts_are_modulo_the_width() -> None:
    x = np.array([1, 1, 1], np.int32)
    assert np.asarray(ops.bitwise_left_shift(x, np.array([0, 33, 31], np.int32))).tolist() == [1, 2, -(2**31)]


def test_where_broadcasts() -> None:
    c, x, y = random(3, 1) > 0, random(4), random(2, 1, 1)
    check(ops.where(c, x, y), np.where(c, x, y))
    check(ops.where(c, x, 0.0), np.where(c, x, 0.0))
    check(ops.where(c, 1, np.array([2])), np.where(c, 1, np.array([2])))
    check(ops.where(np.array([0.0, 2.0]), 1.0, x[:1]), np.where([False, True], 1.0, x[:1]))


def test_clip() -> None:
    x = random(3, 4)
    check(ops.clip(x, -0.5, 0.5), np.clip(x, -0.5, 0.5))
    check(ops.clip(x, max=0.0), np.minimum(x, 0.0))
    check(ops.clip(x, min=x[:1]), np.maximum(x, x[:1]))
    check(ops.clip(x), x)
    check(ops.clip(np.arange(5), 1, 3), np.clip(np.arange(5), 1, 3))
    assert np.isnan(ops.clip(np.array([np.nan]), 0.0, 1.0)).all()


# Powers


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, 1.0, 2.0, 4, -2, 1.5, np.float64(2)])
def test_powers_of_floats(exponent: float) -> None:
    x = np.array([0.25, 1.0, 3.5, 100.0])
    check(ops.pow(x, exponent), x**exponent)
    negative = -x[:3]
    with np.errstate(all="ignore"):
        check(ops.pow(negative, exponent), negative**exponent)


@pytest.mark.parametrize(
    ("exponent", "wanted"),
    [
        (0.5, {"sqrt"}),
        (1, set[str]()),
        (2, {"mul"}),
        (3, {"mul"}),
        (-1, {"constant", "div"}),
        (2.5, {"constant", "pow"}),
    ],
)
def test_special_exponents_become_products(exponent: float, wanted: set[str]) -> None:
    function = next(iter(tp.trace(lambda x: x**exponent, tp.f32[3])))
    assert {i.op.name for i in function.instructions} == wanted


@pytest.mark.parametrize("exponent", [1, 2, 3, 4, 0])
def test_integers_to_an_integer_power_are_integers(exponent: int) -> None:
    m = np.array([-2, 1, 3])
    check(ops.pow(m, exponent), m**exponent)


def test_integer_tensors_to_integer_powers() -> None:
    check(ops.pow(np.array([2, 3]), np.array([3, 2])), np.array([8, 9]))
    check(ops.pow(2, np.array([3, 2])), np.array([8, 4]))


def test_powers_of_tensors() -> None:
    x, y = np.abs(random(3, 1)), random(4)
    check(ops.pow(x, y), x**y)
    check(ops.pow(2.0, y), 2.0**y)


# Products

MATMUL = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)),
    ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((0, 3), (3, 4)),
    ((2, 0), (0, 4)), ((5, 0, 3), (3, 4)), ((2, 3), (3, 0)), ((7, 6, 2, 3), (3, 4)), ((6, 2, 3), (7, 1, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), MATMUL, ids=str)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = random(*left), random(*right, seed=1)
    check(ops.matmul(a, b), a @ b)
    check(tp.compile(operator.matmul)(a, b), a @ b)
    if a.ndim > 1 and b.ndim > 1:
        flipped: Any = tp.compile(lambda x, y: x.mT @ y.mT)
        check(flipped(np.swapaxes(a, -1, -2), np.swapaxes(b, -1, -2)), a @ b)


def test_matmul_of_integers_and_refusals() -> None:
    m = np.arange(6).reshape(2, 3)
    check(ops.matmul(m, m.T), m @ m.T)
    for a, b in ((random(2, 3), random(2, 3)), (random(2), random(3)), (random(2, 2, 3), random(3, 3, 4))):
        with pytest.raises(tp.ShapeError):
            ops.matmul(a, b)
    with pytest.raises(tp.ShapeError, match="scalar"):
        ops.matmul(random(2), np.array(2.0))


@pytest.mark.parametrize("lead", [(), (2,), (2, 5), (0,), (2, 0), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(lead: tuple[int, ...], bias: bool) -> None:
    x, w, b = random(*lead, 3), random(4, 3, seed=1), random(4, seed=2)
    expected = x @ w.T
    check(ops.linear(x, w, b) if bias else ops.linear(x, w), expected + b if bias else expected)
    check(tp.compile(ops.linear)(x, w), expected)


# Reductions


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (-1, 0), ()], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(axis: Any, keepdims: bool) -> None:
    x = random(3, 4, 5)
    for name in ("sum", "mean", "max", "min", "var", "std"):
        check(getattr(ops, name)(x, axis, keepdims=keepdims), getattr(np, name)(x, axis, keepdims=keepdims), rtol=1e-11)
    for correction in (1, 0.5):
        expected = np.var(x, axis, ddof=correction, keepdims=keepdims) if axis != () else None
        if expected is not None:
            check(ops.var(x, axis, correction=correction, keepdims=keepdims), expected, rtol=1e-11)
            check(ops.std(x, axis, correction=correction, keepdims=keepdims), np.sqrt(expected), rtol=1e-11)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_positions_of_extremes(axis: int | None, keepdims: bool) -> None:
    ties = np.array([[1.0, 3.0, 3.0, -2.0], [1.0, -2.0, 3.0, -2.0], [0.0, -0.0, np.inf, -np.inf]])
    for x in (ties, np.array([[3, 1, 1], [-(2**63), 2**63 - 1, 0]]), np.array([[0, 255], [7, 0]], np.uint8), ties > 0):
        check(ops.argmax(x, axis, keepdims), np.argmax(x, axis, keepdims=keepdims))
        check(ops.argmin(x, axis, keepdims), np.argmin(x, axis, keepdims=keepdims))


def test_the_first_nan_is_an_extreme() -> None:
    x = np.array([2.0, np.nan, 1.0, np.nan])
    assert ops.argmax(x) == ops.argmin(x) == 1
    assert np.isnan(ops.max(x))
    assert np.isnan(ops.min(x))


def test_reductions_of_integers_and_bools() -> None:
    m = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert np.asarray(ops.sum(m)).tolist() == 15
    check(ops.sum(m > 2, 0), (m > 2).sum(0))
    check(ops.mean(m, 1), m.mean(1).astype(np.float32))
    check(ops.max(m, 0), m.max(0))
    with pytest.raises(tp.ShapeError, match="axis"):
        ops.sum(m, 2)


# Shapes


def test_shapes() -> None:
    x = random(2, 3, 4)
    check(ops.reshape(x, (4, -1)), x.reshape(4, -1))
    check(ops.reshape(x, 24), x.reshape(24))
    check(ops.permute_dims(x, (2, 0, 1)), x.transpose(2, 0, 1))
    check(ops.permute_dims(x, (-1, 0, 1)), x.transpose(-1, 0, 1))
    check(ops.matrix_transpose(x), x.swapaxes(1, 2))
    check(ops.broadcast_to(x[:, :1], (5, 2, 3, 4)), np.broadcast_to(x[:, :1], (5, 2, 3, 4)))
    for axis in (0, 1, -1, 3):
        check(ops.expand_dims(x, axis), np.expand_dims(x, axis))
    check(ops.squeeze(x[:1, :, :1]), x[:1, :, :1].squeeze())
    check(ops.squeeze(x[:1, :, :1], -1), x[:1, :, :1].squeeze(-1))
    for axis in (None, 0, (0, -1)):
        check(ops.flip(x, axis), np.flip(x, axis))
    for bad in (lambda: ops.reshape(x, (5, -1)), lambda: ops.reshape(x, (-1, -1)), lambda: ops.squeeze(x, 0)):
        with pytest.raises(tp.ShapeError, match="rule:"):
            bad()


def test_joins() -> None:
    a, b = random(2, 3), random(4, 3)
    check(ops.concat([a, b]), np.concatenate([a, b]))
    check(ops.concat([a, a * 2, a], axis=-1), np.concatenate([a, a * 2, a], -1))
    check(ops.concat([a[:0], b]), b)
    for axis in (0, 1, 2, -1):
        check(ops.stack([a, a * 2], axis), np.stack([a, a * 2], axis))
    check(ops.concat([a.astype(np.float32), b]), np.concatenate([a.astype(np.float32), b]), rtol=1e-6)
    with pytest.raises(tp.ShapeError):
        ops.concat([a, b], axis=1)
    with pytest.raises(tp.ShapeError):
        ops.concat([])


@pytest.mark.parametrize(
    ("sections", "axis"), [(2, 0), (3, 1), ([1, 3], 0), ([0, 2, 4], 0), ([1], -1), ([2, 9], 0)], ids=str
)
def test_split(sections: Any, axis: int) -> None:
    x = random(4, 3)
    parts = ops.split(x, sections, axis)
    expected = np.split(x, sections, axis)
    assert len(parts) == len(expected)
    for part, wanted in zip(parts, expected, strict=True):
        check(part, wanted)


def test_split_into_unequal_sections_is_refused() -> None:
    with pytest.raises(tp.ShapeError, match="equal sections"):
        ops.split(random(4, 3), 3)


@pytest.mark.parametrize("width", [1, (1, 2), ((0, 1), (2, 0)), ((1, 1),), 0], ids=str)
@pytest.mark.parametrize("value", [0, 1.5, -np.inf])
def test_pad(width: Any, value: float) -> None:
    x = random(2, 3)
    check(ops.pad(x, width, constant_values=value), np.pad(x, width, constant_values=value))


def test_creation() -> None:
    check(ops.zeros((2, 3), "f64"), np.zeros((2, 3)))
    check(ops.ones(3), np.ones(3, np.float32))
    check(ops.full((2,), 7), np.full(2, 7))
    check(ops.full((2,), 0.5, "f64"), np.full(2, 0.5))
    check(ops.zeros_like(np.arange(3)), np.zeros(3, np.int64))
    check(ops.ones_like(random(2)), np.ones(2))
    check(ops.arange(5), np.arange(5))
    check(ops.arange(2, 9, 3), np.arange(2, 9, 3))
    check(ops.arange(5, 0, -2), np.arange(5, 0, -2))
    check(ops.arange(0, 1, 0.25, dtype="f64"), np.arange(0, 1, 0.25))
    check(ops.arange(3, 3), np.arange(3, 3))


def test_calls_outside_every_frame_take_and_return_arrays() -> None:
    x = random(2, 3)
    for result in (ops.exp(x), ops.add(x, 1), ops.sum(x), ops.split(x, 2)[0], ops.full(2, 1.0), ops.sum([1.0, 2.0])):
        assert type(result) is np.ndarray
    result = ops.reshape(x, (6,))
    result[...] = 0
    assert x.all(), "a result shares no memory with an operand"
    check(ops.add([1.0, 2.0], 1), np.array([2, 3], np.float32))


# Operators of tensors

OPERATORS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("+", operator.add), ("-", operator.sub), ("*", operator.mul), ("/", operator.truediv), ("//", operator.floordiv),
    ("%", operator.mod), ("**", lambda a, b: abs(a) ** b), ("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge),
    ("==", operator.eq), ("!=", operator.ne), ("neg", lambda a, b: -a + b), ("abs", lambda a, b: abs(a) - b), ("pos", lambda a, b: +a),
    ("T", lambda a, b: a.T), ("sum", lambda a, b: a.sum(1, keepdims=True)), ("mean", lambda a, b: a.mean(0)),
    ("reshape", lambda a, b: a.reshape(4, -1)), ("reshape tuple", lambda a, b: a.reshape((2, 6))), ("iter", lambda a, b: [*a][1]),
    ("left array", lambda a, b: np.ones((3, 4)) - a if not isinstance(a, np.ndarray) else 1 - a),
    ("right array", lambda a, b: a - np.ones((3, 4))), ("left number", lambda a, b: 2 / abs(a)), ("r//", lambda a, b: 7 // b),
    ("r%", lambda a, b: 7 % b), ("r**", lambda a, b: 2.0**b), ("len", lambda a, b: a * len(a)),
]  # fmt: skip


@pytest.mark.parametrize("function", [c[1] for c in OPERATORS], ids=[c[0] for c in OPERATORS])
def test_operators(function: Any) -> None:
    a, b = random(3, 4), random(4, seed=1)
    check(tp.compile(function)(a, b), function(a, b))
    check(tp.compile(function, backend="eager")(a, b), function(a, b))


def test_operators_of_integers() -> None:
    a, b = np.array([5, -6, 7]), np.array([3, 2, 1])
    for function in (operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift):
        check(tp.compile(function)(a, b), function(a, b))
    check(tp.compile(lambda x: ~x)(a), ~a)
    check(tp.compile(lambda x: 3 & x | 8 ^ x)(a), 3 & a | 8 ^ a)


def test_attributes_of_tensors() -> None:
    seen: list[Any] = []

    def f(x: tp.Tensor) -> tp.Tensor:
        seen.extend([x.shape, x.dtype, x.ndim, x.size, len(x)])
        return x.astype("i32").named("whole")

    text = str(tp.trace(f, tp.f32[2, 3]))
    assert seen == [(2, 3), tp.f32, 2, 6, 2]
    assert "%whole = cast %x" in text
    with pytest.raises(TypeError, match="0-d"):
        tp.trace(len, tp.f32[()])


def test_tensors_are_not_assigned_into() -> None:
    def f(x: Any) -> Any:
        x[0] = 1
        return x

    with pytest.raises(TypeError, match=r"ops\.where"):
        tp.trace(f, tp.f32[2])


def test_what_cannot_enter_a_program_is_refused() -> None:
    for bad in ("text", object(), {}, np.array(["a"]), np.array([1 + 2j])):
        with pytest.raises(TypeError, match="cannot enter a program"):
            tp.trace(lambda x, b=bad: ops.add(x, b), tp.f32[2])


def test_what_is_not_there_yet_is_absent() -> None:
    for name in ("vmap", "scan", "cond", "checkpoint", "custom_vjp"):
        assert not hasattr(tp, name)
        assert not hasattr(ops, name)


def test_many_classes_with_narrow_labels_do_not_wrap() -> None:
    labels = np.array([0, 44, 255], np.uint8)
    np.testing.assert_array_equal(ops.one_hot(labels, 300), np.eye(300)[labels])
    logits = random(3, 300)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(300)[labels]
    got = tp.grad(lambda x: ops.cross_entropy(x, ops.stop_gradient(labels)))(logits)
    np.testing.assert_allclose(got, expected / 3, rtol=1e-10, atol=1e-15)
