"""The IR that a command is about: entries of a model file at a stage, or an IR file."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ...backends import base
from ...backends.compiled import lower
from ...ir import IRError, Module, TensorType, load
from ...ir.types import Array
from ...passes import PIPELINES
from ..entries import ENTRIES, Declarations, Setting, function_of
from ..ir_file import EntryError, arguments, entry_of, example_array, example_arrays, read_arrays
from ..model_file import ModelFile, batch_types
from ..runtime import NUMERICS, runtime_dtype
from ..trainer import Advanced, Config
from .settings import UsageError, choice, open_model, settings

P = ParamSpec("P")
R = TypeVar("R")
STAGES = ("traced", "grad", "optimized", "fused", "planned", "program", "tape")
ALL = (("forward", "train"), ("forward", "eval"), ("loss", "train"), ("loss", "eval"), ("train_step", "train"))
"""Every entry of a model in every mode it has."""
__all__ = ["ENTRIES", "STAGES"]


class Opened(NamedTuple):
    """A module and the folder that its locations are shown relative to."""

    module: Module
    base: str | None


def aside(function: Callable[P, R]) -> Callable[P, R]:
    """What the user's code prints meanwhile goes to standard error: standard output is the command's."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with contextlib.redirect_stdout(sys.stderr):
            return function(*args, **kwargs)

    return call


@dataclass(frozen=True)
class Given:
    """Flags of a command that builds a model, and what stands after ``--``."""

    flags: Mapping[str, Any]
    arguments: Sequence[str] = ()


def is_ir(path: Path) -> bool:
    """Whether a path names IR text and not a model file; raises ``UsageError`` where it names no file."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix not in (".ir", ".py"):
        raise UsageError(f"{path} is neither a model file (.py) nor IR text (.ir)")
    return path.suffix == ".ir"


def read_ir(path: Path) -> Module:
    """The verified module in an IR file.  Raises ``UsageError`` where it is not there, and the errors of its text."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix == ".py":
        raise UsageError(f"{path} is a model file, not IR text; irc dump {path} -o {path.stem}.ir writes its IR")
    return load(path)


def check_stage(stage: str, known: Sequence[str] = STAGES) -> None:
    """Raise ``UsageError`` for an unknown stage."""
    choice("--stage", stage, known)


def ir_stage(module: Module, stage: str, path: Path) -> Module:
    """An IR file's module at a stage; a file is taken as it is for ``traced``."""
    if stage not in PIPELINES:
        raise UsageError(f"--stage {stage}: of IR text ({path}) there are {', '.join(PIPELINES)}")
    if not PIPELINES[stage]:
        return module
    if module.origin is not None:
        module.origin.locate(module)
    return lower(module, stage)


def setting_of(file: ModelFile, config: Config) -> Setting:
    """What the entries of a model depend on."""
    return Setting(Declarations(file.model), config.chosen_objective, config.optimizer, runtime_dtype(config.dtype))


class ModelIR:
    """A model file with its settings: builds entries, their IR at any stage, and arrays for them.  It builds no state for IR."""

    @aside
    def __init__(self, path: Path, given: Given) -> None:
        self.file = open_model(path, given.arguments)
        self.config, options = settings(self.file.config, self.file.options, given.flags)
        self.setting = setting_of(self.file, self.config)
        self.batch = self.file.batch(options.batch_size)
        self.base = str(self.file.path.parent)

    def entry_batch(self, entry: str) -> list[Any]:
        """The arrays or types an entry is called with: forward has no target."""
        return self.batch[:-1] if entry == "forward" and len(self.batch) > 1 else self.batch

    def entries(self, entry: str | None, mode: str | None) -> list[tuple[str, str]]:
        """The chosen entry, or all that the batch has arrays for, in one mode or both."""
        wanted = [(e, m) for e, m in ALL if entry in (None, e) and mode in (None, m)]
        return [(e, m) for e, m in wanted if entry is not None or e == "forward" or len(self.batch) > 1]

    @aside
    def module(self, entries: Sequence[tuple[str, str]], stage: str, **options: Any) -> Module:
        """The entries at a stage that is IR; ``options`` go to the pass manager."""
        if stage == "tape":
            functions = [self._taped(*e) for e in entries]
        else:
            grads = stage == "grad"
            functions = [
                function_of(
                    self.setting,
                    e,
                    m,
                    batch_types(self.entry_batch(e), self.setting.dtype),
                    grads=grads and e != "train_step",
                )
                for e, m in entries
            ]
        module = Module(self.file.stem, functions).verify()
        if not PIPELINES.get(stage):
            return module
        return lower(module, stage, self.config.device, self.config.numerics, **options)

    def _runtime(self, mode: str) -> Any:
        runtime = Advanced(self.file.model, self.config.changed(backend="eager"), self.file.stem).runtime
        runtime.mode = mode
        return runtime

    def _taped(self, entry: str, mode: str) -> Any:
        batch = self.entry_batch(entry)
        if any(isinstance(b, TensorType) for b in batch):
            raise UsageError("--stage tape runs the model, so it needs data or example arrays in 'inputs'")
        runtime = self._runtime(mode)
        {"forward": runtime.predict, "loss": runtime.loss, "train_step": runtime.step}[entry](*batch)
        return runtime.tape.to_ir()

    @aside
    def arrays(self, module: Module, entry: str, mode: str) -> list[Array]:
        """The arguments of the only entry of a module: the first batch (random where only its types are known) and the first state."""
        batch = [
            example_array(b, self.config.seed + n) if isinstance(b, TensorType) else b
            for n, b in enumerate(self.entry_batch(entry))
        ]
        return self._runtime(mode).arguments(next(iter(module)), *batch)


def opened(path: Path, stage: str, given: Given, entry: str | None = None, mode: str | None = None) -> Opened:
    """A model file's entries, or an IR file, at a stage.  ``entry`` chooses one entry, or one function of the IR."""
    entry = entry and entry.removeprefix("@")
    if is_ir(path):
        module = read_ir(path)
        if entry is not None or mode is not None:
            module = _only(module, entry, mode, path)
        return Opened(ir_stage(module, stage, path), None)
    for known, one in ALL:  # the function's name is an entry and a mode
        if entry == f"{known}_{one}" and mode in (None, one):
            entry, mode = known, one
    choice("--entry", entry, ENTRIES)
    model = ModelIR(path, given)
    return Opened(model.module(model.entries(entry, mode), stage), model.base)


def _only(module: Module, entry: str | None, mode: str | None, path: Path) -> Module:
    """The functions of one name, or of a model's entry, in one mode, and what they name."""
    kept = Module(module.name)
    for f in module:
        named = entry is None or f.name in (entry, f"{entry}_train", f"{entry}_eval")
        if named and (mode is None or f.attrs.get("mode", mode) == mode):
            kept.functions.setdefault(f.name, f)
            pending = sorted(f.symbols())
            while pending:
                name = pending.pop()
                if name not in kept.functions:
                    pending.extend(sorted(kept.add(module[name]).symbols()))
    if not kept.functions:
        wanted = " ".join(w for w in (entry and f"--entry {entry}", mode and f"--mode {mode}") if w)
        raise UsageError(f"{wanted}: {path} has no such function; it has {', '.join(module.functions) or 'none'}")
    kept.origin = module.origin
    return kept


class Target(NamedTuple):
    """One function to run: its module, its name, and an array for each argument."""

    module: Module
    name: str
    arrays: list[Array]
    base: str | None
    numerics: str = "exact"


def target(path: Path, given: Given, entry: str | None, mode: str | None, inputs: Path | None) -> Target:
    """The entry of a model on its first batch and state, or a function of an IR file on ``inputs`` or on random arrays.

    Ops of IR text that have no source location get their line in the text.
    """
    if not is_ir(path):
        if inputs is not None:
            raise UsageError("--inputs goes with IR text; a model file is run on its first batch")
        chosen, mode = (entry or "train_step").removeprefix("@"), mode or "train"
        choice("--entry", chosen, ENTRIES)
        choice("--mode", mode, ["train", "eval"])
        model = ModelIR(path, given)
        if (chosen, mode) not in ALL:
            raise UsageError(f"--entry {chosen} --mode {mode}: a step trains; use --mode train")
        module = model.module([(chosen, mode)], "traced")
        arrays = model.arrays(module, chosen, mode)
        return Target(module, next(iter(module.functions)), arrays, model.base, model.config.numerics)
    if inputs is not None and not inputs.is_file():
        raise UsageError(f"--inputs {inputs} is not a file")
    module = read_ir(path)
    if module.origin is not None:
        module.origin.locate(module)
    try:
        function = entry_of(module, entry)
    except EntryError as error:
        raise UsageError(str(error)) from None
    seed, numerics = int(given.flags.get("seed") or 0), given.flags.get("numerics")
    choice("--numerics", numerics, NUMERICS)
    arrays = example_arrays(function, seed) if inputs is None else arguments(function, read_arrays(inputs), seed)
    return Target(module, function.name, arrays, None, numerics or "exact")


def backend_for(flags: Mapping[str, Any]) -> tuple[str, str]:
    """The names of backend and device that flags choose for IR text; compiled and cpu by default."""
    name, device = flags.get("backend") or "compiled", flags.get("device") or "cpu"
    choice("--backend", name, base.available())
    check_usable(name, device)
    return name, device


def check_usable(name: str, device: str) -> None:
    """Raise ``IRError`` where a backend cannot use a device."""
    reason = base.get(name).unavailable(device)
    if reason is not None:
        raise IRError(f"backend {name!r} cannot use device {device!r}: {reason}")
