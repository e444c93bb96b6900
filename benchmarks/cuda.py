"""TapeIR beside PyTorch and JAX on a CUDA device: training steps of MLPs, GPTs and a CNN, the first step, kernels and launches.

Everything is float32 without TF32, except what ``TapeIR fast`` computes.  A training step is forward, backward and Adam on cross-entropy,
fed with NumPy arrays and ended with ``float(loss)``; compiled PyTorch has its fused Adam.  Kernels work on 2^26 elements that lie on the
device.  Every contender runs in a process of its own with empty caches; the processes take turns, one at a time.  Run it with
``python benchmarks/cuda.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

# This file is called cuda.py: with its folder on the path, NVIDIA's package ``cuda`` could not be imported.
sys.path = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contenders import cuda_kernels  # noqa: E402
from benchmarks.contenders.cuda_kernels import LAUNCHES, CudaKernel  # noqa: E402
from benchmarks.contenders.turns import Outcome, Worker, about, arguments, chosen, compare, work  # noqa: E402
from benchmarks.contenders.workloads import CHECKED, Cnn, Contender, Gpt, Mlp, Training, Workload  # noqa: E402

TOLERANCE = 1e-2
"""Relative difference of losses: sums have other orders."""
OURS, FAST = "TapeIR", "TapeIR fast"
PEERS = ("torch", "torch.compile", "reduce-overhead", "JAX jit")
CONTENDERS: dict[str, tuple[str, ...]] = {
    OURS: ("benchmarks.contenders.with_tapeir",),
    FAST: ("benchmarks.contenders.with_tapeir",),
    "TapeIR eager": ("benchmarks.contenders.with_tapeir",),
    "torch": ("benchmarks.contenders.with_torch",),
    "torch.compile": ("benchmarks.contenders.with_torch", "torch._dynamo", "torch._inductor.compile_fx"),
    "reduce-overhead": ("benchmarks.contenders.with_torch", "torch._dynamo", "torch._inductor.compile_fx"),
    "JAX jit": ("benchmarks.contenders.with_jax",),
    "copy": ("cupy",),
}
"""The module that makes each contender, and what else is imported before clocks run."""
BY_DEFAULT = tuple(n for n in CONTENDERS if n != "TapeIR eager")
WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Mlp("MLP 4x2-8-8-2", 3, cold=1.5),
        Mlp("MLP 128x784-256-256-10", 2, cold=1.5),
        Mlp("MLP 1024x1024-4096-4096-1000", 1.0, cold=1.5),
        Gpt("GPT 4 layers, d 256", 1.5, cold=3, layers=4, width=256, rows=8, length=128),
        Gpt("GPT 8 layers, d 512", 1.0, cold=3, layers=8, width=512, rows=16, length=512, heads=8),
        Cnn("CNN 128x32x32, 64-128-256", 1, rows=128, side=32, channels=(3, 64, 128, 256)),
        CudaKernel("elementwise: x * y + z", 1, "multiply_add", 3, 4),
        CudaKernel("elementwise: GELU", 1, "gelu", 1, 2),
        CudaKernel("row: softmax", 1, "softmax", 1, 2),
        CudaKernel("column: sum", 1, "column_sum", 1, 1),
    )
}


class Made:
    """Makes contenders as ``work`` asks for them: those of kernels come from a module of their own."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def make(self, name: str, workload: Workload) -> Contender:
        """The contender of a name."""
        if isinstance(workload, CudaKernel):
            return cuda_kernels.make(name, workload)
        return self.module.make(name, workload)


def takes_part(name: str, workload: Workload) -> bool:
    """Whether a contender has anything to do with a workload."""
    if isinstance(workload, CudaKernel):
        return name not in ("TapeIR eager", "reduce-overhead", FAST)
    return name != "copy"


def launches(outcome: Outcome) -> str:
    """How many kernels and products a step of ours launches."""
    worker = outcome.workers.get(OURS)
    count = worker.memory.get("launches") if worker is not None else None
    return "-" if count is None else str(count)


def row(outcome: Outcome, shown: list[str]) -> str:
    """The line of a workload in the table."""
    workers, workload = outcome.workers, outcome.workload
    cells = "".join(f"{workers[n].cell if n in workers else '-':>16}" for n in shown)
    ratio, fastest = outcome.ratio, outcome.fastest
    verdict = "-" if ratio is None else f"{ratio:.2f} {'ok' if ratio >= workload.ratio else 'below'}"
    fast = workers[FAST].seconds if FAST in workers else None
    in_fast = f"{workers[fastest].seconds / fast:.2f}" if fast is not None and fastest is not None else "-"
    line = f"{workload.name:<30}{cells}{verdict:>12}{workload.ratio:>8g}{in_fast:>8}{launches(outcome):>10}  {fastest or ''}"
    wrong = {n: d for n, d in outcome.disagreements().items() if n not in (FAST, "copy") and not d <= TOLERANCE}
    if wrong:
        line += "  RESULTS DIFFER: " + ", ".join(f"{n} by {d:.1e}" for n, d in wrong.items())
    return line


def bandwidth(outcome: Outcome) -> str:
    """How near a kernel comes to copying."""
    workload = outcome.workload
    assert isinstance(workload, CudaKernel)
    said: list[str] = []
    for name in ("copy", OURS, outcome.fastest):
        seconds = outcome.of(name) if name else None
        if seconds is not None:
            said.append(f"{name} {LAUNCHES * workload.bytes / seconds / 1e12:.2f} TB/s")
    ours, copy = outcome.of(OURS), outcome.of("copy")
    if ours is not None and copy is not None:
        share = copy / ours
        verdict = "ok" if share >= workload.copy_share else "below"
        said.append(f"{OURS} at {share:.2f} of copying (wanted {workload.copy_share:g}: {verdict})")
    return "; ".join(said)


def device_name() -> str:
    """What ``nvidia-smi`` says of the device and its driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def write(file: Path, outcomes: list[Outcome]) -> None:
    """All figures so far as JSON."""
    figures = {o.workload.name: o.record() for o in outcomes}
    written = {"device": device_name(), "about": about(), "workloads": figures}
    file.write_text(json.dumps(written, indent=1) + "\n")


def table(
    workloads: list[Workload], names: list[str], rounds: int, seconds: float, scratch: Path, file: Path | None
) -> None:
    """Measure and print the workloads; what is measured is written to a file at once."""
    shown = [n for n in names if n != "copy"]
    print(
        f"time of a step (of kernels: of {LAUNCHES} launches): median of {rounds} rounds of {seconds:g} s, ± half the range"
    )
    print(
        "ratio: the fastest peer / TapeIR in exact numerics; fast: the same for fast numerics; above 1 TapeIR is faster\n"
    )
    head = "".join(f"{n:>16}" for n in shown)
    print(f"{'workload':<30}{head}{'ratio':>12}{'wanted':>8}{'fast':>8}{'launches':>10}  fastest peer")
    outcomes: list[Outcome] = []
    for workload in workloads:
        outcome = Outcome(workload, OURS, PEERS)
        taking = [n for n in names if takes_part(n, workload)]
        compare(outcome, lambda n, w=workload: Worker(__file__, n, w, scratch), taking, rounds, seconds)
        outcomes.append(outcome)
        print(row(outcome, shown), flush=True)
        if file is not None:
            write(file, outcomes)
    print("\nbytes per second of kernels")
    for outcome in outcomes:
        if isinstance(outcome.workload, CudaKernel):
            print(f"  {outcome.workload.name:<30}{bandwidth(outcome)}")
    print("\nseconds from the model to the first loss or result, caches empty, imports excluded")
    for outcome in outcomes:
        workload = outcome.workload
        firsts = {n: outcome.workers[n].first["first_seconds"] for n in shown if n in outcome.workers}
        wanted = ""
        if isinstance(workload, Training) and workload.cold is not None and OURS in firsts:
            wanted = f"  (wanted {workload.cold:g}: {'ok' if firsts[OURS] <= workload.cold else 'below'})"
        print(f"  {workload.name:<30}{', '.join(f'{n} {s:.3g}' for n, s in firsts.items())}{wanted}")
    print(f"\nlargest relative difference from {OURS} of losses before and after each of the first {CHECKED} steps")
    for outcome in outcomes:
        if differences := outcome.disagreements():
            print(f"  {outcome.workload.name:<30}{', '.join(f'{n} {d:.1e}' for n, d in differences.items())}")
    reasons = {f"{name}: {reason}": None for outcome in outcomes for name, reason in outcome.failed.items()}
    print("\nnot run: " + ("; ".join(reasons) or "none"))


def main() -> None:
    parser = arguments(__doc__, CONTENDERS, BY_DEFAULT)
    given = parser.parse_args()
    if given.worker is not None:
        name, workload = given.worker
        return work(CONTENDERS[name], name, WORKLOADS[workload], Made)
    os.environ["BENCH_DEVICE"] = "cuda"
    workloads = chosen(parser, given.only, WORKLOADS)
    reason = import_module("tapeir.backends.cuda.devices").unavailable("cuda")
    if reason is not None:
        parser.error(f"there is no CUDA device to measure: {reason}")
    print(", ".join([f"device {device_name()}", *(f"{what} {value}" for what, value in about().items())]))
    with tempfile.TemporaryDirectory() as scratch:
        table(workloads, given.contenders, given.rounds, given.seconds, Path(scratch), given.json)
    return None


if __name__ == "__main__":
    main()
