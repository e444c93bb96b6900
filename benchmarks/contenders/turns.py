"""Contenders in processes of their own that take turns: the worker's side and the parent's."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, cast

from .workloads import Contender, Workload

CHUNK_STEPS = 200
CHUNK_SECONDS = 0.05
FEWEST_STEPS = 3
LONGEST_ANSWER = 240.0
"""Seconds after which a process that does not answer is ended, and its contender does not take part."""
CACHES = {
    "TAPEIR_CACHE": "tapeir", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "CUPY_CACHE_DIR": "cupy",
    "CUDA_CACHE_PATH": "cuda",
}  # fmt: skip
"""Where libraries keep what they compiled, and the folder of each."""


# The worker: one contender and one workload, told over standard input what to do


def one_round(contender: Contender, seconds: float) -> tuple[float, float]:
    """Median and minimum over chunks of the mean seconds of a step.

    Every chunk starts from the initial state: were one batch trained on for seconds, gradients would vanish into
    subnormal numbers, at another point for every contender.
    """
    chunks: list[float] = []
    spent = 0.0
    while spent < seconds:
        contender.reset()
        contender.step()
        steps, begin = 0, time.perf_counter()
        end = begin
        while steps < FEWEST_STEPS or (steps < CHUNK_STEPS and end - begin < CHUNK_SECONDS):
            contender.step()
            steps += 1
            end = time.perf_counter()
        chunks.append((end - begin) / steps)
        spent += end - begin
    return statistics.median(chunks), min(chunks)


def peak_memory() -> dict[str, int]:
    """The largest resident size of the process so far, where the platform tells."""
    try:
        import resource
    except ImportError:
        return {}
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"process": size if sys.platform == "darwin" else size * 1024}


def work(modules: Sequence[str], name: str, workload: Workload, around: Callable[[Any], Any] | None = None) -> None:
    """Answer each line of standard input, ``evidence`` or the seconds to run, with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    begin = time.perf_counter()
    try:
        module, *_ = [import_module(m) for m in modules]
    except ImportError as error:
        return answer(failed=f"missing: {error}")
    imported = time.perf_counter()
    contender: Contender = (around(module) if around is not None else module).make(name, workload)
    contender.step()
    first = time.perf_counter()
    answer(
        import_seconds=imported - begin,
        first_seconds=first - (contender.started or imported),
        compile_seconds=contender.compile_seconds(),
    )
    for line in sys.stdin:
        if line.strip() == "evidence":
            evidence = contender.evidence()
            answer(evidence=evidence, memory={**contender.memory(), **peak_memory()})
        else:
            seconds, best = one_round(contender, float(line))
            answer(seconds=seconds, best=best)
    return None


# The parent


class Worker:
    """The process of one contender, started by ``script``; its caches are empty folders of its own unless ``cache`` is given."""

    folders = itertools.count()

    def __init__(self, script: str, name: str, workload: Workload, scratch: Path, cache: Path | None = None) -> None:
        self.name = name
        cache = cache or scratch / str(next(Worker.folders))
        for folder in CACHES.values():
            (cache / folder).mkdir(parents=True, exist_ok=True)
        folders = {name: str(cache / folder) for name, folder in CACHES.items()}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", name, workload.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env={**os.environ, **folders},
        )  # fmt: skip
        self.input, self.output = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
        self.first = self.read()
        self.rounds: list[float] = []
        self.best = float("inf")
        self.evidence: list[float] = []
        self.memory: dict[str, int] = {}

    def read(self) -> dict[str, Any]:
        """The next answer; of a process that ended, the last thing that it said."""
        ending = threading.Timer(LONGEST_ANSWER, self.process.kill)
        ending.daemon = True
        ending.start()
        try:
            line = self.output.readline()
        finally:
            ending.cancel()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        said = [text for text in self.errors.read().splitlines() if text.strip()] or [""]
        return {"failed": f"ended with {code}: {said[-1].strip()[:160]}"}

    def ask(self, request: Any) -> dict[str, Any]:
        self.input.write(f"{request}\n")
        self.input.flush()
        return self.read()

    def run(self, seconds: float) -> None:
        """Run for some seconds and keep what they gave."""
        given = self.ask(seconds)
        if "failed" in given:
            raise RuntimeError(f"{self.name}: {given['failed']}")
        self.rounds.append(given["seconds"])
        self.best = min(self.best, given["best"])

    def close(self) -> None:
        """End the process."""
        self.input.close()
        self.process.wait()
        self.errors.close()

    @property
    def seconds(self) -> float:
        """The median over rounds."""
        return statistics.median(self.rounds)

    @property
    def cell(self) -> str:
        """The median, and half the range of the rounds in percent of it."""
        return f"{duration(self.seconds)} ±{(max(self.rounds) - min(self.rounds)) * 50 / self.seconds:.0f}%"


def duration(seconds: float) -> str:
    """Three digits in us, ms or s."""
    unit, scale = ("us", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1.0)
    value = seconds * scale
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}{unit}"


@dataclass
class Outcome:
    """What was measured of a workload: its workers by name, and why the others did not run."""

    workload: Workload
    ours: str
    peers: Sequence[str]
    limits: list[str] = field(default_factory=list[str])
    workers: dict[str, Worker] = field(default_factory=dict[str, Worker])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, name: str) -> float | None:
        """Seconds of a contender."""
        return self.workers[name].seconds if name in self.workers else None

    @property
    def fastest(self) -> str | None:
        """The fastest peer."""
        peers = [n for n in self.peers if n in self.workers]
        return min(peers, key=lambda n: self.workers[n].seconds) if peers else None

    @property
    def ratio(self) -> float | None:
        """The fastest peer's time over ours."""
        ours, fastest = self.of(self.ours), self.fastest
        return self.workers[fastest].seconds / ours if ours is not None and fastest is not None else None

    def disagreements(self) -> dict[str, float]:
        """Of every other contender the largest relative difference of its evidence from ours (or the first one's)."""
        shown = {n: w.evidence for n, w in self.workers.items() if w.evidence}
        if not shown:
            return {}
        reference = shown.pop(self.ours if self.ours in shown else next(iter(shown)))
        return {
            n: max(abs(a - b) / abs(b) for a, b in zip(values, reference, strict=True)) for n, values in shown.items()
        }

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "ratio": self.ratio, "wanted": self.workload.ratio, "fastest": self.fastest, "failed": self.failed,
            "disagreement": self.disagreements(), "limits": self.limits,
            "contenders": {
                name: {
                    "seconds": worker.seconds, "rounds": worker.rounds, "best": worker.best, **worker.first,
                    "evidence": worker.evidence, "memory": worker.memory,
                }
                for name, worker in self.workers.items()
            },
        }  # fmt: skip


def compare(
    outcome: Outcome, start: Callable[[str], Worker], names: Iterable[str], rounds: int, seconds: float
) -> Outcome:
    """Start the contenders of a workload and let them take turns."""
    for name in names:
        worker = start(name)
        given = {} if "failed" in worker.first else worker.ask("evidence")
        if "evidence" in given:
            worker.evidence, worker.memory = given["evidence"], given["memory"]
            outcome.workers[name] = worker
        else:
            outcome.failed[name] = (given or worker.first)["failed"]
            worker.close()
    for _ in range(rounds):
        for worker in outcome.workers.values():
            worker.run(seconds)
    for worker in outcome.workers.values():
        worker.close()
    return outcome


def megabytes(memory: dict[str, int]) -> str:
    return ", ".join(f"{what} {size / 2**20:.3g} MB" for what, size in memory.items())


def about() -> dict[str, str]:
    """Where the figures come from."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for name in ("tapeir", "numpy", "llvmlite", "torch", "jax", "cupy-cuda13x", "nvmath-python"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from sources" if name == "tapeir" else "missing"
    if hasattr(os, "getloadavg"):
        found["load average"] = "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg())
    return found


def arguments(doc: str | None, contenders: Iterable[str], by_default: Iterable[str]) -> argparse.ArgumentParser:
    """What every benchmark of contenders takes on its command line."""
    names = list(contenders)
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--only", metavar="PATTERN", default="", help="workloads whose names this expression finds")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timed steps per round and contender")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument(
        "--contenders", nargs="+", choices=names, default=list(by_default), metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser


def chosen(parser: argparse.ArgumentParser, pattern: str, workloads: Mapping[str, Workload]) -> list[Workload]:
    """The workloads that ``--only`` finds; ends the program where there are none."""
    found = [w for w in workloads.values() if re.search(pattern, w.name, re.IGNORECASE)]
    if not found:
        parser.error(f"--only {pattern}: it finds none of {', '.join(workloads)}")
    return found
