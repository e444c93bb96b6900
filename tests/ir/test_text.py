"""IR text: canonical printing, parsing, and what modules being equal means."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import CANONICAL, function_text, recorded

from tapeir.ir import (
    DTYPES,
    OPS,
    Builder,
    Function,
    GraphBuilder,
    Location,
    Mark,
    Module,
    TensorType,
    parse,
    print_function,
    print_module,
)
from tapeir.ir.graph import Place, Symbol
from tapeir.ir.literal import Literal
from tapeir.ir.print import number, quote
from tapeir.ir.types import bf16, f16, f32, f64, i8, i64, key, u64


def constant_text(array: Any) -> str:
    """How a constant with an array's elements prints: what follows ``value = ``."""
    module = recorded(lambda build, x: build.literal(np.asarray(array)))
    assert parse(str(module)) == module
    line = next(line for line in str(module).splitlines() if "constant" in line)
    return line.split("value = ")[1].rsplit("} :", 1)[0]


# Canonical text


def test_canonical_text_is_a_fixed_point() -> None:
    module = parse(CANONICAL)
    assert str(module.verify()) == CANONICAL
    assert parse(str(module)) == module
    assert str(module.clone()) == CANONICAL


def test_any_layout_and_comments_are_read() -> None:
    commented = "// first\n" + "\n".join(f'{line}  // {{ ) " %x' for line in CANONICAL.splitlines()) + "\n// last"
    assert parse(commented) == parse(CANONICAL)
    assert parse(" ".join(CANONICAL.split())) == parse(CANONICAL)
    assert parse(CANONICAL.replace("\n", "\r\n\t")) == parse(CANONICAL)


def test_a_comment_mark_in_a_string_is_text() -> None:
    assert parse('module @"a//b" { func @f() -> () with {site = "// {"} { return } }')["f"].attrs == {"site": "// {"}


def test_omitted_attributes_print_their_defaults() -> None:
    text = function_text("%0 = sum %x {axes = [0]} : f32[]\nreturn %0", results="f32[]")
    assert "sum %x {axes = [0], keepdims = false} : f32[]" in str(parse(text))
    key_text = function_text("%0 = fold_in %k : key[]\nreturn %0", "%k: key[] input", "key[]")
    assert "fold_in %k : key[]" in str(parse(key_text)), "an attribute that may be absent stays absent"


def test_attributes_print_in_declared_order() -> None:
    text = function_text("%0 = sum %x {keepdims = true, axes = [0]} : f32[1]\nreturn %0", results="f32[1]")
    assert "{axes = [0], keepdims = true}" in str(parse(text))


@pytest.mark.parametrize("name", DTYPES)
def test_types(name: str) -> None:
    shape = () if name == "key" else (2, 0, 3)
    other = str(TensorType(name, shape))
    text = function_text("return %x, %y", f"%x: {name}[] input, %y: {other} input", f"{name}[], {other}")
    module = parse(text).verify()
    assert [v.type for v in module["f"].arguments] == [TensorType(name, ()), TensorType(name, shape)]
    assert f"({name}[], {other})" in str(module)
    assert str(parse(str(module))) == str(module)


def test_roles_and_marks() -> None:
    arguments = "%x: f32[4] input, %w: f32[4] param, %b: f32[4] buffer, %m: f32[4] optimizer, %none: f32[4]"
    results = "f32[4], f32[4] grad(%w), f32[4] update(%w), f32[4] update(%m)"
    function = parse(function_text("return %x, %w, %w, %m", arguments, results)).verify()["f"]
    assert function.roles == ["input", "param", "buffer", "optimizer", None]
    x, w, _, m, none = function.arguments
    assert function.marks == [None, Mark("grad", w), Mark("update", w), Mark("update", m)]
    assert [v for v, _ in function.state()] == function.arguments[1:4]
    assert function.inputs() == [x, none]
    assert f") -> ({results}) {{" in str(function)


def test_function_attributes() -> None:
    attrs = '{a = 1, b = -2.5, c = "s\\n\\"", d = f32, e = @k, f = true, '
    attrs += 'g = [1, 2.5, "s", i64, @"k-1", false], in = [], at = inf}'
    function = parse(f"module @m {{ func @f() -> () with {attrs} {{ return }} }}")["f"]
    assert function.attrs == {
        "a": 1,
        "b": -2.5,
        "c": 's\n"',
        "d": f32,
        "e": "k",
        "f": True,
        "g": (1, 2.5, "s", i64, "k-1", False),
        "in": (),
        "at": math.inf,
    }
    assert isinstance(function.attrs["e"], Symbol)
    assert isinstance(function.attrs["g"][4], Symbol)
    assert f"with {attrs} {{" in str(function)


def test_places() -> None:
    function = parse(CANONICAL)["forward_train"]
    x, weight = function.arguments[:2]
    assert x.place == Place("arena", 0)
    assert weight.place == Place("state", 0, weight)
    flat, two = function.instructions[3].result, function.instructions[5].results[1]
    assert flat.place == Place("alias", 0, x)
    assert function.instructions[6].result.place == Place("alias", 0, two)
    assert function.instructions[8].result.place == Place("alias", 8, function.instructions[7].result)
    assert function.instructions[7].result.place is None


def test_several_results_and_a_kernel() -> None:
    module = parse(CANONICAL)
    fused = module["forward_train"].instructions[5]
    assert [r.type for r in fused.results] == [f32[48], f32[48]]
    assert [r.name for r in fused.results] == ["h", None]
    assert fused.attrs == {"kernel": "k0"}
    assert module["forward_train"].symbols() == {"k0"}
    assert module["k0"].roles == [None, None]


def test_print_function_is_the_function_in_the_module() -> None:
    module = parse(CANONICAL)
    assert parse(f"module @m {{ {print_function(module['empty'])} }}")["empty"].results == []
    assert str(module["empty"]) == "func @empty() -> () {\n  return\n}"


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.family not in ("control",) and n != "constant"])
def test_every_op_round_trips(name: str) -> None:
    op = OPS[name]
    for sample in list(op.samples(np.random.default_rng(0)))[:20]:
        recorder = GraphBuilder()
        recorder.at = ()
        operands = [recorder.argument(_type_of(op.name, n, a)) for n, a in enumerate(sample.operands)]
        results = recorder.bind(op, tuple(operands), op.attributes(sample.attrs))
        module = Module("m", [recorder.function("f", [(v, None) for v in operands], [(v, None) for v in results])])
        assert str(parse(str(module)).verify()) == str(module)


def _type_of(op: str, position: int, array: Any) -> TensorType:
    keyed = op in ("fold_in", "random_bits", "uniform", "mask", "normal") and position == 0
    return key[array.shape[:-1]] if keyed else TensorType(str(_SPELLED[array.dtype]), array.shape)


_SPELLED = {d.numpy: d for d in DTYPES.values() if d is not key}

# Names

PLAIN = ["x", "0.weight", "optimizer/step", "a_1", "_", ".", "1a", "A.b/C.d/e", "1.5", "x" * 200]
QUOTED = [
    "3",
    "0",
    "",
    "my-model",
    "a b",
    "a//b",
    "/a",
    "a/",
    "é",
    "日本",
    'a"b',
    "a\\b",
    "a\nb",
    "%x",
    "@x",
    "a,b",
    "3\n",
    "٣",
]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_are_bare(name: str) -> None:
    assert quote(name) == name
    _check_name(name)


@pytest.mark.parametrize("name", QUOTED)
def test_other_names_are_quoted(name: str) -> None:
    assert quote(name).startswith('"')
    _check_name(name)


@given(st.text(max_size=20))
def test_any_name_round_trips(name: str) -> None:
    _check_name(name)


def _check_name(name: str) -> None:
    recorder = GraphBuilder()
    recorder.at = ()
    x = recorder.argument(f32[4], name)
    y = Builder(recorder).neg(x)
    module = Module(name, [recorder.function(name, [(x, "param")], [(y, Mark("update", x))])])
    again = parse(str(module))
    assert again == module
    assert again.name == name
    assert [f.name for f in again] == [name]
    assert again[name].arguments[0].name == name if not name.startswith("@") else True


@pytest.mark.parametrize("name", ["a" * 4097, "/".join(["a"] * 66)], ids=["long", "deep"])
def test_long_and_deep_names_round_trip(name: str) -> None:
    _check_name(name)


def test_values_without_a_name_are_numbered_in_textual_order() -> None:
    text = function_text("%7 = neg %x : f32[4]\n%h = neg %7 : f32[4]\n%2 = neg %h : f32[4]\nreturn %2")
    module = parse(text)
    assert [i.result.name for i in module["f"].instructions] == [None, "h", None]
    assert "%0 = neg %x" in str(module)
    assert "%1 = neg %h" in str(module)


def test_a_quoted_number_is_a_name() -> None:
    text = function_text('%0 = neg %x : f32[4]\n%"0" = neg %0 : f32[4]\nreturn %"0"')
    module = parse(text)
    assert [i.result.name for i in module["f"].instructions] == [None, "0"]
    assert '%"0" = neg %0' in str(module)


def _named(arguments: list[tuple[str, str]], results: list[str]) -> Function:
    recorder = GraphBuilder()
    recorder.at = ()
    values = [recorder.argument(f32[4], name) for name, _ in arguments]
    value = values[0]
    for name in results:
        value = Builder(recorder).neg(value)
        value.name = name
    pairs = [(v, role) for v, (_, role) in zip(values, arguments, strict=True)]
    return recorder.function("f", [*pairs], [(value, None)])


def _printed_names(function: Function) -> list[str]:
    again = parse(str(Module("m", [function])))["f"]
    assert str(again) == str(function)
    return [str(v.name) for v in (*again.arguments, *(i.result for i in again.instructions))]


def test_a_taken_name_gets_the_smallest_free_suffix() -> None:
    assert _printed_names(_named([("h", "input")], ["h", "h", "h"])) == ["h", "h_1", "h_2", "h_3"]
    assert _printed_names(_named([("h", "input")], ["h_1", "h", "h"])) == ["h", "h_1", "h_2", "h_3"]
    assert _printed_names(_named([("h", "input")], ["h", "h_1"])) == ["h", "h_1", "h_1_1"]


def test_state_takes_its_name_first() -> None:
    assert _printed_names(_named([("w", "input"), ("w", "param")], [])) == ["w_1", "w"]
    function = _named([("w", "input"), ("w", "optimizer"), ("w_1", "buffer")], ["w_1"])
    assert _printed_names(function) == ["w_2", "w", "w_1", "w_1_1"]


# Constants and floats


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.float64(np.float32(0.1)), "0.10000000149011612"),
        (np.float32(1), "1.0"),
        (np.float32(-0.0), "-0.0"),
        (np.float32(np.inf), "inf"),
        (np.float64(-np.inf), "-inf"),
        (np.float16(np.nan), "nan"),
        (np.float32(1e-45), "1e-45"),
        (np.float32(-1.1754942e-38), "-1.1754942e-38"),
        (np.float64(5e-324), "5e-324"),
        (np.float64(1.7976931348623157e308), "1.7976931348623157e+308"),
        (np.float32(3.4028235e38), "3.4028235e+38"),
        (np.float16(6e-8), "6e-08"),
        (np.float16(0.333), "0.333"),
        (bf16.numpy.type(1.0), "1.0"),
        (bf16.numpy.type(-np.inf), "-inf"),
        (np.int64(-(2**63)), "-9223372036854775808"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.int8(-128), "-128"),
        (np.bool_(True), "true"),
        (np.bool_(False), "false"),
        (np.full((3, 40), 2.5, np.float32), "2.5"),
        (np.array([0.0, -0.0]), "[0.0, -0.0]"),
        (np.array([np.nan, -np.nan]), "nan"),
        (np.array([[1, 2], [3, 4]], np.int32), "[1, 2, 3, 4]"),
        (np.array([True, False]), "[true, false]"),
        (np.array([np.nan, 1, -np.inf], np.float32), "[nan, 1.0, -inf]"),
        (np.array([7.0]), "7.0"),
        (np.zeros((0, 3), np.float32), "[]"),
        (np.zeros((2, 0), bool), "[]"),
        (np.arange(16, dtype=np.uint8), "[" + ", ".join(map(str, range(16))) + "]"),
        (np.arange(17, dtype=np.uint8), 'bytes "AAECAwQFBgcICQoLDA0ODxA="'),
    ],
    ids=str,
)
def test_constants(array: Any, text: str) -> None:
    assert constant_text(array) == text


@pytest.mark.parametrize("dtype", [f16, f32, f64, bf16, i8, u64], ids=str)
def test_large_constants_are_little_endian_bytes(dtype: Any) -> None:
    array = np.arange(20).astype(dtype.numpy).reshape(4, 5)
    text = constant_text(array)
    raw = base64.b64decode(text.removeprefix("bytes ").strip('"'))
    assert raw == array.astype(dtype.numpy.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_every_narrow_float_round_trips(dtype: Any) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    texts = [number(v, dtype) for v in values]
    again = np.array([float(t) for t in texts]).astype(dtype.numpy)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns about signalling NaNs
        same = (again.view(np.uint16) == values.view(np.uint16)) | (np.isnan(again) & np.isnan(values))
    assert same.all()


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1))
def test_floats_round_trip_by_bits(word: int, wide: int) -> None:
    for array in (np.array(word, np.uint32).view(np.float32), np.array(wide, np.uint64).view(np.float64)):
        module = recorded(lambda build, x, array=array: build.literal(array))
        constant = parse(str(module))["f"].instructions[0].attrs["value"]
        assert constant == Literal.of(array)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_are_the_shortest_text(x: float) -> None:
    text = number(np.float32(x), f32)
    digits = text.lower().split("e")[0].replace(".", "").replace("-", "").strip("0")
    with np.errstate(over="ignore"):
        assert all(np.float32(f"{x:.{n - 1}e}") != np.float32(x) for n in range(1, len(digits)))


def test_narrow_floats_are_the_shortest_text() -> None:
    assert number(bf16.numpy.type(0.333984375), bf16) == "0.334"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("[1.0, 1.0, 1.0, 1.0]", "1.0"),
        ("1", "1.0"),
        ("1e0", "1.0"),
        ("0.10000000000000001", "0.1"),
        ("1e400", "inf"),
        ("[1, 2, 3, 4]", "[1.0, 2.0, 3.0, 4.0]"),
        (f'bytes "{base64.b64encode(np.arange(4, dtype="<f4").tobytes()).decode()}"', "[0.0, 1.0, 2.0, 3.0]"),
        (f'bytes "{base64.b64encode(np.full(4, 0x7FC00001, "<u4").tobytes()).decode()}"', "nan"),
    ],
)
def test_constants_become_canonical(written: str, canonical: str) -> None:
    module = parse(function_text(f"%0 = constant {{value = {written}}} : f32[4]\nreturn %0"))
    assert f"constant {{value = {canonical}}} : f32[4]" in str(module)


def test_float_attributes() -> None:
    for value in (0.1, 1e-05, math.inf, -math.inf, 1e300, 3.0, -0.0):
        text = str(recorded(lambda build, x, value=value: build.layer_norm(x, rank=1, eps=value)))
        again = parse(text)["f"].instructions[0].attrs["eps"]
        assert math.copysign(1, again) == math.copysign(1, value)
        assert again == value
    assert (
        parse(function_text("%0 = layer_norm %x {rank = 1, eps = 1} : f32[4]\nreturn %0"))["f"]
        .instructions[0]
        .attrs["eps"]
        == 1.0
    )
    nan = parse(function_text("%0 = layer_norm %x {rank = 1, eps = nan} : f32[4]\nreturn %0"))
    assert math.isnan(nan["f"].instructions[0].attrs["eps"])


# Locations


def _located(*places: Location) -> Module:
    recorder = GraphBuilder()
    recorder.at = places
    x = recorder.argument(f32[4], "x")
    y = Builder(recorder).neg(x)
    return Module("m", [recorder.function("f", [(x, "input")], [(y, None)])])


def test_locations_print_when_asked() -> None:
    module = _located(Location("model.py", 12, "layers.0"), Location("b.py", 3))
    assert "loc" not in str(module)
    text = print_module(module, locations=True)
    assert '%0 = neg %x : f32[4] loc("model.py":12 in "layers.0", "b.py":3)\n' in text
    again = parse(text)
    assert again["f"].instructions[0].location == (Location("model.py", 12, "layers.0"), Location("b.py", 3))
    assert print_module(again, locations=True) == text
    assert str(again) == str(module)


def test_locations_are_relative_to_the_base() -> None:
    text = print_module(_located(Location("/home/me/net/model.py", 1)), locations=True, base="/home/me")
    assert 'loc("net/model.py":1)' in text
    assert 'loc("<stdin>":1)' in print_module(_located(Location("<stdin>", 1)), locations=True, base="/home/me")
    quoted = print_module(_located(Location('a "b"\\c.py', 1)), locations=True)
    assert parse(quoted)["f"].instructions[0].location[0].file == 'a "b"\\c.py'


def test_an_empty_location_prints_nothing() -> None:
    module = _located()
    assert print_module(module, locations=True) == str(module)


def test_a_location_stands_after_places() -> None:
    text = function_text('%0 = neg %x : f32[4] at arena+64 loc("a.py":1)\nreturn %0')
    assert ' : f32[4] at arena+64 loc("a.py":1)\n' in print_module(parse(text), locations=True)


# Equality


def _same(a: str, b: str) -> bool:
    return parse(a) == parse(b)


def test_modules_are_equal_when_their_plain_texts_are() -> None:
    base = function_text("%0 = neg %x : f32[4]\nreturn %0")
    assert _same(base, base.replace("%0", "%7"))
    assert _same(base, base.replace("%0 = neg %x : f32[4]", '%0 = neg %x : f32[4] loc("a":1)'))
    assert not _same(base, base.replace("%0", "%y"))
    assert not _same(base, base.replace("%x", "%z"))
    assert not _same(base, base.replace("@m", "@n"))
    assert not _same(base, base.replace("@f", "@g"))
    assert not _same(base, base.replace(" input", ""))
    assert not _same(base, base.replace(" input", " param"))
    assert not _same(base, base.replace("neg", "abs"))
    assert not _same(base, base.replace("(f32[4]) {", '(f32[4]) with {mode = "train"} {'))
    assert not _same(base, base.replace("%0 = neg %x : f32[4]", "%0 = neg %x : f32[4] at arena+0"))
    assert not _same(base, base.replace("-> (f32[4])", "-> (f32[4] grad(%x))"))
    assert parse(base) != base
    with pytest.raises(TypeError):
        hash(parse(base))


def test_floats_are_compared_by_bits_and_every_nan_is_equal() -> None:
    def of(array: Any) -> Module:
        return recorded(lambda build, x: build.literal(np.asarray(array)))

    assert of(np.array(0x7FC00001, np.uint32).view(np.float32)) == of(np.float32(np.nan))
    assert of(np.array([np.nan, 1.0])) == of(np.array([-np.nan, 1.0]))
    wide = np.arange(20.0)
    wide[3] = np.nan
    assert of(wide) == of(np.where(np.isnan(wide), -wide, wide))
    assert of(0.0) != of(-0.0)
    assert of(1.0) != of(np.nextafter(1.0, 2.0))
    assert of(np.float32(1.0)) != of(np.float64(1.0))


def test_function_order_matters_and_clone_is_equal() -> None:
    module = parse(CANONICAL)
    clone = module.clone()
    assert clone == module
    clone["k0"].instructions[0].result.name = "b"
    assert clone != module
    assert Module("m", list(module)[::-1]) != Module("m", list(module))
