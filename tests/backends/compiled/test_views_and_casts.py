"""Casts of views at every number of lanes that a vector may be filled to: compiled equals the tape bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import ops
from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend
from tapeir.backends.eager import EagerBackend
from tapeir.ir import types
from tapeir.ir.types import Array, DType

DTYPES = (types.f32, types.f64, types.i8, types.i16, types.i32, types.i64,
          types.u8, types.u16, types.u32, types.u64, types.bool_)  # fmt: skip
LANES = 16
EVERY_SIZE = range(1, LANES * len(DTYPES) + 1)
"""Sizes so that each number of elements in the last vector meets each pair of dtypes once."""


def _rows(x: Any, columns: int) -> Any:
    return ops.reshape(x, (-1, columns))


VIEWS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "flip": (1, ops.flip),
    "flip of rows": (2, lambda x: ops.flip(_rows(x, 2), axis=1)),
    "step": (2, lambda x: x[::2]),
    "step backwards": (3, lambda x: x[::-3]),
    "window": (3, lambda x: _rows(x, 3)[:, 1:]),
    "broadcast": (1, lambda x: ops.broadcast_to(ops.expand_dims(x, axis=1), (x.shape[0], 2))),
    "broadcast of rows": (1, lambda x: ops.broadcast_to(x, (3, x.shape[0]))),
    "transpose": (2, lambda x: ops.permute_dims(_rows(x, 2), (1, 0))),
    "roll": (1, lambda x: ops.concat([x[1:], x[:1]])),
    "pad": (1, lambda x: ops.pad(x, ((1, 2),))),
    "padded flip": (1, lambda x: ops.pad(ops.flip(x), ((0, 3),))),
}
"""How many elements each view reads for one of its result, about, and the view."""


def _elements(dtype: DType, size: int, random: np.random.Generator) -> Array:
    if dtype.floating:
        x = random.uniform(-300, 300, size).astype(dtype.numpy)
        x[random.integers(size)] = np.nan
        return x
    if dtype is types.bool_:
        return random.integers(2, size=size).astype(bool)
    limits = np.iinfo(dtype.numpy)
    return random.integers(limits.min, limits.max, size, dtype.numpy, endpoint=True)


def check(view: str, size: int, rotation: int) -> None:
    """Every dtype, each cast to the one ``rotation`` places behind it."""
    factor, look = VIEWS[view]
    targets = [DTYPES[(n + rotation) % len(DTYPES)] for n in range(len(DTYPES))]

    def main(*arrays: Any) -> Any:
        return tuple(ops.astype(look(x), d.name) for x, d in zip(arrays, targets, strict=True))

    random = np.random.default_rng(size)
    arrays = [_elements(d, size * factor, random) for d in DTYPES]
    module = tp.trace(main, *[tp.TensorType(d, a.shape) for d, a in zip(DTYPES, arrays, strict=True)])
    expected = compile_module(EagerBackend(), module, "main", "cpu").run(arrays)
    found = compile_module(CompiledBackend(), module, "main", "cpu").run(arrays)
    for source, target, x, y in zip(DTYPES, targets, expected, found, strict=True):
        assert same_bits(x, y), f"{view} of {source}[{size * factor}] as {target}: {y} is not {x}"


@pytest.mark.parametrize("view", VIEWS)
def test_casts_of_a_view_at_some_sizes(view: str) -> None:
    for size in (5, 10, 25):  # at 10 and 25 the last vector has one or two elements of a second 512-bit register
        check(view, size, DTYPES.index(types.f32) - DTYPES.index(types.i64))


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_casts_of_a_view_at_every_size(view: str) -> None:
    for size in EVERY_SIZE:
        check(view, size, size // LANES)
