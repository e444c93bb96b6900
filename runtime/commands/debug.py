"""``irc compare``, ``bisect`` and ``reduce``: where a compiled program and the tape part, and what is to blame."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends import base
from ...ir import IRError, Module, save
from ...ir.errors import places_text
from ...ir.print import quote
from ...ir.types import Array
from ...passes import PASSES
from .. import bisect as bisecting
from .. import compare as comparing
from .. import reduce as reducing
from ..ir_file import argument_names, write_arrays
from .diff import lines
from .listings import aligned
from .modules import Given, backend_for, target
from .settings import UsageError, check_output, choice, entry, note, show, write_module

GRADES = {"none": "same bits", "rounding": "rounding-sized", "real": "a real difference"}
FAULTS = {
    "pass": "the IR itself computes something else than the traced one: irc bisect names the rewrite",
    "program": "the generated code computes something else than its IR",
    "memory": "each kernel is right on the tape's values, and a value was overwritten before its use",
}


@dataclass(frozen=True)
class DebugRequest:
    """What ``irc compare``, ``bisect`` or ``reduce`` was asked for."""

    entry: str | None = None
    mode: str | None = None
    inputs: Path | None = None
    backends: Sequence[str] = ("eager", "compiled")
    passes: Sequence[str] | None = None
    json: bool = False
    test: str | None = None
    timeout: float = 60.0
    output: Path | None = None


def _backend(request: DebugRequest, given: Given) -> tuple[str, str]:
    """The backend that is held against the tape."""
    if len(request.backends) != 2 or request.backends[0] != "eager":
        raise UsageError(
            f"--backends {','.join(request.backends)}: it is eager, which says what is right, and one other"
        )
    choice("--backends", request.backends[1], base.available())
    if given.flags.get("backend", request.backends[1]) != request.backends[1]:
        raise UsageError(f"--backend {given.flags['backend']}: here it is --backends eager,{given.flags['backend']}")
    return backend_for({**given.flags, "backend": request.backends[1]})


# compare


@entry
def compare(path: Path, request: DebugRequest, given: Given) -> bool:
    """Print where a backend and the tape part; returns whether they do."""
    module, name, arrays, folder, numerics = target(path, given, request.entry, request.mode, request.inputs)
    backend, device = _backend(request, given)
    found = comparing.compare(module, name, arrays, backend=backend, device=device, options={"numerics": numerics})
    if request.json:
        show(json.dumps(_json(found, folder), indent=1, allow_nan=False))
    else:
        show("\n".join(_report(found, path, name, backend, folder)))
        if found.grade == "rounding" and numerics != "exact":
            show(f"numerics {numerics} may round otherwise than the tape")
    return found.grade != "none"


def _report(found: comparing.Comparison, path: Path, name: str, backend: str, folder: str | None) -> Iterator[str]:
    kernels = f", {found.kernels} kernels" if found.kernels else ""
    yield f"{path.stem}: @{quote(name)}, {backend} beside the tape{kernels}"
    if any(found.errors):
        for side, error in zip(("the tape", backend), found.errors, strict=True):
            yield f"{side}: {error or 'gave results'}"
        yield "both raise the same error" if found.grade == "none" else "they do not raise the same error"
        return
    rows = [("result", "difference", "ulp", "tape to float64", f"{backend} to float64")]
    rows += [
        (r.name, GRADES[r.gap.grade], f"{r.gap.ulp:.0f}", f"{r.tape_ulp:.2f} ulp", f"{r.program_ulp:.2f} ulp")
        for r in found.results
    ]
    yield from aligned(rows)
    f = found.finding
    if f is None:
        yield "no kernel differs" if found.grade == "none" else "the results differ, and no kernel does"
        return
    yield f"the first kernel that differs: {f.kernel}, made by {f.made_by}"
    yield f"  {f.op}"
    if f.location:
        yield f"  {places_text(f.location, folder)}"
    if f.inside:
        yield f"  inside it: {f.inside}"
    yield f"  {_gap(f.gap, backend)}"
    yield f"  {FAULTS[f.fault]}"


def _gap(gap: comparing.Gap, backend: str) -> str:
    where = f" at {list(gap.index)}" if gap.index else ""
    sides = f"tape {gap.tape}, {backend} {gap.program}"
    nearer = {"tape": "the tape is nearer", "program": f"{backend} is nearer", "neither": "neither is nearer"}[
        gap.nearer
    ]
    reference = f", float64 {gap.reference} ({nearer})" if gap.reference is not None else ""
    return f"{GRADES[gap.grade]}: {gap.ulp:.0f} ulp{where}: {sides}{reference}"


def _number(value: Any) -> Any:
    """A number for JSON, which has no infinities."""
    return str(value) if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def _json(found: comparing.Comparison, folder: str | None) -> dict[str, Any]:
    def gap(g: comparing.Gap) -> dict[str, Any]:
        sides = {"tape": _number(g.tape), "program": _number(g.program), "float64": _number(g.reference)}
        return {"grade": g.grade, "ulp": _number(g.ulp), "index": list(g.index), **sides, "nearer": g.nearer}

    f = found.finding
    return {
        "grade": found.grade,
        "errors": list(found.errors),
        "results": [
            {"name": r.name, **gap(r.gap), "tape_ulp": _number(r.tape_ulp), "program_ulp": _number(r.program_ulp)}
            for r in found.results
        ],
        "finding": f
        and {
            "kernel": f.kernel,
            "op": f.op,
            "inside": f.inside,
            "made_by": f.made_by,
            "fault": f.fault,
            "location": places_text(f.location, folder),
            **gap(f.gap),
        },
    }


# bisect


@entry
def bisect(path: Path, request: DebugRequest, given: Given) -> None:
    """Print the pass and the rewrite that change what a function computes; raises ``IRError`` where none does."""
    for name in request.passes or ():
        choice("--passes", name, list(PASSES))
    module, name, arrays, folder, numerics = target(path, given, request.entry, request.mode, request.inputs)
    backend, device = _backend(request, given)
    found = bisecting.bisect(
        module, name, arrays, request.passes, backend=backend, device=device, options={"numerics": numerics}
    )
    if found is None:
        raise IRError(f"no pass changes what @{quote(name)} computes: there is nothing to bisect")
    if not found.pass_:
        show(f"every pass keeps the results; the program of {backend} does not: {found.symptom}")
        show("  irc compare names the kernel")
        return
    done = found.application
    where = f"pass {found.number}, {found.pass_}"
    if done is None:
        show(f"{where}: {found.symptom}")
        show("  it does not count its rewrites, so none is named")
    else:
        at = f"{done.at.op.name} : {done.at.results[0].type}"
        show(f"{where}: rewrite {done.number} of the pipeline, {done.rule} on {at}")
        if found.location:
            show(f"  {places_text(found.location, folder)}")
        show(f"  with {done.number - 1} rewrites the results are the tape's; with {done.number}: {found.symptom}")
    if found.change is not None:
        show("  what it did:")
        for line, _ in lines(found.change, (folder, folder)):
            show(f"    {line}")


# reduce


@entry
def reduce(path: Path, request: DebugRequest, given: Given) -> None:
    """Write the smallest IR for which ``test`` gives the same exit code, or ``compare`` the same kind of failure."""
    check_output(request.output, path)
    module, name, arrays, folder, numerics = target(path, given, request.entry, request.mode, request.inputs)
    if request.test is not None:
        with tempfile.TemporaryDirectory() as temporary:
            holds = _Command(request.test, Path(temporary), path.stem, request.timeout)
            found = reducing.reduce(module, name, arrays, holds)
    else:
        (backend, device), options = _backend(request, given), {"numerics": numerics}
        first = comparing.compare(module, name, arrays, backend=backend, device=device, options=options)
        kind, both = first.kind, f" (both raise {first.errors[0]})" if first.errors[0] else ""
        if first.grade == "none":
            raise IRError(
                f"{backend} and the tape agree on @{quote(name)}{both}: there is nothing to reduce\n  remedy: --test CMD"
            )

        def differs(candidate: Module, function: str, given: Sequence[Array]) -> bool:
            return (
                comparing.compare(candidate, function, given, backend=backend, device=device, options=options).kind
                == kind
            )

        found = reducing.reduce(module, name, arrays, differs)
    before, after = len(module[name].instructions), len(found.module[found.function].instructions)
    stopped = "interrupted; the smallest so far: " if found.interrupted else ""
    note(f"{stopped}{before} -> {after} op{'' if after == 1 else 's'}, in {found.trials} trials")
    if not after:
        note("every op could go: the test does not tell this program from an empty one")
    write_module(found.module, request.output, locations=True, base=folder)
    if request.output is not None:
        inputs = request.output.with_suffix(".npz")
        write_arrays(inputs, dict(zip(argument_names(found.module[found.function]), found.arrays, strict=True)))
        note(f"wrote {request.output}, and its arguments to {inputs}")


class _Command:
    """Whether a command ends with the exit code that it gave first; ``{}`` and ``{inputs}`` in it stand for the files of a candidate."""

    def __init__(self, command: str, folder: Path, stem: str, timeout: float) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--test {command}: {error}") from None
        if not self.words:
            raise UsageError("--test: the command is empty")
        if not any("{}" in w for w in self.words):
            self.words.append("{}")
        self.text, self.arrays = folder / f"{stem}.ir", folder / f"{stem}.npz"
        self.timeout = timeout
        self.code: int | str | None = None

    def _run(self) -> int | str:
        words = [w.replace("{}", str(self.text)).replace("{inputs}", str(self.arrays)) for w in self.words]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        except OSError as error:
            raise UsageError(f"--test {words[0]}: {error.strerror}") from None
        return done.returncode

    def __call__(self, module: Module, function: str, arrays: Sequence[Array]) -> bool:
        save(module, self.text)
        write_arrays(self.arrays, dict(zip(argument_names(module[function]), arrays, strict=True)))
        code = self._run()
        if self.code is None:
            self.code = code
            note(f"the command ends with {code}; that is kept")
        return code == self.code
