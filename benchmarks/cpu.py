"""TapeIR beside PyTorch and JAX on a CPU: training steps of MLPs and GPTs, single kernels, and compile time.

Everything is float32.  A training step is forward, backward and Adam on cross-entropy, fed with NumPy arrays and ended
with ``float(loss)``.  Every contender runs in a process of its own; the processes take turns, one at a time.  Contenders
that cannot be imported are listed as missing.  Run it with ``python benchmarks/cpu.py``.
"""

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
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, cast

from contenders.workloads import CHECKED, WORKLOADS, Contender, Kernel, Mlp, Training, Workload

TOLERANCE = 1e-3
CHUNK_STEPS = 200
CHUNK_SECONDS = 0.05
FEWEST_STEPS = 3
DYNAMO = ("torch._dynamo", "torch._inductor.compile_fx")
CONTENDERS: dict[str, tuple[str, ...]] = {
    "TapeIR": ("contenders.with_tapeir",),
    "TapeIR eager": ("contenders.with_tapeir",),
    "torch": ("contenders.with_torch",),
    "torch fused": ("contenders.with_torch",),
    "torch.compile": ("contenders.with_torch", *DYNAMO),
    "compile+fused": ("contenders.with_torch", *DYNAMO),
    "JAX jit": ("contenders.with_jax",),
    "products": ("contenders.bounds",),
    "products, NumPy": ("contenders.bounds",),
    "copy": ("contenders.bounds",),
}
"""The module that makes each contender, and what else is imported before clocks run."""
OURS = "TapeIR"
PEERS = ("torch", "torch fused", "torch.compile", "compile+fused", "JAX jit")
BY_DEFAULT = (OURS, *PEERS, "products", "products, NumPy", "copy")


def takes_part(name: str, workload: Workload) -> bool:
    """Whether a contender has anything to do with a workload."""
    if name.startswith("products"):
        return isinstance(workload, Mlp) and workload.over_products is not None
    if name == "copy":
        return isinstance(workload, Kernel)
    if isinstance(workload, Kernel) and "fused" in name:
        return workload.kind == "adam" and name == "torch fused"
    return True


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


def work(name: str, workload: Workload) -> None:
    """Answer each line of standard input, ``evidence`` or the seconds to run, with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    begin = time.perf_counter()
    try:
        module, *_ = [import_module(m) for m in CONTENDERS[name]]
    except ImportError as error:
        return answer(failed=f"missing: {error}")
    imported = time.perf_counter()
    contender: Contender = module.make(name, workload)
    contender.step()
    first = time.perf_counter()
    answer(import_seconds=imported - begin, first_seconds=first - imported, compile_seconds=contender.compile_seconds())
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
    """The process of one contender; its caches are empty folders of its own unless ``cache`` is given."""

    folders = itertools.count()

    def __init__(self, name: str, workload: Workload, scratch: Path, cache: Path | None = None) -> None:
        self.name = name
        cache = cache or scratch / str(next(Worker.folders))
        (cache / "inductor").mkdir(parents=True, exist_ok=True)
        folders = {"TAPEIR_CACHE": str(cache / "tapeir"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, workload.name],
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
        line = self.output.readline()
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
    workers: dict[str, Worker] = field(default_factory=dict[str, Worker])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, name: str) -> float | None:
        """Seconds of a contender."""
        return self.workers[name].seconds if name in self.workers else None

    @property
    def fastest(self) -> str | None:
        """The fastest peer."""
        peers = [n for n in PEERS if n in self.workers]
        return min(peers, key=lambda n: self.workers[n].seconds) if peers else None

    @property
    def ratio(self) -> float | None:
        """The fastest peer's time over ours."""
        ours, fastest = self.of(OURS), self.fastest
        return self.workers[fastest].seconds / ours if ours is not None and fastest is not None else None

    def disagreements(self) -> dict[str, float]:
        """Of every other contender the largest relative difference of its evidence from ours (or the first one's)."""
        shown = {n: w.evidence for n, w in self.workers.items() if w.evidence}
        if not shown:
            return {}
        reference = shown.pop(OURS if OURS in shown else next(iter(shown)))
        return {
            n: max(abs(a - b) / abs(b) for a, b in zip(values, reference, strict=True)) for n, values in shown.items()
        }

    def limits(self) -> list[str]:
        """How far from what bounds it the workload is."""
        said: list[str] = []
        ours, workload = self.of(OURS), self.workload
        if isinstance(workload, Kernel):
            for name in ("copy", OURS, self.fastest):
                seconds = self.of(name) if name else None
                if name and seconds is not None:
                    said.append(f"{name} {workload.bytes / seconds / 1e9:.1f} GB/s")
            copy = self.of("copy")
            if ours is not None and copy is not None:
                said.append(f"{OURS} at {copy / ours:.2f} of copying (wanted {workload.copy_share:g})")
        elif isinstance(workload, Mlp):
            for name in ("products", "products, NumPy"):
                bound = self.of(name)
                if bound is not None:
                    share = f", {OURS} takes {ours / bound:.2f} of it" if ours is not None else ""
                    said.append(f"{name} alone {duration(bound)}{share} (wanted {workload.over_products})")
        return said

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "ratio": self.ratio, "wanted": self.workload.ratio, "fastest": self.fastest, "failed": self.failed,
            "disagreement": self.disagreements(), "limits": self.limits(),
            "contenders": {
                name: {
                    "seconds": worker.seconds, "rounds": worker.rounds, "best": worker.best, **worker.first,
                    "evidence": worker.evidence, "memory": worker.memory,
                }
                for name, worker in self.workers.items()
            },
        }  # fmt: skip


def compare(workload: Workload, names: Iterable[str], rounds: int, seconds: float, scratch: Path) -> Outcome:
    """Start the contenders of a workload and let them take turns."""
    outcome = Outcome(workload)
    for name in names:
        if not takes_part(name, workload):
            continue
        worker = Worker(name, workload, scratch)
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


def row(outcome: Outcome, names: Iterable[str]) -> str:
    """The line of a workload in the table."""
    workers, workload = outcome.workers, outcome.workload
    cells = "".join(f"{workers[n].cell if n in workers else '-':>16}" for n in names)
    line = f"{workload.name:<26}{cells}"
    ratio, fastest = outcome.ratio, outcome.fastest
    verdict = "-" if ratio is None else f"{ratio:.2f} {'ok' if ratio >= workload.ratio else 'below'}"
    line += f"{verdict:>12}{workload.ratio:>8g}  {fastest or ''}"
    wrong = {n: d for n, d in outcome.disagreements().items() if not d <= TOLERANCE}
    if wrong:
        line += "  LOSSES DIFFER: " + ", ".join(f"{n} by {d:.1e}" for n, d in wrong.items())
    return line


def megabytes(memory: dict[str, int]) -> str:
    return ", ".join(f"{what} {size / 2**20:.3g} MB" for what, size in memory.items())


def table(workloads: list[Workload], names: list[str], rounds: int, seconds: float, scratch: Path) -> list[Outcome]:
    """Measure and print the workloads."""
    shown = [n for n in names if n in (OURS, "TapeIR eager", *PEERS)]
    print(f"time of a step or kernel: median of {rounds} rounds of {seconds:g} s, ± half the range over rounds")
    print("ratio: the fastest peer / TapeIR (compiled); above 1 TapeIR is faster\n")
    print(f"{'workload':<26}{''.join(f'{n:>16}' for n in shown)}{'ratio':>12}{'wanted':>8}  fastest peer")
    outcomes: list[Outcome] = []
    for workload in workloads:
        outcomes.append(compare(workload, names, rounds, seconds, scratch))
        print(row(outcomes[-1], shown), flush=True)
    print("\nbounds")
    for outcome in outcomes:
        if limits := outcome.limits():
            print(f"  {outcome.workload.name:<26}{'; '.join(limits)}")
    print("\nseconds from the model to the first loss or result, caches empty, imports excluded")
    for outcome in outcomes:
        firsts = {n: outcome.workers[n].first["first_seconds"] for n in shown if n in outcome.workers}
        print(f"  {outcome.workload.name:<26}{', '.join(f'{n} {s:.3g}' for n, s in firsts.items())}")
    print("\nmemory of TapeIR's runtime, and the most its process had")
    for outcome in outcomes:
        if OURS in outcome.workers:
            print(f"  {outcome.workload.name:<26}{megabytes(outcome.workers[OURS].memory)}")
    print(f"\nlargest relative difference from TapeIR of losses before and after each of the first {CHECKED} steps")
    print("(of kernels: of sizes of results)")
    for outcome in outcomes:
        if differences := outcome.disagreements():
            print(f"  {outcome.workload.name:<26}{', '.join(f'{n} {d:.1e}' for n, d in differences.items())}")
    reasons = {f"{name}: {reason}": None for outcome in outcomes for name, reason in outcome.failed.items()}
    print("\nnot run: " + ("; ".join(reasons) or "none"))
    return outcomes


def compile_times(workloads: list[Workload], rounds: int, scratch: Path) -> dict[str, Any]:
    """Measure and print how long TapeIR compiles in fresh processes, and takes to the first loss, without and with a filled cache."""
    found: dict[str, Any] = {}
    print(
        "\nTapeIR: seconds of compiling, tracing included, in fresh processes; and from Runtime(...) to the first loss (median)"
    )
    for workload in workloads:
        if not isinstance(workload, Training) or workload.cold is None or workload.cached is None:
            continue
        times: dict[str, list[tuple[float, float]]] = {"cold": [], "cached": []}
        for n in range(rounds):
            for kind in times:
                worker = Worker(OURS, workload, scratch, cache=scratch / f"{workload.name} {n}")
                if "failed" in worker.first:
                    print(f"  {workload.name:<26}{worker.first['failed']}")
                else:
                    times[kind].append((worker.first["compile_seconds"], worker.first["first_seconds"]))
                worker.close()
            if not times["cached"]:
                break
        found[workload.name] = times
        if times["cold"] and times["cached"]:
            for kind, wanted in (("cold", workload.cold), ("cached", workload.cached)):
                compiling, first = (statistics.median(t) for t in zip(*times[kind], strict=True))
                name = workload.name if kind == "cold" else ""
                print(
                    f"  {name:<26}{kind:<7} {compiling:.3f} (wanted {wanted:g}), first loss after {first:.3f}",
                    flush=True,
                )
    return found


def limit_threads(count: int) -> None:
    """Let this process and those it starts compute on so many threads and, where the system can, processors."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TAPEIR_THREADS")
    os.environ.update(dict.fromkeys(names, str(count)))
    if count == 1:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def about() -> dict[str, str]:
    """Where the figures come from."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for name in ("tapeir", "numpy", "llvmlite", "torch", "jax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from sources" if name == "tapeir" else "missing"
    if hasattr(os, "getloadavg"):
        found["load average"] = "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="", help="workloads whose names this expression finds")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timed steps per round and contender")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of every contender; otherwise as many as each starts")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(BY_DEFAULT), metavar="NAME",
                        help=", ".join(CONTENDERS))  # fmt: skip
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        name, workload = given.worker
        return work(name, WORKLOADS[workload])
    workloads = [w for w in WORKLOADS.values() if re.search(given.only, w.name, re.IGNORECASE)]
    if not workloads:
        parser.error(f"--only {given.only}: it finds none of {', '.join(WORKLOADS)}")
    if given.threads is not None:
        limit_threads(given.threads)
    print(", ".join(f"{what} {value}" for what, value in about().items()))
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = table(workloads, given.contenders, given.rounds, given.seconds, Path(scratch))
        compiled = compile_times(workloads, min(given.rounds, 3), Path(scratch)) if OURS in given.contenders else {}
    if given.json is not None:
        figures = {o.workload.name: o.record() for o in outcomes}
        written = {"about": about(), "workloads": figures, "compile": compiled}
        given.json.write_text(json.dumps(written, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
