"""Convolution and pooling against loops in NumPy; their layers' names, layouts and initial values; what they refuse."""

# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops

from .closeness import random

BACKENDS = ("eager", "compiled")


def windows(x: Any, size: Any, stride: Any, dilation: Any) -> Any:
    """The places of windows over the last axes and, for each place, the window there with all leading axes."""
    m = len(size)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    count = [(n - r) // s + 1 for n, r, s in zip(x.shape[-m:], reach, stride, strict=True)]
    for at in product(*map(range, count)):
        inside = [slice(i * s, i * s + r, d) for i, s, r, d in zip(at, stride, reach, dilation, strict=True)]
        yield at, tuple(count), x[(..., *inside)]


def pooled(x: Any, size: Any, stride: Any, padding: Any, dilation: Any, fill: float, number: Any) -> Any:
    """``number`` of every window of ``x`` padded with ``fill``."""
    m = len(size)
    padded = np.pad(x, [(0, 0)] * (x.ndim - m) + [(p, p) for p in padding], constant_values=fill)
    found = {at: number(window, tuple(range(-m, 0))) for at, _, window in windows(padded, size, stride, dilation)}
    count = [max(at[a] for at in found) + 1 for a in range(m)]
    y = np.empty((*x.shape[:-m], *count))
    for at, value in found.items():
        y[(..., *at)] = value
    return y


def convolved(x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Cross-correlation, one output channel and place at a time; ``padding`` holds a pair for each axis."""
    padded = np.pad(x, [(0, 0), (0, 0), *padding])
    channels = w.shape[1]
    y: Any = None
    for at, count, window in windows(padded, w.shape[2:], stride, dilation):
        y = np.empty((x.shape[0], w.shape[0], *count)) if y is None else y
        for o in range(w.shape[0]):
            first = o // (w.shape[0] // groups) * channels
            part = window[:, first : first + channels]
            y[(slice(None), o, *at)] = (part * w[o]).reshape(x.shape[0], -1).sum(1)
    return y


def close(actual: Any, expected: Any) -> None:
    """Same shape, and close elements."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Any:
    """Calls a function of arrays on a backend."""
    return lambda function, *arrays: tp.compile(function, backend=request.param)(*arrays)


# Convolution


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 3, 7), (4, 3, 3), {}),
        ((2, 3, 7), (4, 3, 3), {"stride": 2, "padding": 2}),
        ((2, 4, 9), (6, 2, 3), {"dilation": 3, "groups": 2, "padding": 1}),
        ((2, 3, 6, 5), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
        ((2, 4, 7, 6), (4, 1, 3, 3), {"groups": 4, "stride": 2, "dilation": (1, 2), "padding": 1}),
        ((1, 2, 5, 4), (3, 2, 1, 1), {}),
        ((2, 2, 4, 3, 5), (3, 2, 2, 3, 2), {"stride": (1, 1, 2)}),
    ],
    ids=str,
)
def test_conv(run: Any, x: Any, w: Any, options: dict[str, Any]) -> None:
    m = len(x) - 2
    a, kernel, bias = random(*x), random(*w, seed=1), random(w[0], seed=2)

    def each(name: str, default: int) -> tuple[int, ...]:
        value = options.get(name, default)
        return (value,) * m if isinstance(value, int) else value

    padding = [(p, p) for p in each("padding", 0)]
    plain = convolved(a, kernel, each("stride", 1), padding, each("dilation", 1), options.get("groups", 1))
    close(run(lambda a, w: ops.conv(a, w, **options), a, kernel), plain)
    wanted = plain + bias.reshape(-1, *[1] * m)
    close(run(lambda a, w, b: ops.conv(a, w, b, **options), a, kernel, bias), wanted)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 2), (3, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_keeps_the_sizes(size: Any, dilation: int) -> None:
    x, w = random(2, 3, 6, 7), random(2, 3, *size, seed=1)
    reach = [(k - 1) * dilation for k in size]
    padding = [(r // 2, r - r // 2) for r in reach]  # an odd one more stands behind, as in PyTorch
    y = ops.conv(x, w, padding="same", dilation=dilation)
    close(y, convolved(x, w, (1, 1), padding, (dilation, dilation), 1))
    assert np.shape(y) == (2, 2, 6, 7)


def test_valid_is_no_padding() -> None:
    x, w = random(1, 1, 4, 4), random(1, 1, 3, 3, seed=1)
    assert np.array_equal(ops.conv(x, w, padding="valid"), ops.conv(x, w))


def test_images_are_promoted_as_elsewhere() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    w = random(1, 1, 2, 2).astype(np.float32)
    y = ops.conv(image, w)
    assert np.asarray(y).dtype == np.float32
    np.testing.assert_allclose(y, ops.conv(image.astype(np.float32), w))


def test_no_images_and_no_kernels() -> None:
    assert np.shape(ops.conv(np.zeros((0, 2, 4, 4)), random(3, 2, 2, 2))) == (0, 3, 3, 3)
    assert np.shape(ops.conv(random(2, 2, 4, 4), np.zeros((0, 2, 2, 2)))) == (2, 0, 3, 3)
    close(ops.conv(np.zeros((2, 0, 4, 4)), np.zeros((3, 0, 2, 2))), np.zeros((2, 3, 3, 3)))


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2, "padding": "same"}], ids=str
)
def test_gradients_of_conv_are_its_adjoints(run: Any, options: dict[str, Any]) -> None:
    # <conv(x, w), dy> is linear in x and in w, so <x, dx> and <w, dw> are each just that number.
    x, w = random(2, 4, 6, 5), random(4, 4 // options.get("groups", 1), 3, 3, seed=1)
    y = ops.conv(x, w, **options)
    dy = random(*np.shape(y), seed=2)
    dx, dw = run(tp.grad(lambda x, w: ops.sum(ops.conv(x, w, **options) * dy), (0, 1)), x, w)
    product = np.sum(np.asarray(y) * dy)
    close(np.sum(x * dx), product)
    close(np.sum(w * dw), product)


@pytest.mark.parametrize(
    "options", [{"padding": 2}, {"groups": 2, "stride": 2, "padding": 1}, {"dilation": 2}], ids=str
)
def test_large_images_are_convolved_in_parts(options: dict[str, Any]) -> None:
    x, w = random(3, 16, 64, 48), random(8, 16 // options.get("groups", 1), 5, 5, seed=1)
    dy = random(*np.shape(ops.conv(x, w, **options)), seed=2)

    def both(x: Any, w: Any, dy: Any) -> Any:
        y, pullback = tp.vjp(lambda x, w: ops.conv(x, w, **options), x, w)
        return y, *pullback(dy)

    program = tp.compile(both, backend="compiled")
    eager = tp.compile(both, backend="eager")(x, w, dy)
    assert all(np.array_equal(a, b) for a, b in zip(program(x, w, dy), eager, strict=True))
    products = [i for i in program.executable(x, w, dy).function.instructions if i.op.name == "matmul"]
    assert [i.result.type.shape[0] for i in products] == [3, 3, 3]
    each = [both(x[n : n + 1], w, dy[n : n + 1]) for n in range(3)]
    close(eager[0], np.concatenate([y for y, _, _ in each]))
    close(eager[1], np.concatenate([dx for _, dx, _ in each]))
    np.testing.assert_allclose(eager[2], sum(dw for _, _, dw in each), rtol=1e-9, atol=1e-9)


def test_second_derivatives(run: Any) -> None:
    x, w, v = random(1, 2, 5, 5), random(3, 2, 3, 3, seed=1), random(3, 2, 3, 3, seed=2)

    def loss(w: Any) -> Any:
        return ops.sum(ops.avg_pool(ops.tanh(ops.conv(x, w, padding=1, stride=2)), 2, 1) ** 2)

    step = 1e-5
    plain: Any = tp.grad(loss)
    difference = (plain(w + step * v) - plain(w - step * v)) / (2 * step)
    np.testing.assert_allclose(run(lambda w, v: tp.hvp(loss, (w,), (v,)), w, v), difference, rtol=1e-6, atol=1e-8)


# Pools


POOLS = [
    ((2, 3, 6, 6), (2, 2), {}),
    ((2, 3, 7, 5), (3, 2), {"stride": 2}),
    ((2, 3, 7, 5), (3, 3), {"stride": (1, 2), "padding": 1}),
    ((2, 3, 8), (3,), {"stride": 1, "padding": 1}),
    ((5, 6), (2, 3), {}),
]


def sizes(options: dict[str, Any], name: str, default: Any, m: int) -> Any:
    value = options.get(name, default)
    return (value,) * m if isinstance(value, int) else value


@pytest.mark.parametrize(("shape", "size", "options"), POOLS, ids=str)
def test_pools(run: Any, shape: Any, size: Any, options: dict[str, Any]) -> None:
    x, m = random(*shape), len(size)
    given = sizes(options, "stride", size, m), sizes(options, "padding", 0, m), (1,) * m
    wanted = pooled(x, size, *given, -np.inf, lambda w, axes: w.max(axes))
    close(run(lambda x: ops.max_pool(x, size, **options), x), wanted)
    mean = pooled(x, size, *given, 0, lambda w, axes: w.mean(axes))
    close(run(lambda x: ops.avg_pool(x, size, **options), x), mean)
    inside = pooled(np.ones(shape), size, *given, 0, lambda w, axes: w.mean(axes))
    close(run(lambda x: ops.avg_pool(x, size, count_include_pad=False, **options), x), mean / inside)


def test_pools_over_dilated_windows(run: Any) -> None:
    x = random(2, 3, 7, 8)
    wanted = pooled(x, (2, 3), (1, 2), (0, 1), (3, 2), -np.inf, lambda w, axes: w.max(axes))
    close(run(lambda x: ops.max_pool(x, (2, 3), (1, 2), (0, 1), (3, 2)), x), wanted)


def test_one_size_is_that_of_all_axes_of_an_image() -> None:
    x = random(2, 3, 6, 6)
    assert np.array_equal(ops.max_pool(x, 2), ops.max_pool(x, (2, 2)))
    assert np.array_equal(ops.avg_pool(x, 3, 1, 1), ops.avg_pool(x, (3, 3), (1, 1), (1, 1)))


def test_a_gradient_goes_to_the_first_largest(run: Any) -> None:
    x = np.array([[1.0, 3.0, 3.0, 2.0], [3.0, 0.0, 3.0, 3.0]])
    dx = run(tp.grad(lambda x: ops.sum(ops.max_pool(x, (2, 2)) * np.array([[5.0, 7.0]]))), x)
    assert dx.tolist() == [[0, 5, 7, 0], [0, 0, 0, 0]]
    overlapping = run(tp.grad(lambda x: ops.sum(ops.max_pool(x, (2,), 1))), x[0])
    assert overlapping.tolist() == [0, 2, 1, 0]


def test_not_a_number_is_the_largest(run: Any) -> None:
    x = np.array([1.0, 5.0, np.nan, 2.0, 3.0, 4.0])
    y = run(lambda x: ops.max_pool(x, (2,)), x)
    assert np.isnan(y[1])
    assert y[[0, 2]].tolist() == [5, 4]
    assert run(tp.grad(lambda x: ops.sum(ops.max_pool(x, (2,)))), x).tolist() == [0, 1, 1, 0, 0, 1]


# Layers


def runtime(model: nn.Module, backend: str, **options: Any) -> tp.Runtime:
    """A float64 runtime whose parameters are random, not their initial values."""
    rt = tp.Runtime(model, backend=backend, dtype="float64", **options)
    rt.load_state({**{n: random(*a.shape, seed=7 + k) for k, (n, a) in enumerate(rt.params.items())}, **rt.buffers})
    return rt


@pytest.mark.parametrize("backend", BACKENDS)
def test_conv_layers(backend: str) -> None:
    rt = runtime(nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2), backend)
    assert {n: a.shape for n, a in rt.params.items()} == {"weight": (6, 2, 3, 2), "bias": (6,)}
    x, w, bias = random(2, 4, 6, 5), rt.params["weight"], rt.params["bias"]
    wanted = convolved(x, w, (2, 2), [(1, 1), (1, 1)], (1, 2), 2) + bias.reshape(-1, 1, 1)
    close(rt.predict(x), wanted)
    rt = runtime(nn.Conv1d(3, 2, 3, padding="same", bias=False), backend)
    assert {n: a.shape for n, a in rt.params.items()} == {"weight": (2, 3, 3)}
    x = random(2, 3, 7)
    close(rt.predict(x), convolved(x, rt.params["weight"], (1,), [(1, 1)], (1,), 1))


def test_conv_starts_as_pytorchs() -> None:
    rt = tp.Runtime(nn.Conv2d(16, 64, 5, groups=2))
    weight, bias = rt.params["weight"], rt.params["bias"]
    bound = 1 / np.sqrt(8 * 25)
    assert abs(weight).max() <= bound
    assert abs(bias).max() <= bound
    np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pool_layers(backend: str) -> None:
    image, signal = random(2, 3, 7, 6), random(2, 3, 9)
    for layer, x, wanted in (
        (nn.MaxPool2d(2), image, ops.max_pool(image, (2, 2))),
        (nn.MaxPool2d((3, 2), 1, 1, (1, 2)), image, ops.max_pool(image, (3, 2), 1, 1, (1, 2))),
        (nn.MaxPool1d(3, 2, 1), signal, ops.max_pool(signal, (3,), 2, 1)),
        (nn.AvgPool2d(3, 2, 1), image, ops.avg_pool(image, (3, 3), 2, 1)),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), image, ops.avg_pool(image, (3, 3), 2, 1, False)),
        (nn.AvgPool1d(4), signal, ops.avg_pool(signal, (4,))),
    ):
        rt = tp.Runtime(layer, backend=backend, dtype="float64")
        assert not rt.params
        close(rt.predict(x), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_of_images(backend: str) -> None:
    rt = runtime(nn.BatchNorm2d(3), backend, objective="mse", optimizer=tp.optim.SGD(0.1))
    x = random(4, 3, 5, 2) * 2 + 1
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    weight, bias = (rt.params[n].reshape(3, 1, 1) for n in ("weight", "bias"))
    normal = (x - mean.reshape(3, 1, 1)) / np.sqrt(var.reshape(3, 1, 1) + 1e-5)
    close(rt.predict(x), normal * weight + bias)
    rt.step(x, random(4, 3, 5, 2, seed=1))
    close(rt.buffers["running_mean"], 0.1 * mean)
    close(rt.buffers["running_var"], 0.9 + 0.1 * var * 40 / 39)
    with pytest.raises(tp.ShapeError, match=r"rule: \[N, 3, H, W\]"):
        rt.predict(random(4, 3, 5))


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 3)], ids=str)
def test_batch_norm_normalises_each_channel(run: Any, shape: tuple[int, ...]) -> None:
    x, weight, bias = random(*shape) * 3 + 1, random(3, seed=1), random(3, seed=2)
    axes, channel = (0, *range(2, len(shape))), (3, *[1] * (len(shape) - 2))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    close(run(lambda x: ops.batch_norm(x, eps=1e-3), x), normal)
    wanted = normal * weight.reshape(channel) + bias.reshape(channel)
    close(run(lambda x, w, b: ops.batch_norm(x, weight=w, bias=b, eps=1e-3), x, weight, bias), wanted)
    mean, var = random(3, seed=3), random(3, seed=4) ** 2
    by_running = (x - mean.reshape(channel)) / np.sqrt(var.reshape(channel) + 1e-3)
    wanted = by_running * weight.reshape(channel) + bias.reshape(channel)
    close(run(lambda x, m, v, w, b: ops.batch_norm(x, m, v, w, b, 1e-3), x, mean, var, weight, bias), wanted)


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.conv(x, np.zeros((2, 3, 9, 1))), r"windows reach over \[9, 1\] elements of axes of \[5, 5\]"),
        (lambda x: ops.conv(x, np.zeros((2, 4, 1, 1))), "3 channels, and the weight takes 4"),
        (lambda x: ops.conv(x, np.zeros((2, 1, 1, 1)), groups=3), "the groups divide the 2 output channels"),
        (lambda x: ops.conv(x, np.zeros((2, 3, 1))), r"x is \[N, C, \*axes\]"),
        (lambda x: ops.conv(x, np.zeros((2, 3, 1, 1)), stride=(1, 2, 3)), "conv: stride.*\n.*one for each of 2 axes"),
        (lambda x: ops.conv(x, np.zeros((2, 3, 1, 1)), stride=0), "all at least 1"),
        (lambda x: ops.conv(x, np.zeros((2, 3, 2, 2)), stride=2, padding="same"), '"same" is for stride 1'),
        (lambda x: ops.conv(x, np.zeros((2, 3, 2, 2)), padding="full"), '"same" or "valid"'),
        (lambda x: ops.conv(x, np.zeros((2, 3, 2, 2)), padding=-1), "not negative"),
        (lambda x: ops.max_pool(x, 2, padding=2), "at most half a window is padding"),
        (lambda x: ops.max_pool(x, 6), "a window fits into its axis"),
        (lambda x: ops.avg_pool(x[0, 0], 2), "a size for each of its last axes"),
        (lambda x: ops.avg_pool(x, (1, 1, 1, 1, 1)), "a size for each of its last axes"),
        (lambda x: ops.batch_norm(x, np.zeros(3)), "given together, or neither"),
        (lambda x: ops.batch_norm(x[0, 0, 0]), r"x is \[N, C, \*axes\]"),
        (lambda x: nn.Conv2d(3, 4, (1, 2, 3)), "Conv2d: kernel size.*\n.*one for each of 2 axes"),
    ],
)
def test_refusals_name_the_rule_and_the_line(call: Any, message: str) -> None:
    with pytest.raises(tp.ShapeError, match=message) as caught:
        call(random(2, 3, 5, 5))
    assert "test_convolution.py" in str(caught.value)


def test_groups_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="the groups divide both"):
        nn.Conv2d(4, 6, 3, groups=3)
