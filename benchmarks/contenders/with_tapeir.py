"""TapeIR's public interface: a ``Runtime`` that trains, and compiled functions that write to given arrays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

import tapeir as tp
from tapeir import nn, ops

from .workloads import (
    DEVICE,
    LEARNING_RATE,
    Cnn,
    Contender,
    Floats,
    Gpt,
    Kernel,
    KernelContender,
    Mlp,
    Training,
    Workload,
)

# Imported now, so that no first step pays for it.
tp.backends.get("compiled")
with suppress(ImportError):
    import_module("llvmlite.binding")
if DEVICE == "cuda":
    import_module("tapeir.backends.cuda.cupy_device")


class Block(nn.Module):
    """One block of the decoder."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def attention(self, x: Any) -> Any:
        """Causal attention of every head."""
        rows, length, width = x.shape

        def by_head(part: Any) -> Any:
            return ops.permute_dims(ops.reshape(part, (rows, length, self.heads, width // self.heads)), (0, 2, 1, 3))

        q, k, v = (by_head(part) for part in ops.split(self.qkv(x), 3, axis=-1))
        y = ops.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), (rows, length, width)))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(ops.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """The GPT of a workload."""

    def __init__(self, size: Gpt) -> None:
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.length, size.width)
        self.blocks = [Block(size.width, size.heads) for _ in range(size.layers)]
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary)

    def forward(self, x: Any) -> Any:
        h = self.tokens(x) + self.positions.weight
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def next_token_loss(prediction: Any, target: Any) -> Any:
    """The mean cross-entropy over all positions."""
    return ops.cross_entropy(ops.reshape(prediction, (-1, prediction.shape[-1])), ops.reshape(target, -1))


def perceptron(size: Mlp) -> nn.Module:
    """The MLP of a workload."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(size.widths, size.widths[1:], strict=False):
        layers += [*([nn.GELU()] if layers else []), nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


def images(size: Cnn) -> nn.Module:
    """The CNN of a workload."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(size.channels, size.channels[1:], strict=False):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size.features, size.classes))


class Trainer(Contender):
    """``rt.step`` on one of the backends."""

    def __init__(self, size: Training, backend: str, numerics: str = "exact") -> None:
        parameters, batch = size.parameters(), size.batch()
        self.started = time.perf_counter()
        objective: Any = "cross_entropy"
        if isinstance(size, Gpt):
            model, objective = Decoder(size), next_token_loss
        else:
            assert isinstance(size, (Mlp, Cnn))
            model = perceptron(size) if isinstance(size, Mlp) else images(size)
        optimizer = tp.optim.Adam(lr=LEARNING_RATE)
        self.rt = tp.Runtime(
            model, objective=objective, optimizer=optimizer, backend=backend, device=DEVICE, numerics=numerics
        )
        self.state: dict[str, Any] = {**parameters, **self.rt.optimizer_state}
        self.x, self.y = batch
        self.reset()

    def reset(self) -> None:
        self.rt.load_state(self.state)

    def step(self) -> float:
        return float(self.rt.step(self.x, self.y))

    def compile_seconds(self) -> float:
        return sum(e.compile_seconds for e in self.rt.artifacts.values())

    def memory(self) -> dict[str, int]:
        held = [self.rt.params, self.rt.buffers, self.rt.optimizer_state]
        state = sum(array.nbytes for arrays in held for array in arrays.values())
        made: list[Any] = list(self.rt.artifacts.values())
        counted = {"launches": made[-1].program.launches} if DEVICE == "cuda" and made else {}
        return {"planned": sum(e.memory for e in made), "state, twice": 2 * state, **counted}


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    return ops.layer_norm(x, 2048, weight, bias)


def layer_norm_grad(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
    y, pullback = tp.vjp(layer_norm, x, weight, bias)
    return y, *pullback(dy)


def adam(p: Any, g: Any, m: Any, v: Any, size: Any, root: Any) -> Any:
    """The rule of ``optim.Adam``; ``size`` and ``root`` are what depends on the step."""
    m, v = m * 0.9 + g * 0.1, v * 0.999 + g * g * 0.001
    return p - size * m / (ops.sqrt(v) / root + 1e-8), m, v


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "gelu": ops.gelu,
    "softmax": ops.softmax,
    "layer_norm": layer_norm,
    "layer_norm_grad": layer_norm_grad,
}


class Compiled(KernelContender):
    """``tp.compile`` of a function, called with ``out=``."""

    def __init__(self, kernel: Kernel, backend: str) -> None:
        self.given = list(kernel.arrays().values())
        self.call: Any = tp.compile(FUNCTIONS[kernel.kind], backend=backend).executable(*self.given)
        self.out = [np.zeros(value.type.shape, np.float32) for value in self.call.function.results]

    def step(self) -> float:
        self.call(*self.given, out=self.out)
        return 0.0

    def results(self) -> Sequence[Floats]:
        return self.out


class CompiledAdam(KernelContender):
    """The update rule compiled; new state is written over the old."""

    def __init__(self, kernel: Kernel, backend: str) -> None:
        self.p0, self.g = kernel.arrays().values()
        self.state = [np.zeros_like(self.p0) for _ in range(3)]
        scalar = np.zeros((), np.float32)
        self.call: Any = tp.compile(adam, backend=backend).executable(*[self.p0] * 4, scalar, scalar)
        self.reset()

    def reset(self) -> None:
        self.count = 0
        for array, value in zip(self.state, (self.p0, 0.0, 0.0), strict=True):
            np.copyto(array, value)

    def step(self) -> float:
        self.count += 1
        size, root = LEARNING_RATE / (1 - 0.9**self.count), math.sqrt(1 - 0.999**self.count)
        p, m, v = self.state
        self.call(p, self.g, m, v, np.float32(size), np.float32(root), out=self.state)
        return 0.0

    def results(self) -> Sequence[Floats]:
        return self.state


def make(name: str, workload: Workload) -> Contender:
    """The contender of a name for a workload."""
    backend = "eager" if name == "TapeIR eager" else "compiled"
    if isinstance(workload, Training):
        return Trainer(workload, backend, "fast" if name.endswith("fast") else "exact")
    assert isinstance(workload, Kernel)
    return (CompiledAdam if workload.kind == "adam" else Compiled)(workload, backend)
