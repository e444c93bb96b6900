"""JAX: one ``jit`` of loss, gradient and Adam whose state is donated, or of a kernel whose old results are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .workloads import DEVICE, LEARNING_RATE, Cnn, Contender, Floats, Gpt, Kernel, KernelContender, Training, Workload

os.environ.setdefault("JAX_PLATFORMS", DEVICE)
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share the device
jax: Any = import_module("jax")
jnp: Any = import_module("jax.numpy")
tree_map: Any = jax.tree_util.tree_map
if DEVICE != "cpu":
    jax.config.update("jax_default_matmul_precision", "highest")  # float32, not TF32


def gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(centred * centred, -1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * weight + bias


def cross_entropy(logits: Any, y: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def perceptron(p: Any, x: Any) -> Any:
    """Logits of the MLP whose layers are 0, 2, ..."""
    layers = len(p) // 2
    for n in range(layers):
        x = (gelu(x) if n else x) @ p[f"{2 * n}.weight"] + p[f"{2 * n}.bias"]
    return x


def images(size: Cnn, p: Any, x: Any) -> Any:
    """Logits of the CNN of a workload."""
    layout = ("NCHW", "OIHW", "NCHW")
    window = (1, 1, 2, 2)
    last = 3 * (len(size.channels) - 1)
    for n in range(0, last, 3):
        x = jax.lax.conv_general_dilated(x, p[f"{n}.weight"], (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + p[f"{n}.bias"][:, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    return x.reshape(len(x), -1) @ p[f"{last + 1}.weight"] + p[f"{last + 1}.bias"]


def decoder(size: Gpt, p: Any, x: Any) -> Any:
    """Logits of the GPT of a workload."""
    each = size.width // size.heads
    allowed = np.tril(np.ones((size.length, size.length), np.bool_))

    def linear(name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def attention(name: str, x: Any) -> Any:
        parts: Any = jnp.split(linear(f"{name}.qkv", x), 3, -1)
        q, k, v = (part.reshape(*x.shape[:2], size.heads, each).transpose(0, 2, 1, 3) for part in parts)
        scores = q @ k.swapaxes(-1, -2) * each**-0.5
        y = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf)) @ v
        return linear(f"{name}.out", y.transpose(0, 2, 1, 3).reshape(x.shape))

    h = p["tokens.weight"][x] + p["positions.weight"]
    for n in range(size.layers):
        block = f"blocks.{n}"
        h = h + attention(block, norm(f"{block}.norm1", h))
        h = h + linear(f"{block}.down", gelu(linear(f"{block}.up", norm(f"{block}.norm2", h))))
    return linear("head", norm("norm", h))


def adam(p: Any, g: Any, m: Any, v: Any, count: Any) -> tuple[Any, Any, Any, Any]:
    """Trees of parameters and slots, and the count, after one update."""
    count = count + 1
    size, root = LEARNING_RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)

    def first(m: Any, g: Any) -> Any:
        return 0.9 * m + 0.1 * g

    def second(v: Any, g: Any) -> Any:
        return 0.999 * v + 0.001 * g * g

    def updated(p: Any, m: Any, v: Any) -> Any:
        return p - size * m / (jnp.sqrt(v) / root + 1e-8)

    m, v = tree_map(first, m, g), tree_map(second, v, g)
    return tree_map(updated, p, m, v), m, v, count


def native_layout(name: str, array: Floats) -> Floats:
    """Weights of linear layers as ``[in, out]``."""
    table = name.startswith(("tokens", "positions")) or array.ndim != 2
    return array if table else np.ascontiguousarray(array.T)


class Trainer(Contender):
    """One program a step."""

    def __init__(self, size: Training) -> None:
        x, y = size.batch()
        given = size.parameters()
        self.started = time.perf_counter()
        integers = (a.astype(np.int32) if a.dtype.kind == "i" else a for a in (x, y))
        self.x, self.y = integers  # int64 would be converted at every step
        parameters = {name: native_layout(name, array) for name, array in given.items()}
        zeros = tree_map(np.zeros_like, parameters)
        self.initial: Any = (parameters, zeros, zeros, np.zeros((), np.float32))

        def loss(p: Any, x: Any, y: Any) -> Any:
            if isinstance(size, Gpt):
                logits = decoder(size, p, x)
            else:
                logits = images(size, p, x) if isinstance(size, Cnn) else perceptron(p, x)
            return cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))

        def step(state: Any, x: Any, y: Any) -> Any:
            p, m, v, count = state
            value, grads = jax.value_and_grad(loss)(p, x, y)
            return adam(p, grads, m, v, count), value

        self.call: Any = jax.jit(step, donate_argnums=0)
        self.reset()

    def reset(self) -> None:
        self.state: Any = jax.block_until_ready(tree_map(jnp.array, self.initial))

    def step(self) -> float:
        self.state, loss = self.call(self.state, self.x, self.y)
        return float(loss)


def layer_norm_grad(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
    y, pullback = jax.vjp(layer_norm, x, weight, bias)
    return y, *pullback(dy)


class Function(KernelContender):
    """A kernel; its old results are donated, so that new ones are written over them."""

    def __init__(self, kernel: Kernel) -> None:
        functions: dict[str, Callable[..., Any]] = {
            "gelu": gelu, "softmax": jax.nn.softmax, "layer_norm": layer_norm, "layer_norm_grad": layer_norm_grad,
        }  # fmt: skip
        function = functions[kernel.kind]
        self.given: Any = [jnp.array(array) for array in kernel.arrays().values()]

        def call(out: Any, *given: Any) -> Any:
            return function(*given)

        shapes: Any = jax.eval_shape(function, *self.given)
        self.out: Any = tree_map(jnp.zeros_like, shapes)
        self.call: Any = jax.jit(call, donate_argnums=0, keep_unused=True)

    def step(self) -> float:
        self.out = jax.block_until_ready(self.call(self.out, *self.given))
        return 0.0

    def results(self) -> Sequence[Floats]:
        return [np.asarray(array) for array in jax.tree_util.tree_leaves(self.out)]


class Adam(KernelContender):
    """The update rule, its state donated."""

    def __init__(self, kernel: Kernel) -> None:
        self.p, gradient = kernel.arrays().values()
        self.g: Any = jnp.array(gradient)

        def call(state: Any, g: Any) -> Any:
            p, m, v, count = state
            return adam(p, g, m, v, count)

        self.call: Any = jax.jit(call, donate_argnums=0)
        self.reset()

    def reset(self) -> None:
        zeros = np.zeros_like(self.p)
        self.state: Any = jax.block_until_ready(tree_map(jnp.array, (self.p, zeros, zeros, np.zeros((), np.float32))))

    def step(self) -> float:
        self.state = jax.block_until_ready(self.call(self.state, self.g))
        return 0.0

    def results(self) -> Sequence[Floats]:
        return [np.asarray(array) for array in self.state[:3]]


def make(name: str, workload: Workload) -> Contender:
    """The contender for a workload."""
    if isinstance(workload, Training):
        return Trainer(workload)
    assert isinstance(workload, Kernel)
    return Adam(workload) if workload.kind == "adam" else Function(workload)
