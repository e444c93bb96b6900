"""Text is lossless: whole modules come back from it, from files and from any layout of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from module_strategies import laid_out, literals, modules, tokens, written_modules

from tapeir import ir
from tapeir.ir import (
    DTYPES,
    OPS,
    Function,
    GraphBuilder,
    Location,
    Module,
    Place,
    TensorType,
    Value,
    VerifyError,
    parse,
    print_module,
)
from tapeir.ir.graph import Instruction, Symbol
from tapeir.ir.literal import Literal
from tapeir.ir.types import f32, i64, key

EXAMPLES = int(os.environ.get("TAPEIR_FUZZ", "60"))
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def same_attribute(a: Any, b: Any) -> bool:
    """Whether two attribute values are one: of one kind, floats by bits, with every NaN equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        left, right = cast("tuple[Any, ...]", a), cast("tuple[Any, ...]", b)
        return len(left) == len(right) and all(map(same_attribute, left, right))
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    return bool(a == b)


def check_same(a: Function, b: Function) -> None:
    """Every part of two functions is equal, but for value names that were taken, and locations."""
    left, right = list(a.values()), list(b.values())
    position = {v: n for n, v in enumerate(left)} | {v: n for n, v in enumerate(right)}
    assert (a.name, a.roles, [v.type for v in left]) == (b.name, b.roles, [v.type for v in right])
    assert [v.name is None for v in left] == [v.name is None for v in right]
    assert list(a.attrs) == list(b.attrs)
    assert all(map(same_attribute, a.attrs.values(), b.attrs.values()))
    for i, j in zip(a.instructions, b.instructions, strict=True):
        assert i.op is j.op
        assert [position[o] for o in i.operands] == [position[o] for o in j.operands]
        assert list(i.attrs) == list(j.attrs)
        assert all(map(same_attribute, i.attrs.values(), j.attrs.values()))
    assert [position[v] for v in a.results] == [position[v] for v in b.results]
    assert [m and (m.kind, position[m.of]) for m in a.marks] == [m and (m.kind, position[m.of]) for m in b.marks]
    places = [[(p.kind, p.offset, p.of and position[p.of]) for v in f.values() if (p := v.place)] for f in (a, b)]
    assert places[0] == places[1]


def check_lossless(module: Module) -> None:
    text = str(module)
    again = parse(text).verify()
    assert str(again) == text
    assert again == module
    assert (again.name, list(again.functions)) == (module.name, list(module.functions))
    for f, g in zip(module, again, strict=True):
        check_same(f, g)
    # Once read, every value has the name that is printed.
    names = [[v.name for v in f.values()] for f in again]
    assert names == [[v.name for v in f.values()] for f in parse(str(again))]


def check_beside(module: Module) -> None:
    """Large constants beside the text come back with it."""
    printed = ir.print(module)
    again = ir.parse(printed)
    assert again == module
    second = ir.print(again)
    assert (second.text, list(second.data)) == (printed.text, list(printed.data))
    for name, array in printed.data.items():
        found = second.data[name]
        assert (array.dtype, array.shape, array.tobytes()) == (found.dtype, found.shape, found.tobytes())


def check_locations(module: Module) -> None:
    text = print_module(module, locations=True)
    again = parse(text).verify()
    assert print_module(again, locations=True) == text
    assert again == module
    located = [[i.location for i in f.instructions] for f in module]
    assert located == [[i.location for i in f.instructions] for f in again]


def check_layouts(module: Module, random: Random) -> None:
    """White space, line breaks and comments between tokens change nothing."""
    text = print_module(module, locations=True)
    for other in (" ".join(tokens(text)), laid_out(text, random)):
        assert print_module(parse(other), locations=True) == text


@thorough
@given(modules(), st.randoms(use_true_random=False))
def test_whole_modules_come_back(module: Module, random: Random) -> None:
    module.verify()
    check_lossless(module)
    check_beside(module)
    check_locations(module)
    check_layouts(module, random)
    assert module.clone() == module
    assert str(module.clone().verify()) == str(module)


@pytest.mark.parametrize("name", OPS)
@settings(thorough, max_examples=2)
@given(data=st.data())
def test_every_op_comes_back(name: str, data: st.DataObject) -> None:
    module = data.draw(written_modules(OPS[name]))
    assert any(i.op.name == name for f in module for i in f.instructions)
    check_lossless(module.verify())


@pytest.mark.parametrize("name", [n for n in DTYPES if n != "key"])
@settings(thorough, max_examples=10)
@given(data=st.data())
def test_constants_of_every_dtype_come_back(name: str, data: st.DataObject) -> None:
    literal = data.draw(literals(DTYPES[name]))
    recorder = GraphBuilder()
    (value,) = recorder.bind(OPS["constant"], (), {"value": literal})
    module = Module("m", [recorder.function("f", [], [(value, None)])]).verify()
    check_lossless(module)
    again = ir.parse(ir.print(module))
    assert again["f"].instructions[0].attrs["value"] == literal


@settings(thorough, max_examples=max(EXAMPLES // 4, 1))
@given(modules(), st.booleans())
def test_files_come_back(module: Module, locations: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "m.ir"
        ir.save(module, path, locations=locations)
        again = ir.load(path)
        assert again == module
        before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
        ir.save(again, path, locations=locations)
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
        assert set(before) <= {"m.ir", "m.safetensors"}


# What text cannot hold does not verify


def _module() -> Module:
    return parse(
        "module @m { func @f(%x: f32[4] input) -> (f32[]) {\n"
        "%0 = sum %x {axes = [0], keepdims = false} : f32[]\n%1 = layer_norm %x {rank = 1, eps = 1.0} : f32[4]\nreturn %0 } }"
    ).verify()


def _edit_attrs(number: int, **attrs: Any) -> Callable[[Module], object]:
    return lambda m: setattr(m["f"].instructions[number], "attrs", attrs)


def _no_result(m: Module) -> None:
    m.add(Function("k", [], [], [], [], []))
    m["f"].instructions.append(Instruction(OPS["fused"], (), {"kernel": Symbol("k")}, []))


def _symbol_for_a_string(m: Module) -> None:
    f = m["f"]
    f.arguments.append(Value(key[()], "key"))
    f.roles.append("input")
    f.instructions.append(Instruction(OPS["fold_in"], (f.arguments[-1],), {"site": Symbol("nope")}, [key[()]]))


def _long_list(m: Module) -> None:
    attrs = {"shape": (9,) * 300}
    m["f"].instructions.append(Instruction(OPS["reshape"], (m["f"].arguments[0],), attrs, [f32[4]]))


def _constant(literal: Literal) -> Callable[[Module], object]:
    made = Instruction(OPS["constant"], (), {"value": literal}, [literal.type])
    return lambda m: m["f"].instructions.append(made)


def _place(place: Place) -> Callable[[Module], object]:
    return lambda m: setattr(m["f"].arguments[0], "place", place)


def _function_attr(name: str, value: Any) -> Callable[[Module], object]:
    return lambda m: m["f"].attrs.update({name: value})


UNTELLABLE: dict[str, tuple[Callable[[Module], object], str]] = {
    "the order of attributes": (_edit_attrs(0, keepdims=False, axes=(0,)), "complete and in the op's form"),
    "an integer for a float": (_edit_attrs(1, rank=1, eps=1), "complete and in the op's form"),
    "a NumPy float": (_edit_attrs(1, rank=1, eps=np.float64(1.0)), "complete and in the op's form"),
    "a symbol for a string": (_symbol_for_a_string, "attribute site is a string, not a symbol"),
    "a list without end": (_long_list, "attribute shape has up to 128 numbers"),
    "no result": (_no_result, "fused has 0 results, not 0"),
    "an instruction twice": (
        lambda m: m["f"].instructions.append(m["f"].instructions[0]),
        "%?: f32[] is defined once",
    ),
    "a constant key": (_constant(Literal.splat(0, key[()])), "there are no constant keys"),
    "a long integer": (_edit_attrs(1, rank=1 << 64, eps=1.0), "is outside 64 bits"),
    "a shape of many axes": (
        lambda m: setattr(m["f"].arguments[0], "type", TensorType(f32, (1,) * 33)),
        "possible type",
    ),
    "a huge shape": (lambda m: setattr(m["f"].arguments[0], "type", i64[0, 1 << 41]), "not a possible type"),
    "another name": (lambda m: setattr(m["f"], "name", "g"), "the module has function @g under the name @f"),
    "an unknown place": (_place(Place("stack", 8)), "the place of %x: f32[4] is arena+offset"),
    "a negative place": (_place(Place("arena", -8)), "the place of %x: f32[4] is arena+offset"),
    "an alias of nothing": (_place(Place("alias")), "the place of %x: f32[4] is arena+offset"),
    "a nested list": (_function_attr("a", ((1,),)), "attribute a is a number of 64 bits, a bool"),
    "an array": (_function_attr("a", np.ones(3)), "attribute a is a number of 64 bits, a bool"),
    "a literal": (_function_attr("a", Literal.splat(1, f32[3])), "attribute a is a number of 64 bits, a bool"),
    "a long number": (_function_attr("a", 1 << 64), "attribute a is a number of 64 bits, a bool"),
    "a name of two words": (_function_attr("a b", 1), 'attribute "a b" has a word for a name'),
    "a long name": (_function_attr("a" * 257, 1), "has a word for a name"),
}


@pytest.mark.parametrize(("edit", "rule"), UNTELLABLE.values(), ids=UNTELLABLE.keys())
def test_what_text_cannot_hold_does_not_verify(edit: Callable[[Module], object], rule: str) -> None:
    module = _module()
    edit(module)
    with pytest.raises(VerifyError) as caught:
        module.verify()
    assert rule in str(caught.value)


def test_two_names_of_one_text_get_two_names() -> None:
    # A surrogate pair and its character are two strings in Python, and one in JSON.
    module = _module()
    f = module["f"]
    f.arguments.append(Value(f32[4], "\ud83d\ude00"))
    f.arguments.append(Value(f32[4], "\U0001f600"))
    f.roles += ["input", "input"]
    check_lossless(module.verify())


def test_numbers_of_numpy_print_as_numbers() -> None:
    module = _module()
    module["f"].attrs["a"] = np.float64(0.1)
    module["f"].attrs["b"] = np.float64("nan")
    assert "with {a = 0.1, b = nan} {" in str(module.verify())
    check_same(parse(str(module))["f"], parse(str(module.clone()))["f"])


def test_a_location_line_is_any_integer() -> None:
    module = _module()
    module["f"].instructions[0].location = (Location("a.py", 1 << 80), Location("", -1))
    text = print_module(module, locations=True)
    assert parse(text)["f"].instructions[0].location == module["f"].instructions[0].location
