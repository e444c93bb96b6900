"""Gradients and one Adam step against an independent NumPy computation, in float64."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn

RTOL = 1e-10
LR, B1, B2, EPS = 1e-2, 0.9, 0.999, 1e-8

Arrays = dict[str, Any]


def mlp(p: Arrays, x: Any, labels: Any) -> tuple[Any, Arrays]:
    """Loss and gradients of linear, relu, linear, cross-entropy."""
    n = len(x)
    pre = x @ p["0.weight"].T + p["0.bias"]
    h = np.maximum(pre, 0)
    logits = h @ p["2.weight"].T + p["2.bias"]
    e = np.exp(logits - logits.max(1, keepdims=True))
    softmax = e / e.sum(1, keepdims=True)
    loss = -np.log(softmax[np.arange(n), labels]).mean()
    d = softmax.copy()
    d[np.arange(n), labels] -= 1
    d /= n
    dh = d @ p["2.weight"] * (pre > 0)
    return loss, {"0.weight": dh.T @ x, "0.bias": dh.sum(0), "2.weight": d.T @ h, "2.bias": d.sum(0)}


def normal(p: Arrays, x: Any, y: Any) -> tuple[Any, Arrays]:
    """Loss and gradients of linear, layer norm, tanh-GELU, linear, mean squared error."""
    a = x @ p["0.weight"].T + p["0.bias"]
    centred = a - a.mean(1, keepdims=True)
    s = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    hat = centred * s
    b = hat * p["1.weight"] + p["1.bias"]
    c = np.sqrt(2 / pi)
    t = np.tanh(c * (b + 0.044715 * b**3))
    g = b / 2 * (1 + t)
    out = g @ p["3.weight"].T + p["3.bias"]
    loss = ((out - y) ** 2).mean()
    d = 2 * (out - y) / y.size
    dg = d @ p["3.weight"]
    db = dg * ((1 + t) / 2 + b / 2 * (1 - t**2) * c * (1 + 3 * 0.044715 * b**2))
    dhat = db * p["1.weight"]
    da = s * (dhat - dhat.mean(1, keepdims=True) - hat * (dhat * hat).mean(1, keepdims=True))
    return loss, {
        "0.weight": da.T @ x, "0.bias": da.sum(0), "1.weight": (db * hat).sum(0), "1.bias": db.sum(0),
        "3.weight": d.T @ g, "3.bias": d.sum(0),
    }  # fmt: skip


CASES: dict[str, Any] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)), "cross_entropy", mlp),
    "norm": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(approximate="tanh"), nn.Linear(7, 3)),
        "mse",
        normal,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_gradients_and_adam(case: str, backend: str) -> None:
    model, objective, reference = CASES[case]
    random = np.random.default_rng(0)
    x = random.standard_normal((6, 5))
    y = random.integers(0, 4, 6) if objective == "cross_entropy" else random.standard_normal((6, 3))
    rt = tp.Runtime(model(), objective=objective, optimizer=tp.optim.Adam(LR), dtype="float64", backend=backend)
    rt.load_state({n: a + random.standard_normal(a.shape) * 0.3 for n, a in rt.params.items()})
    p: Arrays = {**rt.params}
    m: Arrays = {n: np.zeros_like(a) for n, a in p.items()}
    v: Arrays = {n: np.zeros_like(a) for n, a in p.items()}
    for step in (1, 2):
        loss, gradients = reference(p, x, y)
        found, given = rt.loss_and_grads(x, y)
        np.testing.assert_allclose(found, loss, rtol=RTOL)
        np.testing.assert_allclose(rt.loss(x, y), loss, rtol=RTOL)
        assert list(given) == list(p)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(given[name], gradient, rtol=RTOL, atol=1e-15, err_msg=name)
        np.testing.assert_allclose(float(rt.step(x, y)), loss, rtol=RTOL)
        for name, g in gradients.items():
            m[name] = B1 * m[name] + (1 - B1) * g
            v[name] = B2 * v[name] + (1 - B2) * g * g
            p[name] = p[name] - LR * (m[name] / (1 - B1**step)) / (np.sqrt(v[name] / (1 - B2**step)) + EPS)
            np.testing.assert_allclose(rt.params[name], p[name], rtol=RTOL, atol=1e-13, err_msg=name)
            np.testing.assert_allclose(rt.optimizer_state[f"optimizer/m/{name}"], m[name], rtol=RTOL, atol=1e-15)
            np.testing.assert_allclose(rt.optimizer_state[f"optimizer/v/{name}"], v[name], rtol=RTOL, atol=1e-18)
        assert rt.step_count == step


def test_other_optimizers() -> None:
    random = np.random.default_rng(1)
    x, y, w = random.standard_normal((6, 5)), random.standard_normal((6, 3)), random.standard_normal((3, 5))

    def gradient(w: Any) -> Any:
        return (2 * (x @ w.T - y) / y.size).T @ x

    for backend in ("eager", "compiled"):
        rt = tp.Runtime(nn.Linear(5, 3, bias=False), optimizer=tp.optim.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
                        dtype="float64", backend=backend)  # fmt: skip
        rt.load_state({"weight": w})
        p, momentum = w, np.zeros_like(w)
        for _ in range(3):
            g = gradient(p) + 0.1 * p
            momentum = 0.9 * momentum + g
            p = p - 0.1 * (g + 0.9 * momentum)
            rt.step(x, y)
            np.testing.assert_allclose(rt.params["weight"], p, rtol=RTOL)
        rt = tp.Runtime(
            nn.Linear(5, 3, bias=False),
            optimizer=tp.optim.AdamW(LR, weight_decay=0.5),
            dtype="float64",
            backend=backend,
        )
        rt.load_state({"weight": w})
        p, m, v = w, np.zeros_like(w), np.zeros_like(w)
        for step in (1, 2, 3):
            g = gradient(p)
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
            p = p - LR * 0.5 * p
            p = p - LR * (m / (1 - B1**step)) / (np.sqrt(v / (1 - B2**step)) + EPS)
            rt.step(x, y)
            np.testing.assert_allclose(rt.params["weight"], p, rtol=RTOL)
