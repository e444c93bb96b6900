"""TapeIR beside PyTorch and JAX on a CPU: training steps of MLPs, GPTs and CNNs, single kernels, and compile time.

Everything is float32.  A training step is forward, backward and Adam on cross-entropy, fed with NumPy arrays and ended
with ``float(loss)``.  Every contender runs in a process of its own; the processes take turns, one at a time.  Contenders
that cannot be imported are listed as missing.  Run it with ``python benchmarks/cpu.py``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# As in cuda.py, which must not be found where NVIDIA's package ``cuda`` is meant.
sys.path = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contenders.turns import Outcome, Worker, about, arguments, chosen, compare, duration, megabytes, work  # noqa: E402
from benchmarks.contenders.workloads import CHECKED, WORKLOADS, Kernel, Mlp, Training, Workload  # noqa: E402

TOLERANCE = 1e-3
DYNAMO = ("torch._dynamo", "torch._inductor.compile_fx")
CONTENDERS: dict[str, tuple[str, ...]] = {
    "TapeIR": ("benchmarks.contenders.with_tapeir",),
    "TapeIR eager": ("benchmarks.contenders.with_tapeir",),
    "torch": ("benchmarks.contenders.with_torch",),
    "torch fused": ("benchmarks.contenders.with_torch",),
    "torch.compile": ("benchmarks.contenders.with_torch", *DYNAMO),
    "compile+fused": ("benchmarks.contenders.with_torch", *DYNAMO),
    "JAX jit": ("benchmarks.contenders.with_jax",),
    "products": ("benchmarks.contenders.bounds",),
    "products, NumPy": ("benchmarks.contenders.bounds",),
    "copy": ("benchmarks.contenders.bounds",),
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


def limits(outcome: Outcome) -> list[str]:
    """How far from what bounds it the workload is."""
    said: list[str] = []
    ours, workload = outcome.of(OURS), outcome.workload
    if isinstance(workload, Kernel):
        for name in ("copy", OURS, outcome.fastest):
            seconds = outcome.of(name) if name else None
            if name and seconds is not None:
                said.append(f"{name} {workload.bytes / seconds / 1e9:.1f} GB/s")
        copy = outcome.of("copy")
        if ours is not None and copy is not None:
            said.append(f"{OURS} at {copy / ours:.2f} of copying (wanted {workload.copy_share:g})")
    elif isinstance(workload, Mlp):
        for name in ("products", "products, NumPy"):
            bound = outcome.of(name)
            if bound is not None:
                share = f", {OURS} takes {ours / bound:.2f} of it" if ours is not None else ""
                said.append(f"{name} alone {duration(bound)}{share} (wanted {workload.over_products})")
    return said


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


def table(workloads: list[Workload], names: list[str], rounds: int, seconds: float, scratch: Path) -> list[Outcome]:
    """Measure and print the workloads."""
    shown = [n for n in names if n in (OURS, "TapeIR eager", *PEERS)]
    print(f"time of a step or kernel: median of {rounds} rounds of {seconds:g} s, ± half the range over rounds")
    print("ratio: the fastest peer / TapeIR (compiled); above 1 TapeIR is faster\n")
    print(f"{'workload':<26}{''.join(f'{n:>16}' for n in shown)}{'ratio':>12}{'wanted':>8}  fastest peer")
    outcomes: list[Outcome] = []
    for workload in workloads:
        outcome = Outcome(workload, OURS, PEERS)
        taking = [n for n in names if takes_part(n, workload)]
        compare(outcome, lambda n, w=workload: Worker(__file__, n, w, scratch), taking, rounds, seconds)
        outcome.limits = limits(outcome)
        outcomes.append(outcome)
        print(row(outcomes[-1], shown), flush=True)
    print("\nbounds")
    for outcome in outcomes:
        if outcome.limits:
            print(f"  {outcome.workload.name:<26}{'; '.join(outcome.limits)}")
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
                worker = Worker(__file__, OURS, workload, scratch, cache=scratch / f"{workload.name} {n}")
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


def main() -> None:
    parser = arguments(__doc__, CONTENDERS, BY_DEFAULT)
    parser.add_argument("--threads", type=int, help="of every contender; otherwise as many as each starts")
    given = parser.parse_args()
    if given.worker is not None:
        name, workload = given.worker
        return work(CONTENDERS[name], name, WORKLOADS[workload])
    workloads = chosen(parser, given.only, WORKLOADS)
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
