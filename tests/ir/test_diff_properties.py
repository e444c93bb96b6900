"""Random programs and the structural diff: what is no difference, that one change is one difference, and that none means equal results."""

from __future__ import annotations

import os
import random as random_module
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import same_bits
from program_strategies import Program, programs, update_programs
from strategies import inputs_of

from tapeir.backends.compiled import lower
from tapeir.backends.eager.interpret import run
from tapeir.ir import OPS, Diff, Function, Instruction, IRError, Module, TensorType, Value, diff, parse
from tapeir.ir.graph import Place, Symbol
from tapeir.ir.literal import Literal
from tapeir.ir.op import Control
from tapeir.ir.types import Array, f64, key
from tapeir.passes import PASSES, PassManager
from tapeir.runtime.commands.modules import Given, ModelIR

MODELS = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
STAGES = ("traced", "grad", "optimized", "fused", "planned")
EXAMPLES = int(os.environ.get("TAPEIR_FUZZ", "60"))
Random = random_module.Random
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
anything = st.one_of(programs(), update_programs())
seeds = st.integers(0, 1 << 30)


# Variants that are the same program


def scrambled(module: Module, random: Random) -> Module:
    """The module with every name made up, its functions in another order, and independent ops too."""
    copy = module.clone()
    made = random.choice(([f"f{n}" for n in range(len(copy.functions))], list(copy.functions)))  # taken ones too
    names = dict(zip(copy.functions, random.sample(made, len(made)), strict=True))
    for f in copy:
        f.name = names[f.name]
        f.instructions = shuffled(f, random)
        for i in f.instructions:
            i.attrs = {n: Symbol(names[v]) if isinstance(v, Symbol) else v for n, v in i.attrs.items()}
        state = {v for v, _ in f.state()}
        for n, v in enumerate(random.sample(list(f.values()), len(list(f.values())))):
            v.name = f"v{n}" if v in state or random.random() < 0.7 else None
    return Module("other", random.sample(list(copy), len(copy.functions))).verify()


def shuffled(function: Function, random: Random) -> list[Instruction]:
    """The instructions in a random order in which every value is made before its use."""
    waiting: dict[Instruction, int] = {}
    users: dict[Instruction, list[Instruction]] = {i: [] for i in function.instructions}
    for i in function.instructions:
        of = [r.place.of for r in i.results if r.place is not None and r.place.of is not None]
        above = {o.owner for o in (*i.operands, *of) if o.owner is not None and o.owner is not i}
        waiting[i] = len(above)
        for j in above:
            users[j].append(i)
    ready = [i for i, n in waiting.items() if n == 0]
    done: list[Instruction] = []
    while ready:
        i = ready.pop(random.randrange(len(ready)))
        done.append(i)
        for j in users[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
    return done


# Changes: each makes one in place and says what must be reported, or None where it finds nothing to change

Change = Callable[[Module, Function, Random], tuple[str, str] | None]


def retyped(function: Function, module: Module) -> bool:
    """Infer the types of all results anew; whether every op takes its operands."""
    for i in function.instructions:
        attrs = {n: module[v] if isinstance(v, Symbol) else v for n, v in i.attrs.items()}
        try:
            types = i.op.result_types(tuple([o.type for o in i.operands]), attrs)
        except (IRError, AssertionError, IndexError, ValueError):
            return False
        for r, t in zip(i.results, types, strict=True):
            r.type = t
    return True


def valid(module: Module) -> bool:
    try:
        module.verify()
    except (IRError, AssertionError, IndexError, ValueError):
        return False
    return True


def other_value(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + random.choice((-1, 1))
    if isinstance(value, float):
        return random.choice((value / 2 + 0.125, -value - 1))
    if isinstance(value, Symbol):
        return value
    if isinstance(value, str):
        return random.choice(("none", "tanh", value + "x"))
    if isinstance(value, tuple):
        found: list[int] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        if found and random.random() < 0.5:
            found[random.randrange(len(found))] += random.choice((-1, 1))
        else:
            random.shuffle(found)
        return tuple(found)
    return value


def attribute(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    with_attrs = [i for i in f.instructions if i.attrs and i.op.name != "constant"]
    for i in random.sample(with_attrs, len(with_attrs)):
        before = i.attrs
        name = random.choice(list(before))
        i.attrs = {**before, name: other_value(before[name], random)}
        if i.attrs != before and valid(module):
            return "changed", "attribute"
        i.attrs = before
    return None


def constant(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    found = [i for i in f.instructions if i.op.name == "constant" and i.result.type.size]
    if not found:
        return None
    i = random.choice(found)
    old: Literal = i.attrs["value"]
    array: Array = np.array(old.array)
    at = slice(None) if random.random() < 0.5 else random.randrange(array.size)
    flat = array.reshape(-1)
    flat[at] = ~flat[at] if array.dtype.kind == "b" else random.choice((1, 2, 3, 77))
    new = Literal.of(array)
    if new == old:
        return None
    i.attrs = {"value": new}
    return "changed", "attribute"


def op(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    for i in random.sample(f.instructions, len(f.instructions)):
        before = i.op
        for name in random.sample(sorted(OPS), len(OPS)):
            other = OPS[name]
            if other is before or isinstance(other, Control) or isinstance(before, Control):
                continue
            if set(other.attrs) == set(before.attrs) and other.arity == before.arity:
                i.op = other
                if valid(module):
                    return "changed", "op"
                i.op = before
    return None


UNARY = {"f": ("neg", "exp", "stop_gradient"), "i": ("neg", "abs"), "u": ("neg", "bit_not"), "b": ("bit_not",)}


def inserted(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    found = [(i, n) for i in f.instructions for n, o in enumerate(i.operands) if o.type.dtype.kind in UNARY]
    if not found:
        return None
    i, n = random.choice(found)
    old = i.operands[n]
    new = Instruction(OPS[random.choice(UNARY[old.type.dtype.kind])], (old,), {}, [old.type])
    f.instructions.insert(f.instructions.index(i), new)
    i.operands = (*i.operands[:n], new.result, *i.operands[n + 1 :])
    return None if is_in_row(f, new) else ("added", "op")


def is_in_row(f: Function, i: Instruction) -> bool:
    """Whether it stands next to its like, so that it cannot be told which of them was changed."""
    return any(
        i.op is j.op and {*i.results, *i.operands} & {*j.results, *j.operands} for j in f.instructions if j is not i
    )


def replace_uses(f: Function, old: Value, new: Value) -> None:
    for i in f.instructions:
        i.operands = tuple([new if o is old else o for o in i.operands])
        for r in i.results:
            if r.place is not None and r.place.of is old:
                r.place = r.place._replace(of=new)
    f.results[:] = [new if v is old else v for v in f.results]


def removed(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    found = [(i, o) for i in f.instructions if len(i.results) == 1 for o in i.operands if o.type == i.results[0].type]
    found = [(i, o) for i, o in found if not is_in_row(f, i)]
    if not found:
        return None
    i, o = random.choice(found)
    f.instructions.remove(i)
    replace_uses(f, i.result, o)
    return "removed", "op"


def dead(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    used = {o for i in f.instructions for o in i.operands} | set(f.results)
    found = [i for i in f.instructions if not used.intersection(i.results) and not any(r.place for r in i.results)]
    if not found:
        return None
    f.instructions.remove(random.choice(found))
    return "removed", "op"


def rewired(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    found: list[tuple[Instruction, int, Value]] = []
    known = list(f.arguments)
    for i in f.instructions:
        found += [(i, n, v) for n, o in enumerate(i.operands) for v in known if v is not o and v.type == o.type]
        known += i.results
    if not found:
        return None
    i, n, v = random.choice(found)
    if is_in_row(f, i):
        return None
    i.operands = (*i.operands[:n], v, *i.operands[n + 1 :])
    return "changed", "operand"


def result_changed(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    found = [(n, v) for n, r in enumerate(f.results) for v in f.values() if v is not r and v.type == r.type]
    if not found:
        return None
    n, v = random.choice(found)
    f.results[n] = v
    return "changed", "result"


def result_added(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    at = random.randint(0, len(f.results))
    f.results.insert(at, random.choice(list(f.values())))
    f.marks.insert(at, None)
    return "added", "result"


def result_removed(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    if len(f.results) < 2:
        return None
    at = random.randrange(len(f.results))
    del f.results[at], f.marks[at]
    return "removed", "result"


def mark_changed(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    marked = [n for n, m in enumerate(f.marks) if m is not None]
    if not marked:
        return None
    f.marks[random.choice(marked)] = None
    return "changed", "result"


def argument_added(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    at = random.randint(0, len(f.arguments))
    f.arguments.insert(at, Value(TensorType(f64, (random.randint(5, 9), 3)), "added"))
    f.roles.insert(at, random.choice(("input", "param", "buffer")))
    return "added", "argument"


def unused(f: Function) -> list[int]:
    used = {o for i in f.instructions for o in i.operands} | set(f.results) | {m.of for m in f.marks if m}
    return [n for n, v in enumerate(f.arguments) if v not in used]


def argument_removed(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    if not unused(f):
        return None
    at = random.choice(unused(f))
    del f.arguments[at], f.roles[at]
    return "removed", "argument"


def argument_retyped(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    v = random.choice(f.arguments)
    if v.type.dtype is key:
        return None
    before = {w: w.type for w in f.values()}
    shape = list(v.type.shape)
    if shape and random.random() < 0.5:
        shape[random.randrange(len(shape))] += 1
        v.type = TensorType(v.type.dtype, tuple(shape))
    else:
        v.type = v.type.with_dtype(random.choice([t.type.dtype for t in f.arguments if t.type.dtype is not key]))
    if v.type != before[v] and retyped(f, module) and valid(module):
        return "changed", "argument"
    for w, t in before.items():
        w.type = t
    return None


def role_changed(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    at = random.randrange(len(f.arguments))
    f.roles[at] = "buffer" if f.roles[at] != "buffer" else "param"
    return "changed", "argument"


def function_attribute(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    f.attrs["mode"] = random.choice(("train", "eval", 3))
    return "changed", "attribute"


def place(module: Module, f: Function, random: Random) -> tuple[str, str] | None:
    placed = [v for v in f.values() if v.place is not None]
    if not placed:
        return None
    v = random.choice(placed)
    v.place = Place("arena", 1 << 20)
    return "changed", "place"


CHANGES: tuple[Change, ...] = (
    attribute, constant, op, inserted, removed, dead, rewired, result_changed, result_added, result_removed, mark_changed,
    argument_added, argument_removed, argument_retyped, role_changed, function_attribute, place,
)  # fmt: skip
IN_KERNELS: tuple[Change, ...] = (attribute, constant, op, inserted, removed, rewired, result_changed)


def report(found: Diff) -> str:
    return "\n".join(
        f"{d.kind} {d.what}: {d.detail}\n    {d.a and d.a.text}\n    {d.b and d.b.text}" for d in found.differences
    )


def show(a: Module, b: Module, found: Diff) -> str:
    return f"{report(found)}\n{a}\n{b}"


def mirrored(found: Diff, back: Diff) -> bool:
    """Whether the second diff reports the first one's the other way round."""
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    mine = sorted((d.kind, d.what) for d in found.differences)
    return mine == sorted((turned[d.kind], d.what) for d in back.differences)


# Properties


@fuzzed
@given(anything, seeds, st.sampled_from(["traced", "optimized", "fused", "planned"]))
def test_names_and_order_are_no_difference(program: Program, seed: int, stage: str) -> None:
    module = lower(program.module, stage) if stage != "traced" else program.module
    other = scrambled(module, Random(seed))
    found = diff(module, other)
    assert not found, show(module, other, found)
    assert len(found.pairs) == sum(len(f.instructions) for f in module)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_names_and_order_of_examples_are_no_difference(path: Path, stage: str) -> None:
    model = ModelIR(path, Given({}))
    module = model.module(model.entries(None, None), stage)
    for other in (scrambled(module, Random(0)), parse(str(module)), module):
        found = diff(module, other)
        assert not found, report(found)
        assert len(found.pairs) == sum(len(f.instructions) for f in module)


@pytest.mark.parametrize("stage", ["traced", "fused"])
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_one_change_of_an_example_is_one_difference(path: Path, stage: str) -> None:
    model = ModelIR(path, Given({}))
    module = model.module([("train_step", "train")], stage)
    for seed in range(max(EXAMPLES // 4, 1)):
        random, other = Random(seed), module.clone()
        f = random.choice(list(other))
        allowed = CHANGES if f.name == "train_step" else IN_KERNELS
        expected = random.choice(allowed)(other, f, random)
        if expected is not None:
            check_one(module, scrambled(other, random), expected, f.name)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@settings(fuzzed, max_examples=max(EXAMPLES // 5, 1))
@given(program=anything, seed=seeds)
def test_one_change_is_one_difference(change: Change, program: Program, seed: int) -> None:
    random = Random(seed)
    stage = "planned" if change is place else random.choice(("traced", "traced", "optimized"))
    module = lower(program.module, stage) if stage != "traced" else program.module
    if change is not dead:
        module = module.clone()
        PassManager(PASSES).run(module, ["dce"])
    other = module.clone()
    expected = change(other, other["main"], random)
    if expected is None:
        return
    check_one(module, scrambled(other, random), expected)


def check_one(module: Module, other: Module, expected: tuple[str, str], function: str | None = None) -> None:
    found = diff(module, other)
    if not found and expected[1] in ("operand", "result", "attribute"):
        return  # to an equal value
    listed = [(d.kind, d.what) for d in found.differences]
    assert listed == [expected], show(module, other, found)
    side = found.differences[0].a or found.differences[0].b
    assert side is not None
    assert function is None or found.differences[0].a is None or side.function == function
    assert mirrored(found, diff(other, module)), show(module, other, found)


@pytest.mark.parametrize("change", IN_KERNELS, ids=lambda c: c.__name__)
@settings(fuzzed, max_examples=max(EXAMPLES // 5, 1))
@given(program=anything, seed=seeds)
def test_a_change_in_a_kernel_is_reported_there(change: Change, program: Program, seed: int) -> None:
    random = Random(seed)
    module = lower(program.module, "fused")
    other = module.clone()
    kernels = [f for f in other if f.name != "main"]
    if not kernels:
        return
    kernel = random.choice(kernels)
    expected = change(other, kernel, random)
    if expected is not None:
        check_one(module, scrambled(other, random), expected, kernel.name)


def outcome(module: Module, arrays: Sequence[Any]) -> tuple[Any, ...] | str:
    try:
        return run(module["main"], arrays, module)
    except IRError as error:
        return error.message


@fuzzed
@given(anything, seeds, st.integers(1, 4))
def test_no_difference_means_equal_results(program: Program, seed: int, count: int) -> None:
    random, other = Random(seed), program.module.clone()
    for _ in range(count):
        random.choice(CHANGES)(other, other["main"], random)
    if not valid(other):
        return
    found, back = diff(program.module, other), diff(other, program.module)
    assert bool(found) == bool(back), f"{show(program.module, other, found)}\n{report(back)}"
    if not found:
        for n in range(3):
            arrays = program.arrays if n == 0 else inputs_of(program.module["main"], seed + n, n == 1)
            x, y = outcome(program.module, arrays), outcome(other, arrays)
            same = (
                x == y if isinstance(x, str) or isinstance(y, str) else len(x) == len(y) and all(map(same_bits, x, y))
            )
            assert same, show(program.module, other, found)


@fuzzed
@given(anything, anything, st.sampled_from(["traced", "fused", "planned"]))
def test_any_two_modules_have_a_diff(a: Program, b: Program, stage: str) -> None:
    one, two = (lower(p.module, stage) if stage != "traced" else p.module for p in (a, b))
    found, back = diff(one, two), diff(two, one)
    assert bool(found) == bool(back), f"{show(one, two, found)}\n{report(back)}"
