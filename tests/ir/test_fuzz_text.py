"""The parser is unbreakable: whatever the text, there is a module or an error that shows the place.

``TAPEIR_FUZZ=5000`` looks longer and tries larger texts.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from module_strategies import ODD_NAMES, modules, tokens
from text_edits import CHARACTERS, EXTREMES, WORDS, mutated
from texts import function_text

from tapeir.ir import Module, ParseError, VerifyError, parse, print_module
from tapeir.ir.errors import TextError

EXAMPLES = int(os.environ.get("TAPEIR_FUZZ", "60"))
NIGHTLY = "TAPEIR_FUZZ" in os.environ
LARGEST = 100_000 if NIGHTLY else 10_000
EACH = 8
"""Texts made of one module."""
MOST_SHOWN = 6000
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def outcome(text: str) -> str:
    """``"valid"`` or the name of the error that a text gives; every promise about either is checked."""
    try:
        module = parse(text).verify()
    except (ParseError, VerifyError) as error:
        check_error(error, text)
        return type(error).__name__
    printed = print_module(module, locations=True)
    again = parse(printed).verify()
    assert again == module
    assert print_module(again, locations=True) == printed
    return "valid"


def check_error(error: TextError, text: str) -> None:
    """The error is short, can be written anywhere and shows its line."""
    shown = str(error)
    assert len(shown) < MOST_SHOWN
    shown.encode()
    rows = text.split("\n")
    assert 1 <= error.line <= len(rows)
    assert 1 <= error.column <= len(rows[error.line - 1]) + 1
    marked = [n for n, row in enumerate(shown.split("\n")) if re.match(f"> *{error.line} \\|", row)]
    assert marked, shown
    assert shown.split("\n")[marked[-1] + 1].endswith("^"), shown


# Text that never was valid


def soup(random: Random) -> str:
    """Random tokens, now and then inside a function that begins well."""
    count = random.choice((1, 3, 10, 30, 100))
    gap = random.choice((" ", "\n", "", " "))
    body = gap.join(random.choice(EXTREMES) if random.random() < 0.02 else random.choice(WORDS) for _ in range(count))
    heads = (
        "",
        "module @m {",
        "module @m { func @f(",
        "module @m { func @f(%x: f32[4] input) -> (f32[4]) {\n",
        "module @m { func @f() -> () with {",
    )
    tails = ("", "}", "\nreturn %x } }", "\n} }")
    return random.choice(heads) + body + random.choice(tails)


def noise(random: Random) -> str:
    """Random characters of all planes, or bytes decoded one way or another."""
    count = random.choice((1, 5, 30, 200, 1000))
    match random.randrange(4):
        case 0:
            return "".join(map(chr, (random.randrange(0x110000) for _ in range(count))))
        case 1:
            return random.randbytes(count).decode("latin-1")
        case 2:
            return random.randbytes(count).decode("utf-8", "replace")
        case _:
            return "".join(random.choice(CHARACTERS) for _ in range(count))


# Text of any size


def _listed(n: int, item: Callable[[int], str], joint: str = ", ") -> str:
    return joint.join(item(k) for k in range(n))


def _chain(n: int, first: str) -> str:
    heads = "(%x: f32[4]) -> (f32[4])"
    links = _listed(
        n, lambda k: f"func @k{k + 1}{heads} {{ %0 = fused %x {{kernel = @k{k}}} : f32[4] return %0 }}", "\n"
    )
    return f"module @m {{\nfunc @k0{heads} {{ {first} }}\n{links}\n}}"


SIZED: dict[str, Callable[[int], str]] = {
    "a long bare name": lambda n: function_text(f"%{'a' * n} = neg %x : f32[4]\nreturn %x"),
    "a long quoted name": lambda n: function_text(f'%"{"a" * n}" = neg %x : f32[4]\nreturn %x'),
    "a long name that is not there": lambda n: function_text(f'%0 = neg %"{"a" * n}" : f32[4]\nreturn %x'),
    "a long name of a value in an error": lambda n: function_text(f'%"{"a" * n}" = neg %x : f32[5]\nreturn %x'),
    "a number for a name": lambda n: function_text(f"%{'9' * n} = neg %x : f32[4]\nreturn %{'9' * n}"),
    "a deep name": lambda n: function_text(f"%{'a/' * (n // 2)}a = neg %x : f32[4]\nreturn %x"),
    "a long function name": lambda n: f'module @m {{ func @"{"é" * n}"(%x: f32[4]) -> (f32[4]) {{ %0 = neg %x : f32[5] return %0 }} }}',
    "a long module name": lambda n: f'module @"{"a" * n}" {{ }}',
    "a long op": lambda n: function_text(f"%0 = {'a' * n} %x : f32[4]\nreturn %0"),
    "a long dtype": lambda n: function_text("return %x", f"%x: {'f' * n}[4]"),
    "a long attribute": lambda n: f"module @m {{ func @f() -> () with {{{'a' * n} = 1}} {{ return }} }}",
    "a long role": lambda n: function_text("return %x", f"%x: f32[4] {'r' * n}"),
    "a long string": lambda n: f'module @m {{ func @f() -> () with {{a = "{"b" * n}"}} {{ return }} }}',
    "a long wrong string": lambda n: function_text(f'%0 = gelu %x {{approximate = "{"b" * n}"}} : f32[4]\nreturn %0'),
    "a long string of escapes": lambda n: f'module @m {{ func @f() -> () with {{a = "{chr(92) * 2 * (n // 2)}"}} {{ return }} }}',
    "a string without end": lambda n: f'module @"{"b" * n}',
    "escapes without end": lambda n: f'module @"{chr(92) * n}',
    "a long location": lambda n: function_text(f'%0 = neg %x : f32[5] loc("{"a" * n}":1 in "{"b" * n}")\nreturn %x'),
    "many locations": lambda n: function_text(
        f"%0 = neg %x : f32[5] loc({_listed(max(n, 1), lambda k: f'{chr(34)}a{chr(34)}:{k}')})\nreturn %x"),
    "a long line number": lambda n: function_text(f'%0 = neg %x : f32[4] loc("a":{"9" * n})\nreturn %x'),
    "a long integer": lambda n: function_text(f"%0 = softmax %x {{axis = {'9' * n}}} : f32[4]\nreturn %0"),
    "a long float": lambda n: function_text(f"%0 = layer_norm %x {{rank = 1, eps = 0.{'3' * n}}} : f32[4]\nreturn %0"),
    "many dots": lambda n: function_text(f"%0 = layer_norm %x {{rank = 1, eps = 0{'.' * n}}} : f32[4]\nreturn %0"),
    "a long exponent": lambda n: function_text(f"%0 = layer_norm %x {{rank = 1, eps = 1e{'9' * n}}} : f32[4]\nreturn %0"),
    "a long element": lambda n: function_text(f"%0 = constant {{value = {'9' * n}}} : u64[]\nreturn %0", results="u64[]"),
    "a long offset": lambda n: function_text("return %x", f"%x: f32[4] at arena+{'9' * n}"),
    "a long size": lambda n: function_text("return %x", f"%x: f32[{'9' * n}]"),
    "many axes": lambda n: function_text("return %x", f"%x: f32[{_listed(n, lambda k: '1')}]"),
    "many empty axes": lambda n: function_text("return %x", f"%x: f32[{_listed(n, lambda k: '0')}]"),
    "huge empty shapes": lambda n: function_text(f"%0 = constant {{value = 1.0}} : f32[0, 1{'0' * min(n, 400)}]\nreturn %x"),
    "a long list of axes": lambda n: function_text(f"%0 = sum %x {{axes = [{_listed(n, str)}]}} : f32[4]\nreturn %0"),
    "a long shape": lambda n: function_text(f"%0 = reshape %x {{shape = [{_listed(n, lambda k: '9' * 18)}]}} : f32[4]\nreturn %0"),
    "a long constant": lambda n: function_text(f"%0 = constant {{value = [{_listed(n, str)}]}} : i64[{n}]\nreturn %x"),
    "a wrong long constant": lambda n: function_text(f"%0 = constant {{value = [{_listed(n, str)}]}} : bool[{n}]\nreturn %x"),
    "long bytes": lambda n: function_text(f'%0 = constant {{value = bytes "{"AAAA" * n}"}} : u8[{3 * n}]\nreturn %x'),
    "wrong long bytes": lambda n: function_text(f'%0 = constant {{value = bytes "{"é" * n}"}} : u8[{3 * n}]\nreturn %x'),
    "a long list of strings": lambda n: f'module @m {{ func @f() -> () with {{a = [{_listed(n, lambda k: chr(34) * 2)}]}} {{ return }} }}',
    "many arguments": lambda n: function_text("return", _listed(n, lambda k: f"%{k}: f32[4]"), ""),
    "many results": lambda n: function_text(f"return {_listed(max(n, 1), lambda k: '%x')}", results=_listed(max(n, 1), lambda k: "f32[4]")),
    "many operands": lambda n: function_text(
        f"%0 = concat {_listed(max(n, 1), lambda k: '%x')} {{axis = 0}} : f32[{4 * max(n, 1)}]\nreturn %x"),
    "many types": lambda n: function_text(f"%0 = neg %x : {_listed(max(n, 1), lambda k: 'f32[4]')}\nreturn %x"),
    "many attributes": lambda n: f"module @m {{ func @f() -> () with {{{_listed(n, lambda k: f'a{k} = {k}')}}} {{ return }} }}",
    "many instructions": lambda n: function_text(_listed(n, lambda k: f"%{k} = neg %x : f32[4]", "\n") + "\nreturn %x"),
    "many names with a suffix": lambda n: function_text(_listed(n, lambda k: f"%h_{k} = neg %x : f32[4]", "\n") + "\nreturn %x"),
    "an error after many instructions": lambda n: function_text(
        _listed(n, lambda k: f"%{k} = neg %x : f32[4]", "\n") + "\n%y = neg %x : f32[5]\nreturn %x"),
    "many functions": lambda n: f"module @m {{\n{_listed(n, lambda k: f'func @f{k}() -> () {{ return }}', chr(10))}\n}}",
    "a long chain of kernels": lambda n: _chain(n, "return %x"),
    "a long circle of kernels": lambda n: _chain(n, f"%0 = fused %x {{kernel = @k{n}}} : f32[4] return %0"),
    "many braces": lambda n: "{" * n,
    "many parentheses": lambda n: f"module @m {{ func @f{'(' * n}",
    "many brackets": lambda n: f"module @m {{ func @f() -> () with {{a = {'[' * n}",
    "many quotes": lambda n: '"' * n,
    "many backslashes": lambda n: "\\" * n,
    "many percent signs": lambda n: "%" * n,
    "many slashes": lambda n: "/" * n,
    "many signs": lambda n: "module @m { func @f() -> () with {a = " + "-" * n,
    "many spaces": lambda n: " " * n,
    "many tabs before an error": lambda n: "module @m {" + "\t" * n + ";",
    "many line ends": lambda n: "module @m {" + "\r\n" * n + ";",
    "many returns": lambda n: "module @m {" + "\r" * n + ";",
    "a long comment": lambda n: "//" + "/" * n + "\nmodule @m { }",
    "many comments": lambda n: "// %x {\n" * n + "module @m { }",
    "a long line": lambda n: "module @m { " + "func @f() -> () { return } " * (n // 27),
    "many words": lambda n: "module " * n,
    "many escape characters": lambda n: "module @m {" + "\x1b" * n,
}  # fmt: skip


def sized(make: Callable[[int], str], length: int) -> str:
    """The text of about a length."""
    return make(length * 100 // max(len(make(100)) - len(make(0)), 100))


# Tests

seeds = st.integers(0, (1 << 32) - 1).map(Random)


@fuzzed
@given(modules(), modules(), seeds)
def test_edits_of_valid_text(module: Module, other: Module, random: Random) -> None:
    text, second = (print_module(m, locations=random.random() < 0.5) for m in (module, other))
    for _ in range(EACH):
        edited = mutated(text, second, random)
        note(edited)
        outcome(edited)


@fuzzed
@given(seeds)
def test_soup_of_tokens(random: Random) -> None:
    text = soup(random)
    note(text)
    outcome(text)


@fuzzed
@given(seeds)
def test_noise(random: Random) -> None:
    text = noise(random)
    note(repr(text))
    outcome(text)


@fuzzed
@given(st.text())
@example("\0")
@example("%")
@example("module @m { func @f(")
def test_any_text(text: str) -> None:
    outcome(text)


@pytest.mark.parametrize("make", SIZED.values(), ids=SIZED.keys())
def test_any_size(make: Callable[[int], str]) -> None:
    for n in (0, 1, 2, 31):
        outcome(make(n))
    for length in (400, 4400, LARGEST):
        outcome(sized(make, length))


def _steps(text: str) -> int:
    """Python calls and returns that reading a text takes."""
    count = 0

    def step(*_: Any) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        parse(text).verify()
    except (ParseError, VerifyError) as error:
        str(error)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("make", SIZED.values(), ids=SIZED.keys())
def test_work_grows_with_the_text(make: Callable[[int], str]) -> None:
    parse("module @m { }")
    base = _steps(make(0))
    counts = [_steps(sized(make, n)) for n in (300, 3000, *((30_000,) if NIGHTLY else ()))]
    for small, large in pairwise(counts):
        assert large <= 12 * small + base + 1000, counts


# What was found, kept


FOUND: dict[str, str] = {
    "a symbol that names nothing for a string": function_text(
        "%0 = fold_in %k {site = @nope} : key[]\nreturn %k", "%k: key[] input", "key[]"
    ),
    "a NumPy alias for a dtype": function_text('%0 = cast %x {dtype = "a"} : f32[4]\nreturn %x'),
    "half a surrogate for a dtype": function_text('%0 = cast %x {dtype = "\\ud800"} : f32[4]\nreturn %x'),
    "a structure for a dtype": function_text('%0 = cast %x {dtype = "99999999999999999999f4"} : f32[4]\nreturn %x'),
    "an axis too large for NumPy": function_text(
        "%0 = constant {value = []} : f32[0, 99999999999999999999]\nreturn %x"
    ),
    "axes too large for NumPy": function_text(
        "%0 = constant {value = []} : f32[0, 1099511627776, 1099511627776]\nreturn %x"
    ),
    "a size that Python does not print": function_text(
        f"%0 = reshape %x {{shape = [{', '.join(['9' * 400] * 12)}]}} : f32[4]\nreturn %x"
    ),
}


@pytest.mark.parametrize("text", FOUND.values(), ids=FOUND.keys())
def test_what_was_found(text: str) -> None:
    assert outcome(text) in ("ParseError", "VerifyError")


def test_tokens_are_all_of_canonical_text() -> None:
    text = 'module @"a b" {\n'
    text += '  func @f(\n    %"": f32[2] at arena+0 input\n  ) -> () with {a = -1e+30, b = [-inf, "x\\""]} {\n    return\n  }\n}\n'
    assert len(tokens(text)) == 38
    assert parse(" ".join(tokens(text))) == parse(text)
    assert len(ODD_NAMES) == len(set(ODD_NAMES))
