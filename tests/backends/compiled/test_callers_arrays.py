"""Large inputs are read and large results written where the caller has them, with the results of copies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import ops
from tapeir.backends import kernels
from tapeir.backends.base import Executable, compile_module, get
from tapeir.ir.types import Array

pytestmark = pytest.mark.usefixtures("table")
SIZE = (96, 128)  # 48 KB in float32


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape or SIZE).astype(np.float32)


def rule(p: Any, g: Any, m: Any) -> Any:
    m = m * 0.9 + g * 0.1
    return p - 0.1 * m, m


def softmax(x: Any) -> Any:
    return ops.softmax(x)


def pair(f: Callable[..., Any], *arrays: Array) -> tuple[Any, list[Array]]:
    """The compiled program, and what the tape's kernels give for the arrays."""
    expected: Any = tp.compile(f, backend="eager").executable(*arrays)(*[a.copy() for a in arrays])
    program = tp.compile(f, backend="compiled").executable(*arrays)
    return program, list(expected) if isinstance(expected, tuple) else [expected]  # type: ignore[reportUnknownArgumentType]


def sum_and_total(x: Any, y: Any) -> Any:
    return x + y, ops.sum(x)


def tanh_and_one(x: Any) -> Any:
    return ops.tanh(x) + 1.0


def flipped(x: Any) -> Any:
    return ops.flip(x, axis=0)


def product(x: Any) -> Any:
    return ops.matmul(x, ops.matrix_transpose(x)) @ x


def with_itself(x: Any) -> Any:
    return x, x.reshape((128, 96)), ops.exp(x)


def softmax_and_one(x: Any) -> Any:
    return softmax(x) + 1.0


def places(program: Any) -> list[str | None]:
    f = program.function
    return [v.place.kind if v.place else None for v in (*f.arguments, *f.results)]


def test_only_large_values_lie_at_the_caller() -> None:
    program, _ = pair(sum_and_total, normal(0), normal(1, 128))
    assert places(program) == ["caller", "arena", "caller", "arena"]
    text = str(program.module)
    assert tp.ir.parse(text).verify() == program.module


def test_no_memory_is_planned_for_them() -> None:
    program, _ = pair(tanh_and_one, normal(0))
    if kernels.table().name == "native":
        assert program.memory < 4096


def test_results_go_into_the_given_arrays(table: str) -> None:
    program, (expected,) = pair(softmax, normal(0))
    out = np.empty(SIZE, np.float32)
    assert program(normal(0), out=[out]) is out
    assert same_bits(out, expected)
    out[...] = 0
    again = program(normal(0))
    assert again is not out
    assert same_bits(again, expected)
    assert not out.any(), "a later call does not touch an earlier one's arrays"


@pytest.mark.parametrize("f", [softmax, flipped, product])
def test_a_result_over_the_input(f: Any) -> None:
    x = normal(0)
    program, (expected,) = pair(f, x)
    program(x, out=[x])
    assert same_bits(x, expected)


def test_results_over_part_of_an_input() -> None:
    program, (expected,) = pair(softmax, normal(0))
    whole = np.zeros((100, 128), np.float32)
    whole[:96] = normal(0)
    program(whole[:96], out=[whole[4:]])
    assert same_bits(whole[4:], expected)


def test_an_update_over_its_state(table: str) -> None:
    p, g, m = (normal(n) for n in range(3))
    program, expected = pair(rule, p, g, m)
    new_p, new_m = program(p, g, m, out=[p, m])
    assert new_p is p
    assert new_m is m
    assert same_bits(p, expected[0])
    assert same_bits(m, expected[1])


def test_an_update_crosswise_over_its_state() -> None:
    p, g, m = (normal(n) for n in range(3))
    program, expected = pair(rule, p, g, m)
    program(p, g, m, out=[m, p])
    assert same_bits(m, expected[0])
    assert same_bits(p, expected[1])


def test_one_array_as_two_arguments_and_as_a_result() -> None:
    p, g = normal(0), normal(1)
    program, expected = pair(rule, p, g, p)
    out = np.empty(SIZE, np.float32)
    program(p, g, p, out=[p, out])
    assert same_bits(p, expected[0])
    assert same_bits(out, expected[1])


def test_arrays_that_lie_otherwise() -> None:
    x = normal(0)
    program, (expected,) = pair(softmax, x)
    raw = np.zeros(x.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 16
    for shift in (4, 8, 1):
        shifted = raw[start + shift : start + shift + x.nbytes].view(np.float32).reshape(SIZE)
        shifted[...] = x
        assert same_bits(program(shifted), expected), shift
        program(x, out=[shifted])
        assert same_bits(shifted.copy(), expected), shift
    spread = np.zeros((192, 256), np.float32)[::2, ::2]
    spread[...] = x
    assert same_bits(program(spread), expected)
    program(x, out=[spread])
    assert same_bits(spread.copy(), expected)
    assert same_bits(program(np.asfortranarray(x)), expected)
    assert same_bits(program(x.astype(">f4")), expected)
    assert same_bits(program(x.astype(np.float64)), expected)


def test_an_input_that_cannot_be_written() -> None:
    x = normal(0)
    x.flags.writeable = False
    program, (expected,) = pair(softmax, x)
    assert same_bits(program(x), expected)


def test_a_returned_input_is_a_new_array() -> None:
    x = normal(0)
    program, expected = pair(with_itself, x)
    found = program(x)
    for a, b in zip(found, expected, strict=True):
        assert same_bits(a, b)
        assert not np.may_share_memory(a, x)


def test_one_value_returned_twice() -> None:
    x = normal(0)

    def twice(x: Any) -> Any:
        y = ops.exp(x)
        return y, y

    program, expected = pair(twice, x)
    a, b = program(x)
    assert same_bits(a, expected[0])
    assert same_bits(b, expected[1])
    assert not np.may_share_memory(a, b)


@pytest.mark.parametrize(("f", "streams"), [(softmax, True), (ops.gelu, False), (softmax_and_one, True)])
def test_large_rows_are_written_past_the_caches(f: Any, streams: bool, table: str) -> None:
    x = normal(0, 1024, 1027 if streams else 1024)
    program, (expected,) = pair(f, x)
    assert same_bits(program(x), expected)
    rows = normal(0, 1024, 1024)
    program, (expected,) = pair(f, rows)
    out = np.empty_like(rows)
    program(rows, out=[out])
    assert same_bits(out, expected)
    if table == "native":
        assert ("!nontemporal" in program.source) == streams


def test_a_step_reads_the_batch_where_it_is() -> None:
    """Batches of both sides of the limit, large ones in two arrays by turns."""
    losses: dict[str, list[float]] = {}
    for backend in ("eager", "compiled"):
        model = tp.nn.Sequential(tp.nn.Linear(128, 16), tp.nn.GELU(), tp.nn.Linear(16, 3))
        rt = tp.Runtime(model, objective="cross_entropy", optimizer=tp.optim.Adam(lr=0.01), backend=backend, seed=1)
        labels = np.arange(96) % 3
        losses[backend] = [float(rt.step(normal(n % 2), labels)) for n in range(6)]
    assert losses["eager"] == losses["compiled"]


RETURNED = """module @m {
  func @main(%p: f32[96, 128] param, %g: f32[96, 128] input, %h: f32[96, 128] input) -> (RESULTS) {
    %0 = add %p, %g : f32[96, 128]
    %1 = add %0, %h : f32[96, 128]
    %2 = reshape %g {shape = [12288]} : f32[12288]
    %3 = reshape %2 {shape = [96, 128]} : f32[96, 128]
    %4 = mul %h, %h : f32[96, 128]
    return VALUES
  }
}"""
"""An update of state, and other results, among them inputs as they are and as views."""


@pytest.mark.parametrize(
    "values",
    [
        "%g, %1",
        "%3, %1",
        "%h, %1",
        "%g, %1, %g",
        "%3, %1, %4",
        "%3, %1, %g",
        "%1, %1",
        "%g, %g",
        "%3, %h",
        "%1, %4, %4",
        "%1, %h",
    ],
)
def test_an_input_that_is_returned_is_not_written_over(values: str) -> None:
    """Whichever inputs the results are written to, also where the input is the new state, a view, or returned twice."""
    names = values.split(", ")
    types = ", ".join(["f32[96, 128] update(%p)", *["f32[96, 128]" for _ in names[1:]]])
    module = tp.parse(RETURNED.replace("RESULTS", types).replace("VALUES", values)).verify()
    arrays = [normal(n) for n in range(3)]
    expected = compile_module(get("eager"), module, "main", "cpu").run(arrays)
    program = compile_module(get("compiled"), module, "main", "cpu")
    for targets in itertools.permutations((1, 2, None), len(names) - 1):
        given = [aligned(a) for a in arrays]
        out = [aligned(arrays[0]), *[given[n] if n is not None else aligned(arrays[0]) for n in targets]]
        program.run_into(given, out)
        for wanted, found in zip(expected, out, strict=True):
            assert same_bits(wanted, found), targets


def aligned(array: Array) -> Array:
    """A copy that a program may write in place."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_a_backend_that_hands_out_its_arguments() -> None:
    """Results that are the arguments themselves are written to the arguments crosswise."""

    class Handing(Executable):
        def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
            return tuple(arrays)

    def both(a: Any, b: Any) -> Any:
        return a, b

    module = tp.trace(both, tp.f32[SIZE], tp.f32[SIZE])
    a, b = normal(0), normal(1)
    Handing(next(iter(module)))(a, b, out=[b, a])
    assert same_bits(a, normal(1))
    assert same_bits(b, normal(0))
