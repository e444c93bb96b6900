"""Layers against independent NumPy formulas, state names and layouts, tied weights, buffers, attention."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from math import erf, pi, sqrt
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops

from .closeness import random

BACKENDS = ("eager", "compiled")


def runtime(model: nn.Module, backend: str = "eager", **options: Any) -> tp.Runtime:
    """A float64 runtime whose parameters are random, not their initial values."""
    rt = tp.Runtime(model, backend=backend, **dict[str, Any]({"dtype": "float64", **options}))
    rt.load_state({**{n: random(*a.shape, seed=7 + k) for k, (n, a) in enumerate(rt.params.items())}, **rt.buffers})
    return rt


def close(actual: Any, expected: Any, rtol: float = 1e-11) -> None:
    """Same shape, and close elements."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-13)


# Layers


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lead", [(4,), (), (2, 3)], ids=str)
def test_linear(backend: str, lead: tuple[int, ...]) -> None:
    rt = runtime(nn.Linear(3, 5), backend)
    x = random(*lead, 3)
    assert {n: a.shape for n, a in rt.params.items()} == {"weight": (5, 3), "bias": (5,)}
    close(rt.predict(x), x @ rt.params["weight"].T + rt.params["bias"])
    rt = runtime(nn.Linear(3, 5, bias=False), backend)
    assert list(rt.params) == ["weight"]
    close(rt.predict(x), x @ rt.params["weight"].T)


def test_linear_starts_as_pytorchs() -> None:
    rt = tp.Runtime(nn.Linear(400, 100))
    weight, bias = rt.params["weight"], rt.params["bias"]
    assert abs(weight).max() <= 1 / 20
    assert abs(bias).max() <= 1 / 20
    np.testing.assert_allclose(weight.std(), 1 / 20 / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(weight.mean(), 0, atol=1e-3)


ACTIVATIONS: dict[str, tuple[nn.Module, Callable[[Any], Any]]] = {
    "ReLU": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "Tanh": (nn.Tanh(), np.tanh),
    "Sigmoid": (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    "SiLU": (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    "GELU": (nn.GELU(), lambda x: x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2),
    "GELU tanh": (
        nn.GELU(approximate="tanh"),
        lambda x: x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_activations(name: str, backend: str) -> None:
    layer, formula = ACTIVATIONS[name]
    x = random(4, 5) * 3
    rt = tp.Runtime(layer, backend=backend, dtype="float64")
    assert not rt.params
    close(rt.predict(x), formula(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(6,), (5, 6)], ids=str)
def test_layer_norm(backend: str, shape: tuple[int, ...]) -> None:
    x = random(2, 5, 6) * 3 + 1
    axes = tuple(range(-len(shape), 0))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    rt = runtime(nn.LayerNorm(shape if len(shape) > 1 else 6, eps=1e-3), backend)
    assert {n: a.shape for n, a in rt.params.items()} == {"weight": shape, "bias": shape}
    close(rt.predict(x), normal * rt.params["weight"] + rt.params["bias"])
    rt = runtime(nn.LayerNorm(shape, eps=1e-3, bias=False), backend)
    close(rt.predict(x), normal * rt.params["weight"])
    rt = runtime(nn.LayerNorm(shape, eps=1e-3, elementwise_affine=False), backend)
    assert not rt.params
    close(rt.predict(x), normal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5)], ids=str)
def test_batch_norm(backend: str, shape: tuple[int, ...]) -> None:
    rt = runtime(nn.BatchNorm1d(3, eps=1e-3, momentum=0.3), backend, objective="mse", optimizer=tp.optim.SGD(0.1))
    assert list(rt.params) == ["weight", "bias"]
    assert list(rt.buffers) == ["running_mean", "running_var"]
    channel = (1, 3, *[1] * (len(shape) - 2))
    axes = (0, *range(2, len(shape)))
    mean, var = np.zeros(3), np.ones(3)
    for step in range(3):
        x, y = random(*shape, seed=step) * 2 + 1, random(*shape, seed=9)
        weight, bias = (rt.params[n].reshape(channel) for n in ("weight", "bias"))
        batch_mean, batch_var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        close(rt.predict(x), (x - batch_mean) / np.sqrt(batch_var + 1e-3) * weight + bias)
        close(rt.buffers["running_mean"], mean)
        rt.step(x, y)
        count = x.size // 3
        mean = 0.7 * mean + 0.3 * batch_mean.reshape(3)
        var = 0.7 * var + 0.3 * batch_var.reshape(3) * count / (count - 1)
        close(rt.buffers["running_mean"], mean)
        close(rt.buffers["running_var"], var)
        with rt.in_mode("eval"):
            weight, bias = (rt.params[n].reshape(channel) for n in ("weight", "bias"))
            normal = (x - mean.reshape(channel)) / np.sqrt(var.reshape(channel) + 1e-3)
            close(rt.predict(x), normal * weight + bias)
            rt.loss(x, y)
        close(rt.buffers["running_mean"], mean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_refuses(backend: str) -> None:
    rt = tp.Runtime(nn.BatchNorm1d(3), backend=backend)
    with pytest.raises(tp.ShapeError, match="more than one value per channel"):
        rt.predict(random(1, 3))
    for shape in ((4, 2), (3,), (2, 3, 4, 5)):
        with pytest.raises(tp.ShapeError, match=r"BatchNorm1d\(3\)"):
            rt.predict(random(*shape))
    close(rt.eval().predict(random(1, 3)), random(1, 3) / np.sqrt(1 + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout(backend: str, p: float) -> None:
    rt = tp.Runtime(nn.Dropout(p), backend=backend, dtype="float64")
    x = np.abs(random(200, 100)) + 0.1
    y = rt.predict(x)
    kept = y != 0
    close(y[kept], (x / (1 - p))[kept])
    # Five standard deviations of the mean of 20000 draws, over all, and of 100 or 200 over rows and columns.
    spread = np.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * spread / np.sqrt(kept.size)
    assert (abs(kept.mean(0) - (1 - p)) < 5 * spread / np.sqrt(200)).all()
    assert (abs(kept.mean(1) - (1 - p)) < 5 * spread / np.sqrt(100)).all()
    with rt.in_mode("eval"):
        assert rt.predict(x).tobytes() == x.tobytes()
    assert rt.predict(x).tobytes() == y.tobytes(), "a draw depends on seed, step and place alone"


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_draws_differ_by_seed_step_and_place(backend: str) -> None:
    class Two(nn.Module):
        """Two draws of one module and one of another."""

        def __init__(self) -> None:
            self.scale = nn.Parameter(1, 1.0)
            self.a, self.b = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            x = x * self.scale
            return ops.stack([self.a(x), self.a(x), self.b(x)])

    x = np.ones((16, 16))
    draws: list[bytes] = []
    for seed in (0, 1):
        rt = tp.Runtime(Two(), backend=backend, seed=seed, objective=lambda p, t: (p * t).mean())
        for _ in range(2):
            draws.extend((part != 0).tobytes() for part in rt.predict(x))
            rt.step(x, np.zeros(()))
    assert len(set(draws)) == len(draws) == 12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_at_its_bounds(backend: str, p: float) -> None:
    x = random(4, 5)
    close(tp.Runtime(nn.Dropout(p), backend=backend, dtype="float64").predict(x), x * (1 - p))


def test_dropout_takes_a_probability() -> None:
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="probability"):
            nn.Dropout(p)


@pytest.mark.parametrize("backend", BACKENDS)
def test_embedding(backend: str) -> None:
    rt = runtime(nn.Embedding(7, 3), backend, objective="mse")
    table = rt.params["weight"]
    assert table.shape == (7, 3)
    at = np.array([[0, 6], [3, 3]])
    close(rt.predict(at), table[at])
    _, gradients = rt.loss_and_grads(at, np.zeros((2, 2, 3)))
    expected = np.zeros((7, 3))
    np.add.at(expected, at, table[at] * 2 / 12)
    close(gradients["weight"], expected)
    for bad in (7, -1):
        with pytest.raises(IndexError, match=rf"index {bad} is out of range.*size 7"):
            rt.predict(np.array([0, bad]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_flatten(backend: str) -> None:
    x = random(2, 3, 4, 5)
    for arguments, shape in (
        ((), (2, 60)),
        ((0,), (120,)),
        ((1, 2), (2, 12, 5)),
        ((-2, -1), (2, 3, 20)),
        ((2, 2), x.shape),
    ):
        close(tp.Runtime(nn.Flatten(*arguments), backend=backend, dtype="float64").predict(x), x.reshape(shape))
    with pytest.raises(tp.ShapeError, match="start_dim"):
        tp.Runtime(nn.Flatten(2, 1), backend=backend).predict(x)


def test_layers_name_the_line_that_made_them() -> None:
    rt = tp.Runtime(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(tp.ShapeError) as caught:
        rt.predict(random(3, 5))
    text = str(caught.value)
    assert "test_nn.py:" in text
    assert "nn.Linear(4, 2)" in text
    assert 'in "1"' in text
    assert "f32[3, 5]" in text
    assert "rule:" in text


# Objectives


def test_objectives() -> None:
    x, labels = random(6, 4), np.array([0, 3, 1, 1, 2, 0])
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    soft = np.abs(random(6, 4, seed=1))
    for backend in BACKENDS:
        rt = tp.Runtime(nn.Flatten(), backend=backend, dtype="float64", objective="cross_entropy")
        close(rt.loss(x, labels), -log_p[np.arange(6), labels].mean())
        close(rt.loss(x, labels.astype(np.uint8)), -log_p[np.arange(6), labels].mean())
        close(rt.loss(x, soft), -(soft * log_p).sum(1).mean())
        close(rt.configure(objective="mse").loss(x, soft), ((x - soft) ** 2).mean())
        close(rt.configure(objective=lambda p, t: abs(p - t).sum()).loss(x, soft), abs(x - soft).sum())


def test_mse_of_column_and_vector_names_the_reshape() -> None:
    rt = tp.Runtime(nn.Linear(3, 1))
    with pytest.raises(tp.ShapeError, match=r"(?s)f32\[4, 1\].*f32\[4\].*reshape\(-1, 1\)"):
        rt.loss(random(4, 3), random(4))
    with pytest.raises(tp.ShapeError, match="scalar"):
        tp.Runtime(nn.Linear(3, 1), objective=lambda p, t: p - t).loss(random(4, 3), random(4, 1))


def test_objectives_that_are_not_there_yet() -> None:
    for name in ("nll", "binary_cross_entropy", "huber"):
        with pytest.raises(ValueError, match="mse, cross_entropy"):
            tp.Runtime(nn.ReLU(), objective=name)
    for name in ("RMSProp", "Adagrad", "Adadelta", "Muon", "Lion", "Cosine", "WarmupCosine"):
        assert not hasattr(tp.optim, name)


# State


class Block(nn.Module):
    """A module with containers of modules."""

    def __init__(self) -> None:
        self.layers = [nn.Linear(3, 3), nn.LayerNorm(3)]
        self.heads = {"left": nn.Linear(3, 2), "right": nn.Linear(3, 2, bias=False)}
        self.scale = nn.Parameter((), 2.0)
        self.seen = nn.Buffer((), 0, dtype="i64")

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        if self.training:
            self.seen.assign(self.seen + x.shape[0])
        return (self.heads["left"](x) - self.heads["right"](x)) * self.scale


def test_names_follow_attributes_in_order() -> None:
    rt = tp.Runtime(nn.Sequential(Block(), nn.BatchNorm1d(2)), optimizer=tp.optim.Adam())
    names = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "heads.left.weight", "heads.left.bias",
             "heads.right.weight", "scale"]  # fmt: skip
    assert list(rt.params) == [*(f"0.{n}" for n in names), "1.weight", "1.bias"]
    assert list(rt.buffers) == ["0.seen", "1.running_mean", "1.running_var"]
    slots = [f"optimizer/{slot}/{n}" for slot in ("m", "v") for n in rt.params]
    assert list(rt.optimizer_state) == [*slots, "optimizer/step"]
    assert rt.buffers["0.seen"].dtype == np.int64
    assert rt.params["0.scale"].shape == ()


class Tied(nn.Module):
    """An embedding whose table is also the output layer's weight, and a layer used under two names."""

    def __init__(self) -> None:
        self.embed = nn.Embedding(5, 4)
        self.middle = nn.Linear(4, 4)
        self.again = self.middle
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.again(ops.tanh(self.middle(self.embed(x)))))


@pytest.mark.parametrize("backend", BACKENDS)
def test_tied_weights(backend: str, tmp_path: Any) -> None:
    rt = runtime(Tied(), backend, objective="cross_entropy")
    assert list(rt.params) == ["embed.weight", "middle.weight", "middle.bias"]
    x, y = np.array([0, 3, 4]), np.array([1, 1, 2])
    table, w, b = rt.params.values()
    close(rt.predict(x), (np.tanh(table[x] @ w.T + b) @ w.T + b) @ table.T)
    _, gradients = rt.loss_and_grads(x, y)
    nudge = np.zeros_like(table)
    nudge[3, 1] = 1e-6
    before = rt.loss(x, y)
    rt.load_state({**rt.params, "embed.weight": table + nudge})
    np.testing.assert_allclose((rt.loss(x, y) - before) / 1e-6, gradients["embed.weight"][3, 1], rtol=1e-4)

    whole = {"embed.weight": table, "middle.weight": w, "middle.bias": b}
    for state in (
        {**whole, "head.weight": table, "again.weight": w, "again.bias": b},
        {"head.weight": table, "again.weight": w, "middle.bias": b},
    ):
        rt.load_state({n: np.zeros_like(a) for n, a in whole.items()})
        rt.load_state(state)
        assert all((rt.params[n] == a).all() for n, a in whole.items())
    with pytest.raises(tp.CheckpointError, match="tied"):
        rt.load_state({**whole, "head.weight": table + 1})
    rt.save(tmp_path / "tied.safetensors")
    from safetensors.numpy import load_file

    assert set(load_file(tmp_path / "tied.safetensors")) == {*whole, "optimizer/step"}
    rt.step(x, y)
    assert not (rt.params["embed.weight"] == table).all()


def test_declarations_need_a_runtime() -> None:
    model = Block()
    for use in (
        lambda: model.scale + 1,
        lambda: 2 * model.scale,
        lambda: model.layers[0].weight.T,
        lambda: ops.exp(model.scale),
        lambda: model(random(2, 3)),
        lambda: model.training,
        lambda: model.seen.assign(1),
        lambda: tp.trace(lambda x: x * model.scale, tp.f32[3]),
    ):
        with pytest.raises(tp.TraceError, match=r"(?s)test_nn\.py:.*remedy:.*tp\.Runtime"):
            use()


def test_a_parameter_outside_the_model_is_an_error() -> None:
    stray = nn.Parameter(3)

    class Stray(nn.Module):
        """Uses a parameter that it does not declare."""

        def forward(self, x: Any) -> Any:
            return x * stray

    with pytest.raises(tp.TraceError, match=r"(?s)return x \* stray.*not an attribute of the model.*remedy"):
        tp.Runtime(Stray()).predict(random(2, 3))


class Counting(nn.Module):
    """A buffer that is read after an assignment."""

    def __init__(self, shape: tuple[int, ...] = (2,)) -> None:
        self.weight = nn.Parameter(2, 1.0)
        self.total = nn.Buffer(shape)

    def forward(self, x: Any) -> Any:
        before = self.total * 1
        self.total.assign(self.total + x.sum(0))
        between = self.total * 1
        self.total.assign(self.total * 2 * self.weight)
        return ops.stack([before, between, self.total * 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_buffers(backend: str) -> None:
    rt = tp.Runtime(Counting(), backend=backend, dtype="float64", optimizer=tp.optim.SGD(0.0))
    x, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((3, 2))
    expected, added = np.zeros(2), np.array([4.0, 6.0])
    for _ in range(3):
        assert rt.predict(x).tolist() == [
            expected.tolist(),
            (expected + added).tolist(),
            (2 * (expected + added)).tolist(),
        ]
        rt.loss(x, y)
        rt.loss_and_grads(x, y)
        rt.eval().predict(x)
        rt.train()
        assert rt.buffers["total"].tolist() == expected.tolist(), "only step commits"
        rt.step(x, y)
        expected = 2 * (expected + added)
        assert rt.buffers["total"].tolist() == expected.tolist(), "the last assign is the update"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_assignment_of_another_shape_is_an_error(backend: str) -> None:
    rt = tp.Runtime(Counting((3,)), backend=backend)
    for call in (lambda: rt.predict(np.ones((3, 3))), lambda: rt.predict(np.ones((3, 2)))):
        with pytest.raises(tp.ShapeError):
            call()

    class Wrong(nn.Module):
        """Assigns a scalar to a vector."""

        def __init__(self) -> None:
            self.last = nn.Buffer(2)

        def forward(self, x: Any) -> Any:
            self.last.assign(x.sum())
            return x

    with pytest.raises(tp.ShapeError, match=r"(?s)self\.last\.assign.*f32\[\].*shape \[2\]"):
        tp.Runtime(Wrong(), backend=backend).predict(np.ones((3, 2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_assignment_is_cast_to_the_buffers_dtype(backend: str) -> None:
    class Seen(nn.Module):
        """Keeps an integer."""

        def __init__(self) -> None:
            self.weight = nn.Parameter(1)
            self.last = nn.Buffer((), 5, dtype="i64")

        def forward(self, x: Any) -> Any:
            self.last.assign(x.sum() * 1.5)
            return x * self.weight

    rt = tp.Runtime(Seen(), backend=backend)
    assert rt.buffers["last"] == 5
    rt.step(np.full((3, 1), 1.0), np.zeros((3, 1)))
    assert rt.buffers["last"].dtype == np.int64
    assert rt.buffers["last"] == 4


# Attention


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_causal_attention_ignores_the_future_exactly(backend: str, dtype: str) -> None:
    n, d = 6, 4

    class Attention(nn.Module):
        """Values are the identity, so that the result is the attention weights."""

        def forward(self, x: Any) -> Any:
            return ops.scaled_dot_product_attention(x * 3, x, np.eye(n), is_causal=True)

    rt = tp.Runtime(Attention(), backend=backend, dtype=dtype)
    x = random(n, d)
    weights = rt.predict(x)
    assert (weights[np.triu_indices(n, 1)] == 0).all()
    assert (weights[np.tril_indices(n)] > 0).all()
    scores = np.where(np.tri(n) > 0, (3 * x) @ x.T / np.sqrt(d), -np.inf)
    expected = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(
        weights, expected / expected.sum(1, keepdims=True), rtol=1e-11 if dtype == "float64" else 1e-3, atol=1e-7
    )
    changed = x.copy()
    changed[-1] = 1e3
    assert rt.predict(changed)[:-1].tobytes() == weights[:-1].tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_with_heads_mask_and_scale(backend: str) -> None:
    q, k, v = random(2, 3, 4, 5), random(2, 3, 6, 5, seed=1), random(2, 3, 6, 7, seed=2)
    mask = random(4, 6, seed=3) > -0.5
    mask[:, 0] = True

    def attend(q: Any, k: Any, v: Any) -> Any:
        return ops.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)

    scores = np.where(mask, q @ k.swapaxes(-1, -2) * 0.3, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    close(tp.compile(attend, backend=backend)(q, k, v), weights / weights.sum(-1, keepdims=True) @ v)
    close(
        ops.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3),
        weights / weights.sum(-1, keepdims=True) @ v,
    )


# Initialisers


@pytest.mark.parametrize(
    ("init", "low", "high", "std"),
    [
        (nn.init.Constant(0.25), 0.25, 0.25, 0.0),
        (nn.init.Uniform(-2, 3), -2, 3, 5 / sqrt(12)),
        (nn.init.Normal(0, 0.5), -4, 4, 0.5),
        (nn.init.KaimingUniform(), -sqrt(6 / 200), sqrt(6 / 200), sqrt(2 / 200)),
        (nn.init.KaimingNormal(), -1, 1, sqrt(2 / 200)),
        (nn.init.XavierUniform(), -sqrt(6 / 300), sqrt(6 / 300), sqrt(2 / 300)),
        (nn.init.XavierNormal(), -1, 1, sqrt(2 / 300)),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, (int, float)) else "",
)
def test_initialisers(init: Any, low: float, high: float, std: float) -> None:
    class Holder(nn.Module):
        """One parameter."""

        def __init__(self) -> None:
            self.w = nn.Parameter((100, 200), init)

    w = tp.Runtime(Holder(), dtype="float64").params["w"]
    assert low <= w.min()
    assert w.max() <= high
    np.testing.assert_allclose(w.std(), std, rtol=0.03)
    rounded = tp.Runtime(Holder(), dtype="float32").params["w"]
    assert (rounded == w.astype(np.float32)).all(), "computed in f64 and rounded once"
    assert (tp.Runtime(Holder(), backend="compiled", dtype="float64").params["w"] == w).all()
    if std:
        assert not (tp.Runtime(Holder(), seed=1, dtype="float64").params["w"] == w).all()


def test_a_module_that_holds_its_parent_is_below_it_only() -> None:
    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            self.parent, self.layer = parent, nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            return self.layer(x)

    class Parent(nn.Module):
        def __init__(self) -> None:
            self.child = Child(self)

        def forward(self, x: Any) -> Any:
            return self.child(x)

    assert list(tp.Runtime(Parent()).params) == ["child.layer.weight", "child.layer.bias"]
    assert repr(Parent()) == "Parent(child=Child(layer=Linear(in_features=3, out_features=2)))"


def test_two_parameters_of_one_name_are_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.d = {"a.b": nn.Parameter((1,)), "a": {"b": nn.Parameter((1,))}}

        def forward(self, x: Any) -> Any:
            return x * self.d["a.b"]

    with pytest.raises(tp.TraceError, match=r"two parameters or buffers of the model are called 'd\.a\.b'"):
        tp.Runtime(Net())
