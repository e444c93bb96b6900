"""Long sums: their order against an independent model, and their accuracy against float64, along rows, columns and middle axes."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends import kernels, sums
from tapeir.ir.types import Array

BACKENDS = ("eager", "compiled")
native = pytest.mark.skipif(kernels.table().name != "native", reason="about native code")


# The order


def in_pairs(parts: list[Array]) -> Array:
    """Split at the largest power of two below the count."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return in_pairs(parts[:half]) + in_pairs(parts[half:])


def chain(x: Array) -> Array:
    """The sum over the first axis: blocks of 32 terms in order, their sums in pairs."""
    parts: list[Array] = []
    for start in range(0, len(x), 32):
        total = np.full(x.shape[1:], -0.0, x.dtype)
        for term in x[start : start + 32]:
            total = total + term
        parts.append(total)
    return in_pairs(parts)


def row(x: Array) -> Array:
    """The sum over the last axis: 16 lanes, folded in halves."""
    padded = np.full((*x.shape[:-1], -(-x.shape[-1] // 16) * 16), -0.0, x.dtype)
    padded[..., : x.shape[-1]] = x
    lanes = chain(np.moveaxis(padded.reshape((*x.shape[:-1], -1, 16)), -2, 0))
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


LENGTHS = (1, 5, 31, 32, 33, 64, 65, 97, 160, 500, 512, 513, 1024, 1025, 1537, 3000, 16391)


@native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_order_of_sums(length: int, dtype: Any) -> None:
    x = np.random.default_rng(length).standard_normal((length, 71)).astype(dtype)
    cases: list[tuple[Callable[[Any], Any], Array, Array]] = [
        (lambda x: ops.sum(x, axis=0), x, chain(x)),
        (lambda x: ops.sum(x * 2, axis=0) * 0.5, x, chain(x)),
        (lambda x: ops.sum(x, axis=0), x[:, :3].copy(), chain(x[:, :3])),
        (lambda x: ops.sum(x * 2, axis=1) * 0.5, np.stack([x, x[::-1]]), np.stack([chain(x), chain(x[::-1])])),
        (lambda x: ops.sum(x, axis=1), x.T[:9].copy(), row(x.T[:9])),
        (lambda x: ops.sum(x * 2, axis=1) * 0.5, x.T[:9].copy(), row(x.T[:9])),
        (lambda x: ops.sum(x), x[:, 0].copy(), row(x[:, 0])),
    ]
    for f, array, wanted in cases:
        for backend in BACKENDS:
            assert same_bits(np.asarray(tp.compile(f, backend=backend)(array)), np.asarray(wanted))


@native
@pytest.mark.parametrize("length", [64, 1500, 5000])
def test_sums_of_one_kernel_have_the_order_of_one_op(length: int) -> None:
    """Several sums and extrema side by side, masked tails, a result that needs the finished sum."""
    x = np.random.default_rng(1).standard_normal((length, 37)).astype(np.float32)

    def statistics(x: Any, axis: int) -> Any:
        mean, top = ops.mean(x, axis=axis, keepdims=True), ops.max(x, axis=axis, keepdims=True)
        squares, count = ops.sum(x * x, axis=axis, keepdims=True), ops.sum(x > 0, axis=axis, keepdims=True)
        return x - mean, top, squares, count, ops.var(x, axis=axis)

    for axis, array in ((0, x), (1, x.T.copy())):
        eager, compiled = (tp.compile(lambda x, a=axis: statistics(x, a), backend=b)(array) for b in BACKENDS)
        for a, b in zip(eager, compiled, strict=True):
            assert same_bits(a, b)
        total = chain(x * x) if axis == 0 else row(array * array)
        assert same_bits(compiled[2].ravel(), total)
        assert (compiled[3].ravel() == (x > 0).sum(0)).all()
        assert (compiled[1].ravel() == x.max(0)).all()


def test_sums_that_wait_are_the_pairs() -> None:
    for count in range(1, 200):
        stack: dict[int, Array] = {}
        for n in range(count):
            part: Array = np.array([[n]], object)
            part[0, 0] = f"{n}"
            for level in range(sums.merges(n)):
                part = np.array([[f"({stack[level][0, 0]} {part[0, 0]})"]], object)
            stack[sums.merges(n)] = part
        lowest, *others = sums.waiting(count)
        total = stack[lowest][0, 0]
        for level in others:
            total = f"({stack[level][0, 0]} {total})"

        def text(numbers: range) -> str:
            if len(numbers) == 1:
                return str(numbers[0])
            half = 1 << (len(numbers) - 1).bit_length() - 1
            return f"({text(numbers[:half])} {text(numbers[half:])})"

        assert total == text(range(count))


# Accuracy

MOST = 12
"""Units of rounding that a sum may be off, in proportion to its terms' absolute values; PyTorch 2.13 on a CPU is off by up to 9.4."""
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
KINDS: dict[str, Callable[[np.random.Generator, Any], Array]] = {
    "uniform": lambda r, s: r.random(s),
    "shifted": lambda r, s: r.normal(3, 1, s),
    "one number": lambda r, s: np.full(s, 0.1),
    "falling": lambda r, s: 1 / (1 + np.arange(np.prod(s))).reshape(s),
}
LAYOUTS: dict[str, tuple[Callable[[int], Any], int]] = {
    "row": (lambda n: (2, n), 1),
    "column": (lambda n: (n, 5), 0),
    "wide column": (lambda n: (n, 20), 0),
    "middle axis": (lambda n: (2, n, 3), 1),
}


def exact(x: Array) -> Array:
    return x.astype(np.longdouble)


def statistics(x: Any, axis: int) -> Any:
    return (
        ops.sum(x, axis=axis),
        ops.mean(x, axis=axis),
        ops.var(x, axis=axis),
        ops.sqrt(ops.sum(x * x, axis=axis)),
    )


def errors(x: Array, axis: int, found: Any) -> list[float]:
    """The largest errors of sum, mean, variance and norm in units of rounding of what was added."""
    # Along the last axis NumPy adds in pairs, so that the reference is exact enough.
    wide, unit = exact(np.ascontiguousarray(np.moveaxis(x, axis, -1))), UNIT[x.dtype.type]
    axis, count = -1, x.shape[axis]
    size = np.abs(wide).sum(axis)
    # An error of a few units in the mean moves the variance by its square, even where nothing varies.
    spread = wide.var(axis) + MOST * unit * (np.abs(wide).mean(axis)) ** 2
    wanted = (wide.sum(axis), wide.mean(axis), wide.var(axis), np.sqrt((wide * wide).sum(axis)))
    scales = (size, size / count, spread, wanted[3])
    return [float((np.abs(exact(f) - w) / s).max() / unit) for f, w, s in zip(found, wanted, scales, strict=True)]


def check_accuracy(length: int, kind: str, layout: str, dtype: Any) -> None:
    shape, axis = LAYOUTS[layout]
    x = KINDS[kind](np.random.default_rng(0), shape(length)).astype(dtype)
    for backend in BACKENDS:
        found = errors(x, axis, tp.compile(lambda x: statistics(x, axis), backend=backend)(x))
        assert max(found) < MOST, found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1000, 30_000])
def test_accuracy_of_long_sums(length: int, kind: str, layout: str, table: str) -> None:
    check_accuracy(length, kind, layout, np.float32)


class Sums(nn.Module):
    """The sum and the maximum along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Any:
        return ops.sum(x, axis=self.axis), ops.max(x, axis=self.axis)


@pytest.mark.parametrize("length", [65, 2047, 2049, 4096, 70_003])
@pytest.mark.parametrize("axis", [0, 1])
def test_accuracy_in_fast_numerics(axis: int, length: int) -> None:
    """Several chains side by side, each in blocks."""
    x = np.full((2, length), 0.1, np.float32)
    x[1] = np.random.default_rng(0).random(length)
    x = x if axis else x.T.copy()
    total, top = tp.Runtime(Sums(axis), backend="compiled", numerics="fast").predict(x)
    wanted = exact(x).sum(axis)
    assert (np.abs(total - wanted) / wanted / UNIT[np.float32]).max() < MOST
    assert (top == x.max(axis)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_accuracy_of_the_statistics_of_batch_norm(backend: str, table: str) -> None:
    x = np.random.default_rng(0).normal(3, 1, (40_000, 4)).astype(np.float32)
    rt = tp.Runtime(nn.BatchNorm1d(4, momentum=1.0), objective="mse", backend=backend)
    rt.step(x, x)
    for name, wanted in (("running_mean", exact(x).mean(0)), ("running_var", exact(x).var(0, ddof=1))):
        np.testing.assert_allclose(rt.buffers[name], wanted.astype(np.float64), rtol=MOST * UNIT[np.float32])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1_000_000, pytest.param(3_000_001, marks=pytest.mark.heavy)])
def test_accuracy_of_very_long_sums(length: int, kind: str, layout: str, dtype: Any, table: str) -> None:
    check_accuracy(length, kind, layout, dtype)
