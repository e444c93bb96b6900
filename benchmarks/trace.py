"""Cost of recording: a chain of N relu ops on ``f64[4]``, traced, differentiated and verified.

Every N runs in a fresh process, so that memory growth is of that N alone.  Run it with ``python benchmarks/trace.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (1000, 2000, 4000, 8000, 16000)
STAGES = ("trace", "vjp", "value_and_grad", "verify")
TORCHLEAN = "TorchLean publishes 3.0 s and 4.0 GB for construction alone (16,000 relu)."
STATUS = Path("/proc/self/status")


def resident(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MB; 0 where there is no ``/proc``."""
    if not STATUS.exists():
        return 0.0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def timed(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*args)
    return time.perf_counter() - start, result


def measure(count: int, text: bool) -> dict[str, float]:
    """Seconds of every stage and MB of peak growth, for a chain of ``count`` relu ops."""
    import tapeir as tp

    def chain(x: Any) -> Any:
        for _ in range(count):
            x = tp.ops.relu(x)
        return tp.ops.sum(x)

    found: dict[str, float] = {}

    def pulled(x: Any) -> Any:
        result, pullback = tp.vjp(chain, x)
        found["vjp"], (gradient,) = timed(pullback, 1.0)
        return result, gradient

    x = tp.f64[4]
    tp.trace(tp.value_and_grad(tp.ops.sum), x)  # loads what is loaded on first use
    before = resident("VmRSS")
    found["trace"], forward = timed(tp.trace, chain, x)
    found["trace_mb"] = resident("VmHWM") - before
    found["value_and_grad"], module = timed(tp.trace, tp.value_and_grad(chain), x)
    found["verify"], _ = timed(tp.ir.verify, module)
    found["all_mb"] = resident("VmHWM") - before
    found["instructions"] = len(next(iter(module)).instructions)
    del forward
    if text:
        found["print"], written = timed(tp.ir.print_module, module)
        found["characters"] = len(written)
        found["parse"], again = timed(tp.parse, written)
        found["equal"] = float(tp.ir.print_module(again) == written)
        del again
    del module  # the collector walks everything alive, which would be timed too
    tp.trace(pulled, x, dtype=tp.f64)  # the dtype of the cotangent 1.0
    return found


def fresh(count: int, text: bool) -> dict[str, float]:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, "--worker", str(count), *(["--text"] if text else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def best(count: int, repeats: int, text: bool) -> dict[str, float]:
    """The smallest time of every stage over fresh processes; what else happens on the machine only adds to it."""
    runs = [fresh(count, text) for _ in range(repeats)]
    return {name: min(run[name] for run in runs) for name in runs[0]}


def report(sizes: list[int], repeats: int) -> None:
    print(f"chain of N relu on f64[4], then sum; best of {repeats} fresh processes")
    print("us are per relu, growth is to the row above; vjp is the reverse walk alone, value_and_grad traces both")
    heads = "".join(f"{name + ' ms':>18}{'us':>7}{'growth':>8}" for name in STAGES)
    print(f"{'N':>6}{heads}{'trace MB':>10}{'peak MB':>9}{'instructions':>14}")
    before: dict[str, float] = {}
    rows: dict[int, dict[str, float]] = {}
    for count in sizes:
        row = rows[count] = best(count, repeats, text=count == sizes[-1])
        cells = ""
        for name in STAGES:
            growth = f"{row[name] / before[name]:.2f}x" if before else ""
            cells += f"{row[name] * 1e3:>18.1f}{row[name] / count * 1e6:>7.1f}{growth:>8}"
        print(f"{count:>6}{cells}{row['trace_mb']:>10.1f}{row['all_mb']:>9.1f}{row['instructions']:>14.0f}", flush=True)
        before = row
    last = rows[sizes[-1]]
    print(f"\ntext of the module of N = {sizes[-1]} with its gradient, {last['instructions']:.0f} instructions:")
    for name in ("print", "parse"):
        each, speed = last[name] / last["instructions"] * 1e6, last["characters"] / last[name] / 1e6
        print(f"  {name} {last[name]:.2f} s, {each:.1f} us per instruction, {speed:.2f} MB/s")
    print(f"  printing what was parsed gives the same text: {'yes' if last['equal'] else 'NO'}")
    print(f"\n{TORCHLEAN}")
    print(
        f"TapeIR here, construction alone of {sizes[-1]}: {last['trace']:.2f} s and {last['trace_mb'] / 1024:.3f} GB."
    )
    if hasattr(os, "getloadavg"):
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--text", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        print(json.dumps(measure(given.worker, given.text)))
    else:
        report(given.sizes, given.repeats)


if __name__ == "__main__":
    main()
