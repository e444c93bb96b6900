"""Errors about text: the file, line and column, the caret under it, the lines around, and the rule."""

from __future__ import annotations

import pytest

from tapeir.ir import Module, ParseError, TextError, VerifyError, parse
from tapeir.ir.escape import LONGEST, shortened
from tapeir.ir.origin import CONTEXT, WIDTH, Origin
from tapeir.ir.types import f32

NEG = "%0 = neg %x : f32[4]"


def function_text(body: str, arguments: str = "%x: f32[4] input", results: str = "f32[4]", name: str = "@f") -> str:
    """A module of one function, an instruction a line from line 3 on."""
    return f"module @m {{\nfunc {name}({arguments}) -> ({results}) {{\n{body}\n}}\n}}\n"


def refused(text: str, file: str = "a.ir") -> TextError:
    with pytest.raises((ParseError, VerifyError)) as caught:
        parse(text, file=file).verify()
    return caught.value


def rows(error: TextError) -> list[str]:
    """The excerpt: the rows below the message."""
    shown = str(error).split("\n")
    first = next(n for n, row in enumerate(shown) if " | " in row or row.endswith(" |"))
    return shown[first:]


def under_caret(error: TextError, width: int = 1) -> str:
    """The characters of the marked row that stand above the caret and after it."""
    shown = rows(error)
    at = next(n for n, row in enumerate(shown) if row.startswith(">"))
    column = shown[at + 1].index("^")
    assert shown[at + 1].strip(" |\t") == "^"
    return shown[at][column : column + width]


# The whole form


def test_the_whole_form_of_a_parse_error() -> None:
    text = function_text(f"{NEG}\n%1 = neg %zz : f32[4]\nreturn %1")
    assert str(refused(text, "folder/net.ir")) == (
        "folder/net.ir:4:10: %zz is not defined here\n"
        "  1 | module @m {\n"
        "  2 | func @f(%x: f32[4] input) -> (f32[4]) {\n"
        "  3 | %0 = neg %x : f32[4]\n"
        "> 4 | %1 = neg %zz : f32[4]\n"
        "    |          ^\n"
        "  5 | return %1\n"
        "  6 | }\n"
        "  7 | }"
    )


def test_the_whole_form_of_a_verify_error() -> None:
    text = function_text('%0 = neg %x : f32[5] loc("model.py":7 in "layers.0", "b.py":9)\nreturn %x')
    assert str(refused(text)) == (
        "a.ir:3:15: in @f, neg number 0: the result type is f32[4], not f32[5]\n"
        '  made at model.py:7 in "layers.0", b.py:9\n'
        "  1 | module @m {\n"
        "  2 | func @f(%x: f32[4] input) -> (f32[4]) {\n"
        '> 3 | %0 = neg %x : f32[5] loc("model.py":7 in "layers.0", "b.py":9)\n'
        "    |               ^\n"
        "  4 | return %x\n"
        "  5 | }\n"
        "  6 | }"
    )


def test_text_without_a_file_is_called_text() -> None:
    with pytest.raises(ParseError) as caught:
        parse("module")
    assert str(caught.value).startswith("<text>:1:1: the end of the text where one of these belongs: a symbol (@name)")
    assert caught.value.file == "<text>"


# Place and caret


@pytest.mark.parametrize("line", range(3, 23))
def test_the_caret_is_under_the_token_on_every_line(line: int) -> None:
    body = [f"%{n} = neg %x : f32[4]" for n in range(20)]
    body[line - 3] = "%y = neg %nowhere : f32[4]"
    error = refused(function_text("\n".join([*body, "return %x"])))
    assert (error.line, error.column) == (line, 10)
    assert under_caret(error, 8) == "%nowhere"
    numbers = [int(row[2:].split("|")[0]) for row in rows(error) if row[2:].split("|")[0].strip()]
    assert numbers == list(range(max(line - CONTEXT, 1), min(line + CONTEXT, 25) + 1))


def test_line_numbers_are_aligned() -> None:
    body = "\n".join([*[f"%{n} = neg %x : f32[4]" for n in range(6)], "%y = nope %x : f32[4]", "return %x"])
    shown = rows(refused(function_text(body)))
    assert [row.split("|")[0] for row in shown] == [
        "   4 ", "   5 ", "   6 ", "   7 ", "   8 ", ">  9 ", "     ", "  10 ", "  11 ", "  12 ",
    ]  # fmt: skip


def test_tabs_stand_above_tabs() -> None:
    error = refused(function_text("\t\t%0 = neg\t%nowhere : f32[4]\nreturn %x"))
    shown = rows(error)
    at = next(n for n, row in enumerate(shown) if row.startswith(">"))
    assert shown[at] == "> 3 | \t\t%0 = neg\t%nowhere : f32[4]"
    assert shown[at + 1] == "    | \t\t        \t^"
    assert (error.line, error.column) == (3, 12)


@pytest.mark.parametrize("before", [0, 50, WIDTH, 1000, 100_000])
def test_a_long_line_is_cut_around_the_caret(before: int) -> None:
    filler = "".join(f"%{n} = neg %x : f32[4] " for n in range(before // 20))
    text = function_text(f"{filler}%y = neg %nowhere : f32[4]{' ' * 500}\nreturn %x")
    error = refused(text)
    assert error.column == len(filler) + 10
    assert under_caret(error, 8) == "%nowhere"
    assert max(map(len, rows(error))) <= WIDTH + 20
    marked = next(row for row in rows(error) if row.startswith(">"))
    assert ("| ..." in marked) == (before >= WIDTH)
    assert marked.endswith("...")


def test_other_long_lines_are_cut_at_their_end() -> None:
    long = f"%0 = neg %x : f32[4] // {'c' * 500}"
    shown = rows(refused(function_text(f"{long}\n%y = nope %x : f32[4]\nreturn %x")))
    assert shown[2] == f"  3 | {long[:WIDTH]}..."


def test_the_first_line() -> None:
    error = refused("modul @m { }")
    assert (error.line, error.column) == (1, 1)
    assert rows(error) == ["> 1 | modul @m { }", "    | ^"]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_the_last_line(ending: str) -> None:
    error = refused("module @m {\n}\nfunc" + ending)
    assert (error.line, error.column) == (3, 1)
    assert under_caret(error, 4) == "func"
    assert len(rows(error)) == 4 + len(ending[1:])


@pytest.mark.parametrize("text", ["", "\n", "  ", "// only a comment", "\r\n\r\n"])
def test_empty_text(text: str) -> None:
    error = refused(text)
    assert (error.line, error.column) == (1, 1)
    assert error.message == "the end of the text where one of these belongs: module"
    assert rows(error)[0].startswith("> 1 |")


def test_text_that_ends_early_points_at_its_last_token() -> None:
    error = refused("module @m {\n  func @f() -> () {\n    return\n  }\n")
    assert (error.line, error.column) == (4, 3)
    assert under_caret(error) == "}"


def test_line_ends_of_windows_are_not_shown() -> None:
    text = function_text(f"{NEG}\n%1 = neg %zz : f32[4]\nreturn %1")
    error, other = refused(text), refused(text.replace("\n", "\r\n"))
    assert str(other) == str(error)
    assert (other.line, other.column) == (error.line, error.column)


def test_what_would_not_print_is_one_sign() -> None:
    error = refused(function_text("%0 = \x1b[31mneg %x : f32[4] // \x00\u200b\ud800\nreturn %0"))
    assert (error.line, error.column) == (3, 6)
    assert under_caret(error, 5) == "\ufffd[31m"
    assert "\ufffd\ufffd\ufffd" in rows(error)[2]
    str(error).encode()


def test_wide_text_before_the_caret_counts_as_characters() -> None:
    error = refused('module @"日本é" { func @f() -> () { nope } }')
    assert (error.line, error.column) == (1, 35)
    assert under_caret(error, 4) == "nope"


# What a verify error points at

POINTS: dict[str, tuple[str, tuple[int, int], str, str]] = {
    "a kernel": (
        function_text("%0 = add %x, %x : f32[4]\n%1 = fused %0, %0 {kernel = @k} : f32[4]\nreturn %1"),
        (4, 6), "fused", "kernel = 'k' names a function of the module",
    ),
    "the op": (function_text("%0 = sum %x {axes = [1]} : f32[4]\nreturn %x"), (3, 6), "sum", "axes are increasing and inside"),
    "an attribute": (function_text("%0 = gelu %x {approximate = @a} : f32[4]\nreturn %x"), (3, 6), "gelu", "not a symbol"),
    "a result type": (function_text("%0 = neg %x : f32[4, 1]\nreturn %x"), (3, 15), "f32[4, 1]",
                      "the result type is f32[4], not f32[4, 1]"),
    "a second result type": (
        "module @m {\nfunc @k(%x: f32[4]) -> (f32[4], f32[4]) { return %x, %x }\n"
        "func @f(%x: f32[4]) -> () {\n%0, %1 = fused %x {kernel = @k} : f32[4], f64[4]\nreturn\n}\n}",
        (4, 43), "f64[4]", "the result type is f32[4], not f64[4]",
    ),
    "the function": (
        "module @m {\n  func @k(%x: f32[4]) -> (f32[4]) {\n    %0 = fused %x {kernel = @k} : f32[4]\n    return %0\n  }\n}",
        (2, 8), "@k", "function @k reaches itself through its kernels",
    ),
    "a mark": (
        function_text("return %x, %x", results="f32[4] grad(%x), f32[4] grad(%x)"),
        (2, 48), "f32[4] grad(%x)", "%x: f32[4] has one grad",
    ),
    "an update of an input": (function_text("return %x", results="f32[4] update(%x)"), (2, 31), "f32[4]", "an update is of state"),
    "a mark of another type": (
        function_text("return %x", "%x: f32[4] input, %w: f32[5] param", "f32[4] update(%w)"),
        (2, 49), "f32[4]", "update of a f32[5] has its type, not f32[4]",
    ),
    "a place of itself": (function_text("%0 = neg %x : f32[4] at alias(%0)\nreturn %x"), (3, 15), "f32[4]",
                          "names a value defined before it"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "place", "token", "rule"), POINTS.values(), ids=POINTS.keys())
def test_what_a_verify_error_points_at(text: str, place: tuple[int, int], token: str, rule: str) -> None:
    error = refused(text)
    assert isinstance(error, VerifyError)
    assert rule in error.message
    assert (error.file, error.line, error.column) == ("a.ir", *place)
    assert under_caret(error, len(token)) == token


def _moved(module: Module) -> Module:
    """The instructions in another order, as a wrong pass leaves them."""
    module["f"].instructions.reverse()
    return module


def test_an_operand_used_before_its_definition_is_pointed_at() -> None:
    text = function_text(f"{NEG}\n%1 = add %x, %0 : f32[4]\nreturn %1")
    with pytest.raises(VerifyError) as caught:
        _moved(parse(text, file="a.ir")).verify()
    assert (caught.value.line, caught.value.column) == (4, 14)
    assert under_caret(caught.value, 2) == "%0"


def test_ir_that_is_not_from_text_has_no_place() -> None:
    clone = parse(function_text(f"{NEG}\nreturn %0")).clone()
    clone["f"].instructions[0].result.type = f32[5]
    with pytest.raises(VerifyError) as caught:
        clone.verify()
    error = caught.value
    assert (error.file, error.line, error.column, error.origin) == ("", 0, 0, None)
    assert str(error) == error.message == "in @f, neg number 0: the result type is f32[4], not f32[5]"


def test_an_instruction_that_a_pass_added_has_no_place() -> None:
    module = parse(function_text(f"{NEG}\nreturn %0"))
    module["f"].instructions[:] = module.clone()["f"].instructions
    with pytest.raises(VerifyError) as caught:
        module.verify()
    assert caught.value.line == 0
    assert " | " not in str(caught.value)


def test_prefixed_keeps_everything_else() -> None:
    error = refused(function_text('%0 = neg %x : f32[5] loc("model.py":7)\nreturn %x'))
    other = error.prefixed("after pass fold: ")
    assert type(other) is VerifyError
    assert str(other) == str(error).replace(": in @f", ": after pass fold: in @f")
    assert (other.file, other.line, other.column, other.locations) == (
        error.file,
        error.line,
        error.column,
        error.locations,
    )
    plain = VerifyError("the rule").prefixed("after pass fold: ")
    assert (str(plain), plain.line) == ("after pass fold: the rule", 0)


# Messages are short and can be shown


@pytest.mark.parametrize("name", ["a" * 100_000, "\x1b[31m\r\n" * 30, "\ud800", "日" * 50_000])
def test_odd_names_are_fit_to_be_shown(name: str) -> None:
    module = Module(name, list(parse(function_text("%0 = neg %x : f32[4]\nreturn %0"))))
    function = module.functions.pop("f")
    function.name = name
    module.add(function)
    function.arguments[0].name = function.instructions[0].result.name = name
    text = str(module.verify())
    for wrong in (text.replace(": f32[4]\n    return", ": f32[5]\n    return"), text.replace("neg ", "neg %nowhere, ")):
        shown = str(refused(wrong))
        assert len(shown) < 4000
        shown.encode()
        assert "\x1b" not in shown
        assert "\r" not in shown


def test_many_long_locations_are_cut() -> None:
    places = ", ".join([f'"{"f" * 1000}":1 in "{"m" * 1000}"'] * 100)
    error = refused(function_text(f"%0 = neg %x : f32[5] loc({places})\nreturn %x"))
    assert len(str(error)) < 4000
    assert "and 96 more" in str(error)
    assert len(error.locations) == 100, "the error itself keeps them"


def test_shortened() -> None:
    assert shortened("a\n  rule: b") == "a\n  rule: b"
    assert shortened("a" * LONGEST) == "a" * LONGEST
    assert shortened("a" * 20 + "b" * 20, 10) == "aaaaa ... bbbbb"
    assert shortened("\x1b\ud800\té") == "\\x1b\\ud800\\té"


def test_places_count_from_one() -> None:
    origin = Origin("ab\n\ncd", "f")
    assert [origin.place(n) for n in range(7)] == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (3, 3)]


def test_lines_of_instructions() -> None:
    module = parse(function_text(f'{NEG}\n%1 = neg %0 : f32[4] loc("b.py":1)\nreturn %1'), file="a.ir")
    origin, f = module.origin, module["f"]
    assert origin is not None
    assert [origin.line_of(p) for p in (f, f.arguments[0], *f.instructions, object())] == [2, 2, 3, 4, 0]
    origin.locate(module)
    assert [(p.file, p.line) for i in f.instructions for p in i.location] == [("a.ir", 3), ("b.py", 1)]
