"""Every way in which IR text is refused, and where the error points."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from texts import CANONICAL, function_text, recorded

from tapeir.ir import (
    OPS,
    IRError,
    ParseError,
    TensorType,
    parse,
)
from tapeir.ir.graph import Instruction
from tapeir.ir.origin import WIDTH
from tapeir.ir.types import bool_, f32, u8

NEG = "%0 = neg %x : f32[4]\nreturn %0"
ERRORS: list[tuple[str, str, int, int, str]] = [
    ("empty", "", 1, 1, "the end of the text where one of these belongs: module"),
    ("only a comment", "// nothing\n", 1, 1, "the end of the text"),
    ("no module name", "module {", 1, 8, "'{' where one of these belongs: a symbol (@name)"),
    ("missing brace", "module @m {\nfunc @f() -> () {\nreturn\n}\n", 4, 1, "the end of the text where"),
    ("no arrow", "module @m { func @f() { return } }", 1, 23, "'{' where one of these belongs"),
    ("no return", "module @m {\nfunc @f() -> () {\n}\n}", 3, 1, "'}' where one of these belongs"),
    ("text after the module", "module @m { }\nmodule @n { }", 2, 1, "'module' where"),
    ("foreign character", "module @m {\n  ;\n}", 2, 3, "this character where one of these belongs: func }"),
    ("unknown op", function_text("%0 = nope %x : f32[4]\nreturn %0"), 3, 6, "there is no op nope; irc ops lists them"),
    ("undefined operand", function_text("%0 = neg %y : f32[4]\nreturn %0"), 3, 10, "%y is not defined here"),
    ("used before", function_text("%0 = neg %1 : f32[4]\n%1 = neg %0 : f32[4]\nreturn %1"), 3, 10, "%1 is not defined"),
    ("its own operand", function_text("%0 = neg %0 : f32[4]\nreturn %0"), 3, 10, "%0 is not defined here"),
    ("undefined result", function_text("%0 = neg %x : f32[4]\nreturn %1"), 4, 8, "%1 is not defined here"),
    (
        "value of another function",
        "module @m {\nfunc @g(%z: f32[4]) -> (f32[4]) { return %z }\nfunc @f() -> (f32[4]) { return %z }\n}",
        3,
        32,
        "%z is not defined here",
    ),
    ("redefinition", function_text("%x = neg %x : f32[4]\nreturn %x"), 3, 1, "%x is defined already"),
    (
        "redefined number",
        function_text("%0 = neg %x : f32[4]\n%0 = neg %x : f32[4]\nreturn %0"),
        4,
        1,
        "%0 is defined already",
    ),
    (
        "results of one name",
        function_text("%0, %0 = fused %x {kernel = @f} : f32[4], f32[4]\nreturn %0"),
        3,
        5,
        "defined already",
    ),
    ("duplicate argument", function_text("return %x", "%x: f32[4], %x: f32[4]"), 2, 21, "%x is defined already"),
    (
        "too few types",
        function_text("%0, %1 = fused %x {kernel = @f} : f32[4]\nreturn %0"),
        3,
        1,
        "2 results and 1 types",
    ),
    ("too many types", function_text("%0 = neg %x : f32[4], f32[4]\nreturn %0"), 3, 1, "1 results and 2 types"),
    ("no type", function_text("%0 = neg %x\nreturn %0"), 4, 1, "'return' where one of these belongs"),
    (
        "no result",
        function_text("neg %x : f32[4]\nreturn %x"),
        3,
        1,
        "'neg' where one of these belongs: a value (%name) return",
    ),
    (
        "unknown dtype",
        function_text("%0 = neg %x : f33[4]\nreturn %0"),
        3,
        15,
        "f33 is not an element type; one of f16, bf16",
    ),
    ("long dtype", function_text(NEG, "%x: float32[4]"), 2, 13, "float32 is not an element type"),
    ("no brackets", function_text(NEG, "%x: f32"), 2, 16, "')' where one of these belongs: ["),
    ("float in a shape", function_text(NEG, "%x: f32[4.5]"), 2, 17, "4.5 is not an integer"),
    ("exponent in a shape", function_text(NEG, "%x: f32[1e3]"), 2, 17, "1e3 is not an integer"),
    ("name in a shape", function_text(NEG, "%x: f32[n]"), 2, 17, "'n' where one of these belongs: ] a number"),
    ("negative shape", function_text(NEG, "%x: f32[-4]"), 2, 13, "f32[-4] is not a possible shape"),
    ("huge shape", function_text(NEG, "%x: f32[99999999999999]"), 2, 13, "is not a possible shape"),
    (
        "unknown attribute",
        function_text("%0 = neg %x {axis = 1} : f32[4]\nreturn %0"),
        3,
        14,
        "op neg has no attribute axis; it has none",
    ),
    (
        "missing attribute",
        function_text("%0 = sum %x : f32[]\nreturn %0"),
        3,
        6,
        "op sum needs attribute 'axes' (ints)",
    ),
    (
        "attribute twice",
        function_text("%0 = sum %x {axes = [0], axes = [0]} : f32[]\nreturn %0"),
        3,
        26,
        "attribute axes appears twice",
    ),
    (
        "int for ints",
        function_text("%0 = sum %x {axes = 0} : f32[]\nreturn %0"),
        3,
        6,
        "attribute 'axes': 0 is not a list of integers",
    ),
    (
        "string for bool",
        function_text('%0 = sum %x {axes = [0], keepdims = "no"} : f32[]\nreturn %0'),
        3,
        6,
        "'no' is not bool",
    ),
    ("int for bool", function_text("%0 = sum %x {axes = [0], keepdims = 1} : f32[]\nreturn %0"), 3, 6, "1 is not bool"),
    (
        "bool for float",
        function_text("%0 = layer_norm %x {rank = 1, eps = true} : f32[4]\nreturn %0"),
        3,
        6,
        "True is not float",
    ),
    ("float for int", function_text("%0 = softmax %x {axis = 0.0} : f32[4]\nreturn %0"), 3, 6, "0.0 is not int"),
    ("string for symbol", function_text('%0 = fused %x {kernel = "f"} : f32[4]\nreturn %0'), 3, 6, "'f' is not symbol"),
    (
        "unknown dtype attribute",
        function_text("%0 = cast %x {dtype = f33} : f32[4]\nreturn %0"),
        3,
        23,
        "f33 is no attribute value",
    ),
    (
        "string for dtype",
        function_text('%0 = cast %x {dtype = "f32"} : f32[4]\nreturn %0'),
        3,
        15,
        '"f32" is not an element type; one of f16, bf16',
    ),
    (
        "long integer attribute",
        function_text("%0 = softmax %x {axis = 18446744073709551616} : f32[4]\nreturn %0"),
        3,
        25,
        "18446744073709551616 is outside 64 bits",
    ),
    (
        "bytes elsewhere",
        function_text('%0 = sum %x {axes = bytes "AAAA"} : f32[]\nreturn %0'),
        3,
        14,
        "bytes stand only in a constant",
    ),
    (
        "nested list",
        "module @m { func @f() -> () with {a = [[1]]} { return } }",
        1,
        40,
        "'[' where one of these belongs",
    ),
    (
        "list too short",
        function_text("%0 = constant {value = [1.0]} : f32[4]\nreturn %0"),
        3,
        16,
        "f32[4] takes 4 elements, not 1",
    ),
    (
        "list too long",
        function_text("%0 = constant {value = [1.0, 2.0]} : f32[]\nreturn %0"),
        3,
        16,
        "f32[] takes 1 elements, not 2",
    ),
    (
        "bad base64",
        function_text('%0 = constant {value = bytes "@@@@"} : f32[4]\nreturn %0'),
        3,
        16,
        "the bytes are not base64",
    ),
    (
        "cut base64",
        function_text('%0 = constant {value = bytes "AAA"} : f32[4]\nreturn %0'),
        3,
        16,
        "the bytes are not base64",
    ),
    (
        "few bytes",
        function_text('%0 = constant {value = bytes "AAAA"} : f32[4]\nreturn %0'),
        3,
        16,
        "f32[4] takes 16 bytes, not 3",
    ),
    (
        "float in an int constant",
        function_text("%0 = constant {value = 1.5} : i32[4]\nreturn %0"),
        3,
        24,
        "1.5 is not an integer",
    ),
    (
        "outside the dtype",
        function_text("%0 = constant {value = [0, 300, 0, 0]} : u8[4]\nreturn %0"),
        3,
        28,
        "300 is outside u8",
    ),
    ("negative unsigned", function_text("%0 = constant {value = -1} : u64[4]\nreturn %0"), 3, 24, "-1 is outside u64"),
    (
        "number for bool",
        function_text("%0 = constant {value = 1} : bool[4]\nreturn %0"),
        3,
        24,
        "1 is not true or false",
    ),
    (
        "bool for number",
        function_text("%0 = constant {value = true} : f32[4]\nreturn %0"),
        3,
        24,
        "true is not a number",
    ),
    ("string for number", function_text('%0 = constant {value = "1"} : f32[4]\nreturn %0'), 3, 24, "is not a number"),
    ("bad number", function_text("%0 = constant {value = 1.2.3} : f32[4]\nreturn %0"), 3, 24, "1.2.3 is not a number"),
    (
        "constant key",
        function_text("%0 = constant {value = 0} : key[]\nreturn %0"),
        3,
        16,
        "there are no constant keys",
    ),
    (
        "no constant value",
        function_text("%0 = constant : f32[4]\nreturn %0"),
        3,
        6,
        "op constant needs attribute 'value' (literal)",
    ),
    (
        "unknown role",
        function_text(NEG, "%x: f32[4] parameter"),
        2,
        20,
        "parameter is not a role; one of input, param, buffer, optimizer",
    ),
    (
        "unknown mark",
        function_text(NEG, results="f32[4] gradient(%x)"),
        2,
        38,
        "gradient is not a mark; grad or update",
    ),
    ("mark of nothing", function_text(NEG, results="f32[4] grad(%y)"), 2, 43, "%y is not defined here"),
    ("mark of a result", function_text(NEG, results="f32[4] grad(%0)"), 2, 43, "%0 is not defined here"),
    (
        "unknown place",
        function_text("%0 = neg %x : f32[4] at stack+8\nreturn %0"),
        3,
        25,
        "a place is arena+offset, alias",
    ),
    (
        "arena of a value",
        function_text("%0 = neg %x : f32[4] at arena(%x)\nreturn %0"),
        3,
        25,
        "a place is arena+offset",
    ),
    ("alias of nothing", function_text("%0 = neg %x : f32[4] at alias\nreturn %0"), 3, 25, "a place is arena+offset"),
    (
        "alias of an undefined value",
        function_text("%0 = neg %x : f32[4] at alias(%y)\nreturn %0"),
        3,
        31,
        "%y is not defined here",
    ),
    ("fewer returned", function_text(NEG, results="f32[4], f32[4]"), 4, 8, "2 results are declared and 1 returned"),
    ("nothing returned", function_text("return"), 2, 6, "1 results are declared and 0 returned"),
    (
        "another type returned",
        function_text(NEG, results="f32[5]"),
        4,
        8,
        "a result is declared f32[5] and returned as f32[4]",
    ),
    (
        "another dtype returned",
        function_text(NEG, results="f64[4]"),
        4,
        8,
        "a result is declared f64[4] and returned as f32[4]",
    ),
    ("float line", function_text('%0 = neg %x : f32[4] loc("a":1.5)\nreturn %0'), 3, 30, "1.5 is not an integer"),
    ("no line", function_text('%0 = neg %x : f32[4] loc("a")\nreturn %0'), 3, 29, "')' where one of these belongs: :"),
    (
        "open string",
        function_text('%0 = fold_in %x {site = "a} : key[]\nreturn %0'),
        3,
        25,
        "this character where one of these belongs",
    ),
    (
        "bad escape",
        function_text('%0 = fold_in %x {site = "\\q"} : key[]\nreturn %0'),
        3,
        25,
        "not a JSON string: Invalid \\escape",
    ),
    ("bad escape in a name", 'module @"\\q" { }', 1, 8, "not a JSON string"),
    ("control character", 'module @"\t" { }', 1, 8, "not a JSON string: Invalid control character"),
    ("trailing slash", function_text("%a/ = neg %x : f32[4]\nreturn %x"), 3, 3, "this character where"),
    (
        "name attribute",
        "module @m { func @f() -> () with {mode = train} { return } }",
        1,
        42,
        "train is no attribute value",
    ),
]


@pytest.mark.parametrize(("text", "line", "column", "fragment"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_parse_errors(text: str, line: int, column: int, fragment: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, file="a.ir")
    error = caught.value
    assert fragment in str(error)
    assert (error.line, error.column) == (line, column)
    assert str(error).startswith(f"a.ir:{line}:{column}: ")
    shown = str(error).split("\n")
    at = next(n for n, row in enumerate(shown) if row.startswith("> "))
    head, _, row = (shown[at] + " ").partition(" | ")
    row = row.rstrip()
    assert head.split() == [">", str(line)]
    if len(row) <= WIDTH:
        assert row == text.split("\n")[line - 1].rstrip()
        assert shown[at + 1].index("^") == len(head) + len(" | ") + column - 1


def test_a_duplicate_function_is_an_error_at_its_name() -> None:
    with pytest.raises(ParseError, match="function @f") as caught:
        parse("module @m {\nfunc @f() -> () { return }\nfunc @f() -> () { return }\n}")
    assert (caught.value.line, caught.value.column) == (3, 6)


def test_a_parse_error_leaves_the_parser_usable() -> None:
    with pytest.raises(ParseError):
        parse(function_text("%0 = neg %x : f32[4]\n%y = nope"))
    assert str(parse(CANONICAL)) == CANONICAL


def test_long_functions_do_not_recurse() -> None:
    lines = ["%0 = neg %x : f32[4]", *[f"%{n} = neg %{n - 1} : f32[4]" for n in range(1, 5000)]]
    module = parse(function_text("\n".join([*lines, "return %4999"]))).verify()
    assert len(module["f"].instructions) == 5000
    assert parse(str(module)) == module


NON_INTEGERS = {
    "a name as string": '["a"]',
    "an integer as string": '["4"]',
    "a float": "[4.5]",
    "a whole float": "[4.0]",
    "a bool": "[true]",
    "nan": "[nan]",
    "infinity": "[1e400]",
    "a symbol": "[@s]",
}


@pytest.mark.parametrize("value", NON_INTEGERS.values(), ids=NON_INTEGERS.keys())
def test_index_lists_hold_integers_only(value: str) -> None:
    with pytest.raises(ParseError, match="is not a list of integers"):
        parse(function_text(f"%0 = reshape %x {{shape = {value}}} : f32[4]\nreturn %0"))


def test_a_huge_integer_for_a_float_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        parse(function_text(f"%0 = layer_norm %x {{rank = 1, eps = 1{'0' * 399}}} : f32[4]\nreturn %0"))


def test_one_name_is_one_value_however_it_is_spelled() -> None:
    assert parse(function_text('%"y" = neg %x : f32[4]\nreturn %y'))["f"].results[0].name == "y"
    with pytest.raises(ParseError, match="is defined already"):
        parse(function_text('%"y" = neg %x : f32[4]\n%y = neg %x : f32[4]\nreturn %y'))


@pytest.mark.parametrize("word", ["infinity", "Infinity", "INF", "NaN"])
def test_only_inf_and_nan_spell_no_number(word: str) -> None:
    with pytest.raises(ParseError):
        parse(function_text(f"%0 = constant {{value = {word}}} : f32[4]\nreturn %0"))


@pytest.mark.parametrize("word", [0x7FA0, 0xFF81, 0x7FC1, 0xFFFF])
def test_narrow_nan_bytes_are_one_nan(word: int) -> None:
    raw = base64.b64encode(np.full(18, word, "<u2").tobytes()).decode()
    text = function_text(f'%0 = constant {{value = bytes "{raw}"}} : bf16[18]\nreturn %0', results="bf16[18]")
    assert "{value = nan}" in str(parse(text))


def test_bool_bytes_are_canonical() -> None:
    def text(byte: int) -> str:
        raw = base64.b64encode(bytes([byte, 0] * 9)).decode()
        return function_text(f'%0 = constant {{value = bytes "{raw}"}} : bool[18]\nreturn %0', results="bool[18]")

    assert parse(text(1)) == parse(text(2))


def test_printing_refuses_what_is_no_attribute() -> None:
    module = recorded(lambda build, x: build.neg(x))
    module["f"].attrs["bad"] = object()
    with pytest.raises(TypeError, match="is no attribute value"):
        str(module)


def test_errors_are_ir_errors() -> None:
    assert issubclass(ParseError, IRError)
    assert isinstance(Instruction(OPS["neg"], (), {}, [f32[4]]).result.type, TensorType)
    assert (bool_[()].nbytes, u8[3].nbytes) == (1, 3)
