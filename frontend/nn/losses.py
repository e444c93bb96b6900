"""Objectives by name: the loss of a prediction and a target, and the metrics that evaluation reports beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...ir.errors import ArgumentTypeError, ArgumentValueError
from ...ir.types import Array
from .. import functional as ops
from ..arguments import checked

Loss = Callable[[Any, Any], Any]
Metric = Callable[[Array, Array], float]


@dataclass(frozen=True)
class Objective:
    """``loss(prediction, target)`` in ops, and ``metrics``: means over rows, computed on the host in float64."""

    name: str
    loss: Loss
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric], hash=False)
    line: tuple[str, int] | None = None
    """The user's line that chose the objective."""

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ArgumentTypeError(
                f"Objective({self.name!r}): loss is a function (prediction, target), not {self.loss!r}"
            )
        for name, metric in self.metrics.items():
            if not callable(metric):
                raise ArgumentTypeError(
                    f"Objective({self.name!r}): metric {name!r} is a function (prediction, target), not {metric!r}"
                )

    @property
    def built_in(self) -> bool:
        """Whether its name alone says which it is."""
        known = OBJECTIVES.get(self.name)
        return known is not None and known.loss is self.loss


def accuracy(prediction: Array, target: Array) -> float:
    """The share of rows whose largest prediction is at the target's class."""
    wanted = target if target.ndim == prediction.ndim - 1 else target.argmax(-1)
    return float(np.mean(prediction.argmax(-1) == wanted, dtype=np.float64))


OBJECTIVES: dict[str, Objective] = {
    "mse": Objective("mse", ops.mse),
    "cross_entropy": Objective("cross_entropy", ops.cross_entropy, {"accuracy": accuracy}),
}


@checked
def objective(spec: str | Loss | Objective, line: tuple[str, int] | None = None) -> Objective:
    """The objective of a name or of a function ``(prediction, target) -> scalar``, chosen at a user's line.

    Raises ``ValueError`` for an unknown name and ``TypeError`` for anything else.
    """
    if isinstance(spec, Objective):
        return spec if spec.line is not None else replace(spec, line=line)
    if callable(spec):
        return Objective(getattr(spec, "__name__", "objective"), spec, line=line)
    if not isinstance(spec, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(
            f"objective={spec!r}: it is one of {', '.join(OBJECTIVES)}, a function or an nn.Objective"
        )
    if spec not in OBJECTIVES:
        raise ArgumentValueError(f"objective {spec!r} is not known; one of {', '.join(OBJECTIVES)}, or a function")
    return replace(OBJECTIVES[spec], line=line)
