"""Derivatives of plain functions, tracing and compiling them."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops

X: Any = np.array([0.3, -1.2, 2.0])
V: Any = np.array([1.0, 0.5, -2.0])


def same(a: Any, b: Any) -> bool:
    """Equal shapes, dtypes and bytes."""
    a, b = np.asarray(a), np.asarray(b)
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def cubes(x: Any) -> Any:
    return (x**3).sum()


def test_grad() -> None:
    result = tp.grad(cubes)(X)
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, 3 * X**2, rtol=1e-14)
    assert result.dtype == np.float64
    assert tp.grad(cubes)(X.astype(np.float32)).dtype == np.float32


def test_value_and_grad() -> None:
    value, gradient = tp.value_and_grad(cubes)(X)
    np.testing.assert_allclose(value, (X**3).sum(), rtol=1e-14)
    np.testing.assert_allclose(gradient, 3 * X**2, rtol=1e-14)


def test_several_arguments() -> None:
    def f(x: Any, y: Any, n: Any) -> Any:
        return (x * x * y * n).sum()

    n = np.array([1, 2, 3])
    dx, dy = tp.grad(f, (0, 1))(X, V, n)
    np.testing.assert_allclose(dx, 2 * X * V * n, rtol=1e-14)
    np.testing.assert_allclose(dy, X * X * n, rtol=1e-14)
    np.testing.assert_allclose(tp.grad(f, 1)(X, V, n), X * X * n, rtol=1e-14)
    (only,) = tp.grad(f, [1])(X, V, n)
    np.testing.assert_allclose(only, X * X * n, rtol=1e-14)
    dy, dx = tp.grad(f, (1, 0))(X, V, n)
    np.testing.assert_allclose(dx, 2 * X * V * n, rtol=1e-14)
    np.testing.assert_allclose(dy, X * X * n, rtol=1e-14)


def test_the_same_argument_twice() -> None:
    def f(x: Any, y: Any) -> Any:
        return (x * x * y).sum()

    dx, dy = tp.grad(f, (0, 1))(X, X)
    np.testing.assert_allclose(dx, 2 * X * X, rtol=1e-14)
    np.testing.assert_allclose(dy, X * X, rtol=1e-14)

    def inside(x: Any) -> Any:
        a, b = tp.grad(f, (0, 1))(x, x)
        return a - b

    np.testing.assert_allclose(tp.compile(inside)(X), X * X, rtol=1e-14)
    np.testing.assert_allclose(tp.vjp(f, X, X)[1](np.array(1.0))[1], X * X, rtol=1e-14)
    np.testing.assert_allclose(tp.jvp(f, (X, X), (V, 0 * V))[1], (2 * X * X * V).sum(), rtol=1e-14)


def test_closures_over_arrays_and_tensors() -> None:
    scale = np.array([2.0, 3.0, 4.0])
    np.testing.assert_allclose(tp.grad(lambda x: (x * scale).sum())(X), scale, rtol=1e-14)

    def outer(x: Any, y: Any) -> Any:
        return tp.grad(lambda x: (x * y * y).sum())(x) * y

    np.testing.assert_allclose(tp.compile(outer)(X, V), V**3, rtol=1e-14)
    inner = tp.grad(lambda x: (tp.grad(lambda z: (z * x).sum())(x) * x).sum())
    np.testing.assert_allclose(inner(X), 2 * X, rtol=1e-14)


def test_gradients_of_gradients() -> None:
    def first(x: Any) -> Any:
        return tp.grad(cubes)(x).sum()

    np.testing.assert_allclose(tp.grad(first)(X), 6 * X, rtol=1e-14)
    third = tp.grad(lambda x: tp.grad(first)(x).sum())
    np.testing.assert_allclose(third(X), np.full(3, 6.0), rtol=1e-14)
    np.testing.assert_allclose(tp.grad(tp.grad(tp.grad(lambda x: x**4)))(np.array(1.5)), 24 * 1.5, rtol=1e-13)


def test_what_is_not_reached_has_gradient_zero() -> None:
    assert tp.grad(lambda x, y: (y * y).sum())(X, V).tolist() == [0, 0, 0]
    assert tp.grad(lambda x: ops.sum(ops.ones(3, "f64")))(X).tolist() == [0, 0, 0]
    assert tp.jvp(lambda x: ops.ones(2, "f64"), (X,), (V,))[1].tolist() == [0, 0]


def test_stop_gradient() -> None:
    np.testing.assert_allclose(tp.grad(lambda x: (tp.stop_gradient(x) * x).sum())(X), X, rtol=1e-14)
    assert tp.jvp(lambda x: tp.stop_gradient(x) * 2, (X,), (V,))[1].tolist() == [0, 0, 0]
    assert same(tp.stop_gradient(X), X)


def test_integer_arguments_have_no_derivative() -> None:
    n = np.array([1, 2, 3])
    one = np.array(1.0)
    for call in (
        lambda: tp.grad(cubes)(n),
        lambda: tp.grad(lambda x, n: (x * n).sum(), (0, 1))(X, n),
        lambda: tp.vjp(cubes, n)[1](one),
        lambda: tp.jvp(cubes, (n,), (n,)),
        lambda: tp.grad(cubes)(X > 0),
    ):
        with pytest.raises(tp.DtypeError, match=r"argument \d.*\n.*floating"):
            call()


@pytest.mark.parametrize("function", [lambda x: x * 2, lambda x: ops.sum(x > 0)], ids=["vector", "integer"])
def test_gradients_are_of_floating_scalars(function: Callable[[Any], Any]) -> None:
    with pytest.raises(tp.ShapeError, match="the result is a floating scalar"):
        tp.grad(function)(X)


def test_vjp() -> None:
    def f(x: Any, y: Any) -> Any:
        return x * y, (x * x).sum()

    (product, square), pullback = tp.vjp(f, X, V)
    np.testing.assert_allclose(product, X * V, rtol=1e-14)
    np.testing.assert_allclose(square, (X * X).sum(), rtol=1e-14)
    c = np.array([1.0, 2.0, 3.0])
    dx, dy = pullback(c, np.array(0.5))
    np.testing.assert_allclose(dx, c * V + X, rtol=1e-14)
    np.testing.assert_allclose(dy, c * X, rtol=1e-14)
    assert same(pullback(c, np.array(0.5))[0], dx), "a pullback can be called again"

    def inside(x: Any, y: Any, c: Any) -> Any:
        return tp.vjp(f, x, y)[1](c, (c * 0).sum() + 0.5)

    assert all(map(same, tp.compile(inside)(X, V, c), (dx, dy)))


def test_jvp() -> None:
    def f(x: Any) -> Any:
        return ops.exp(x) * x, x[:1]

    (value, first), (tangent, _) = tp.jvp(f, (X,), (V,))
    np.testing.assert_allclose(value, np.exp(X) * X, rtol=1e-14)
    np.testing.assert_allclose(tangent, np.exp(X) * (X + 1) * V, rtol=1e-14)
    assert first.shape == (1,)
    with pytest.raises(tp.ShapeError, match="types are equal"):
        tp.jvp(f, (X,), (V[:2],))


def test_forward_and_reverse_agree() -> None:
    def f(x: Any) -> Any:
        return (ops.softmax(x) * ops.tanh(x) + ops.gelu(x) * ops.layer_norm(x, 3)).sum()

    forward = [tp.jvp(f, (X,), (row,))[1] for row in np.eye(3)]
    np.testing.assert_allclose(tp.grad(f)(X), forward, rtol=1e-12)


def test_hvp() -> None:
    np.testing.assert_allclose(tp.hvp(cubes, (X,), (V,)), 6 * X * V, rtol=1e-14)

    def f(x: Any, y: Any) -> Any:
        return (x * x * y).sum()

    dx, dy = tp.hvp(f, (X, V), (V, X))
    np.testing.assert_allclose(dx, 2 * V * V + 2 * X * X, rtol=1e-14)
    np.testing.assert_allclose(dy, 2 * X * V, rtol=1e-14)

    def g(x: Any) -> Any:
        return (ops.log_softmax(x) ** 2).sum()

    columns = [tp.jvp(tp.grad(g), (X,), (row,))[1] for row in np.eye(3)]
    hessian = np.stack(columns)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-11)
    np.testing.assert_allclose(tp.hvp(g, (X,), (V,)), hessian @ V, rtol=1e-11)


def test_gradients_inside_forward() -> None:
    class Energy(nn.Module):
        """The force of a learned potential."""

        def __init__(self) -> None:
            self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

        def forward(self, x: Any) -> Any:
            return tp.grad(lambda x: self.net(x).sum())(x)

    x, y = np.random.default_rng(0).standard_normal((2, 4, 3))
    results: list[Any] = []
    for backend in ("eager", "compiled"):
        rt = tp.Runtime(Energy(), backend=backend, dtype="float64", optimizer=tp.optim.Adam(1e-2))
        w1, b1, w2 = (rt.params[n] for n in ("net.0.weight", "net.0.bias", "net.2.weight"))
        np.testing.assert_allclose(rt.predict(x), (w2 * (1 - np.tanh(x @ w1.T + b1) ** 2)) @ w1, rtol=1e-12)
        _, gradients = rt.loss_and_grads(x, y)
        shifted = {**rt.params}
        shifted["net.0.weight"] = w1 + np.eye(5, 3) * 1e-6
        before = rt.loss(x, y)
        results.append([rt.predict(x), *gradients.values(), [float(rt.step(x, y)) for _ in range(5)]])
        other = tp.Runtime(Energy(), dtype="float64")
        other.load_state(shifted)
        slope = (other.loss(x, y) - before) / 1e-6
        np.testing.assert_allclose(slope, np.trace(gradients["net.0.weight"][:3]), rtol=1e-4)
    assert all(map(same, *results))


COMPOSED: dict[str, Callable[..., Any]] = {
    "value_and_grad": lambda x: tp.value_and_grad(cubes)(x),
    "several": lambda x: tp.grad(lambda a, b: (a * ops.exp(b)).sum(), (0, 1))(x, x * 2),
    "grad of grad": lambda x: tp.grad(lambda y: (tp.grad(cubes)(y) * ops.sin(y)).sum())(x),
    "hvp": lambda x: tp.hvp(lambda y: ops.softmax(y)[0] * (y * y).sum(), (x,), (x * 3,)),
    "jvp": lambda x: tp.jvp(lambda y: (ops.softplus(y), ops.erf(y).sum()), (x,), (x + 1,))[1],
    "vjp of jvp": lambda x: tp.vjp(lambda y: tp.jvp(ops.silu, (y,), (x,))[1], x)[1](x),
    "indexing": lambda x: tp.grad(lambda y: (y[::-1] * y[np.array([0, 0, 2])]).sum() + y[1] ** 3)(x),
    "reductions": lambda x: tp.grad(lambda y: ops.max(y) * ops.std(y) / ops.mean(y))(x),
    "attention": lambda x: tp.grad(
        lambda y: ops.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None] * 2, is_causal=True).sum()
    )(x),
}


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_gradients_equal_eager_ones(name: str, dtype: Any) -> None:
    x = X.astype(dtype)
    eager, compiled = (tp.compile(COMPOSED[name], backend=b)(x) for b in ("eager", "compiled"))
    for a, b in zip(*[r if isinstance(r, tuple) else (r,) for r in (eager, compiled)], strict=True):
        assert same(a, b)
        assert np.asarray(a).dtype == dtype


def test_trace_text() -> None:
    def loss(x: Any, weight: Any) -> Any:
        h = ops.matmul(x, weight).named("h")
        return ops.relu(h).sum()

    module = tp.trace(loss, tp.f32[2, 3], tp.f32[3, 4])
    expected = """\
module @loss {
  func @loss(
    %x: f32[2, 3] input,
    %weight: f32[3, 4] input
  ) -> (f32[]) {
    %h = matmul %x, %weight {transpose_a = false, transpose_b = false} : f32[2, 4]
    %0 = relu %h : f32[2, 4]
    %1 = sum %0 {axes = [0, 1], keepdims = false} : f32[]
    return %1
  }
}
"""
    assert str(module) == expected
    assert tp.parse(expected) == module
    module.verify()


def test_trace_of_arrays_and_gradients() -> None:
    module = tp.trace(tp.grad(cubes), np.zeros(3, np.float32))
    function = next(iter(module))
    assert str(function.results[0].type) == "f32[3]"
    assert [str(a.type) for a in function.arguments] == ["f32[3]"]
    assert tp.parse(str(module)) == module
    assert str(tp.trace(tp.grad(cubes), tp.f32[3])) == str(module)


def test_trace_has_a_mode() -> None:
    model = nn.Dropout(0.5)

    def f(x: Any) -> Any:
        return x * 2 if model.training else x

    assert "mul" in str(tp.trace(f, tp.f32[2], mode="train"))
    assert "mul" not in str(tp.trace(f, tp.f32[2], mode="eval"))
    with pytest.raises(tp.TraceError, match="training"):
        tp.trace(f, tp.f32[2])


READS: dict[str, Callable[[Any], Any]] = {
    "bool": lambda x: x if x.sum() > 0 else -x,
    "float": lambda x: x * float(x.sum()),
    "int": lambda x: x * int(x.sum()),
    "array": lambda x: x * np.asarray(x),
    "numpy": lambda x: x * x.numpy(),
    "range": lambda x: [x[i] for i in range(x.astype("i64").sum())],
    "dlpack": lambda x: np.from_dlpack(x),
    "in": lambda x: x * (x[0] in [1.0]),
}


@pytest.mark.parametrize("name", READS)
def test_reading_a_traced_value_names_the_line_and_the_remedy(name: str) -> None:
    for call in (lambda: tp.trace(READS[name], tp.f64[3]), lambda: tp.compile(READS[name])(X)):
        with pytest.raises(tp.TraceError) as caught:
            call()
        text = str(caught.value)
        place, source, *_ = text.split("\n")
        assert "test_transforms.py:" in place
        assert f'"{name}": lambda' in source
        assert "remedy:" in text
        assert "ops.where" in text


def test_reading_under_the_tape_gives_plain_arrays() -> None:
    def f(x: Any) -> Any:
        scale = float(x.sum()) if x.sum() > 0 else 1.0
        return (x * scale * x.numpy()).sum()

    np.testing.assert_allclose(tp.grad(f)(X), X.sum() * X, rtol=1e-14, err_msg="no gradient through what is read")


def test_compile_specialises_per_type() -> None:
    calls: list[Any] = []

    def f(x: Any, n: Any) -> Any:
        calls.append(x.shape)
        return x * n

    compiled: Any = tp.compile(f)
    for _ in range(2):
        assert same(compiled(X, np.array(2)), X * 2)
        assert same(compiled(X[None], np.array(2)), X[None] * 2)
    assert calls == [(3,), (3,), (1, 3), (1, 3)]  # each recorded twice, to see that it gives the same program
    assert len(compiled.artifacts) == 2
    assert compiled.__name__ == "f"
    assert compiled.executable(X, np.array(2)).source
    assert compiled.executable(tp.f64[3], tp.i64[()]) is compiled.executable(X, np.array(2))


def test_a_compiled_functions_results_are_its_callers() -> None:
    compiled: Any = tp.compile(lambda x: (x * 2, x))
    x = X.copy()
    first, through = compiled(x)
    compiled(x + 1)
    assert same(first, X * 2)
    first[...] = 0
    through[...] = 0
    assert same(x, X)
    assert same(compiled(x)[0], X * 2)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(tp.BackendError, match="eager, compiled"):
        tp.compile(cubes, backend="nothing")


def test_compiled_functions_have_derivatives() -> None:
    f = tp.compile(cubes)
    assert same(tp.grad(f)(X), tp.grad(cubes)(X))
    assert same(tp.jvp(f, (X,), (V,))[1], tp.jvp(cubes, (X,), (V,))[1])
    assert str(tp.trace(f, tp.f64[3])) == str(tp.trace(cubes, tp.f64[3]))

    class Net(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(3, 2)
            self.activation = tp.compile(ops.tanh)

        def forward(self, x: Any) -> Any:
            return self.activation(self.layer(x))

    for backend in ("eager", "compiled"):
        rt = tp.Runtime(Net(), optimizer=tp.optim.SGD(0.1), backend=backend)
        before = rt.params["layer.weight"]
        rt.step(X.reshape(1, 3), np.ones((1, 2)))
        assert not same(before, rt.params["layer.weight"])


def test_lists_of_tensors_and_arrays_are_stacked() -> None:
    assert same(tp.grad(lambda x: ops.sum([x[0], x[1]]))(X), np.array([1.0, 1.0, 0.0]))
    assert same(tp.grad(lambda x: ops.sum([[x[0], 2.0], (3.0, x[1])]))(X), np.array([1.0, 1.0, 0.0]))
    assert same(ops.add([X, V], 1.0), np.stack([X, V]) + 1.0)
    assert same(tp.grad(lambda x: ops.sum(x**2))([X, V]), 2 * np.stack([X, V]))


def test_gradients_take_the_keywords_of_their_function() -> None:
    def scaled(x: Any, by: float = 1.0) -> Any:
        return ops.sum(x) * by

    assert same(tp.grad(scaled)(X, by=3.0), np.full(3, 3.0))
    assert same(tp.value_and_grad(scaled)(X, by=3.0)[0], tp.compile(lambda x: scaled(x, 3.0))(X))


def test_constants_of_float64_derivatives_are_float64() -> None:
    c = np.array([0.1, 0.2, 0.3])
    assert same(tp.jvp(lambda x: x * c, (X,), (V,))[1], V * c)
    assert same(tp.vjp(lambda x: x * c, X)[1](V)[0], V * c)
    np.testing.assert_allclose(tp.hvp(lambda x: (x**3 * c).sum(), (X,), (V,)), 6 * X * c * V, rtol=1e-15)
