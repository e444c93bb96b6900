"""Time of a training step of small MLPs: TapeIR beside PyTorch and JAX.

One step is forward, backward and Adam (lr 1e-3) on cross-entropy in float32, fed with NumPy arrays and ended with
``float(loss)``.  Every contender runs in a process of its own; the processes take turns, one at a time.  Contenders that
cannot be imported are listed as missing.  Run it with ``python benchmarks/steps.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

CHECKED = 10
TOLERANCE = 1e-3
CHUNK_STEPS = 200
CHUNK_SECONDS = 0.05


@dataclass(frozen=True)
class Case:
    """An MLP and its batch, spelled ``<batch>x<in>-<hidden>-...-<out> <activation>``."""

    name: str

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return int(self.name.split("x")[0])

    @property
    def widths(self) -> list[int]:
        """Width of the input and of every layer."""
        return [int(n) for n in self.name.split("x")[1].split()[0].split("-")]

    @property
    def activation(self) -> str:
        """``relu`` or ``gelu``."""
        return self.name.split()[1]

    def parameters(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weight ``[out, in]`` and bias of every layer, uniform within ``1 / sqrt(in)``; the same in every process."""
        rng = np.random.default_rng(1)
        made: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        for fan_in, fan_out in zip(self.widths, self.widths[1:], strict=False):
            bound = fan_in**-0.5
            weight, bias = (rng.uniform(-bound, bound, shape) for shape in ((fan_out, fan_in), (fan_out,)))
            made.append((weight.astype(np.float32), bias.astype(np.float32)))
        return made

    def data(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inputs and labels."""
        rng = np.random.default_rng(2)
        x = rng.standard_normal((self.batch, self.widths[0])).astype(np.float32)
        return x, rng.integers(0, self.widths[-1], self.batch)


SHAPES = ("4x2-8-8-2", "32x64-64-64-10", "128x784-256-256-10")
CASES = [f"{shape} {activation}" for shape in SHAPES for activation in ("relu", "gelu")]


class Contender(Protocol):
    """A training loop: ``reset`` returns to the initial state, ``step`` trains once and returns the loss."""

    def reset(self) -> None: ...

    def step(self) -> float: ...


class TapeIR:
    """``tp.Runtime`` on one of its backends."""

    def __init__(self, case: Case, backend: str) -> None:
        import tapeir as tp
        from tapeir import nn

        layers: list[nn.Module] = []
        state: dict[str, Any] = {}
        for n, (weight, bias) in enumerate(case.parameters()):
            if n:
                layers.append(nn.ReLU() if case.activation == "relu" else nn.GELU())
            state |= {f"{len(layers)}.weight": weight, f"{len(layers)}.bias": bias}
            layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
        optimizer = tp.optim.Adam(lr=1e-3)
        self.rt = tp.Runtime(nn.Sequential(*layers), objective="cross_entropy", optimizer=optimizer, backend=backend)
        self.state = {**state, **self.rt.optimizer_state}
        self.x, self.y = case.data()

    def reset(self) -> None:
        self.rt.load_state(self.state)

    def step(self) -> float:
        return float(self.rt.step(self.x, self.y))


class Torch:
    """PyTorch: eager, or with ``torch.compile`` of model and loss; Adam as it ships, or its fused kernel."""

    def __init__(self, case: Case, compiled: bool, fused: bool) -> None:
        # Compiling in this process: a pool of compilers would stay beside the steps that are timed.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        torch: Any = import_module("torch")
        layers: list[Any] = []
        for n, (weight, _) in enumerate(case.parameters()):
            if n:
                layers.append(torch.nn.ReLU() if case.activation == "relu" else torch.nn.GELU())
            layers.append(torch.nn.Linear(weight.shape[1], weight.shape[0]))
        model = torch.nn.Sequential(*layers)
        self.torch = torch
        self.parameters: list[Any] = list(model.parameters())
        self.initial: list[Any] = [torch.from_numpy(a) for pair in case.parameters() for a in pair]
        self.x, self.y = case.data()

        def loss(x: Any, y: Any) -> Any:
            return torch.nn.functional.cross_entropy(model(x), y)

        self.loss: Callable[[Any, Any], Any] = torch.compile(loss) if compiled else loss
        self.optimizer: Any = torch.optim.Adam(self.parameters, lr=1e-3, **({"fused": True} if fused else {}))

    def reset(self) -> None:
        with self.torch.no_grad():
            for parameter, value in zip(self.parameters, self.initial, strict=True):
                parameter.copy_(value)
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.torch.from_numpy(self.x), self.torch.from_numpy(self.y))
        loss.backward()
        self.optimizer.step()
        return loss.item()  # what torch recommends for float(loss)


class Jax:
    """JAX: one ``jit`` of loss, gradient and Adam whose state is donated."""

    def __init__(self, case: Case) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        jax: Any = import_module("jax")
        jnp: Any = import_module("jax.numpy")
        tree_map: Any = jax.tree_util.tree_map
        x, y = case.data()
        self.jax, self.x, self.y = jax, x, y.astype(np.int32)  # its integers; int64 would be converted at every step
        parameters = [{"weight": w.T.copy(), "bias": b} for w, b in case.parameters()]
        zeros = tree_map(np.zeros_like, parameters)
        self.initial: Any = (parameters, zeros, zeros, np.zeros((), np.float32))

        def activation(h: Any) -> Any:
            return jax.nn.relu(h) if case.activation == "relu" else jax.nn.gelu(h, approximate=False)

        def first_moment(m: Any, g: Any) -> Any:
            return 0.9 * m + 0.1 * g

        def second_moment(v: Any, g: Any) -> Any:
            return 0.999 * v + 0.001 * g * g

        def loss(parameters: Any, x: Any, y: Any) -> Any:
            for n, layer in enumerate(parameters):
                x = (activation(x) if n else x) @ layer["weight"] + layer["bias"]
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))

        def step(state: Any, x: Any, y: Any) -> Any:
            p, m, v, count = state
            value, grads = jax.value_and_grad(loss)(p, x, y)
            count = count + 1
            size, root = 1e-3 / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)

            def updated(p: Any, m: Any, v: Any) -> Any:
                return p - size * m / (jnp.sqrt(v) / root + 1e-8)

            m, v = tree_map(first_moment, m, grads), tree_map(second_moment, v, grads)
            return (tree_map(updated, p, m, v), m, v, count), value

        self.call: Any = jax.jit(step, donate_argnums=0)
        self.state: Any = None

    def reset(self) -> None:
        self.state = self.jax.block_until_ready(self.jax.tree_util.tree_map(self.jax.numpy.array, self.initial))

    def step(self) -> float:
        self.state, loss = self.call(self.state, self.x, self.y)
        return float(loss)


CONTENDERS: dict[str, Callable[[Case], Contender]] = {
    "TapeIR eager": lambda case: TapeIR(case, "eager"),
    "TapeIR compiled": lambda case: TapeIR(case, "compiled"),
    "torch eager": lambda case: Torch(case, compiled=False, fused=False),
    "torch fused Adam": lambda case: Torch(case, compiled=False, fused=True),
    "torch.compile": lambda case: Torch(case, compiled=True, fused=False),
    "compile+fused": lambda case: Torch(case, compiled=True, fused=True),
    "JAX jit": Jax,
}
OURS = "TapeIR compiled"


# The worker: one contender and one case, told over standard input when to run


def one_round(contender: Contender, seconds: float, clock: Callable[[], float]) -> float:
    """Median over chunks of the mean seconds of a step.

    Every chunk starts from the initial state: were one batch trained on for seconds, gradients would vanish into subnormal
    numbers, at another point for every contender.  ``clock`` measures; wall time ends chunks and rounds.
    """
    chunks: list[float] = []
    spent = 0.0
    while spent < seconds:
        contender.reset()
        contender.step()
        steps, begin, start = 0, clock(), time.perf_counter()
        end = start
        while steps < CHUNK_STEPS and end - start < CHUNK_SECONDS:
            contender.step()
            steps += 1
            end = time.perf_counter()
        chunks.append((clock() - begin) / steps)
        spent += end - start
    return statistics.median(chunks)


def work(name: str, case: Case, clock: Callable[[], float]) -> None:
    """Answer each line of standard input, the seconds to run, with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    start = time.perf_counter()
    try:
        contender = CONTENDERS[name](case)
        contender.reset()
        losses = [contender.step() for _ in range(CHECKED + 1)]
    except (ImportError, RuntimeError, OSError) as error:  # a peer may be absent, or its compiler
        missing = isinstance(error, ImportError)
        text = str(error).strip().splitlines()
        return answer(failed=f"{'missing' if missing else type(error).__name__}: {text[0] if text else ''}"[:200])
    answer(losses=losses, seconds=time.perf_counter() - start)
    for line in sys.stdin:
        answer(step=one_round(contender, float(line), clock))
    return None


# The parent


class Worker:
    """The process of one contender."""

    def __init__(self, name: str, case: Case, flags: list[str]) -> None:
        self.name = name
        command = [sys.executable, __file__, "--worker", name, "--cases", case.name, *flags]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.input, self.output = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
        self.first = self.read()
        self.rounds: list[float] = []

    def read(self) -> dict[str, Any]:
        """The next answer."""
        line = self.output.readline()
        return json.loads(line) if line else {"failed": f"the process ended with {self.process.wait()}"}

    def run(self, seconds: float) -> None:
        """Run for some seconds and keep the time of a step."""
        self.input.write(f"{seconds}\n")
        self.input.flush()
        self.rounds.append(self.read()["step"])

    def close(self) -> None:
        """End the process."""
        self.input.close()
        self.process.wait()

    @property
    def microseconds(self) -> float:
        """The median over rounds."""
        return statistics.median(self.rounds) * 1e6

    @property
    def cell(self) -> str:
        """The median, and half the range of the rounds in percent of it."""
        spread = (max(self.rounds) - min(self.rounds)) / 2 * 1e8 / self.microseconds
        return f"{self.microseconds:.1f} ±{spread:.0f}%"


def single_threaded() -> dict[str, str]:
    """The environment in which every contender computes on one thread."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**counts, "XLA_FLAGS": flags.strip()}


def compare(
    case: Case, names: list[str], flags: list[str], rounds: int, seconds: float
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Workers that ran, by name, and the reasons of those that did not."""
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    for name in names:
        worker = Worker(name, case, flags)
        if "failed" in worker.first:
            failed[name] = worker.first["failed"]
            worker.close()
        else:
            workers[name] = worker
    for _ in range(rounds):
        for worker in workers.values():
            worker.run(seconds)
    for worker in workers.values():
        worker.close()
    return workers, failed


def disagreement(worker: Worker, reference: Worker) -> float:
    """The largest relative difference of the losses of the first steps."""
    ours, theirs = np.array(reference.first["losses"]), np.array(worker.first["losses"])
    return float(np.max(np.abs(theirs - ours) / np.abs(ours)))


def row(case: Case, names: list[str], workers: dict[str, Worker]) -> str:
    cells = "".join(f"{workers[n].cell if n in workers else '-':>18}" for n in names)
    peers = [n for n in workers if not n.startswith("TapeIR")]
    if OURS not in workers or not peers:
        return f"{case.name:<26}{cells}"
    fastest = min(peers, key=lambda n: workers[n].microseconds)
    ratio = workers[fastest].microseconds / workers[OURS].microseconds
    return f"{case.name:<26}{cells}{ratio:>10.2f}  ({fastest})"


def report(cases: list[str], names: list[str], flags: list[str], rounds: int, seconds: float) -> None:
    clock = "CPU" if "--cpu-time" in flags else "wall"
    threads = "one thread each" if "--one-thread" in flags else "threads as each starts them"
    print(f"us of {clock} time per training step, {threads}")
    print(f"median of {rounds} rounds of {seconds:g} s, ± half the range over rounds")
    print(f"ratio: the fastest peer / {OURS}; above 1 TapeIR is faster\n")
    print(f"{'batch x MLP':<26}{''.join(f'{n:>18}' for n in names)}{'ratio':>10}")
    notes: dict[str, None] = {}
    worst: dict[str, float] = {}
    starts: dict[str, list[float]] = {}
    for case in map(Case, cases):
        workers, failed = compare(case, names, flags, rounds, seconds)
        print(row(case, names, workers), flush=True)
        notes |= {f"{name}: {reason}": None for name, reason in failed.items()}
        for name, worker in workers.items():
            starts.setdefault(name, []).append(worker.first["seconds"])
            if OURS in workers and name != OURS:
                worst[name] = max(worst.get(name, 0.0), disagreement(worker, workers[OURS]))
    print("\nnot run: " + ("; ".join(notes) or "none"))
    print(f"losses before and after each of the first {CHECKED} steps, largest relative difference from {OURS}:")
    for name, value in worst.items():
        print(f"  {name:<18}{value:.1e}  {'agrees' if value <= TOLERANCE else f'DISAGREES (more than {TOLERANCE:g})'}")
    print("seconds from import to the first steps done, median over cases:")
    print("  " + ", ".join(f"{name} {statistics.median(s):.1f}" for name, s in starts.items()))
    if hasattr(os, "getloadavg"):
        print("load average {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()) + f" on {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timed steps per round and contender")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME",
                        help=", ".join(CONTENDERS))  # fmt: skip
    parser.add_argument("--worker", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--one-thread", action="store_true", help="per contender; otherwise as many as each starts")
    parser.add_argument("--cpu-time", action="store_true", help="of the process, not wall time; for a busy machine")
    given = parser.parse_args()
    flags = [flag for flag in ("--one-thread", "--cpu-time") if getattr(given, flag[2:].replace("-", "_"))]
    if given.one_thread:
        os.environ.update(single_threaded())
    if given.worker is not None:
        work(given.worker, Case(given.cases[0]), time.process_time if given.cpu_time else time.perf_counter)
    else:
        report(given.cases, given.contenders, flags, given.rounds, given.seconds)


if __name__ == "__main__":
    main()
