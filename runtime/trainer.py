"""``Trainer``: from a model and data to a trained runtime; ``Trainer.Advanced`` is the same machinery opened up."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..backends.cuda.devices import NAME as DEVICE_NAME
from ..frontend.arguments import checked, checked_fields
from ..frontend.nn import Module, Objective, objective
from ..frontend.optim import SGD, Optimizer
from ..ir.errors import ArgumentTypeError, ArgumentValueError, CheckpointError, DataError, IRError
from ..ir.source import public, user_line
from . import checkpoint
from .data import Dataset, Loader
from .fixed import Fixed
from .memory import MemoryWatch, peak_memory, watch_every
from .progress import Reporter, RunLog
from .results import Loss
from .runtime import Runtime, check_choices, runtime_dtype

Data = Dataset | tuple[Dataset, Dataset]
EVAL_ROWS = 1024
"""Rows of one batch of an evaluation."""


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


@checked_fields
@dataclass(frozen=True)
class Config:
    """How a model is run: everything that a runtime is made with."""

    dtype: str = "float32"
    backend: str = "eager"
    device: str = "cpu"
    objective: str | Callable[[Any, Any], Any] | Objective = "mse"
    optimizer: Optimizer = field(default_factory=lambda: SGD(lr=0.01))
    seed: int = 0
    numerics: str = "exact"
    guard: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", user_line(2))
        runtime_dtype(self.dtype)
        if not isinstance(self.optimizer, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"optimizer={self.optimizer!r}: it is an optimizer such as optim.Adam(lr=1e-3)")
        check_choices(self.numerics, self.guard)
        if not DEVICE_NAME.fullmatch(str(self.device)):
            raise ArgumentValueError(f"device={self.device!r}: it is 'cpu', 'cuda' or 'cuda:N'")
        if not _is_count(self.seed) or self.seed >= 1 << 64:
            raise ArgumentValueError(f"seed={self.seed!r}: it is an integer from 0 to 2**64-1")
        _ = self.chosen_objective

    def changed(self, **fields: Any) -> Config:
        """A copy with other values in some fields, still attributed to the line that made this one."""
        copy = replace(self, **fields)
        object.__setattr__(copy, "line", getattr(self, "line", None))
        return copy

    @property
    def chosen_objective(self) -> Objective:
        """The objective with the line of this configuration.  Raises ``ValueError`` for an unknown name."""
        return objective(self.objective, getattr(self, "line", None))


@checked_fields
@dataclass(frozen=True)
class TrainOptions:
    """How long and on which batches to train.

    ``steps`` counts updates from step 0, also after ``resume``; with neither ``steps`` nor ``epochs`` there is one; with both,
    whichever comes first.  ``stop_at`` ends this process's part of the run early.  ``cuda_mem_watch`` samples the device's allocator every
    so many updates; 0 does so in runs of 1000 steps and more on CUDA, ten times a run.
    """

    steps: int | None = None
    epochs: int | None = None
    stop_at: int | None = None
    batch_size: int = 1
    shuffle: bool = True
    log_every: int = 0
    log: str | os.PathLike[str] | None = None
    cuda_mem_watch: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int = 0
    resume: str | os.PathLike[str] | None = None
    callbacks: Sequence[Any] = ()
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "stop_at", "log_every", "cuda_mem_watch", "checkpoint_every"):
            value = getattr(self, name)
            if not _is_count(value) and not (value is None and name in ("steps", "epochs", "stop_at")):
                raise ArgumentValueError(f"{name}={value!r}: it is an integer of at least 0")
        for name in ("shuffle", "progress"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)) and not (value is None and name == "progress"):
                raise ArgumentTypeError(f"{name}={value!r}: it is True or False")
        for name in ("log", "checkpoint", "resume"):
            if not isinstance(getattr(self, name), (str, os.PathLike, type(None))):
                raise ArgumentTypeError(f"{name}={getattr(self, name)!r}: it is a path")
        if not _is_count(self.batch_size) or self.batch_size < 1:
            raise ArgumentValueError(f"batch_size={self.batch_size!r}: it is an integer of at least 1")
        if not isinstance(self.callbacks, (list, tuple)):
            raise ArgumentTypeError(
                f"callbacks={self.callbacks!r}: it is a list of objects with methods such as on_step"
            )

    def total(self, batches: int) -> int:
        """Updates of the whole run when an epoch has ``batches``."""
        limits = [n for n in (self.steps, None if self.epochs is None else self.epochs * batches) if n is not None]
        return min(limits, default=1)


@dataclass(frozen=True)
class Report:
    """What training did: updates in this process, the losses of its first and last minibatch (None without updates), and its cost."""

    steps: int
    loss_before: float | None
    loss_after: float | None
    seconds: float
    steps_per_second: float
    peak_memory: int | None
    log_error: str | None = None
    """Why the log ends before the run does, if it does."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over rows and the objective's metrics."""

    loss: float
    metrics: Mapping[str, float]
    rows: int

    def __str__(self) -> str:
        return "  ".join([f"loss {self.loss:.4f}", *(f"{name} {value:.4f}" for name, value in self.metrics.items())])


class Trained(Fixed):
    """A trained model: its runtime and what training reported."""

    def __init__(self, runtime: Runtime, report: Report) -> None:
        self.runtime = runtime
        self.report = report
        self._made = True

    @public
    def eval(self, dataset: Dataset) -> Evaluation:
        """Mean loss and metrics in eval mode, weighted by rows, in float64 on the host."""
        return evaluate(self.runtime, dataset)

    def predict(self, *inputs: Any) -> Any:
        """The model's output in eval mode."""
        with self.runtime.in_mode("eval"):
            return self.runtime.predict(*inputs)

    def print_prediction(self, label: str, *inputs: Any) -> None:
        """Print the output for one batch."""
        with np.printoptions(precision=4, suppress=True):
            print(f"{label}: {self.predict(*inputs)}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the runtime's state; see ``Runtime.save``."""
        self.runtime.save(path)


def evaluate(runtime: Runtime, dataset: Dataset) -> Evaluation:
    """See ``Trained.eval``."""
    if not isinstance(dataset, Dataset):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(
            f"the data is {type(dataset).__name__}, not a Dataset\n  remedy: tp.data.arrays(inputs, targets)"
        )
    if not len(dataset):
        raise DataError("the dataset to evaluate has no rows")
    loss, totals = 0.0, dict.fromkeys(runtime.setting.objective.metrics, 0.0)
    with runtime.in_mode("eval"):
        for batch in Loader(dataset, EVAL_ROWS, shuffle=False):
            rows = len(batch[0])
            loss += runtime.loss(*batch) * rows
            if totals:
                prediction = np.asarray(runtime.predict(*batch[:-1]))
                for name, metric in runtime.setting.objective.metrics.items():
                    totals[name] += metric(prediction, batch[-1]) * rows
    return Evaluation(loss / len(dataset), {name: t / len(dataset) for name, t in totals.items()}, len(dataset))


@contextmanager
def _in_step(started: int, now: int) -> Generator[None]:
    """Errors name the step they happened in: ``now``, or one of those ``started`` before if it shows only later."""
    try:
        yield
    except IRError as error:
        step = now if error.behind is None else started - error.behind
        error.message += f"\n  in step {step}"
        raise


class Advanced(Fixed):
    """The training machinery opened up, for custom loops: a runtime, single steps, modes, loaders and callbacks."""

    SETTABLE = ("callbacks",)
    REMEDY = (
        "Trainer.Config and Trainer.TrainOptions hold the settings; trainer.runtime.configure(...) changes one later"
    )

    @checked
    def __init__(self, model: Module, config: Config | None = None, name: str = "model") -> None:
        self.config = config or Config()
        self.callbacks: list[Any] = []
        c = self.config
        self.runtime = Runtime(
            model, objective=c.chosen_objective, optimizer=c.optimizer, dtype=c.dtype, backend=c.backend, device=c.device, seed=c.seed,
            numerics=c.numerics, guard=c.guard, name=name,
        )  # fmt: skip
        self._made = True

    @checked
    def step(self, batch: Sequence[Any]) -> Loss:
        """One update on a batch (inputs, then target)."""
        return self.runtime.step(*batch)

    @checked
    def set_mode(self, mode: str) -> None:
        """Switch the runtime to ``train`` or ``eval``."""
        self.runtime.mode = mode

    def in_mode(self, mode: str) -> AbstractContextManager[Runtime]:
        """Inside the block the runtime is in ``mode``."""
        return self.runtime.in_mode(mode)

    @checked
    def loader(self, dataset: Dataset, batch_size: int = 1, shuffle: bool = True) -> Loader:
        """Batches of a dataset in the runtime's dtype, shuffled from its seed."""
        return Loader(dataset.cast(self.runtime.dtype), batch_size, shuffle, self.config.seed)

    def notify(self, event: str, *arguments: Any) -> None:
        """Call ``event`` on every callback that has it: ``on_train_start(self)``, ``on_step(self, step, loss)``,
        ``on_epoch_end(self, epoch)``, ``on_train_end(self)``, ``on_eval(self, evaluation)``.
        """
        for callback in self.callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                method(self, *arguments)

    @checked
    def evaluate(self, dataset: Dataset) -> Evaluation:
        """Mean loss and metrics of a dataset in eval mode; callbacks hear of it."""
        evaluation = evaluate(self.runtime, dataset)
        self.notify("on_eval", evaluation)
        return evaluation

    @checked
    def resume(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file that ``save`` wrote.  Raises ``CheckpointError`` where seed or dtype would change the run."""
        arrays, metadata = checkpoint.read(path)
        found = checkpoint.described(path, metadata)
        for name, saved, now in (
            ("seed", found.seed, self.config.seed),
            ("dtype", found.dtype, self.runtime.dtype.name),
        ):
            if saved != now:
                raise CheckpointError(
                    f"{path} was trained with {name} {saved}, and this run has {now}\n  remedy: give both one {name}"
                )
        aliases = self.runtime.setting.declared.aliases
        present = {aliases.get(n, n) for n in arrays}
        lacking = [n for n in (*self.runtime.params, *self.runtime.buffers) if n not in present]
        if lacking:
            raise CheckpointError(f"{path} was trained with another model; it lacks {lacking[0]}")
        saved, now = found.optimizer_name, type(self.config.optimizer).__name__
        missing = [n for n in self.runtime.optimizer_state if n not in arrays]
        if saved != now or missing:
            lacks = f"; it lacks {missing[0]}" if missing else ""
            raise CheckpointError(f"{path} was trained with another optimizer ({saved}) than this run's {now}{lacks}")
        self.runtime.load_file(path, arrays)

    @public
    def train(self, data: Data, options: TrainOptions | None = None) -> Trained:
        """Train as ``options`` say, in train mode, and restore the mode."""
        options = options or TrainOptions()
        dataset = data if isinstance(data, Dataset) else data[0]
        if not isinstance(dataset, Dataset):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"data is {type(data).__name__}, not a Dataset\n  remedy: tp.data.arrays(inputs, targets)"
            )
        if options.resume is not None:
            self.resume(options.resume)
        loader = self.loader(dataset, options.batch_size, options.shuffle)
        own, self.callbacks = self.callbacks, [*self.callbacks, *options.callbacks]
        first = self.runtime.step_count
        total = options.total(len(loader))
        last = min(total, options.stop_at) if options.stop_at is not None else total
        try:
            with self.in_mode("train"):
                report = self._loop(loader, options, first, last, total)
        finally:
            self.callbacks = own
        if options.checkpoint is not None:
            self.runtime.save(options.checkpoint)
        return Trained(self.runtime, report)

    def _loop(self, loader: Loader, options: TrainOptions, first: int, last: int, total: int) -> Report:
        losses: list[Loss] = []
        every = watch_every(options.cuda_mem_watch, total, self.config.device.startswith("cuda"))
        watch = MemoryWatch(every, last, total) if every else None
        log = RunLog(options.log, first)
        lr = self.config.optimizer.lr
        self.notify("on_train_start")
        begin = time.perf_counter()
        try:
            with Reporter(last, options.log_every, options.progress) as reporter:
                for step, (epoch, batch) in zip(range(first + 1, last + 1), loader.steps(first), strict=False):
                    with _in_step(step - 1, step):
                        loss = self.step(batch)
                    losses = [losses[0] if losses else loss, loss]
                    with _in_step(step, step):
                        reporter.step(step, loss)
                        if options.log is not None:
                            log.write(
                                step=step, loss=float(loss), lr=lr, seconds=time.perf_counter() - begin, memory=peak_memory(),
                            )  # fmt: skip
                        number = float(loss) if self.callbacks else math.nan
                    self.notify("on_step", step, number)
                    if watch is not None and watch.due(step):
                        with _in_step(step, step):
                            float(loss)
                        reporter.line(watch.sample(step, self.runtime.device_memory() or {}))
                    if step % len(loader) == 0:
                        self.notify("on_epoch_end", epoch)
                    if (
                        options.checkpoint is not None
                        and options.checkpoint_every
                        and step % options.checkpoint_every == 0
                    ):
                        log.sync()
                        self.runtime.save(options.checkpoint)
                with _in_step(last, last):
                    read = [float(x) for x in losses]
                if watch is not None:
                    reporter.line(f"cuda_mem {watch.verdict()}")
        finally:
            log.close()
        seconds = time.perf_counter() - begin
        self.notify("on_train_end")
        done = max(last - first, 0)
        before, after = read or (None, None)
        return Report(done, before, after, seconds, done / seconds if seconds else 0.0, peak_memory(), log.error)


class Trainer(Fixed):
    """``Trainer.new(model, Trainer.Config(...)).train(data, Trainer.TrainOptions(...))``."""

    SETTABLE = ("model", "config", "name")
    REMEDY = "Trainer.Config and Trainer.TrainOptions hold the settings"

    Config = Config
    TrainOptions = TrainOptions
    Advanced = Advanced

    def __init__(self, model: Module, config: Config | None = None, name: str = "model") -> None:
        self.model = model
        self.config = config or Config()
        self.name = name
        self._made = True

    @classmethod
    def new(cls, model: Module, config: Config | None = None) -> Trainer:
        """A trainer of a model."""
        return cls(model, config)

    @public
    def train(self, data: Data, options: TrainOptions | None = None) -> Trained:
        """Train a fresh runtime on a dataset (the first of a pair) and return it with its report."""
        return Advanced(self.model, self.config, self.name).train(data, options)
