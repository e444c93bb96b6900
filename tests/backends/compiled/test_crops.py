"""Reductions of slices are one kernel: where a row of the slice is no whole number of vectors, a vector goes on in the next row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import ops
from tapeir.backends import kernels
from tapeir.backends.compiled import program_text
from tapeir.ir.types import Array

pytestmark = pytest.mark.usefixtures("table")
WIDTHS = (2, 3, 5, 8, 14, 15, 16, 17, 20, 31, 33, 46, 47, 48)


def filled(shape: tuple[int, ...], dtype: str) -> Array:
    numbers = np.random.default_rng(0).integers(-40, 40, shape)
    return numbers > 0 if dtype == "bool" else (numbers / 8 if dtype[0] == "f" else numbers).astype(dtype)


def agrees(f: Callable[..., Any], *arrays: Array) -> Any:
    """Compare with the tape; the program."""
    expected = tp.compile(f, backend="eager").executable(*arrays).run(arrays)
    program: Any = tp.compile(f).executable(*arrays)
    for a, b in zip(expected, program.run(arrays), strict=True):
        assert same_bits(np.asarray(a), np.asarray(b))
    return program


def is_one_kernel(program: Any) -> bool:
    return kernels.table().name != "native" or len(program.kernels) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8"])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_sums_of_crops_of_every_width(dtype: str, step: int) -> None:
    for width in WIDTHS:
        x = filled((3, 7, width * abs(step) + 2), dtype)
        cut = slice(1, -1, step) if step > 0 else slice(-2, 0, step)

        def sums(x: Any, cut: slice = cut) -> Any:
            rows = ops.astype(x[:, 1:-1, cut], "float64")
            return ops.sum(rows * rows, axis=(1, 2))

        assert is_one_kernel(agrees(sums, x))


@pytest.mark.parametrize("width", WIDTHS)
def test_extrema_and_masks_of_crops(width: int) -> None:
    def found(x: Any, flags: Any) -> Any:
        crop = x[:, :-1, 1:]
        return ops.max(crop, axis=(1, 2)), ops.min(ops.where(flags[:, 1:, :-1], crop, 0.0), axis=(1, 2))

    agrees(found, filled((2, 40, width + 1), "float32"), filled((2, 40, width + 1), "bool"))


@pytest.mark.parametrize("width", [3, 15, 20, 33])
def test_rows_that_are_read_again(width: int) -> None:
    """A softmax and a variance of a whole crop run through it more than once."""

    def normal(x: Any) -> Any:
        crop = x[:, 1:-1, 1:]
        return ops.softmax(ops.reshape(crop, (4, -1)), axis=-1), ops.var(crop, axis=(1, 2))

    agrees(normal, filled((4, 30, width + 1), "float32"))


def test_padding_and_chosen_rows_in_crops() -> None:
    def joined(x: Any, index: Any) -> Any:
        padded = ops.pad(x, [(0, 0), (1, 2), (2, 1)])[:, :-1, 1:]
        return ops.sum(padded, axis=(1, 2)), ops.sum(ops.take(x, index, axis=1)[:, 1:, 1:], axis=(1, 2))

    agrees(joined, filled((3, 9, 21), "float64"), np.arange(11) % 7)


@pytest.mark.parametrize("shape", [(400, 101), (3, 300, 61), (5, 4000, 19)])
def test_long_crops_keep_the_order_of_sums(shape: tuple[int, ...]) -> None:
    """More elements than one run of a sum."""
    assert is_one_kernel(agrees(mean_square, filled(shape, "float32")))


def mean_square(x: Any) -> Any:
    return ops.mean(x[..., 1:] ** 2)


def mean_of_it(x: Any) -> Any:
    return x[:, 1:], ops.mean(x[:, 1:])


def count_in_it(x: Any) -> Any:
    return x[:, 1:], ops.sum(ops.astype(x[:, 1:] > 0, "int64"))


def every_second(x: Any) -> Any:
    return x[::2], ops.sum(x[::2] ** 2)


def of_images(x: Any) -> Any:
    crop = x[:, :, 1:-1, 1:-1]
    return crop, ops.mean(crop**2)


def cut_again(x: Any) -> Any:
    return x[:, :-1], ops.reshape(x[:, :-1], (900, 20))[1:] * 2


def cut_again_and_summed(x: Any) -> Any:
    y = ops.tanh(x)[:, :-1]
    return y, ops.sum(ops.reshape(y, (900, 20))[1:])


def whole_too(x: Any) -> Any:
    y = ops.tanh(x)
    return y, y[:, 1:], ops.sum(y[:, 1:] ** 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "f"),
    [((100, 100), mean_of_it), ((100, 100), count_in_it), ((300, 100), every_second), ((8, 3, 32, 32), of_images),
     ((10, 91, 20), cut_again), ((10, 91, 20), cut_again_and_summed), ((100, 100), whole_too)],
)  # fmt: skip
def test_slices_that_are_returned_too(shape: tuple[int, ...], f: Callable[..., Any], dtype: str) -> None:
    x = filled(shape, dtype)
    agrees(f, x)
    module = tp.trace(f, x)
    assert "launches" in program_text(module, next(iter(module)).name, "cuda")


def test_arrays_of_many_axes() -> None:
    """More axes than a kernel has loops otherwise."""
    x = filled((2,) * 15, "float32")
    order = tuple(range(0, 15, 2)) + tuple(range(1, 15, 2))

    def moved(x: Any) -> Any:
        return ops.permute_dims(x, order), ops.sum(ops.permute_dims(ops.exp(x), order) * x, axis=(2, 9))

    agrees(moved, x)
