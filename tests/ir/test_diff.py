"""The structural diff on written modules: what is reported, in what words, where, and at what cost."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tapeir.ir import (
    OPS,
    Builder,
    Diff,
    Function,
    GraphBuilder,
    Instruction,
    Location,
    Module,
    TensorType,
    Value,
    diff,
    parse,
)
from tapeir.ir.literal import Literal
from tapeir.ir.match import aligned, in_order
from tapeir.ir.types import f32, key

T = TensorType(f32, (4,))
HEAD = "%x: f32[4] input, %y: f32[4] input"


def module(body: str, head: str = HEAD, results: str = "f32[4]", more: str = "", attrs: str = "") -> Module:
    """A module of a function ``@main`` with these lines, which begin in line 3, and then other functions."""
    lines = "\n".join(f"    {line.strip()}" for line in body.strip().split("\n"))
    text = f"module @m {{\n  func @main({head}) -> ({results}){attrs} {{\n{lines}\n  }}\n{more}}}\n"
    return parse(text, file="m.ir").verify()


def lines(found: Diff) -> list[str]:
    return [f"{d.sign} {d.what}{': ' if d.detail else ''}{d.detail}" for d in found.differences]


def told(a: Module, b: Module) -> list[str]:
    """What is reported; the other way round the same is, mirrored."""
    found, back = diff(a, b), diff(b, a)
    turned = {"+": "-", "-": "+", "~": "~"}
    assert sorted(line.split(":")[0] for line in lines(found)) == sorted(
        turned[line[0]] + line.split(":")[0][1:] for line in lines(back)
    )
    return lines(found)


BASE = """
%0 = mul %x, %y : f32[4]
%1 = relu %0 : f32[4]
%2 = constant {value = 0.5} : f32[4]
%3 = mul %1, %2 : f32[4]
%4 = add %3, %x : f32[4]
return %4"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("value = 0.5", "value = 0.25", "~ attribute: value = 0.5 -> 0.25"),
        ("value = 0.5", "value = [0.5, 0.5, 1.0, 2.0]", "~ attribute: value = 0.5 -> 1.0 at [2], 2 of 4 elements differ"),
        ("relu %0", "silu %0", "~ op: relu -> silu"),
        ("add %3, %x", "add %3, %y", "~ operand: operand 1: %x -> %y"),
        ("add %3, %x", "add %x, %3", "~ operand: operand 0: %3 -> %x; operand 1: %x -> %3"),
        ("mul %1, %2", "add %1, %2", "~ op: mul -> add"),
        ("%4 = add", "%n = neg %2 : f32[4]\n%4 = add", "+ op"),
        ("return %4", "return %3", "~ result: result 0: %4 -> %3"),
        ("%1 = relu %0 : f32[4]", "%n = neg %0 : f32[4]\n%1 = relu %n : f32[4]", "+ op"),
        ("%1 = relu %0 : f32[4]", "%n = relu %0 : f32[4]\n%1 = relu %n : f32[4]", "+ op"),
    ],
)  # fmt: skip
def test_one_edit(old: str, new: str, expected: str) -> None:
    assert old in BASE
    assert told(module(BASE), module(BASE.replace(old, new))) == [expected]


def test_both_sides_say_where_they_are() -> None:
    a, b = module(BASE), module(BASE.replace("relu %0", "silu %0"))
    (d,) = diff(a, b).differences
    assert d.a is not None
    assert d.b is not None
    assert d.a.location == d.b.location == (Location("m.ir", 4),)
    assert (d.a.text, d.b.text) == ("%1 = relu %0 : f32[4]", "%1 = silu %0 : f32[4]")
    assert (d.a.function, d.a.instruction) == ("main", a["main"].instructions[1])
    a["main"].instructions[1].location = (Location("net.py", 7, "0"),)
    (d,) = diff(a, b).differences
    assert d.a is not None
    assert d.a.location == (Location("net.py", 7, "0"),)


def test_an_op_that_had_two_users_is_removed_once() -> None:
    a = module("%0 = neg %x : f32[4]\n%1 = exp %0 : f32[4]\n%2 = mul %1, %0 : f32[4]\nreturn %2")
    b = module("%1 = exp %x : f32[4]\n%2 = mul %1, %x : f32[4]\nreturn %2")
    assert told(a, b) == ["- op"]


def test_one_of_many_equal_constants() -> None:
    def body(changed: int, value: str) -> str:
        made = [f"%c{n} = constant {{value = {value if n == changed else 1.0}}} : f32[4]" for n in range(6)]
        used = [f"%{n + 1} = {'add' if n % 2 else 'mul'} %{n or 'x'}, %c{n} : f32[4]" for n in range(6)]
        return "\n".join([*made, *used, "return %6"]).replace("%0 ", "%x ")

    for n in range(6):
        assert told(module(body(-1, "")), module(body(n, "2.0"))) == ["~ attribute: value = 1.0 -> 2.0"]


def test_an_inserted_op_that_is_there_already() -> None:
    a = module("%0 = neg %y : f32[4]\n%1 = mul %0, %x : f32[4]\n%2 = add %1, %y : f32[4]\nreturn %2")
    b = module(
        "%0 = neg %y : f32[4]\n%1 = mul %0, %x : f32[4]\n%n = neg %y : f32[4]\n%2 = add %1, %n : f32[4]\nreturn %2"
    )
    assert told(a, b) == ["+ op"]


NET = """
%0 = matmul %x, %w {transpose_a = false, transpose_b = true} : f32[B, H]
%1 = broadcast_to %b {shape = [B, H]} : f32[B, H]
%2 = add %0, %1 : f32[B, H]
%3 = constant {value = 0.5} : f32[B, H]
%4 = mul %2, %3 : f32[B, H]
%5 = relu %4 : f32[B, H]
return %5"""


def net(batch: int, width: int, body: str = NET) -> Module:
    def sized(text: str) -> str:
        return text.replace("B, ", f"{batch}, ").replace("H]", f"{width}]").replace("[H,", f"[{width},")

    head = sized("%x: f32[B, 8] input, %w: f32[H, 8] param, %b: f32[H] param")
    return module(sized(body), head, sized("f32[B, H]"))


def test_sizes_that_follow_are_not_reported_again() -> None:
    assert told(net(64, 32), net(16, 32)) == ["~ argument: f32[64, 8] -> f32[16, 8]"]
    assert told(net(64, 32), net(64, 48)) == [
        "~ argument: f32[32, 8] -> f32[48, 8]",
        "~ argument: f32[32] -> f32[48]",
    ]
    other = NET.replace("value = 0.5", "value = 0.25").replace("relu", "tanh")
    assert told(net(64, 32), net(16, 32, other)) == [
        "~ argument: f32[64, 8] -> f32[16, 8]",
        "~ attribute: value = 0.5 : f32[64, 32] -> 0.25 : f32[16, 32]",
        "~ op: relu -> tanh",
    ]


def test_a_dtype_that_follows_is_not_reported_again() -> None:
    text = str(net(64, 32))
    found = told(parse(text), parse(text.replace("f32", "f64")))
    assert [line.split(":")[0] for line in found] == ["~ argument"] * 3


def test_arguments_and_results() -> None:
    more = HEAD.replace("%y", "%z: f32[4] input, %y")
    assert told(module(BASE), module(BASE, more)) == ["+ argument"]
    assert told(module(BASE), module(BASE, HEAD.replace("%y: f32[4] input", "%y: f32[4] param"))) == [
        "~ argument: input -> param"
    ]
    assert told(module(BASE), module(BASE.replace("return", "return %1,"), results="f32[4], f32[4]")) == ["+ result"]
    marked = module(BASE, results="f32[4] grad(%x)")
    assert told(module(BASE), marked) == ["~ result: no mark -> grad(%x)"]
    other = module(BASE.replace("return %4", "return %3"), results="f32[4] grad(%x)")
    assert told(marked, other) == ["~ result: grad of %x: %4 -> %3"]
    gone = module("%0 = mul %x, %x : f32[4]\nreturn %0", "%x: f32[4] input")
    assert told(module("%0 = mul %x, %y : f32[4]\nreturn %0"), gone) == ["- argument", "~ operand: operand 1: %y -> %x"]


def test_functions() -> None:
    extra = "  func @{}(%0: f32[4]) -> (f32[4]) {{\n    %1 = {} %0 : f32[4]\n    return %1\n  }}\n"
    one, two = extra.format("g", "neg"), extra.format("h", "exp")
    assert told(module(BASE), module(BASE, more=one)) == ["+ function: 1 op"]
    assert (
        told(module(BASE, more=one + two), module(BASE, more=extra.format("p", "exp") + extra.format("q", "neg"))) == []
    )
    assert told(module(BASE, more=one), module(BASE, more=extra.format("p", "exp"))) == ["~ op: neg -> exp"]
    assert (
        told(module(BASE, more=one + two), module(BASE, more=extra.format("h", "neg") + extra.format("g", "exp"))) == []
    )
    call = BASE.replace("%4 = add", "%n = fused %3 {kernel = @g} : f32[4]\n%4 = add").replace("add %3", "add %n")
    assert told(module(BASE, more=one), module(call, more=one)) == ["+ op"]
    assert told(module(BASE), module(BASE, attrs=' with {mode = "eval"}')) == ['~ attribute: mode = "eval" added']


def test_a_kernel_is_compared_once_and_in_itself() -> None:
    kernel = "  func @k(%0: f32[4], %1: f32[4]) -> (f32[4]) {\n    %2 = add %0, %1 : f32[4]\n    %3 = neg %2 : f32[4]\n    return %3\n  }\n"
    body = "%0 = fused %x, %y {kernel = @k} : f32[4]\n%1 = fused %0, %y {kernel = @k} : f32[4]\nreturn %1"
    a, b = (
        module(body, more=kernel),
        module(body.replace("@k", "@j"), more=kernel.replace("@k", "@j").replace("neg", "exp")),
    )
    found = diff(a, b)
    assert told(a, b) == ["~ op: neg -> exp"]
    assert [(d.a and d.a.function, d.b and d.b.function) for d in found.differences] == [("k", "j")]
    more = kernel.replace("%1: f32[4]", "%9: f32[], %1: f32[4]")
    wider = "%c = constant {value = 1.0} : f32[]\n%0 = fused %x, %c, %y {kernel = @k} : f32[4]\nreturn %0"
    first = module("%0 = fused %x, %y {kernel = @k} : f32[4]\nreturn %0", more=kernel)
    assert told(first, module(wider, more=more)) == ["+ op", "~ operand: operand 1: %c added"]


def test_places() -> None:
    text = "%0 = neg %x : f32[4] at arena+0\n%1 = exp %0 : f32[4] at arena+64\n%2 = sin %1 : f32[4] at arena+128\nreturn %2"
    assert told(module(text), module(text.replace("+64", "+256"))) == ["~ place: arena+64 -> arena+256"]
    moved = text.replace("arena+64", "arena+512").replace("arena+128", "arena+256")
    assert len(told(module(text), module(moved))) == 2
    assert told(module(text), module(moved.replace("exp", "log"))) == [
        "~ op: exp -> log",
        "~ place: arena+64 -> arena+512; 1 more moved",
    ]
    alias = text.replace("arena+64", "alias(%0)")
    assert told(module(alias), module(alias.replace("alias(%0)", "alias(%x)"))) == ["~ place: alias(%0) -> alias(%x)"]


def test_large_constants_are_shortened() -> None:
    def made(value: float) -> Module:
        g = GraphBuilder()
        array = [float(n) for n in range(4000)]
        array[17] = value
        return Module("m", [g.function("main", [], [(Builder(g).literal(np.array(array)), None)])])

    (d,) = diff(made(17.0), made(0.5)).differences
    assert d.detail == "value = 17.0 -> 0.5 at [17], 1 of 4000 elements differ"
    assert d.a is not None
    assert len(d.a.text) < 120


def test_aligned() -> None:
    assert sorted(aligned(("abcd", "abXcd")), key=in_order) == [(0, 0), (1, 1), (None, 2), (2, 3), (3, 4)]
    assert sorted(aligned(("aab", "ab")), key=in_order) == [(0, 0), (1, None), (2, 1)]
    assert aligned(([None], [None])) == [(0, None), (None, 0)]
    assert aligned(([None, 1], [1, None]), ("pq", "qp")) == [(1, 0), (0, 1)]


# Cost: twice the ops are twice the calls


def built(build: Callable[[Builder, list[Value]], list[Value]], arguments: int = 1, type: TensorType = T) -> Module:
    g = GraphBuilder()
    given = [g.argument(type, f"x{n}") for n in range(arguments)]
    results = build(Builder(g), given)
    return Module("m", [g.function("main", [(v, "param") for v in given], [(v, None) for v in results])])


def network(count: int, seed: int) -> Module:
    """A random function whose ops use late values."""
    r = random.Random(seed)

    def build(b: Builder, given: list[Value]) -> list[Value]:
        values = list(given)
        for _ in range(count):
            x, y = (values[-1 - r.randrange(min(len(values), 20))] for _ in range(2))
            name = r.choice(("splat", "neg", "exp", "tanh", "sin", "add", "mul", "sub", "div", "add"))
            if name == "splat":
                values.append(b.splat(r.choice([1.0, 2.0, r.random()]), T))
            else:
                values.append(getattr(b, name)(*[x, y][: OPS[name].arity]))
        return values[-40:]

    return built(build, 4)


def changed(module: Module, count: int, seed: int) -> Module:
    """A copy with ``count`` ops of it replaced, inserted or with other operands or attributes."""
    module, r = module.clone(), random.Random(seed)
    f = module["main"]
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
    return module.verify()


def chain(name: str, count: int, **attrs: Any) -> Module:
    def build(b: Builder, given: list[Value]) -> list[Value]:
        x = given[0]
        for _ in range(count):
            x = getattr(b, name)(x, **attrs)
        return [x]

    return built(build)


def many(count: int, value: Callable[[int], float]) -> Module:
    """One value and as many constants, each in an op of its own."""
    return built(lambda b, given: [b.add(given[0], b.splat(value(n), T)) for n in range(count)])


def keys(count: int, prefix: str) -> Module:
    return built(lambda b, k: [b.fold_in(k[0], site=f"{prefix}{n}") for n in range(count)], 1, key[()])


def functions(count: int, prefix: str) -> Module:
    made: list[Function] = []
    for n in range(count):
        (f,) = many(1, lambda _, n=n: float(n))
        f.name = f"{prefix}{n}"
        made.append(f)
    return Module("m", made)


def summed(count: int, skip: int = -1) -> Module:
    """A sum of parameters of one type; ``skip`` is not among them."""

    def build(b: Builder, given: list[Value]) -> list[Value]:
        x = given[0]
        for v in given[1:]:
            x = b.add(x, v)
        return [x]

    found = built(build, count)
    if skip >= 0:
        f = found["main"]
        for n, v in enumerate(f.arguments):
            v.name = f"renamed{n}"
        f.arguments.insert(skip, Value(T, "new"))
        f.roles.insert(skip, "param")
    return found


COSTS: dict[str, tuple[Callable[[int], tuple[Module, Module]], Callable[[int], int]]] = {
    "no change": (lambda n: (network(n, 1), network(n, 1)), lambda n: 0),
    "a tenth changed": (lambda n: (network(n, 1), changed(network(n, 1), n // 10, 2)), lambda n: n // 2),
    "unrelated": (lambda n: (network(n, 1), network(n, 2)), lambda n: 2 * n),
    "one value, many users": (lambda n: (many(n, float), many(n, lambda k: k + (k % 7 == 0) / 2)), lambda n: n // 3),
    "equal constants": (lambda n: (many(n, lambda k: 1.0), many(n, lambda k: 1.0 + (k == 7))), lambda n: 1),
    "equal ops": (lambda n: (many(n, lambda k: 1.0), many(n - 3, lambda k: 1.0)), lambda n: 9),
    "chain, attributes": (lambda n: (chain("gelu", n, approximate="none"), chain("gelu", n, approximate="tanh")), lambda n: n),
    "chain, ops": (lambda n: (chain("neg", n), chain("exp", n)), lambda n: n),
    "keys": (lambda n: (keys(n, "a"), keys(n, "b")), lambda n: n),
    "functions": (lambda n: (functions(n // 4, "f"), functions(n // 4, "g")), lambda n: 0),
    "parameters": (lambda n: (summed(n), summed(n, skip=n // 2)), lambda n: 1),
}  # fmt: skip


def work(a: Module, b: Module) -> tuple[int, Diff]:
    """How many functions a diff calls, built-in ones too."""
    count = 0

    def called(frame: Any, event: str, value: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        found = diff(a, b)
    finally:
        sys.setprofile(before)
    return count, found


@pytest.mark.parametrize("name", COSTS)
def test_cost_is_linear(name: str) -> None:
    pair, most = COSTS[name]
    counts: list[int] = []
    for size in (200, 400):
        count, found = work(*pair(size))
        counts.append(count)
        assert len(found.differences) <= most(size), "\n".join(lines(found))
    assert counts[1] < 2.4 * counts[0], counts
