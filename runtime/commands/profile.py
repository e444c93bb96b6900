"""``irc profile``: a table of the kernels of one entry, by time."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...ir import Location, TensorType
from ...ir.escape import shortened
from ...ir.print import quote
from .. import profile as profiling
from ..entries import ENTRIES
from ..ir_file import example_array
from ..profile import Profile, Timed
from ..trainer import Advanced, Config
from .listings import aligned
from .modules import ALL, Given, ModelIR, aside, backend_for, check_usable, is_ir, target
from .settings import UsageError, choice, entry, show

ROWS = 40
"""Kernels that the table shows."""
WIDTH, NAME_WIDTH, OPS_WIDTH = 100, 16, 18


def model_entry(path: Path, given: Given, name: str | None, mode: str | None) -> tuple[ModelIR, str, str]:
    """A model file, and which entry in which mode a command is about: ``train_step`` in train mode by default."""
    chosen, mode = (name or "train_step").removeprefix("@"), mode or "train"
    choice("--entry", chosen, ENTRIES)
    choice("--mode", mode, ["train", "eval"])
    if (chosen, mode) not in ALL:
        raise UsageError(f"--entry {chosen} --mode {mode}: a step trains; use --mode train")
    return ModelIR(path, given), chosen, mode


def measured_backend(model: ModelIR, given: Given) -> str:
    """The backend that is measured: the one asked for, else the file's, else ``compiled``; a file that chooses none has ``eager`` there."""
    asked = given.flags.get("backend")
    return asked or ("compiled" if model.config.backend == "eager" else model.config.backend)


@entry
def profile(path: Path, name: str | None, mode: str | None, as_json: bool, given: Given) -> None:
    """Print the time of each kernel of an entry, or of a function of IR text, with its ops and source lines."""
    call: Callable[[], Any] | None = None
    if is_ir(path):
        module, function, arrays, base, numerics = target(path, given, name, mode, None)
        backend, device = backend_for(given.flags)
    else:
        model, chosen, mode = model_entry(path, given, name, mode)
        config = model.config.changed(backend=measured_backend(model, given))
        backend, device, numerics, base = config.backend, config.device, config.numerics, model.base
        check_usable(backend, device)
        module = model.module([(chosen, mode)], "traced")
        function = next(iter(module)).name
        arrays = model.arrays(module, chosen, mode)
        call = _call(model, config, chosen, mode)
    found = profiling.profile(module, function, arrays, backend=backend, device=device, numerics=numerics, call=call)
    if as_json:
        show(json.dumps(_json(found, backend, base), indent=1, allow_nan=False))
    else:
        show("\n".join(_report(found, path, backend, base)))


@aside
def _call(model: ModelIR, config: Config, chosen: str, mode: str) -> Callable[[], Any]:
    """The entry as a user runs it, on host arrays; a step ends when its loss is known."""
    runtime = Advanced(model.file.model, config, model.file.stem).runtime
    runtime.mode = mode
    batch = [
        example_array(b, config.seed + n) if isinstance(b, TensorType) else b
        for n, b in enumerate(model.entry_batch(chosen))
    ]
    if chosen == "train_step":
        return lambda: float(runtime.step(*batch))
    return lambda: (runtime.loss if chosen == "loss" else runtime.predict)(*batch)


def _report(found: Profile, path: Path, backend: str, base: str | None) -> Iterator[str]:
    rounds = f", medians of {found.rounds} rounds" if found.rounds else ""
    yield f"{path.stem}: @{quote(found.function)}, backend {backend}, {len(found.kernels)} kernels{rounds}"
    if found.kernels:
        yield from _table(found, base)
    if not found.apart:
        yield f"backend {backend} gives its program in one piece: there are no kernels to time"
    yield from _totals(found)


def _table(found: Profile, base: str | None) -> Iterator[str]:
    shown, rest = found.kernels[:ROWS], found.kernels[ROWS:]
    rows = [("share", "us".rjust(8), "rate   ".rjust(13), "kernel", "ops", "what")]
    for k in shown:
        share = f"{k.seconds / found.total:.1%}" if found.total else ""
        name = k.kernel if len(k.kernel) <= NAME_WIDTH else f"{k.kernel[: NAME_WIDTH - 2]}.."
        numbers = (share.rjust(5), f"{k.seconds * 1e6:8.2f}", _rate(k).rjust(13))
        rows.append((*numbers, name, str(len(k.ops)).rjust(3), ops_text(k.ops, OPS_WIDTH)))
    lines = aligned([(*row, "|") for row in rows])
    room = max(WIDTH - len(lines[0]) + 1, 24)
    yield lines[0][:-1] + "where"
    for line, k in zip(lines[1:], shown, strict=True):
        yield line[:-1] + places_in(k.locations, base, room)
    if rest:
        seconds = sum(k.seconds for k in rest)
        yield f"{seconds / found.total if found.total else 0:5.1%}  {seconds * 1e6:8.2f}  {len(rest)} more (--json lists all)"


def _totals(found: Profile) -> Iterator[str]:
    """The program as a whole beside its kernels, and the call beside the program."""
    rows: list[tuple[str, float, str]] = []
    beside = ""
    if found.apart:
        rows.append(("kernels, one by one", found.total, ""))
        left = (found.program - found.total) * 1e6
        beside = (
            f"{left:.1f} us of copies of inputs, results and state, and of calls"
            if left >= 0
            else f"one by one {-left:.1f} us longer: each pays for its call"
        )
    rows.append(("program in one call", found.program, beside))
    if found.call is not None:
        around = max(found.call - found.program, 0.0)
        rows.append(("as Runtime is called", found.call, f"{around * 1e6:.1f} us of Python around the program"))
    yield from aligned([(name, f"{seconds * 1e6:9.1f} us", text) for name, seconds, text in rows])


def _rate(k: Timed) -> str:
    return f"{k.rate / 1e9:.1f} {'GFLOP/s' if k.flops else 'GB/s   '}" if k.rate else ""


def ops_text(ops: Sequence[str], width: int) -> str:
    """The ops of a kernel, the most frequent first, as many as fit: ``3 mul, add, +4``."""
    parts = [f"{n} {op}" if n > 1 else op for op, n in Counter(ops).most_common()]
    counts = [n for _, n in Counter(ops).most_common()]
    for kept in range(len(parts), 0, -1):
        rest = sum(counts[kept:])
        text = ", ".join([*parts[:kept], *([f"+{rest}"] if rest else [])])
        if len(text) <= width or kept == 1:
            return text
    return ""


def places(locations: Sequence[Location], base: str | None) -> list[str]:
    """Source lines relative to the model's folder, and the module that ran, each once."""
    listed: list[str] = []
    for file, line, module in locations:
        inside = base is not None and os.path.isabs(file) and Path(file).is_relative_to(base)
        place = f"{os.path.relpath(file, base) if inside else shortened(file, 40)}:{line}"
        listed.append(f'{place} "{shortened(module, 40)}"' if module else place)
    return list(dict.fromkeys(listed))


def places_in(locations: Sequence[Location], base: str | None, width: int) -> str:
    """The first few places that fit, and how many more there are."""
    listed = places(locations, base)
    for kept in range(len(listed), 0, -1):
        more = [f"+{len(listed) - kept}"] if kept < len(listed) else []
        text = ", ".join([*listed[:kept], *more])
        if len(text) <= width or kept == 1:
            return text
    return ""


def _json(found: Profile, backend: str, base: str | None) -> dict[str, Any]:
    return {
        "function": found.function,
        "backend": backend,
        "rounds": found.rounds,
        "kernels": [
            {
                "kernel": k.kernel,
                "seconds": k.seconds,
                "share": k.seconds / found.total if found.total else None,
                "flops": k.flops or None,
                "bytes": k.bytes,
                "ops": list(k.ops),
                "where": places(k.locations, base),
            }
            for k in found.kernels
        ],
        "kernels_seconds": found.total if found.apart else None,
        "program_seconds": found.program,
        "call_seconds": found.call,
    }
