"""``irc run MODEL.py``: train a model file and evaluate it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir import IRError
from ..trainer import Advanced
from .settings import check_output, open_model, settings, show


def train(path: Path, flags: Mapping[str, Any], save: Path | None, arguments: Sequence[str]) -> dict[str, Any]:
    """Train, save, evaluate, and print what a person reads; returns what ``--json`` prints."""
    file = open_model(path, arguments)
    config, options = settings(file.config, file.options, flags)
    for written in (save, options.log, options.checkpoint):
        check_output(None if written is None else Path(written), path)
    advanced = Advanced(file.model, config, file.stem)
    runtime = advanced.runtime
    count = sum(a.size for a in runtime.params.values())
    head = f"{file.stem}: {count:,} parameters, {runtime.dtype}, backend {config.backend}, device {config.device}"
    show(f"{head}, seed {config.seed}", flush=True)
    data = file.data()
    if data is None:
        raise IRError(
            f"{path} has no module-level name 'data'\n"
            "  remedy: data = tp.data.arrays(inputs, targets), or a function that returns it"
        )
    train, test = data
    if config.numerics != "exact" and len(train):
        batch = next(iter(advanced.loader(train, options.batch_size, shuffle=False)))
        show(_moved(runtime.distance(*batch)), flush=True)
    trained = advanced.train(train, options)
    report = trained.report
    if report.loss_before is None or report.loss_after is None:
        show(f"no updates left to do: the run is at step {runtime.step_count}")
    else:
        speed = f"{report.seconds:.2f} s ({report.steps_per_second:,.0f} steps/s)"
        steps = f"{report.steps} step{'' if report.steps == 1 else 's'}"
        show(f"trained {steps} in {speed}: loss {report.loss_before:.4f} -> {report.loss_after:.4f}")
    if save is not None:
        trained.save(save)
    evaluation = None if test is None else trained.eval(test)
    if evaluation is not None:
        show(f"test: {evaluation}")
    if "report" in file.names:
        with runtime.in_mode("eval"):
            file.names["report"](trained)
    result: dict[str, Any] = {
        "model": file.stem,
        "parameters": count,
        "dtype": runtime.dtype.name,
        "backend": config.backend,
        "device": config.device,
        "seed": config.seed,
        "step": runtime.step_count,
        "steps": report.steps,
        "loss_before": _finite(report.loss_before),
        "loss_after": _finite(report.loss_after),
        "seconds": report.seconds,
        "peak_memory": report.peak_memory,
        "log_error": report.log_error,
    }
    if evaluation is not None:
        result["test"] = {k: _finite(v) for k, v in {"loss": evaluation.loss, **evaluation.metrics}.items()}
    return result


def _moved(distances: Mapping[str, float]) -> str:
    """By how much other numerics move loss and gradients of the first batch."""
    found = ", ".join(f"{name} {d:.1e}" for name, d in distances.items())
    return f"distance from float64 on the first batch, relative to the largest gradient: {found}"


def _finite(number: float | None) -> float | None:
    """The number, or None where JSON has no word for it."""
    return number if number is not None and math.isfinite(number) else None
