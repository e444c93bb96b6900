"""What the ``irc`` commands do.  The command line itself (``cli.py``) only names arguments."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..backends import base, kernels
from ..backends.compiled import lower
from ..backends.eager.interpret import run_instruction
from ..ir import OPS, Instruction, IRError, Module, VerifyError, parse, print_module
from ..ir.source import boundary
from ..passes import PASSES, PIPELINES, PassManager
from .entries import ENTRIES, Declarations, Setting, function_of
from .model_file import ModelFile, batch_types, load
from .runtime import runtime_dtype
from .trainer import Advanced, Config, TrainOptions

STAGES = ("traced", "grad", "optimized", "fused", "planned", "program", "tape")


class UsageError(Exception):
    """A flag or argument that cannot be used; the command line turns it into exit code 2."""


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command: what calls it is not user code."""
    boundary(function.__code__)
    return function


# Settings: the file's, then the flags'


def _choice(flag: str, value: Any, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UsageError(
            f"{flag} {value}: it is {', '.join(known[:-1])} or {known[-1]}"
            if len(known) > 1
            else f"{flag} {value}: it is {known[0]}"
        )


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` arguments; values are Python literals, or text where they are not."""
    result: dict[str, Any] = {}
    known = [f.name for f in (*fields(Config), *fields(TrainOptions))]
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: it is key=value")
        if name not in known:
            raise UsageError(f"--set {name}: there is no such field; one of {', '.join(known)}")
        try:
            result[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            result[name] = text
    return result


def settings(config: Config, options: TrainOptions, flags: Mapping[str, Any]) -> tuple[Config, TrainOptions]:
    """``config`` and ``options`` with the flags that were given (not None) in place.  Raises ``UsageError``."""
    given = {k: v for k, v in flags.items() if v is not None}
    lr = given.pop("lr", None)
    _choice("--backend", given.get("backend"), base.available())
    _choice("--guard", given.get("guard"), ["nonfinite"])
    _choice("--numerics", given.get("numerics"), ["exact"])
    if "device" in given and not re.fullmatch(r"cpu|cuda(:\d+)?", str(given["device"])):
        raise UsageError(f"--device {given['device']}: it is cpu, cuda or cuda:N")
    try:
        if "dtype" in given:
            runtime_dtype(given["dtype"])
        names = {f.name for f in fields(Config)}
        config = config.changed(**{k: v for k, v in given.items() if k in names})
        options = replace(options, **{k: v for k, v in given.items() if k not in names})
        if lr is not None:
            config = config.changed(optimizer=config.optimizer.with_lr(lr))
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    return config, options


def open_model(path: Path, arguments: Sequence[str]) -> ModelFile:
    """The model file at a path.  Raises ``UsageError`` where it is not there or not Python."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a model file; it ends in .py")
    return load(path, arguments)


# run


@entry
def run(
    path: Path, flags: Mapping[str, Any], save: Path | None = None, as_json: bool = False, arguments: Sequence[str] = ()
) -> None:
    """Train a model file, print the test evaluation, and call its ``report``.

    With ``as_json`` one JSON object is all that standard output gets; the rest goes to standard error.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        result = _run(path, flags, save, arguments)
    if as_json:
        print(json.dumps(result, allow_nan=False))


def _run(path: Path, flags: Mapping[str, Any], save: Path | None, arguments: Sequence[str]) -> dict[str, Any]:
    """Train, save, evaluate, and print what a person reads; returns what ``--json`` prints."""
    file = open_model(path, arguments)
    config, options = settings(file.config, file.options, flags)
    advanced = Advanced(file.model, config, file.stem)
    runtime = advanced.runtime
    count = sum(a.size for a in runtime.params.values())
    head = f"{file.stem}: {count:,} parameters, {runtime.dtype}, backend {config.backend}, device {config.device}"
    print(f"{head}, seed {config.seed}", flush=True)
    data = file.data()
    if data is None:
        raise IRError(
            f"{path} has no module-level name 'data'\n"
            "  remedy: data = tp.data.arrays(inputs, targets), or a function that returns it"
        )
    train, test = data
    trained = advanced.train(train, options)
    report = trained.report
    if report.loss_before is None or report.loss_after is None:
        print(f"no updates left to do: the run is at step {runtime.step_count}")
    else:
        speed = f"{report.seconds:.2f} s ({report.steps_per_second:,.0f} steps/s)"
        print(f"trained {report.steps} steps in {speed}: loss {report.loss_before:.4f} -> {report.loss_after:.4f}")
    if save is not None:
        trained.save(save)
    evaluation = None if test is None else trained.eval(test)
    if evaluation is not None:
        print(f"test: {evaluation}")
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
    }
    if evaluation is not None:
        result["test"] = {k: _finite(v) for k, v in {"loss": evaluation.loss, **evaluation.metrics}.items()}
    return result


def _finite(number: float | None) -> float | None:
    """The number, or None where JSON has no word for it."""
    return number if number is not None and math.isfinite(number) else None


# dump


@dataclass(frozen=True)
class DumpRequest:
    """What ``irc dump`` was asked for."""

    stage: str = "traced"
    entry: str = "forward"
    mode: str = "train"
    after_all: Path | None = None
    locations: bool = False


def _setting(file: ModelFile, config: Config) -> Setting:
    return Setting(Declarations(file.model), config.chosen_objective, config.optimizer, runtime_dtype(config.dtype))


@entry
def dump(path: Path, request: DumpRequest, flags: Mapping[str, Any], arguments: Sequence[str] = ()) -> str:
    """The text of one entry of a model at a stage.  Only the stages ``tape`` and ``program`` need more than the IR."""
    _choice("--stage", request.stage, STAGES)
    _choice("--entry", request.entry, ENTRIES)
    _choice("--mode", request.mode, ["train", "eval"])
    if request.entry == "train_step" and request.mode == "eval":
        raise UsageError("--entry train_step --mode eval: a step trains; use --mode train")
    file = open_model(path, arguments)
    config, options = settings(file.config, file.options, flags)
    setting = _setting(file, config)
    batch = file.batch(options.batch_size)
    batch = batch[:-1] if request.entry == "forward" and len(batch) > 1 else batch
    base_folder = str(file.path.parent)
    if request.stage == "tape":
        return _tape(file, config, batch, request, base_folder)
    types = batch_types(batch, setting.dtype)
    grads = request.stage == "grad" and request.entry != "train_step"
    module = Module(file.stem, [function_of(setting, request.entry, request.mode, types, grads=grads)])
    module.verify()
    if request.after_all is not None and request.stage not in PIPELINES:
        raise UsageError(
            f"--after-all with --stage {request.stage}: it goes with {', '.join(n for n in PIPELINES if n != 'traced')}"
        )
    if request.stage == "program":
        name = next(iter(module.functions))
        return base.compile_module(base.get("compiled"), module, name, config.device).source
    if request.stage in PIPELINES:
        module = lower(module, request.stage, after_all=request.after_all)
    return print_module(module, locations=request.locations, base=base_folder)


def _tape(file: ModelFile, config: Config, batch: Sequence[Any], request: DumpRequest, base_folder: str) -> str:
    runtime = Advanced(file.model, config.changed(backend="eager"), file.stem).runtime
    runtime.mode = request.mode
    if any(not hasattr(b, "dtype") or not hasattr(b, "ravel") for b in batch):
        raise UsageError("--stage tape runs the model, so it needs data or example arrays in 'inputs'")
    {"forward": runtime.predict, "loss": runtime.loss, "train_step": runtime.step}[request.entry](*batch)
    assert runtime.tape is not None
    return print_module(Module(file.stem, [runtime.tape.to_ir()]), locations=request.locations, base=base_folder)


# opt and check


@dataclass(frozen=True)
class OptRequest:
    """What ``irc opt`` was asked for."""

    passes: Sequence[str]
    after_all: Path | None = None
    verify_each: bool = False
    why: str | None = None
    fuel: int | None = None


def read_ir(path: Path) -> Module:
    """The module in an ``.ir`` file, verified.  Raises ``UsageError`` where it cannot be read, and the errors of its text."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise IRError(f"{path} is not IR text") from None
    module = parse(text, file=str(path))
    try:
        return module.verify()
    except VerifyError as error:
        raise VerifyError(f"{path}: {error.message}", error.locations) from None


@entry
def opt(path: Path, request: OptRequest, report: Callable[[str], None]) -> str:
    """Run passes on an ``.ir`` file; what each did goes to ``report``."""
    for name in request.passes:
        _choice("--passes", name, list(PASSES))
    module = read_ir(path)
    why = None
    if request.why is not None:
        why = _watch(module, request.why, report)
    manager = PassManager(
        PASSES,
        verify_each=request.verify_each,
        after_all=request.after_all,
        fuel=request.fuel,
        evaluate=run_instruction,
        why=why,
    )
    manager.run(module, request.passes)
    for record in manager.records:
        change = (
            f"{record.ops_before} -> {record.ops_after} ops, {record.rewrites} rewrites"
            if record.changed
            else "unchanged"
        )
        report(f"{record.name}: {record.seconds * 1e3:.2f} ms, {change}")
    return str(module)


def _watch(module: Module, value: str, report: Callable[[str], None]) -> Callable[[Instruction, str], None]:
    from ..ir.print import Names

    wanted = value if value.startswith("%") else f"%{value}"
    found = [v for f in module for v, name in Names(f).of.items() if name == wanted and v.owner is not None]
    if not found:
        raise UsageError(f"--why {value}: no op of {module.name} makes {wanted}")

    def why(i: Instruction, text: str) -> None:
        if any(r in found for r in i.results):
            report(f"{wanted}: {text}")

    return why


@entry
def check(path: Path, report: Callable[[str], None], complain: Callable[[str], None]) -> bool:
    """Parse and verify one ``.ir`` file; returns whether it is valid and says so, or what is wrong with it."""
    try:
        module = read_ir(path)
    except IRError as error:
        complain(f"error: {error}")
        return False
    count = sum(len(f.instructions) for f in module)
    report(f"{path}: {len(module.functions)} functions, {count} ops, valid")
    return True


# Listings


def _columns(rows: Sequence[Sequence[str]]) -> None:
    """Print one line a row, with the columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join([cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)] + [row[-1]]))


def _summary(doc: str | None) -> str:
    """The first sentence of a docstring, as plain text."""
    first = " ".join((doc or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.;])\s+(?=[A-Z])|  Backward|\s+Backward:", first)[0].replace("``", "").rstrip(".;")


def list_ops() -> None:
    """Every op: name, family, and the first line of its docstring."""
    _columns(
        [(op.name, op.family, _summary(op.__doc__)) for op in sorted(OPS.values(), key=lambda op: (op.family, op.name))]
    )


def list_passes() -> None:
    """Every pass and what it does."""
    _columns([(name, p.doc.replace("``", "").rstrip(".")) for name, p in PASSES.items()])


def list_backends() -> None:
    """Every backend, what it serves, and the kernel table behind the exact ones."""
    rows: list[tuple[str, str, str]] = []
    for name in base.available():
        backend = base.get(name)
        devices = ", ".join(f"{d}: {backend.unavailable(d) or 'available'}" for d in ("cpu", "cuda"))
        rows.append((name, devices, _summary(type(backend).__doc__)))
    _columns(rows)
    print(f"kernel table (cpu): NumPy; products by {kernels.blas().description}")
