"""Indexing of tensors against NumPy: slices, masks, lists, take, and what is refused."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import ops

from .closeness import check, random

x_ = np.arange(3 * 4 * 5, dtype=np.float64).reshape(3, 4, 5)
INDICES: list[Any] = [
    0, -1, (1, 2), (1, -1, 3), slice(None), slice(1, None), slice(None, -1), slice(None, None, 2), slice(None, None, -1),
    slice(2, None, -2), slice(None, 0, -1), slice(5, 1), slice(-100, 100), (slice(None), slice(3, 0, -1)), None, ...,
    (..., 0), (0, ...), (None, 0), (..., None), (slice(None), None, 1, ..., slice(None, None, -2)), (0, ..., -1), (),
    np.array([2, 0]), np.array([-1, 0, -3]), np.array([[0, 1], [2, -1]]), (slice(None), np.array([3, 1])), [0, 2],
    (..., np.array([4, -1, 0])), (slice(None, None, -1), np.array([1, 1]), slice(1, 4)), (None, np.array([1])),
    np.array([True, False, True]), (slice(None), np.array([True, False, False, True])), np.array([False] * 3),
    np.array([], np.int64), (slice(0, 0), slice(None, None, -1)), np.int64(1), (..., slice(4, None, -3)), (0, np.array([1, 3])),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing(index: Any) -> None:
    compiled: Any = tp.compile(lambda x: x[index])
    np.testing.assert_array_equal(compiled(x_), x_[index])


@pytest.mark.parametrize(
    "index",
    [np.array([-1, 0]), np.array([True, False, True]), (slice(None), np.array([-1])), slice(None, None, -1)],
    ids=str,
)
def test_indexing_outside_every_frame(index: Any) -> None:
    np.testing.assert_array_equal(ops.index(x_, index), x_[index])


def test_a_mask_of_several_axes_selects_or_is_refused() -> None:
    mask = x_[:, :, 0] > 20
    try:
        result = tp.compile(lambda x: x[mask])(x_)
    except (tp.ShapeError, TypeError) as error:
        assert not isinstance(error, IndexError)  # noqa: PT017
        return
    np.testing.assert_array_equal(result, x_[mask])


@pytest.mark.parametrize("mask", [np.array([True, False]), np.array([True, False, False, False])], ids=str)
def test_a_mask_of_another_length_is_refused(mask: Any) -> None:
    with pytest.raises((tp.ShapeError, IndexError)):
        tp.compile(lambda x: x[mask])(x_)


def test_an_empty_list_selects_nothing() -> None:
    assert tp.compile(lambda x: x[[]])(x_).shape == (0, 4, 5)


def test_a_bool_is_not_the_position_one() -> None:
    try:
        result = tp.compile(lambda x: x[True])(x_)
    except (TypeError, tp.IRError):
        return
    np.testing.assert_array_equal(result, x_[True])


def test_indices_that_do_not_fit() -> None:
    with pytest.raises(tp.ShapeError, match="at most one index per axis"):
        tp.trace(lambda x: x[0, 0, 0, 0], tp.f64[3, 4, 5])
    for index, axis, size in ((3, 0, 3), (-4, 0, 3), ((0, ..., 5), 2, 5)):
        said = (
            rf"(?s)test_indexing\.py.*is out of range for axis {axis} of size {size}\n  rule: -{size} <= index < {size}"
        )
        with pytest.raises(IndexError, match=said):
            tp.trace(lambda x, i=index: x[i], tp.f64[3, 4, 5])
    with pytest.raises(tp.ShapeError, match="at most one"):
        tp.trace(lambda x: x[..., 0, ...], tp.f64[3, 4, 5])
    with pytest.raises(TypeError):
        tp.trace(lambda x: x[0.5], tp.f64[3])


def test_an_index_out_of_range_names_the_value_as_given() -> None:
    with pytest.raises(IndexError, match=r"(?s)test_indexing\.py.*index 7 is out of range.*size 3"):
        tp.compile(lambda x: x[np.array([0, 7])])(x_)
    with pytest.raises(IndexError, match="index -4 is out of range"):
        tp.compile(lambda x: x[np.array([0, -4])])(x_)


def test_take() -> None:
    at = np.array([[2, 0], [1, 1]])
    for axis in (0, 1, -1):
        check(ops.take(x_, at, axis=axis), np.take(x_, at, axis))
    check(ops.take(x_[0, 0], at[0]), np.take(x_[0, 0], at[0]))
    check(ops.embedding(at, x_[0]), x_[0][at])
    order = np.argsort(random(3, 4, 5), axis=1)
    check(ops.take_along_axis(x_, order, axis=1), np.take_along_axis(x_, order, 1))
    check(ops.take_along_axis(x_, order[:1, :2], axis=1), np.take_along_axis(x_, order[:1, :2], 1))
    with pytest.raises(tp.ShapeError, match="axis"):
        ops.take(x_, at)


ARRAYS: list[Any] = [
    (0, slice(None), [0, 1]), (slice(None), 1, [0, 1]), (0, [0, 1]), (slice(None), [0, 1, 2], ..., 0), (slice(None), 0, ..., [0, 1, 2]),
    (slice(None), np.array([True, True, False, True]), ..., 1),
    (slice(None), [0, 1], 0), (..., [0, 1], 0), ([0, 1], None, 1),
    ([0, 1, 2], [1, 2, 3]), ([[0], [1]], [0, 3]),
    ([0, 1], slice(None), [1, -1]), (None, [0, 1], [2, 2], [4, 0]), (slice(1, None), [3], [[0], [1]]),
    x_[:, :, 0] > 20, (slice(None), x_[0] > 7), x_ > 30, (x_[:, 0, 0] > 10, slice(None), [0, 1]), (np.array(1), slice(None), [0, 1]),
    np.zeros((3, 4), bool), ([], [], 0),
]  # fmt: skip


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("index", ARRAYS, ids=str)
def test_arrays_of_indices(index: Any) -> None:
    for backend in ("eager", "compiled"):
        run: Any = tp.compile(lambda x: x[index], backend=backend)
        np.testing.assert_array_equal(run(x_), x_[index])


def test_tensors_of_indices() -> None:
    i, j = np.array([2, -1, 0]), np.array([[1], [-4]], np.int8)
    for backend in ("eager", "compiled"):
        run: Any = tp.compile(
            lambda x, i, j: (x[i, j], x[i, :, 0], x[j[0, 0]], x[..., i, None], x[[i[0], 1]]), backend=backend
        )
        for found, expected in zip(
            run(x_, i, j), (x_[i, j], x_[i, :, 0], x_[1], x_[..., i, None], x_[[2, 1]]), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    unsigned = np.array([1, 3], np.uint8)
    np.testing.assert_array_equal(tp.compile(lambda x, i: x[0, i, i])(x_, unsigned), x_[0, unsigned, unsigned])


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
def test_each_array_is_checked_against_its_own_axis(backend: str, dtype: Any) -> None:
    run: Any = tp.compile(lambda x, i, j: x[i, j], backend=backend)
    good = np.array([0, 2, 1], dtype)
    np.testing.assert_array_equal(run(x_, good, good), x_[good, good])
    bad = np.array([0, 3, 5 if dtype in (np.uint8, np.uint64) else -5], dtype)
    with pytest.raises(
        IndexError,
        match=r"(?s)test_indexing\.py.*index 3 is out of range for an axis of size 3\n  rule: -3 <= index < 3",
    ):
        run(x_, bad, good)
    with pytest.raises(
        IndexError, match=rf"index {bad[2]} is out of range for an axis of size 4\n  rule: -4 <= index < 4"
    ):
        run(x_, good, bad)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_take_counts_negative_positions_from_the_end(backend: str) -> None:
    at, order = np.array([-1, 0, -3]), np.argsort(random(3, 4, 5), axis=1) - 4
    run: Any = tp.compile(
        lambda x, at, order: (ops.take(x, at, axis=0), ops.take_along_axis(x, order, axis=1)), backend=backend
    )
    taken, along = run(x_, at, order)
    np.testing.assert_array_equal(taken, x_[at])
    np.testing.assert_array_equal(along, np.take_along_axis(x_, order, 1))
    with pytest.raises(IndexError, match="index -4 is out of range"):
        run(x_, np.array([-4]), order)
    with pytest.raises(IndexError, match="index -1 is out of range"):
        tp.compile(ops.embedding, backend=backend)(at, x_[0])


def test_what_no_index_is() -> None:
    mask: Any = ops.greater
    for index, words in (
        (lambda x: x[mask(x, 3)], r"a bool tensor as an index.*remedy: keep the shape with ops\.where\(mask, x, 0\)"),
        (lambda x: x[x], "an index array holds integers.*remedy: cast it with ops.astype"),
        (lambda x: x[True], "a bool is no index"),
        (lambda x: x["a"], "an index is an integer, .* not str"),
        (lambda x: x[[0.5]], "an index array holds integers or bools, not float64"),
        (lambda x: x[np.array(["a"])], "holds integers or bools"),
        (lambda x: x[[0, 1], [0, 1, 2]], r"index arrays: shapes \(2,\) and \(3,\) do not broadcast"),
        (lambda x: x[[[0], [0, 1]]], "rows of different lengths"),
        (lambda x: x[np.ones((3, 3), bool)], r"a mask of shape \[3, 3\] on axes of size \[3, 4\]"),
    ):  # fmt: skip
        with pytest.raises((tp.IRError), match=rf"(?s)test_indexing\.py.*{words}"):
            tp.trace(index, tp.f64[3, 4, 5])


def test_arrays_on_several_axes_are_one_gather() -> None:
    run: Any = tp.compile(lambda x, i, j: x[i, j])
    run(x_, np.array([0, 1]), np.array([2, 3]))
    (executable,) = run.artifacts.values()
    names = [name.rpartition("_")[0] for name in executable.kernels]
    assert (names.count("take"), names.count("wrap_index")) == (1, 2), names
