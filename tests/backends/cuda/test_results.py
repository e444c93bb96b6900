"""Results that a caller's arrays on the device take: arrays of their own, or inputs; the device is the host behind the shim."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir.backends.cuda.device import DeviceArray
from tapeir.ir import parse
from tapeir.ir.types import Array

from .on_cpu import compiler, executable, once

pytestmark = [once, pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")]
SIZE = (96, 128)
TEXT = """module @m {
  func @main(%g: f32[96, 128] input, %h: f32[96, 128] input) -> (RESULTS) {
    %0 = add %g, %h : f32[96, 128]
    %1 = flip %g {axes = [0]} : f32[96, 128]
    %2 = reshape %h {shape = [12288]} : f32[12288]
    %3 = reshape %2 {shape = [96, 128]} : f32[96, 128]
    %4 = exp %1 : f32[96, 128]
    return VALUES
  }
}"""


def there(program: Any, array: Array) -> DeviceArray:
    made = DeviceArray(program.device, tp.TensorType("f32", array.shape))
    program.device.write(made.memory, 0, array)
    return made


@pytest.mark.parametrize("values", ["%h, %g", "%0, %g", "%4, %0", "%4, %h", "%3, %0", "%0, %0"])
def test_results_over_inputs(values: str) -> None:
    """Whichever inputs the results are written to: crosswise, over what is read elsewhere later, or returned itself."""
    module = parse(TEXT.replace("RESULTS", "f32[96, 128], f32[96, 128]").replace("VALUES", values)).verify()
    arrays = [np.random.default_rng(n).standard_normal(SIZE).astype(np.float32) for n in range(2)]
    program: Any = executable(module)
    expected = program(*arrays)
    for targets in itertools.permutations((0, 1, None, None), 2):
        given = [there(program, a) for a in arrays]
        out = [given[n] if n is not None else there(program, arrays[0]) for n in targets]
        assert program(*given, out=out) == tuple(out)
        for wanted, found in zip(expected, out, strict=True):
            assert same_bits(wanted, np.asarray(found)), targets


def test_new_state_is_written_to_given_arrays() -> None:
    module = parse(
        """module @m {
  func @main(%p: f32[96, 128] param, %g: f32[96, 128] input) -> (f32[96, 128] update(%p), f32[96, 128]) {
    %0 = add %p, %g : f32[96, 128]
    return %0, %g
  }
}"""
    ).verify()
    p, g = (np.random.default_rng(n).standard_normal(SIZE).astype(np.float32) for n in range(2))
    program: Any = executable(module)
    given = [there(program, a) for a in (p, g)]
    out = [there(program, np.zeros(SIZE, np.float32)) for _ in range(2)]
    program(*given, out=out)
    assert same_bits(np.asarray(out[0]), p + g)
    assert same_bits(np.asarray(out[1]), g)
