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
    for index, message in ((3, "index 3 into axis 0 of size 3"), ((0, 0, 0, 0), "at most one index per axis")):
        with pytest.raises(tp.ShapeError, match=message):
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


def test_an_integer_apart_from_an_index_array_is_refused() -> None:
    with pytest.raises(tp.ShapeError, match="two steps"):
        ops.index(x_, (0, slice(None), [0, 1]))
    np.testing.assert_array_equal(ops.index(x_, (0, [0, 1])), x_[0, [0, 1]])
    np.testing.assert_array_equal(ops.index(x_, (slice(None), 1, [0, 1])), x_[:, 1, [0, 1]])
