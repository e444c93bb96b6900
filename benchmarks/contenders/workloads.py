"""The workloads, the same for every contender: sizes, parameters and batches; and what a contender is."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
CHECKED = 10
LEARNING_RATE = 1e-3
DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
"""Where contenders compute: ``cpu`` or ``cuda``."""


class Contender(ABC):
    """One way to compute a workload.  ``reset`` returns to the initial state, ``step`` computes once."""

    started: float | None = None
    """When it began with what every contender is timed for, if that is later than its making: on the clock of ``time.perf_counter``."""

    def reset(self) -> None:  # noqa: B027 (most contenders have no state)
        """Return to the initial state; nothing, where steps change nothing."""

    @abstractmethod
    def step(self) -> float:
        """Compute once; the loss, where there is one."""

    def evidence(self) -> list[float]:
        """Numbers that are to agree between contenders: losses before and after each of the first ``CHECKED`` steps."""
        self.reset()
        return [self.step() for _ in range(CHECKED + 1)]

    def compile_seconds(self) -> float | None:
        """How long the first step compiled, where that is known apart from the rest."""
        return None

    def memory(self) -> dict[str, int]:
        """Bytes by what they are for."""
        return {}


class KernelContender(Contender):
    """A contender for a ``Kernel``; ``results`` are what the last step wrote."""

    @abstractmethod
    def results(self) -> Sequence[Floats]:
        """The results as arrays."""

    def evidence(self) -> list[float]:
        """For each result of the third step its size, and its distance from a fixed random array."""
        self.reset()
        for _ in range(3):
            self.step()
        found: list[float] = []
        for array in self.results():
            wide = array.astype(np.float64)
            other = np.random.default_rng(3).standard_normal(array.shape)
            found += [float(np.sqrt(np.mean(wide**2))), float(np.sqrt(np.mean((wide - other) ** 2)))]
        return found


@dataclass(frozen=True)
class Workload:
    """Base of the workloads; ``ratio`` is the wanted time of the fastest peer over TapeIR's."""

    name: str
    ratio: float


@dataclass(frozen=True)
class Training(Workload, ABC):
    """A step of forward, backward and Adam on the mean cross-entropy.

    ``cold`` and ``cached`` are the wanted seconds of compiling, without and with a filled cache.
    """

    cold: float | None = None
    cached: float | None = None

    @abstractmethod
    def parameters(self) -> dict[str, Floats]:
        """Initial arrays by PyTorch's state names and in its layouts; the same in every process."""

    @abstractmethod
    def batch(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Inputs and labels."""


@dataclass(frozen=True)
class Mlp(Training):
    """Linear layers with exact GELU between them; the name ends with ``<batch>x<in>-<hidden>-...-<out>``.

    ``over_products`` is the most that a step may take over its matrix products alone.
    """

    over_products: float | None = None

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return int(self.name.split()[1].split("x")[0])

    @property
    def widths(self) -> list[int]:
        """Width of the input and of every layer."""
        return [int(n) for n in self.name.split("x")[1].split("-")]

    def parameters(self) -> dict[str, Floats]:
        """Uniform within ``1 / sqrt(in)``; layers are 0, 2, 4, ... as the activations between them count."""
        rng = np.random.default_rng(1)
        made: dict[str, Floats] = {}
        for n, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            for kind, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
                made[f"{2 * n}.{kind}"] = rng.uniform(-(fan_in**-0.5), fan_in**-0.5, shape).astype(np.float32)
        return made

    def batch(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        rng = np.random.default_rng(2)
        x = rng.standard_normal((self.rows, self.widths[0])).astype(np.float32)
        return x, rng.integers(0, self.widths[-1], self.rows)


@dataclass(frozen=True)
class Gpt(Training):
    """A decoder of pre-norm blocks on ``rows`` sequences of ``length`` tokens; the target is the next token.

    Token and position embedding; blocks of layer norm, causal attention, residual, layer norm, MLP of ``4 * width`` with
    exact GELU, residual; a layer norm and a linear head.
    """

    layers: int = 2
    width: int = 64
    rows: int = 8
    length: int = 64
    heads: int = 4
    vocabulary: int = 96

    def parameters(self) -> dict[str, Floats]:
        """Weights normal with deviation 0.02, biases 0, norms 1 and 0."""
        rng, d = np.random.default_rng(1), self.width
        made: dict[str, Floats] = {}

        def normal(name: str, *shape: int) -> None:
            made[name] = (0.02 * rng.standard_normal(shape)).astype(np.float32)

        def linear(name: str, fan_in: int, fan_out: int) -> None:
            normal(f"{name}.weight", fan_out, fan_in)
            made[f"{name}.bias"] = np.zeros(fan_out, np.float32)

        def norm(name: str) -> None:
            made[f"{name}.weight"], made[f"{name}.bias"] = np.ones(d, np.float32), np.zeros(d, np.float32)

        normal("tokens.weight", self.vocabulary, d)
        normal("positions.weight", self.length, d)
        for n in range(self.layers):
            block = f"blocks.{n}"
            norm(f"{block}.norm1")
            linear(f"{block}.qkv", d, 3 * d)
            linear(f"{block}.out", d, d)
            norm(f"{block}.norm2")
            linear(f"{block}.up", d, 4 * d)
            linear(f"{block}.down", 4 * d, d)
        norm("norm")
        linear("head", d, self.vocabulary)
        return made

    def batch(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        tokens = np.random.default_rng(2).integers(0, self.vocabulary, (self.rows, self.length + 1))
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


@dataclass(frozen=True)
class Cnn(Training):
    """Convolutions of 3 by 3 with padding 1, each with ReLU and a max pool of 2 by 2 behind it; then a linear layer."""

    rows: int = 64
    side: int = 28
    channels: tuple[int, ...] = (1, 32, 64)
    classes: int = 10

    @property
    def features(self) -> int:
        """Inputs of the linear layer."""
        return self.channels[-1] * (self.side >> len(self.channels) - 1) ** 2

    def parameters(self) -> dict[str, Floats]:
        """Uniform within ``1 / sqrt(terms)``; convolutions are 0, 3, 6, ..., and a flattening stands before the linear layer."""
        rng = np.random.default_rng(1)
        shapes = [(o, i, 3, 3) for i, o in zip(self.channels, self.channels[1:], strict=False)]
        made: dict[str, Floats] = {}
        for n, shape in enumerate([*shapes, (self.classes, self.features)]):
            bound = float(np.prod(shape[1:])) ** -0.5
            at = 3 * n + (len(shape) == 2)
            made[f"{at}.weight"] = rng.uniform(-bound, bound, shape).astype(np.float32)
            made[f"{at}.bias"] = rng.uniform(-bound, bound, shape[:1]).astype(np.float32)
        return made

    def batch(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        rng = np.random.default_rng(2)
        x = rng.standard_normal((self.rows, self.channels[0], self.side, self.side)).astype(np.float32)
        return x, rng.integers(0, self.classes, self.rows)


@dataclass(frozen=True)
class Kernel(Workload):
    """One kernel on arrays of 2^22 float32 elements; ``moved`` of them must be read or written."""

    kind: str
    moved: int
    copy_share: float = 0.7

    @property
    def bytes(self) -> int:
        """Bytes that must be read or written."""
        return self.moved << 24

    def arrays(self) -> dict[str, Floats]:
        """The arguments by name, in order."""
        rng = np.random.default_rng(1)

        def normal(*shape: int) -> Floats:
            return rng.standard_normal(shape, np.float32)

        square = (2048, 2048)
        affine = {"weight": normal(2048), "bias": normal(2048)}
        made: dict[str, Callable[[], dict[str, Floats]]] = {
            "gelu": lambda: {"x": normal(1 << 22)},
            "softmax": lambda: {"x": normal(*square)},
            "layer_norm": lambda: {"x": normal(*square), **affine},
            "layer_norm_grad": lambda: {"x": normal(*square), **affine, "dy": normal(*square)},
            "adam": lambda: {n: normal(1 << 22) for n in ("p", "g")},
        }
        return made[self.kind]()


WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Mlp("MLP 4x2-8-8-2", 12),
        Mlp("MLP 32x64-64-64-10", 4.5, cold=0.5, cached=0.05),
        Mlp("MLP 128x784-256-256-10", 1.2),
        Mlp("MLP 256x784-1024-1024-10", 1.0, over_products=1.15),
        Gpt("GPT 2 layers, d 64", 2, layers=2, width=64, length=64),
        Gpt("GPT 4 layers, d 256", 1.1, cold=3, cached=0.3, layers=4, width=256, length=128),
        Cnn("CNN 64x8x8, 16-32", 1, side=8, channels=(1, 16, 32)),
        Cnn("CNN 64x28x28, 32-64", 1),
        Cnn("CNN 32x32x32, 32-64-128", 1, rows=32, side=32, channels=(3, 32, 64, 128)),
        Kernel("GELU", 1, "gelu", 2),
        Kernel("softmax", 1, "softmax", 2),
        Kernel("layer norm", 1, "layer_norm", 2),
        Kernel("layer norm + gradient", 1, "layer_norm_grad", 4),
        Kernel("Adam", 1, "adam", 7),
    )
}
