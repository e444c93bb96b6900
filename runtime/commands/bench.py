"""``irc bench``: what a training step of a model costs, beside other backends and frameworks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...backends import base
from ...ir import IRError, TensorType
from ...ir.escape import shortened
from .. import bench as benching
from ..bench import PEERS, Cost
from .cache import amount
from .listings import aligned
from .modules import Given, ModelIR
from .profile import measured_backend
from .settings import UsageError, choice, entry, note, show


@entry
def bench(path: Path, against: Sequence[str], rounds: int, seconds: float, as_json: bool, given: Given) -> None:
    """Print what a step costs on the model's backend, and what it is held against, as multiples of that."""
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: it is at least 1")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"--seconds {seconds}: it is above 0")
    model = ModelIR(path, given)
    for name in against:  # a model file may register backends
        choice("--against", name, [*base.available(), *PEERS])
    if len(model.batch) < 2:
        raise IRError(f"{path} has no target in its batch: a training step cannot be timed")
    backend = measured_backend(model, given)
    request = benching.Request(str(path.resolve()), backend, given.flags, given.arguments)
    costs = benching.bench(request, [a for a in against if a != backend], rounds=rounds, seconds=seconds)
    ours, *others = costs
    if ours.note:
        raise IRError(f"backend {backend} does not train this model:\n{ours.note}")
    first = model.batch[0]
    rows = first.shape[0] if (isinstance(first, TensorType) or hasattr(first, "shape")) and first.shape else 1
    if as_json:
        show(json.dumps(_json(path, ours, others), indent=1, allow_nan=False))
        return
    show(
        f"{path.stem}: train_step, {rows} rows, {model.setting.dtype}, device {model.config.device}, "
        f"medians of {rounds} rounds of {seconds:g} s"
    )
    show("\n".join(_table(ours, others)))
    for cost in others:
        if cost.note:
            note(f"{cost.contender}: {shortened(' '.join(cost.note.split()), 200)}")
        elif not _agree(cost.loss, ours.loss):
            note(f"{cost.contender}: its first loss is {cost.loss}, and that of {backend} {ours.loss}")


def _agree(a: float | None, b: float | None) -> bool:
    """Whether two first losses are the same but for rounding; one that is not finite says nothing."""
    return (
        a is None
        or b is None
        or not (math.isfinite(a) and math.isfinite(b))
        or math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5)
    )


def duration(seconds: float) -> str:
    """Three digits in us, ms or s."""
    unit, scale = ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)
    value = seconds * scale
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def _ratio(other: float | None, ours: float | None) -> float | None:
    return other / ours if other is not None and ours else None


def _cell(text: str, ratio: float | None) -> str:
    if ratio is None:
        return text
    return f"{text} ({ratio:.{0 if ratio >= 100 else 1 if ratio >= 10 else 2}f}x)"


def _table(ours: Cost, others: Sequence[Cost]) -> Iterator[str]:
    """A row a contender; in brackets the ratio to the first one."""
    rows = [("", "step", "first step", "with cache", "planned", "peak growth")]
    for cost in (ours, *others):
        if cost.note:
            continue
        times = [(getattr(cost, f), getattr(ours, f)) for f in ("step", "cold", "cached")]
        sizes = [(getattr(cost, f), getattr(ours, f)) for f in ("planned", "grown")]
        cells = [
            "-" if own is None else _cell(show(own), None if cost is ours else _ratio(own, first))
            for show, pairs in ((duration, times), (amount, sizes))
            for own, first in pairs
        ]
        rows.append((cost.contender, cells[0], cells[1], cells[2], cells[3], cells[4]))
    yield from aligned(rows)
    if others:
        yield f"in brackets: how many times that of {ours.contender}"


def _json(path: Path, ours: Cost, others: Sequence[Cost]) -> dict[str, Any]:
    def shown(cost: Cost) -> dict[str, Any]:
        fields = ("step", "cold", "cached", "planned", "grown")
        values: dict[str, Any] = {name: getattr(cost, name) for name in fields}
        ratios = {} if cost is ours else {"ratios": {n: _ratio(getattr(cost, n), getattr(ours, n)) for n in fields}}
        loss = cost.loss if cost.loss is not None and math.isfinite(cost.loss) else None
        return {
            "contender": cost.contender,
            **values,
            **ratios,
            "rounds": cost.rounds,
            "loss": loss,
            "note": cost.note or None,
        }

    return {"model": path.stem, "contenders": [shown(c) for c in (ours, *others)]}
