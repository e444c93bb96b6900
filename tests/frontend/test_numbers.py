"""Numbers that become elements: each place where a Python or NumPy number meets a dtype refuses what the dtype does not hold."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapeir as tp
from tapeir import nn, ops
from tapeir.ir.literal import Literal, misfit
from tapeir.ir.types import DTYPES, DType, f16, f32, i8, u64

PLACES: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, n: x + n,
    "subtract from": lambda x, n: n - x,
    "multiply": lambda x, n: x * n,
    "divide": lambda x, n: ops.floor_divide(x, n),
    "compare": lambda x, n: x < n,
    "equal": lambda x, n: x == n,
    "maximum": lambda x, n: ops.maximum(x, n),
    "minimum": lambda x, n: ops.minimum(n, x),
    "clip": lambda x, n: ops.clip(x, None, n),
    "where, first": lambda x, n: ops.where(x > 0, n, x),
    "where, second": lambda x, n: ops.where(x > 0, x, n),
    "pad": lambda x, n: ops.pad(x, 1, constant_values=n),
    "full": lambda x, n: ops.full((2,), n, dtype=x.dtype),
}


@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("dtype", "number", "rule"),
    [
        ("int8", 300, "i8 holds whole numbers from -128 to 127"),
        ("int8", np.int64(-129), "i8 holds whole numbers from -128 to 127"),
        ("uint8", -1, "u8 holds whole numbers from 0 to 255"),
        ("int64", 1 << 70, "i64 holds whole numbers from -9223372036854775808"),
        ("float32", 1e300, "the largest number of f32 is 3.4028e[+]38"),
        ("float32", 10**400, "the largest number of f32"),
    ],
    ids=str,
)
def test_a_number_that_the_dtype_does_not_hold(place: str, backend: str, dtype: str, number: Any, rule: str) -> None:
    x = np.ones(3, dtype)
    with pytest.raises(
        tp.DtypeError, match=rf"(?s)test_numbers\.py:\d+.*does not fit .*rule: {rule}.*remedy: "
    ) as caught:
        tp.compile(lambda x: PLACES[place](x, number), backend=backend)(x)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert all(f.filename == __file__ for f in frames), frames


FOREIGN: dict[str, Callable[[], Any]] = {
    "a fraction in padding": lambda: ops.pad(np.ones(3, np.int8), 1, constant_values=0.5),
    "NaN in padding": lambda: ops.pad(np.ones(3, np.int8), 1, constant_values=float("nan")),
    "2 in bools": lambda: ops.pad(np.ones(3, np.bool_), 1, constant_values=2),
    "an infinity of integers": lambda: ops.full(3, float("inf"), dtype="i64"),
    "a full tensor of bools": lambda: ops.full(3, 2, dtype="bool"),
    "a full tensor without a dtype": lambda: ops.full(3, 1 << 63),
    "a number alone": lambda: ops.sum(1 << 63),
    "the end of a range": lambda: ops.arange(300, dtype="i8"),
    "the begin of a range": lambda: ops.arange(-3, 3, dtype="u8"),
    "a range of fractions": lambda: ops.arange(0, 1, 0.25, dtype="i32"),
    "a buffer": lambda: nn.Buffer((), 0.5, dtype="i64"),
    "a large buffer": lambda: nn.Buffer((2,), 300, dtype="i8"),
    "an argument of a compiled function": lambda: tp.compile(lambda x, n: x * n)(np.ones(3, np.float32), 1e300),
    "an integer argument of one": lambda: tp.compile(lambda n: n + 1)(1 << 63),
    "a cotangent": lambda: tp.vjp(lambda x: ops.sum(x), np.ones(3, np.float32))[1](1e300),
    "a number in a builder": lambda: tp.ir.Builder(tp.ir.GraphBuilder()).splat(300, i8[2]),
    "a literal": lambda: Literal.splat(1.5, i8[2]),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_places(name: str) -> None:
    with pytest.raises(tp.DtypeError, match=r"(?s)does not fit.*rule: .*remedy: "):
        FOREIGN[name]()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("300} : i8[]", "300 is outside i8; i8 holds whole numbers from -128 to 127"),
        ("1e300} : f32[]", "1e300 is outside f32; the largest"),
    ],
)
def test_a_constant_in_text(text: str, words: str) -> None:
    with pytest.raises(tp.ParseError, match=words):
        tp.parse(f"module @m {{\n  func @f() -> () {{\n    %0 = constant {{value = {text}\n    return\n  }}\n}}\n")


class Drawn(nn.Module):
    def __init__(self) -> None:
        self.seen = nn.Buffer((3,), nn.init.Normal(), dtype="i64")

    def forward(self, x: Any) -> Any:
        return x


class Exact(nn.Module):
    def __init__(self) -> None:
        self.large = nn.Buffer((), (1 << 60) + 1, dtype="i64")
        self.larger = nn.Buffer((2,), 1 << 63, dtype="u64")
        self.flag = nn.Buffer((), True, dtype="bool")
        self.half = nn.Buffer((), 0.5)

    def forward(self, x: Any) -> Any:
        return x


def test_the_first_state_of_integers() -> None:
    with pytest.raises(tp.DtypeError, match=r"the initialiser of seen: .* does not fit i64"):
        tp.Runtime(Drawn())
    buffers = tp.Runtime(Exact()).buffers
    assert (int(buffers["large"]), buffers["larger"].tolist()) == ((1 << 60) + 1, [1 << 63] * 2)
    assert (bool(buffers["flag"]), float(buffers["half"])) == (True, 0.5)


@given(
    st.sampled_from([d for d in DTYPES.values() if d.kind in "iu"]),
    st.integers(-(1 << 70), 1 << 70) | st.integers(-300, 300) | st.floats() | st.integers(-300, 300).map(float),
)
def test_an_integer_dtype_holds_what_numpy_gives_back(dtype: DType, number: Any) -> None:
    info = np.iinfo(dtype.numpy)
    whole = np.isfinite(float(number)) and number == int(number)
    holds = whole and int(info.min) <= int(number) <= int(info.max)
    assert (misfit(number, dtype) is None) == holds
    if holds:
        assert Literal.splat(number, dtype[()]).scalar == number


@given(st.sampled_from([d for d in DTYPES.values() if d.floating]), st.floats() | st.integers(-(1 << 1100), 1 << 1100))
def test_a_floating_dtype_holds_what_stays_finite(dtype: DType, number: Any) -> None:
    largest = float(ml_dtypes.finfo(dtype.numpy).max)
    if misfit(number, dtype) is not None:
        assert abs(number) > largest
        assert np.isfinite(number) if isinstance(number, float) else True
    else:
        with np.errstate(over="ignore"):
            rounded = Literal.splat(number, dtype[()]).data
        assert np.isfinite(rounded.astype(np.float64)) == np.isfinite(float(number))


def test_what_rounds_to_the_largest_number_is_held() -> None:
    largest = np.finfo(np.float32).max
    assert Literal.splat(float(largest) * (1 + 2.0**-26), f32[()]).scalar == largest
    assert misfit(65519.9, f16) is None
    assert misfit(65520.0, f16) == "the largest number of f16 is 65504"
    assert Literal.splat((1 << 64) - 1, u64[()]).scalar == (1 << 64) - 1
