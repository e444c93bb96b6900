"""Cost of IR text and of the structural diff, for random functions of N ops on ``f32[8]``.

Printing, parsing and verifying for each N; then the diff of a module of 5,000 ops with changed ones, and where much is alike or
nothing is.  Run it with ``python benchmarks/text.py``.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from typing import Any

from tapeir.ir import (
    OPS,
    Builder,
    Function,
    GraphBuilder,
    Instruction,
    Module,
    TensorType,
    Value,
    diff,
    parse,
    print_module,
    verify,
)
from tapeir.ir.literal import Literal
from tapeir.ir.types import f32

SIZES = (1000, 4000, 16000)
T = TensorType(f32, (8,))
Build = Callable[[Builder, list[Value]], list[Value]]


def timed(call: Callable[..., Any], *args: Any, repeats: int) -> tuple[float, Any]:
    """The least seconds of some calls, and the last one's result."""
    least, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = call(*args)
        least = min(least, time.perf_counter() - start)
    return least, result


# Modules


def module(build: Build, arguments: int = 1) -> Module:
    graph = GraphBuilder()
    given = [graph.argument(T, f"x{n}") for n in range(arguments)]
    results = build(Builder(graph), given)
    return Module("m", [graph.function("main", [(v, "param") for v in given], [(v, None) for v in results])])


def network(count: int, seed: int) -> Module:
    """Ops drawn at random, on values made shortly before."""
    r = random.Random(seed)

    def build(b: Builder, given: list[Value]) -> list[Value]:
        values = list(given)
        for _ in range(count):
            name = r.choice(("splat", "neg", "exp", "tanh", "sin", "add", "mul", "sub", "div", "add"))
            if name == "splat":
                values.append(b.splat(r.choice([1.0, 2.0, r.random()]), T))
            else:
                late = [r.choice(values[-20:]) for _ in range(OPS[name].arity or 0)]
                values.append(getattr(b, name)(*late))
        return values[-40:]

    return module(build, 4)


def changed(original: Module, count: int) -> Module:
    """A copy with ``count`` ops replaced, inserted, or with other operands or values."""
    copy, r = original.clone(), random.Random(0)
    f = copy["main"]
    for i in r.sample(f.instructions, count):
        if i.op.name == "constant":
            i.attrs = {"value": Literal.splat(r.random(), T)}
        elif len(i.operands) == 2:
            i.operands = (i.operands[0], i.operands[0]) if r.random() < 0.5 else i.operands[::-1]
        elif r.random() < 0.5:
            i.op = OPS["cos"]
        else:
            new = Instruction(OPS["neg"], i.operands, {}, [T])
            f.instructions.insert(f.instructions.index(i), new)
            i.operands = (new.result,)
    return copy.verify()


def many(count: int, value: Callable[[int], float]) -> Module:
    """One value in ``count`` ops, each with a constant of its own."""
    return module(lambda b, given: [b.add(given[0], b.splat(value(n), T)) for n in range(count)])


def chain(count: int, approximate: str) -> Module:
    def build(b: Builder, given: list[Value]) -> list[Value]:
        x = given[0]
        for _ in range(count):
            x = b.gelu(x, approximate=approximate)
        return [x]

    return module(build)


def functions(count: int, prefix: str) -> Module:
    made: list[Function] = []
    for n in range(count):
        (f,) = many(1, lambda _, n=n: float(n))
        f.name = f"{prefix}{n}"
        made.append(f)
    return Module("m", made)


def summed(count: int, more: bool) -> Module:
    """A sum of parameters; ``more``: under other names, and one that nothing reads among them."""

    def build(b: Builder, given: list[Value]) -> list[Value]:
        x = given[0]
        for v in given[1:]:
            x = b.add(x, v)
        return [x]

    found = module(build, count)
    if more:
        f = found["main"]
        for n, v in enumerate(f.arguments):
            v.name = f"other{n}"
        f.arguments.insert(count // 2, Value(T, "new"))
        f.roles.insert(count // 2, "param")
    return found


def cases(count: int) -> dict[str, Callable[[], tuple[Module, Module]]]:
    """The pairs of modules that are compared."""
    base = network(count, 1)
    scattered = {
        f"{n} of {count} ops changed": lambda n=n: (base, changed(base, n)) for n in (0, 1, 50, 1000) if n <= count
    }
    return scattered | {
        "nothing in common": lambda: (base, network(count, 2)),
        "one value used by all ops, a seventh changed": lambda: (many(count, float), many(count, lambda n: n + (n % 7 == 0) / 2)),
        "equal constants, one changed": lambda: (many(count, lambda n: 1.0), many(count, lambda n: 1.0 + (n == 7))),
        "equal ops, three fewer": lambda: (many(count, lambda n: 1.0), many(count - 3, lambda n: 1.0)),
        "a chain, every attribute changed": lambda: (chain(count, "none"), chain(count, "tanh")),
        "300 functions, all renamed": lambda: (functions(300, "f"), functions(300, "g")),
        "3,000 parameters, renamed, one inserted": lambda: (summed(3000, False), summed(3000, True)),
    }  # fmt: skip


# Reports


def report_text(sizes: list[int], repeats: int) -> None:
    print(f"random functions of N ops; best of {repeats} calls; us are per op")
    print(f"{'N':>6}" + "".join(f"{name + ' s':>12}{'us':>7}" for name in ("print", "parse", "verify")) + f"{'MB':>8}")
    for count in sizes:
        made = network(count, 1)
        ops = len(made["main"].instructions)
        printing, text = timed(print_module, made, repeats=repeats)
        parsing, again = timed(parse, text, repeats=repeats)
        verifying, _ = timed(verify, again, repeats=repeats)
        assert print_module(again) == text
        row = "".join(f"{s:>12.3f}{s / ops * 1e6:>7.1f}" for s in (printing, parsing, verifying))
        print(f"{count:>6}{row}{len(text) / 1e6:>8.2f}", flush=True)


def report_diff(count: int, repeats: int) -> None:
    print(f"\n{'diff of two modules':<48}{'s':>8}{'us per op':>11}{'differences':>13}")
    for name, pair in cases(count).items():
        a, b = pair()
        seconds, found = timed(diff, a, b, repeats=repeats)
        ops = max(sum(len(f.instructions) for f in m) for m in (a, b))
        print(f"{name:<48}{seconds:>8.2f}{seconds / ops * 1e6:>11.0f}{len(found.differences):>13}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--diff", type=int, default=5000, help="ops of the modules that are compared")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    report_text(given.sizes, given.repeats)
    report_diff(given.diff, given.repeats)
    if hasattr(os, "getloadavg"):
        print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
