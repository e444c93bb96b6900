"""Index expressions made at random: values and gradients are NumPy's, on both backends, with fixed arrays and with tensors."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapeir as tp
from tapeir import ops


@st.composite
def slices(draw: st.DrawFn, size: int) -> slice:
    bound = st.none() | st.integers(-size - 2, size + 2)
    return slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, 3, -1, -2])))


@st.composite
def expressions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape and an index into it: integers, slices, None, an Ellipsis, arrays that broadcast together, masks."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    broadcast = draw(st.lists(st.integers(1, 3), max_size=2))
    used = draw(st.integers(0, len(shape)))
    dots = draw(st.integers(0, used)) if draw(st.booleans()) else None
    items: list[Any] = []
    axis = 0
    while axis < used:
        if axis == dots:
            items.append(Ellipsis)
            axis, used, dots = axis + len(shape) - used, len(shape), None
            continue
        size = shape[axis]
        kind = draw(st.sampled_from(["integer", "slice", "slice", "array", "array", "mask", "none"]))
        if kind == "none":
            items.append(None)
            continue
        if kind == "integer":
            items.append(draw(st.integers(-size, size - 1)))
        elif kind == "slice":
            items.append(draw(slices(size)))
        elif kind == "array":
            own = broadcast[draw(st.integers(0, len(broadcast))) :]
            own = [1 if draw(st.integers(0, 4)) == 0 else n for n in own]
            count = int(np.prod(own, dtype=int))
            listed = draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count))
            items.append(np.array(listed, np.int64).reshape(own))
        else:
            items.append(np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size))))
        axis += 1
    if dots is not None:
        items.append(Ellipsis)
    return shape, tuple(items)


def _expected(x: Any, item: Any) -> Any:
    try:
        return x[item]
    except IndexError as error:  # a mask of another count than the arrays beside it
        assert "broadcast" in str(error)  # noqa: PT017
        return None


def _is_fixed(item: Any) -> bool:
    return not isinstance(item, np.ndarray) or item.dtype == np.bool_


def _check(shape: tuple[int, ...], item: tuple[Any, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    expected = _expected(x, item)
    weights = np.ones(()) if expected is None else np.cos(np.arange(expected.size)).reshape(expected.shape)
    arrays = [i for i in item if not _is_fixed(i)]

    def rebuilt(given: Any) -> tuple[Any, ...]:
        left = list(given)
        return tuple(i if _is_fixed(i) else left.pop(0) for i in item)

    def both(x: Any, w: Any, *given: Any) -> Any:
        y = ops.index(x, rebuilt(given) if given else item)
        gradient = tp.grad(lambda x: ops.sum(ops.index(x, rebuilt(given) if given else item) * w))(x)
        return y, gradient

    gradient = np.zeros_like(x)
    if expected is not None:
        np.add.at(gradient, item, weights)
    for tensors in {0: (), len(arrays): arrays}.values():
        for backend in ("eager", "compiled"):
            run = tp.compile(both, backend=backend)
            if expected is None:
                with pytest.raises(tp.ShapeError, match=r"index arrays: shapes .* do not broadcast"):
                    run(x, weights, *tensors)
                continue
            y, dx = run(x, weights, *tensors)
            assert y.shape == expected.shape, item
            np.testing.assert_array_equal(y, expected, str(item))
            np.testing.assert_allclose(dx, gradient, 1e-12, 1e-12, err_msg=str(item))
            if backend == "compiled":
                eager = tp.compile(both, backend="eager")(x, weights, *tensors)
                assert [a.tobytes() for a in (y, dx)] == [a.tobytes() for a in eager]


@settings(max_examples=40, deadline=None)
@given(expressions())
def test_random_expressions(expression: Any) -> None:
    _check(*expression)


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_thousands_of_random_expressions() -> None:
    @settings(max_examples=1500, deadline=None)
    @given(expressions())
    def check(expression: Any) -> None:
        _check(*expression)

    check()
