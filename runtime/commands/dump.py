"""``irc dump``, ``opt`` and ``check``: IR text out of models, through passes, and verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backends.compiled import pass_manager, program_text
from ...ir import Instruction, IRError, Module
from ...ir.print import Names
from ...passes import PASSES, PIPELINES
from ..runtime import NUMERICS
from .modules import ENTRIES, Given, ModelIR, check_stage, read_ir
from .settings import UsageError, check_device, check_output, choice, entry, note, show, write_module, write_text


@dataclass(frozen=True)
class DumpRequest:
    """What ``irc dump`` was asked for."""

    stage: str = "traced"
    entry: str = "forward"
    mode: str = "train"
    after_all: Path | None = None
    locations: bool = False
    output: Path | None = None


@entry
def dump(path: Path, request: DumpRequest, given: Given) -> None:
    """Print one entry of a model at a stage.  Only the stages ``tape`` and ``program`` need more than the IR."""
    check_stage(request.stage)
    choice("--entry", request.entry, ENTRIES)
    choice("--mode", request.mode, ["train", "eval"])
    if request.entry == "train_step" and request.mode == "eval":
        raise UsageError("--entry train_step --mode eval: a step trains; use --mode train")
    if request.after_all is not None and not PIPELINES.get(request.stage):
        stages = ", ".join(n for n, passes in PIPELINES.items() if passes)
        raise UsageError(f"--after-all with --stage {request.stage}: it goes with {stages}")
    if request.locations and request.stage == "program":
        raise UsageError("--locations with --stage program: a program shows its lines as comments")
    check_output(request.output, path)
    model = ModelIR(path, given)
    entries = [(request.entry, request.mode)]
    if request.stage == "program":
        module = model.module(entries, "traced")
        config = model.config
        backend = "compiled" if config.backend == "eager" else config.backend
        text = program_text(module, next(iter(module.functions)), config.device, config.numerics, backend)
        write_text(text.rstrip("\n") + "\n", request.output)
        return
    form = {"locations": request.locations, "base": model.base}
    passing = {"after_all": request.after_all, **form} if PIPELINES.get(request.stage) else {}
    module = model.module(entries, request.stage, **passing)
    write_module(module, request.output, locations=request.locations, base=model.base)


@dataclass(frozen=True)
class OptRequest:
    """What ``irc opt`` was asked for."""

    passes: Sequence[str]
    after_all: Path | None = None
    verify_each: bool = False
    why: str | None = None
    fuel: int | None = None
    device: str = "cpu"
    numerics: str = "exact"
    locations: bool = False
    output: Path | None = None


@entry
def opt(path: Path, request: OptRequest) -> None:
    """Run passes on an IR file; what each did goes to standard error."""
    if not request.passes:
        raise UsageError("--passes names no pass; irc passes lists them")
    for name in request.passes:
        choice("--passes", name, list(PASSES))
    if request.fuel is not None and request.fuel < 0:
        raise UsageError(f"--fuel {request.fuel}: it is a number of rewrites")
    choice("--numerics", request.numerics, NUMERICS)
    check_device(request.device)
    check_output(request.output)
    module = read_ir(path)
    said: set[str] = set()
    manager = pass_manager(
        request.device,
        request.numerics,
        verify_each=request.verify_each,
        after_all=request.after_all,
        fuel=request.fuel,
        why=_watch(module, request.why, said) if request.why is not None else None,
        locations=request.locations,
    )
    manager.run(module, request.passes)
    if request.why is not None and not said:
        note(f"{request.why}: no rule looked at it")
    for record in manager.records:
        rewrites = f"{record.rewrites} rewrite{'' if record.rewrites == 1 else 's'}"
        change = f"{record.ops_before} -> {record.ops_after} ops, {rewrites}" if record.changed else "unchanged"
        note(f"{record.name}: {record.seconds * 1e3:.2f} ms, {change}")
    write_module(module, request.output, locations=request.locations)


def _watch(module: Module, value: str, said: set[str]) -> Callable[[Instruction, str], None]:
    """Reports what rules say of the op that makes a value, and of those that take its place."""
    wanted = value if value.startswith("%") else f"%{value}"
    found = {v for f in module for v, name in Names(f).of.items() if name == wanted and v.owner is not None}
    if not found:
        raise UsageError(f"--why {value}: no op of {module.name} makes {wanted}")

    def why(i: Instruction, text: str) -> None:
        if not found.isdisjoint(i.results) and text not in said:
            said.add(text)
            note(f"{wanted}: {text}")

    return why


@entry
def check(paths: Sequence[Path]) -> bool:
    """Parse and verify IR files; says of each that it is valid, or what is wrong.  Returns whether all are valid."""
    valid = True
    for path in paths:
        try:
            module = read_ir(path)
        except IRError as error:
            note(f"error: {error}")
            valid = False
            continue
        functions, ops = len(module.functions), sum(len(f.instructions) for f in module)
        show(f"{path}: {functions} function{'' if functions == 1 else 's'}, {ops} op{'' if ops == 1 else 's'}, valid")
    return valid
