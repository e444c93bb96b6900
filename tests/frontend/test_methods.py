"""Methods of tensors, ``any`` and ``all``, reductions of rank 0, and results that are tuples of one."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops

x_ = np.array([[0.0, 1.5, -2.5], [0.0, np.nan, 0.0]])
METHODS = sorted(set(dir(np.ndarray)) & set(ops.__all__))
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "astype": ("f32",), "clip": (-1, 1), "reshape": (3, 2), "take": ([1, -1], 1), "squeeze": (), "round": (),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("name", METHODS)
def test_functions_that_numpy_has_as_methods(name: str, backend: str) -> None:
    assert {"max", "min", "argmax", "argmin", "var", "std", "clip", "round", "squeeze", "take", "any", "all"} <= set(
        METHODS
    )
    given = ARGUMENTS.get(name, (0,))
    found = tp.compile(lambda x: getattr(x, name)(*given), backend=backend)(x_)
    expected: Any = getattr(x_, name)(*({"f32": np.float32}.get(g, g) if isinstance(g, str) else g for g in given))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape
    taken = list(inspect.signature(getattr(ops, name)).parameters)
    if name != "reshape":
        assert list(inspect.signature(getattr(tp.Tensor, name)).parameters)[1:] == taken[1:]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("function", ["any", "all"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint64", "bool"])
def test_any_and_all(function: str, dtype: str, backend: str) -> None:
    ours, numpy = getattr(ops, function), getattr(np, function)
    for shape in ((2, 3), (0, 3), (3, 0), (), (300, 2)):
        x = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype)
        for axis in (None, *range(-len(shape), len(shape)), tuple(range(len(shape)))):
            for keepdims in (False, True):
                found = tp.compile(lambda x, a=axis, k=keepdims: ours(x, a, k), backend=backend)(x)
                expected = numpy(x, axis=axis, keepdims=keepdims)
                assert (found.dtype, found.shape) == (np.bool_, np.shape(expected))
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "max", "min", "argmax", "argmin", "any", "all"])
def test_reductions_of_rank_0(name: str, axis: int) -> None:
    reduce = getattr(ops, name)
    for backend in ("eager", "compiled"):
        run = tp.compile(lambda x: (reduce(x, axis=axis), reduce(x)), backend=backend)
        over_axis, over_all = run(np.array(2.5))
        assert over_axis.shape == ()
        assert over_axis == over_all
    with pytest.raises(tp.ShapeError, match=r"test_methods\.py"):
        tp.trace(lambda x: reduce(x, axis=1), tp.f32[()])


class One(nn.Module):
    def forward(self, x: Any) -> Any:
        return (x * 2,)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_a_tuple_of_one_stays_one(backend: str) -> None:
    for function in (lambda x: (x + 1,), lambda x: [x + 1]):
        run = tp.compile(function, backend=backend)
        for _ in range(2):
            result = run(x_)
            assert isinstance(result, tuple)
            assert len(result) == 1
        assert isinstance(tp.compile(lambda x: x + 1, backend=backend)(x_), np.ndarray)
    rt = tp.Runtime(One(), backend=backend)
    for mode in ("train", "eval"):
        with rt.in_mode(mode):
            result = rt.predict(x_)
        assert isinstance(result, tuple)
        assert type(result) is tuple
        np.testing.assert_array_equal(result[0], x_.astype(np.float32) * 2)


def test_a_tuple_of_one_in_transforms_and_text() -> None:
    one = lambda x: (x * x,)  # noqa: E731
    result, pullback = tp.vjp(one, x_)
    assert isinstance(result, tuple)
    np.testing.assert_array_equal(pullback(np.ones_like(x_))[0], 2 * x_)
    primal, tangent = tp.jvp(one, (x_,), (np.ones_like(x_),))
    assert (type(primal), type(tangent)) == (tuple, tuple)
    module = tp.trace(one, tp.f64[2, 3])
    assert "with {tuple = true}" in str(module)
    assert tp.parse(str(module)) == module
    assert "tuple" not in str(tp.trace(lambda x: (x, x), tp.f64[2, 3]))
    again = tp.compile(lambda x: tp.compile(one)(x)[0] + 1)
    np.testing.assert_array_equal(again(x_), x_ * x_ + 1)
