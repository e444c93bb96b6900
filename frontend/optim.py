"""Optimisers: update rules written with ops, inside the program.

Numbers that depend on the step are 0-d f64 values computed from it in the IR and rounded where they meet tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from ..ir.errors import ArgumentTypeError, ArgumentValueError
from ..ir.graph import Value
from ..ir.source import user_line
from ..ir.types import TensorType, f64
from .arguments import checked_fields

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "spread"]
Slots = Mapping[str, Value]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ArgumentValueError(message)


@checked_fields
@dataclass(frozen=True)
class Optimizer:
    """Base of the update rules.  ``slots`` names the state kept per parameter."""

    lr: float = 0.01
    slots: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", user_line(3))
        _check(self.lr >= 0 and math.isfinite(self.lr), f"lr={self.lr}: a learning rate is finite and not negative")

    def with_lr(self, lr: float) -> Self:
        """The same rule with another learning rate, still attributed to the line that made it."""
        changed = replace(self, lr=lr)
        object.__setattr__(changed, "line", getattr(self, "line", None))
        return changed

    def init(self, build: Any, type: TensorType) -> dict[str, Value]:
        """The first state of a parameter of a type: zeros in every slot."""
        return {slot: build.splat(0.0, type) for slot in self.slots}

    def scalars(self, build: Any, step: Value) -> dict[str, Value]:
        """0-d f64 values that all parameters share; ``step`` is f64 and counts from 1."""
        return {"lr": build.splat(self.lr, TensorType(f64, ()))}

    def update(
        self, build: Any, shared: Slots, parameter: Value, gradient: Value, slots: Slots
    ) -> tuple[Value, dict[str, Value]]:
        """The parameter and its slots after one step."""
        raise ArgumentTypeError(f"{type(self).__name__} states no update rule")


def spread(build: Any, scalar: Value, like: Value) -> Value:
    """A 0-d f64 value rounded to ``like``'s dtype and broadcast to its shape."""
    rounded = scalar if scalar.type.dtype is like.type.dtype else build.cast(scalar, dtype=like.type.dtype)
    return rounded if not like.type.rank else build.broadcast_to(rounded, shape=like.type.shape)


@checked_fields
@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: ``g = grad + weight_decay * p``; ``m = momentum * m + g``; ``p = p - lr * m``.

    Nesterov uses ``g + momentum * m`` in place of ``m`` (Sutskever et al., ICML 2013, as in PyTorch).
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.momentum >= 0, f"momentum={self.momentum}: it is not negative")
        _check(not self.nesterov or self.momentum > 0, "nesterov=True needs a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self.momentum else ()

    def update(
        self, build: Any, shared: Slots, parameter: Value, gradient: Value, slots: Slots
    ) -> tuple[Value, dict[str, Value]]:
        g = gradient
        new: dict[str, Value] = {}
        if self.weight_decay:
            g = build.add(g, build.mul(parameter, self.weight_decay))
        if self.momentum:
            m = new["momentum"] = build.add(build.mul(slots["momentum"], self.momentum), g)
            g = build.add(g, build.mul(m, self.momentum)) if self.nesterov else m
        return build.sub(parameter, build.mul(g, spread(build, shared["lr"], g))), new


@checked_fields
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980), as in PyTorch: ``p = p - lr/c1 * m / (sqrt(v)/sqrt(c2) + eps)``.

    ``m`` and ``v`` are the moving means of the gradient and its square, ``c = 1 - beta**step`` their bias corrections;
    ``weight_decay`` adds ``weight_decay * p`` to the gradient.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(all(0 <= b < 1 for b in self.betas), f"betas={self.betas}: each is in [0, 1)")
        _check(self.eps >= 0, f"eps={self.eps}: it is not negative")

    def scalars(self, build: Any, step: Value) -> dict[str, Value]:
        lr, one = (build.splat(x, step.type) for x in (self.lr, 1.0))
        first, second = (build.sub(one, build.pow(build.splat(b, step.type), step)) for b in self.betas)
        return {"lr": lr, "size": build.div(lr, first), "root": build.sqrt(second)}

    def decay(self, build: Any, shared: Slots, parameter: Value, gradient: Value) -> tuple[Value, Value]:
        """Parameter and gradient after weight decay."""
        if self.weight_decay:
            gradient = build.add(gradient, build.mul(parameter, self.weight_decay))
        return parameter, gradient

    def update(
        self, build: Any, shared: Slots, parameter: Value, gradient: Value, slots: Slots
    ) -> tuple[Value, dict[str, Value]]:
        p, g = self.decay(build, shared, parameter, gradient)
        b1, b2 = self.betas
        m = build.add(build.mul(slots["m"], b1), build.mul(g, 1 - b1))
        v = build.add(build.mul(slots["v"], b2), build.mul(build.mul(g, g), 1 - b2))
        scale = build.add(build.div(build.sqrt(v), spread(build, shared["root"], v)), self.eps)
        return build.sub(p, build.mul(build.div(m, scale), spread(build, shared["size"], m))), {"m": m, "v": v}


@checked_fields
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101): first ``p = p - lr * weight_decay * p``."""

    weight_decay: float = 0.01

    def decay(self, build: Any, shared: Slots, parameter: Value, gradient: Value) -> tuple[Value, Value]:
        if self.weight_decay:
            amount = build.mul(shared["lr"], self.weight_decay)
            parameter = build.sub(parameter, build.mul(parameter, spread(build, amount, parameter)))
        return parameter, gradient


OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}
