"""What becomes one kernel, what its code looks like, and what the plan saves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends import kernels
from tapeir.ir import Function
from tapeir.ir.op import Source, View
from tapeir.ir.types import Array

pytestmark = pytest.mark.skipif(kernels.table().name != "native", reason="about native programs")


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compiled(f: Callable[..., Any], *arrays: Array) -> Any:
    return tp.compile(f, backend="compiled").executable(*arrays)


def with_pullback(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function and its gradient along its last argument."""

    def both(*arguments: Any) -> Any:
        y, pullback = tp.vjp(f, *arguments[:-1])
        return y, *pullback(arguments[-1])

    return both


def work(function: Function) -> list[str]:
    """The ops that compute, in order: views and constants do not."""
    return [i.op.name for i in function.instructions if not isinstance(i.op, (View, Source))]


def softmax(x: Any) -> Any:
    return ops.softmax(x)


def cross_entropy(x: Any, target: Any) -> Any:
    return ops.cross_entropy(x, target)


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    return ops.layer_norm(x, 64, weight, bias)


def gelu(x: Any) -> Any:
    return ops.gelu(x)


def attention(q: Any, k: Any, v: Any) -> Any:
    return ops.scaled_dot_product_attention(q, k, v, is_causal=True)


def masked_attention(mask: Array) -> Callable[..., Any]:
    def attend(q: Any, k: Any, v: Any) -> Any:
        return ops.scaled_dot_product_attention(q, k, v, mask)

    return attend


ROWS, HEADS = (48, 64), (2, 4, 32, 16)
CASES: dict[str, tuple[Callable[..., Any], list[Array], int, int]] = {
    # name: function, arguments, kernels forward, kernels of both directions
    "softmax": (softmax, [normal(*ROWS)], 1, 1),
    "layer norm": (layer_norm, [normal(*ROWS), normal(64), normal(64)], 1, 3),
    "gelu": (gelu, [normal(*ROWS)], 1, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_of_a_function(name: str) -> None:
    f, arrays, forward, both = CASES[name]
    program = compiled(f, *arrays)
    assert len(work(program.function)) <= forward, work(program.function)
    y = program(*arrays)
    program = compiled(with_pullback(f), *arrays, normal(*y.shape, seed=1))
    assert len(work(program.function)) <= both, work(program.function)


def test_kernels_of_attention_are_the_products_and_one_of_rows_each_way() -> None:
    arrays = [normal(*HEADS, seed=n) for n in range(4)]
    assert work(compiled(attention, *arrays[:3]).function) == ["matmul", "fused", "matmul"]
    names = work(compiled(with_pullback(attention), *arrays).function)
    assert names.count("matmul") == 6
    assert len(names) - 6 <= 2, names
    mask = normal(32, 32, seed=5)
    for given in (mask, mask > 0):
        names = work(compiled(with_pullback(masked_attention(given)), *arrays).function)
        assert names.count("matmul") == 6
        assert len(names) - 6 <= 2, names


def test_kernels_of_cross_entropy() -> None:
    x, target = normal(*ROWS), np.arange(48) % 64
    assert len(work(compiled(cross_entropy, x, target).function)) <= 2
    step = tp.value_and_grad(cross_entropy)
    assert len(work(compiled(step, x, target).function)) <= 2


def convolution(x: Any, w: Any) -> Any:
    return ops.relu(ops.conv(x, w, padding=1))


def max_pool(x: Any) -> Any:
    return ops.max_pool(x, 2)


def test_convolution_copies_windows_and_multiplies() -> None:
    x, w = normal(4, 3, 16, 16), normal(8, 3, 3, 3, seed=1)
    assert work(compiled(convolution, x, w).function) == ["fused", "matmul", "fused"]
    program = compiled(with_pullback(convolution), x, w, normal(4, 8, 16, 16, seed=2))
    # More than above: relu's gradient in rows, its two products, and the sum of windows, which needs no padded array.
    names = work(program.function)
    assert (names.count("matmul"), len(names)) == (3, 7), names


def test_a_pool_is_one_kernel_each_way() -> None:
    x = normal(4, 3, 8, 8)
    assert work(compiled(max_pool, x).function) == ["fused"]
    program = compiled(with_pullback(max_pool), x, normal(4, 3, 4, 4, seed=1))
    assert len(work(program.function)) <= 3, work(program.function)


def training_step(layer: nn.Module, *shape: int) -> Function:
    """The planned step of a layer between an input and the mean of its squares."""
    rt = tp.Runtime(layer, objective="mse", optimizer=tp.optim.SGD(lr=0.1), backend="compiled")
    rt.step(normal(*shape), normal(*shape, seed=1))
    (program,) = rt.artifacts.values()
    return program.function


def batch_norm(x: Any, weight: Any, bias: Any) -> Any:
    return ops.batch_norm(x, weight=weight, bias=bias)


def test_gradients_of_normalised_images_take_a_kernel_of_sums_and_one_of_elements() -> None:
    x, weight, bias, dy = normal(4, 8, 8, 8), normal(8, seed=1), normal(8, seed=2), normal(4, 8, 8, 8, seed=3)
    program = compiled(with_pullback(batch_norm), x, weight, bias, dy)
    # Forward: the mean, the variance, the result; backward: four sums over the same elements, the gradient.
    assert len(work(program.function)) <= 6, work(program.function)


@pytest.mark.parametrize(
    ("layer", "most"),
    [
        # with the loss and its gradient, the rows' new statistics and the update
        (nn.BatchNorm1d(64), 5),
        (nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(64)), 3),
    ],
    ids=["batch norm", "dropout and batch norm"],
)
def test_kernels_of_a_step(layer: nn.Module, most: int) -> None:
    names = work(training_step(layer, *ROWS))
    assert len([n for n in names if n in ("fused", "sum")]) <= most, names


def test_dropout_draws_and_scales_in_one_kernel() -> None:
    function = training_step(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)), *ROWS)
    assert "random_bits" not in work(function)
    assert "uniform" not in work(function)


# Code

FREEDOMS = re.compile(r"\b(fast|reassoc|nnan|ninf|nsz|arcp|afn|contract)\b")


def perceptron(numerics: str) -> tuple[tp.Runtime, Any]:
    model = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.LayerNorm(48), nn.Dropout(0.1), nn.Linear(48, 10))
    rt = tp.Runtime(model, objective="cross_entropy", optimizer=tp.optim.Adam(), backend="compiled", numerics=numerics)
    rt.step(normal(32, 64), np.arange(32) % 10)
    (program,) = rt.artifacts.values()
    return rt, program


def test_exact_code_is_vectors_of_sixteen_without_freedoms() -> None:
    _, program = perceptron("exact")
    code = re.sub(r";.*", "", program.source)
    assert not FREEDOMS.search(code), FREEDOMS.search(code)
    assert "fadd <16 x float>" in code
    assert set(re.findall(r"load <(\d+) x float>", code)) == {"16"}


NARROW: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "pool": (lambda x: ops.max_pool(x, 2), (4, 3, 8, 8)),
    "step": (lambda x: ops.exp(x[:, ::2]), (5, 64)),
    "backwards": (lambda x: ops.exp(x[:, ::-1]), (5, 64)),
    "exchanged": (lambda x: ops.exp(ops.permute_dims(x.reshape((6, 4, 2, 8)), (0, 1, 3, 2))), (6, 64)),
    "repeated": (lambda x: ops.exp(x.reshape((64, 2, 1)) + np.ones((1, 1, 2), np.float32)), (64, 2)),
}


@pytest.mark.parametrize("name", NARROW)
def test_narrow_dimensions_and_steps_are_whole_vectors(name: str) -> None:
    function, shape = NARROW[name]
    x = normal(*shape)
    program = compiled(function, x)
    assert "masked" not in program.source
    assert "<16 x float>" in program.source
    assert same_bits(program(x), np.asarray(tp.compile(function, backend="eager")(x)))


def test_fast_code_may_contract_and_says_how_far_it_is() -> None:
    rt, program = perceptron("fast")
    flags = {m.group() for m in FREEDOMS.finditer(re.sub(r";.*", "", program.source))}
    assert flags == {"contract"}
    found = rt.distance(normal(32, 64), np.arange(32) % 10)
    assert set(found) == {"exact", "fast"}
    assert 0 < found["fast"] < 1e-5


def test_fast_sums_take_several_accumulators() -> None:
    x = normal(8, 4096)
    results: dict[str, Array] = {}
    for numerics in ("exact", "fast"):
        rt = tp.Runtime(
            nn.LayerNorm(4096), objective="mse", optimizer=tp.optim.SGD(lr=0.1), backend="compiled", numerics=numerics
        )
        results[numerics] = np.asarray(rt.predict(x))
    assert not same_bits(results["exact"], results["fast"])
    np.testing.assert_allclose(results["fast"], results["exact"], atol=1e-5)


# Memory


def deep(x: Any, *weights: Any) -> Any:
    for w in weights:
        x = ops.tanh(x @ w)
    return x


def test_memory_is_reused_and_told() -> None:
    arrays = [normal(128, 128, seed=n) for n in range(9)]  # large enough to be read where they are
    memory = compiled(deep, *arrays).memory
    one = 128 * 128 * 4
    assert memory.bound <= memory < memory.values
    assert memory.values >= 8 * one
    assert memory.bound <= 3 * one


def test_what_frees_most_goes_first() -> None:
    """Four wide products that the user makes one after the other, each read once: only one is alive at a time."""

    def late(x: Any, w: Any, v: Any) -> Any:
        wide = [(x + float(n)) @ w for n in range(4)]
        narrow = [y @ v for y in wide]
        return narrow[0] + narrow[1] + narrow[2] + narrow[3]

    x, w, v = normal(16, 16), normal(16, 1024), normal(1024, 4)
    program = compiled(late, x, w, v)
    assert program.memory.bound < 2 * 16 * 1024 * 4
    expected = tp.compile(late, backend="eager").executable(x, w, v)(x, w, v)
    assert same_bits(program(x, w, v), expected)
