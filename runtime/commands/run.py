"""``irc run``: train a model file, or run a function of an IR file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends.base import compile_module, get
from ...ir.errors import DataError
from ...ir.print import quote
from ..ir_file import EntryError, arguments, entry_of, listed, read_arrays, run_steps, shown, write_arrays
from ..runtime import NUMERICS
from .modules import Given, backend_for, is_ir, read_ir
from .settings import UsageError, check_output, choice, entry, show
from .train import train

IR_FLAGS = ("backend", "device", "seed", "numerics", "steps")
"""Flags that an IR file takes; the others are a model's."""


@dataclass(frozen=True)
class RunRequest:
    """What ``irc run`` was asked for, besides the flags that override settings."""

    save: Path | None = None
    json: bool = False
    entry: str | None = None
    inputs: Path | None = None
    outputs: Path | None = None


@entry
def run(path: Path, request: RunRequest, given: Given) -> None:
    """Train a model file, or run a function of an IR file.

    With ``json`` one JSON object is all that standard output gets; the rest goes to standard error.
    """
    if is_ir(path):
        work = _run_ir
        if request.save is not None or given.arguments:
            raise UsageError(
                "--save and arguments after -- go with a model file; of IR text --outputs keeps the results"
            )
    else:
        work = _train
        for name, value in (("--entry", request.entry), ("--inputs", request.inputs), ("--outputs", request.outputs)):
            if value is not None:
                raise UsageError(f"{name} goes with IR text; a model file is trained")
    with contextlib.redirect_stdout(sys.stderr) if request.json else contextlib.nullcontext():
        result = work(path, request, given)
    if request.json:
        show(json.dumps(result, allow_nan=False))
    if result.get("log_error") is not None:
        raise DataError(result["log_error"])


def _train(path: Path, request: RunRequest, given: Given) -> dict[str, Any]:
    return train(path, given.flags, request.save, given.arguments)


def _steps(flags: Mapping[str, Any], updates: bool) -> int:
    steps = int(flags.get("steps", 1))
    if steps < 1 or (steps > 1 and not updates):
        raise UsageError(
            f"--steps {steps}: it is at least 1"
            if steps < 1
            else f"--steps {steps}: the function updates no state to feed back"
        )
    return steps


def _run_ir(path: Path, request: RunRequest, given: Given) -> dict[str, Any]:
    flags = given.flags
    for name in flags:
        if name not in IR_FLAGS:
            raise UsageError(
                f"--{name.replace('_', '-')} goes with a model file; IR text takes --{', --'.join(IR_FLAGS)}"
            )
    choice("--numerics", flags.get("numerics"), NUMERICS)
    if request.inputs is not None and not request.inputs.is_file():
        raise UsageError(f"--inputs {request.inputs} is not a file")
    check_output(request.outputs, path, request.inputs)
    backend, device = backend_for(flags)
    module = read_ir(path)
    if module.origin is not None:
        module.origin.locate(module)
    try:
        function = entry_of(module, request.entry)
    except EntryError as error:
        raise UsageError(str(error)) from None
    steps = _steps(flags, any(m is not None and m.kind == "update" for m in function.marks))
    seed = int(flags.get("seed", 0))
    try:
        arrays = arguments(function, read_arrays(request.inputs) if request.inputs is not None else {}, seed)
    except DataError as error:
        if request.inputs is None:
            raise UsageError(str(error)) from None
        raise
    count = sum(len(f.instructions) for f in module)
    show(
        f"{path.stem}: @{quote(function.name)}, {count} ops, backend {backend}, device {device}, seed {seed}",
        flush=True,
    )
    program = compile_module(
        get(backend), module, function.name, device, {"numerics": flags.get("numerics") or "exact"}
    )
    results = run_steps(function, program, arrays, steps)
    for line in shown(results, function):
        show(line)
    if request.outputs is not None:
        write_arrays(request.outputs, results)
    return {
        "file": path.name,
        "entry": function.name,
        "backend": backend,
        "device": device,
        "seed": seed,
        "steps": steps,
        "results": {name: listed(array) for name, array in results.items()},
    }
