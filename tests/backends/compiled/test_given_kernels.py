"""Kernels that text brings along: what is no nest of loops is cut into ops, on every target, and never refused."""

from __future__ import annotations

import numpy as np
import pytest
from outcomes import agree, outcome
from strategies import inputs_of

from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend, lower, program_text
from tapeir.backends.eager import EagerBackend
from tapeir.ir import Module, parse
from tapeir.passes import UNFUSED

pytestmark = pytest.mark.usefixtures("table")
BODIES = {
    "reductions of different things": (
        "%x: f32[4, 6]",
        "f32[4], f32[6]",
        """%1 = sum %x {axes = [1], keepdims = false} : f32[4]
    %2 = sum %x {axes = [0], keepdims = false} : f32[6]
    return %1, %2""",
    ),
    "an argmax": (
        "%x: f32[4, 6]",
        "i64[4], f32[4, 6]",
        """%1 = argmax %x {axes = [1], keepdims = false} : i64[4]
    %2 = exp %x : f32[4, 6]
    return %1, %2""",
    ),
    "a product and a composite": (
        "%x: f32[6, 6]",
        "f32[6, 6]",
        """%1 = matmul %x, %x {transpose_a = false, transpose_b = true} : f32[6, 6]
    %2 = softmax %1 {axis = 1} : f32[6, 6]
    return %2""",
    ),
    "another kernel": (
        "%x: f32[4, 6]",
        "f32[4, 6]",
        """%1 = fused %x {kernel = @inner} : f32[4, 6]
    %2 = neg %1 : f32[4, 6]
    return %2""",
    ),
    "a check of what it computes": (
        "%x: f32[4, 6], %i: i64[3]",
        "f32[3, 6]",
        """%1 = neg %i : i64[3]
    %2 = take %x, %1 {axis = 0} : f32[3, 6]
    %3 = exp %2 : f32[3, 6]
    return %3""",
    ),
    "a choice from no elements": (
        "%x: f32[2, 0], %i: i64[3]",
        "f32[2, 3]",
        """%1 = take %x, %i {axis = 1} : f32[2, 3]
    %2 = exp %1 : f32[2, 3]
    return %2""",
    ),
    "results of two sizes": (
        "%x: f32[4, 6]",
        "f32[4, 6], f32[4, 3]",
        """%1 = exp %x : f32[4, 6]
    %2 = slice %1 {start = [0, 0], stop = [4, 6], step = [1, 2]} : f32[4, 3]
    return %1, %2""",
    ),
}


def module_of(name: str, kind: str) -> Module:
    arguments, results, body = BODIES[name]
    given = ", ".join(part.split(":")[0] for part in arguments.split(", %"))
    names = ", ".join(n if n.startswith("%") else f"%{n}" for n in given.split(", "))
    made = [f"%r{n}" for n in range(results.count("f32") + results.count("i64"))]
    marked = ", ".join(f"{a} input" if a.startswith("%") else f"%{a} input" for a in arguments.split(", %"))
    inner = """
  func @inner(%x: f32[4, 6]) -> (f32[4, 6]) with {class = "map"} {
    %0 = tanh %x : f32[4, 6]
    return %0
  }""" if "@inner" in body else ""  # fmt: skip
    return parse(
        f"""module @m {{
  func @main({marked}) -> ({results}) {{
    {", ".join(made)} = fused {names} {{kernel = @given}} : {results}
    return {", ".join(made)}
  }}
  func @given({arguments}) -> ({results}) with {{class = "{kind}"}} {{
    {body}
  }}{inner}
}}"""
    ).verify()


@pytest.mark.parametrize("kind", ["map", "row", "update"])
@pytest.mark.parametrize("name", BODIES)
def test_any_kernel_runs(name: str, kind: str) -> None:
    module = module_of(name, kind)
    for seed in range(3):
        arrays = inputs_of(module["main"], seed, False)
        expected = outcome(compile_module(EagerBackend(), module, "main", "cpu").run, arrays)
        for options in ({}, {"unfused": True}):
            program = compile_module(CompiledBackend(), module, "main", "cpu", options)
            assert agree(expected, outcome(program.run, arrays))
    assert "launches" in program_text(module, "main", "cuda")
    for passes in ("planned", UNFUSED):
        for device in ("cpu", "cuda"):
            lower(module, passes, device).verify()


def test_a_kernel_over_a_view_that_it_cannot_read_in_place() -> None:
    """The rows of a slice, flattened and cut again: only a copy of the slice lies evenly."""
    module = parse(
        """module @m {
  func @main(%x: f64[10, 91, 20] input) -> (f64[10, 90, 20], f64[899, 20]) {
    %0 = slice %x {start = [0, 0, 0], stop = [10, 90, 20], step = [1, 1, 1]} : f64[10, 90, 20]
    %1 = fused %0 {kernel = @given} : f64[899, 20]
    return %0, %1
  }
  func @given(%x: f64[10, 90, 20]) -> (f64[899, 20]) with {class = "map"} {
    %0 = reshape %x {shape = [900, 20]} : f64[900, 20]
    %1 = slice %0 {start = [1, 0], stop = [900, 20], step = [1, 1]} : f64[899, 20]
    %2 = add %1, %1 : f64[899, 20]
    return %2
  }
}"""
    ).verify()
    (x,) = inputs_of(module["main"], 0, False)
    found = compile_module(CompiledBackend(), module, "main", "cpu").run([x])
    np.testing.assert_array_equal(found[0], x[:, :-1])
    np.testing.assert_array_equal(found[1], x[:, :-1].reshape(900, 20)[1:] * 2)
