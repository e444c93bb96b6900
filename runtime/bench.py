"""What a training step costs on one backend, beside other backends and frameworks.

Every contender lives in a process of its own (``python -m tapeir.runtime.bench``), which answers over pipes: first what its first step
took, then a time for each round.  They take turns, so that all meet the same machine.  A step goes from host arrays to ``float(loss)``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import IO, Any, cast

import numpy as np

from ..ir import IRError
from ..ir.types import Array
from .memory import peak_memory

PEERS = {"torch": ("torch", "torch.compile"), "jax": ("jax",)}
"""Frameworks, and the contenders that each stands for."""
CHUNK_STEPS, CHUNK_SECONDS, FEWEST_STEPS = 200, 0.05, 3
_SAID = 200
"""Characters of what a process that failed said last."""


@dataclass(frozen=True)
class Request:
    """What a process is to run: a model file with its flags, on a backend or in a framework."""

    path: str
    contender: str
    flags: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arguments: Sequence[str] = ()


@dataclass
class Cost:
    """What a contender costs: seconds of a step and of the first one, and bytes.  None where it has no such thing.

    ``cold`` is the time to the first loss with empty caches, ``cached`` that of a second process.  ``note`` says why there is nothing.
    """

    contender: str
    step: float | None = None
    rounds: list[float] = field(default_factory=list[float])
    cold: float | None = None
    cached: float | None = None
    planned: int | None = None
    grown: int | None = None
    loss: float | None = None
    note: str = ""


# In the process of a contender


class Trainee(ABC):
    """Something that trains on one batch, and can start again."""

    compiles = True

    @abstractmethod
    def step(self) -> float:
        """One update; the loss."""

    @abstractmethod
    def reset(self) -> None:
        """The first state again."""

    def planned(self) -> int | None:
        """The bytes that its program was planned with."""
        return None


class OnBackend(Trainee):
    """A ``Runtime`` on a backend."""

    def __init__(self, model: Any, backend: str, batch: Sequence[Any]) -> None:
        from .trainer import Advanced

        config = model.config.changed(backend=backend)
        self.runtime = Advanced(model.file.model, config, model.file.stem).runtime
        self.batch = batch
        self.compiles = backend != "eager"
        held = (self.runtime.params, self.runtime.buffers, self.runtime.optimizer_state)
        self.initial = {name: array for arrays in held for name, array in arrays.items()}

    def step(self) -> float:
        return float(self.runtime.step(*self.batch))

    def reset(self) -> None:
        self.runtime.load_state(self.initial)

    def planned(self) -> int | None:
        return sum(e.memory for e in self.runtime.artifacts.values()) or None


class InFramework(Trainee):
    """The traced step in another framework; its state stays there, the batch comes from the host."""

    def __init__(self, module: Any, arrays: Sequence[Array], contender: str) -> None:
        from ..backends.compiled import lower
        from .peers import WRITERS

        framework = contender.partition(".")[0]
        self.framework: Any = import_module(framework)
        self.compiles = contender != "torch"
        peer = WRITERS[framework](next(iter(lower(module, "optimized")))).peer()
        self.load, self.arrays, self.own = peer.load, arrays, [r not in ("input", None) for r in peer.function.roles]
        self.inputs = [a for a, own in zip(arrays, self.own, strict=True) if not own]
        if framework == "jax":
            jitted = self.framework.jit(peer.step, donate_argnums=0)
            self.call: Any = lambda: jitted(self.state, tuple(self.inputs))
        else:
            step: Any = self.framework.compile(peer.step) if contender == "torch.compile" else peer.step
            self.call = lambda: step(self.state, tuple([peer.load(a) for a in self.inputs]))
        self.without_gradients: Any = contextlib.nullcontext if framework == "jax" else self.framework.no_grad
        self.reset()

    def reset(self) -> None:
        self.state = tuple([self.load(a) for a, own in zip(self.arrays, self.own, strict=True) if own])

    def step(self) -> float:
        with self.without_gradients():
            self.state, (loss, *_) = self.call()
        return float(loss)


def one_round(trainee: Trainee, seconds: float) -> float:
    """The median over chunks of the mean seconds of a step.

    Every chunk starts from the first state: after seconds of training on one batch gradients would be subnormal numbers, at another
    point for each contender.
    """
    chunks: list[float] = []
    spent = 0.0
    while spent < seconds or not chunks:
        trainee.reset()
        trainee.step()
        steps, begin = 0, time.perf_counter()
        end = begin
        while steps < FEWEST_STEPS or (steps < CHUNK_STEPS and end - begin < CHUNK_SECONDS):
            trainee.step()
            steps += 1
            end = time.perf_counter()
        chunks.append((end - begin) / steps)
        spent += end - begin
    return median(chunks)


def _status(name: str) -> int | None:
    """A size of this process that Linux tells in kB, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _peak() -> int | None:
    """The largest resident size so far: on Linux of this program alone, without what the process was before it."""
    return _status("VmHWM") or peak_memory()


def _start_of_growth() -> int | None:
    """Let the largest resident size be counted from now on, where that can be done, and give it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def trainee_of(request: Request) -> Trainee:
    """What a request asks for.  Raises ``ImportError`` without the framework, and the errors of the model file."""
    from ..ir import TensorType
    from .commands.modules import Given, ModelIR
    from .ir_file import example_array

    name = request.contender
    frameworks = {contender: peer for peer, contenders in PEERS.items() for contender in contenders}
    if name in frameworks:
        import_module(frameworks[name])
    model = ModelIR(Path(request.path), Given(request.flags, request.arguments))
    if name in frameworks:
        module = model.module([("train_step", "train")], "traced")
        return InFramework(module, model.arrays(module, "train_step", "train"), name)
    batch = [
        example_array(b, model.config.seed + n) if isinstance(b, TensorType) else np.asarray(b)
        for n, b in enumerate(model.batch)
    ]
    return OnBackend(model, name, batch)


def work(request: Request) -> None:
    """Answer with what the first step took, then each line of standard input, the seconds of a round, with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries and the model file print is no answer
    for module in (
        "llvmlite.binding",
        *(("torch._dynamo", "torch._inductor.compile_fx") * (request.contender == "torch.compile")),
    ):
        with contextlib.suppress(ImportError):  # imported now, so that no first step pays for it
            import_module(module)
    try:
        trainee = trainee_of(request)
    except (ImportError, IRError) as error:
        answers.write(json.dumps({"note": str(error)}) + "\n")
        return
    before = _start_of_growth()
    begin = time.perf_counter()
    try:
        loss = trainee.step()
    except IRError as error:
        answers.write(json.dumps({"note": str(error)}) + "\n")
        return
    first = time.perf_counter() - begin
    answers.write(json.dumps({"first": first, "loss": repr(loss), "compiles": trainee.compiles}) + "\n")
    for line in sys.stdin:
        seconds = one_round(trainee, float(line))
        now = _peak()
        grown = now - before if now is not None and before is not None else None
        answers.write(json.dumps({"step": seconds, "planned": trainee.planned(), "grown": grown}) + "\n")


# In the process that asks


class Worker:
    """A contender's process; its caches are in ``folder``."""

    def __init__(self, request: Request, folder: Path) -> None:
        source = str(Path(__file__).parents[2])
        inherited = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{source}{os.pathsep}{inherited}" if inherited else source,
            "TAPEIR_CACHE": str(folder / "tapeir"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
        }
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tapeir.runtime.bench", json.dumps(vars(request), default=str)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
        )  # fmt: skip
        self._input, self._output = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def read(self) -> dict[str, Any]:
        """The next answer; of a process that ended, a note with the last thing it said."""
        line = self._output.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        said = [text for text in self._errors.read().splitlines() if text.strip()] or [""]
        return {"note": f"its process ended with {code}: {said[-1].strip()[:_SAID]}"}

    def ask(self, seconds: float) -> dict[str, Any]:
        """Run a round."""
        with contextlib.suppress(BrokenPipeError):
            self._input.write(f"{seconds}\n")
            self._input.flush()
        return self.read()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._process.terminate()
        self._process.wait()
        self._output.close()
        self._errors.close()


def contenders(against: Sequence[str]) -> list[str]:
    """The contenders that names stand for, each once: ``torch`` is eager and compiled."""
    return list(dict.fromkeys(c for name in against for c in PEERS.get(name, (name,))))


def missing(contender: str) -> str | None:
    """Why a framework cannot be imported; None where it can, or it is a backend."""
    for framework, names in PEERS.items():
        if contender in names and find_spec(framework) is None:
            return f"{framework} is not installed (pip install {framework})"
    return None


def bench(request: Request, against: Sequence[str] = (), *, rounds: int = 5, seconds: float = 0.5) -> list[Cost]:
    """The costs of ``request`` and of the same step with each of ``against``, in that order.

    Contenders that cannot be imported or that fail have a note.
    """
    costs = [Cost(name) for name in dict.fromkeys([request.contender, *contenders(against)])]
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        for n, cost in enumerate(costs):
            asked = Request(request.path, cost.contender, request.flags, request.arguments)
            cost.note = missing(cost.contender) or ""
            if not cost.note:
                folder = Path(scratch) / str(n)
                workers[cost.contender] = _first_steps(cost, asked, folder, stack)
        for _ in range(rounds):
            for cost in costs:
                if not cost.note:
                    _round(cost, workers[cost.contender].ask(seconds))
    for cost in costs:
        cost.step = median(cost.rounds) if cost.rounds and not cost.note else None
    return costs


def _first_steps(cost: Cost, request: Request, folder: Path, stack: contextlib.ExitStack) -> Worker:
    """A process that has done its first step with empty caches, after which another has done its own with what is there."""
    for name in ("tapeir", "inductor", "jax"):
        (folder / name).mkdir(parents=True)
    worker = Worker(request, folder)
    stack.callback(worker.close)
    first = worker.read()
    cost.note = first.get("note", "")
    if cost.note:
        return worker
    cost.loss = float(first["loss"])
    if first["compiles"]:
        cost.cold = first["first"]
        second = Worker(request, folder)
        cost.cached = second.read().get("first")
        second.close()
    return worker


def _round(cost: Cost, answer: Mapping[str, Any]) -> None:
    cost.note = answer.get("note", "")
    if not cost.note:
        cost.rounds.append(answer["step"])
        cost.planned, cost.grown = answer["planned"], answer["grown"]


if __name__ == "__main__":
    work(Request(**json.loads(sys.argv[1])))
