"""Texts that once crashed a backend, or ran on some of them only: each runs alike everywhere or is refused by verify."""

from __future__ import annotations

import pytest
from hostile_run import check

from tapeir.ir import IRError, parse

LARGEST_INT, LARGEST_UNSIGNED = (1 << 63) - 1, (1 << 64) - 1


def _main(arguments: str, results: str, body: str, more: str = "") -> str:
    return f"module @m {{ func @main({arguments}) -> ({results}) {more} {{ {body} }} }}"


def _kernel(types: str, result: str, body: str, call: str = "%x", more: str = "") -> str:
    """A function that runs a kernel of its arguments."""
    arguments = ", ".join(f"{a} input" for a in types.split(";"))
    kernel = f"func @k({types.replace(';', ',')}) -> ({result}) {more} {{ {body} }}"
    values = ", ".join(f"%r{n}" for n in range(result.count("[")))
    body = f"{values} = fused {call} {{kernel = @k}} : {result} return {values}"
    return f"module @m {{ {kernel} func @main({arguments}) -> ({result}) {{ {body} }} }}"


SQUARE = "%x: f32[4, 4]"
RUN = {
    "a key that is updated": _main(
        "%k: key[] buffer",
        "f32[2], key[] update(%k)",
        '%0 = fold_in %k {site = "a"} : key[] %1 = uniform %k {shape = [2], dtype = f32} : f32[2] return %1, %0',
    ),
    "two keys that change places": _main(
        "%k: key[] buffer, %l: key[] buffer",
        "key[] update(%l), key[] update(%k)",
        "return %k, %l",
    ),
    "a kernel with argmax": _kernel(
        "%x: f32[4, 5]", "i64[4]", "%0 = argmax %x {axes = [1], keepdims = false} : i64[4] return %0"
    ),
    "a kernel with a product": _kernel(
        SQUARE, "f32[4, 4]", "%0 = matmul %x, %x {transpose_a = false, transpose_b = true} : f32[4, 4] return %0"
    ),
    "a kernel with a scatter": _kernel(
        "%x: f32[4];%i: i64[4]", "f32[4]", "%0 = scatter_add %x, %i {axis = 0, size = 4} : f32[4] return %0", "%x, %i"
    ),
    "a kernel with a key": _kernel("%k: key[]", "key[]", '%0 = fold_in %k {site = "a"} : key[] return %0', "%k"),
    "a kernel with two kinds of sums": _kernel(
        "%x: f32[4, 5]",
        "f32[4], f32[5]",
        "%0 = sum %x {axes = [1], keepdims = false} : f32[4] %1 = sum %x {axes = [0], keepdims = false} : f32[5] return %0, %1",
    ),
    "a kernel that is called an update and is none": _kernel(
        SQUARE,
        "f32[4, 4]",
        "%0 = matmul %x, %x {transpose_a = false, transpose_b = true} : f32[4, 4] return %0",
        more='with {class = "update"}',
    ),
    "a kernel of a class that there is not": _kernel(
        "%x: f32[4]", "f32[4]", "%0 = neg %x : f32[4] return %0", more="with {class = 3}"
    ),
    "a check of what a kernel computes": _kernel(
        "%x: i32[4]", "i32[4]", "%0 = sub %x, %x : i32[4] %1 = remainder %x, %0 : i32[4] return %1"
    ),
    "a kernel in a kernel": "module @m { func @j(%x: f32[4]) -> (f32[4]) { %0 = neg %x : f32[4] return %0 } "
    "func @k(%x: f32[4]) -> (f32[4]) { %0 = fused %x {kernel = @j} : f32[4] %1 = exp %0 : f32[4] return %1 } "
    "func @main(%x: f32[4] input) -> (f32[4]) { %0 = fused %x {kernel = @k} : f32[4] return %0 } }",
    "a step that does not fit a stride": _main(
        "%x: f32[4, 3] input",
        "f32[1, 3]",
        f"%0 = slice %x {{start = [0, 0], stop = [4, 3], step = [{LARGEST_UNSIGNED}, 1]}} : f32[1, 3] return %0",
    ),
    "padding between neighbours that are not there": _main(
        "%x: f32[1] input",
        "f32[4]",
        f"%0 = pad %x {{low = [3], high = [0], interior = [{LARGEST_INT}]}} : f32[4] return %0",
    ),
    "half a surrogate for a site": _main(
        "%k: key[] input", "key[]", '%0 = fold_in %k {site = "a\\ud800\\u0000"} : key[] return %0'
    ),
    "odd names": 'module @"a\\u0000" { func @"m\\ud800"(%"x\\u0000": f32[4] input, %"\\ud800": f32[4] param) '
    '-> (f32[4], f32[4] update(%"\\ud800")) { '
    '%"\\udfff" = exp %"x\\u0000" : f32[4] %"\\n" = neg %"\\ud800" : f32[4] return %"\\udfff", %"\\n" } }',
    "a function called @f": 'module @m { func @"@f"(%x: f32[4] input) -> (f32[4]) { %0 = exp %x : f32[4] return %0 } }',
    "a plan of nothing": _main(
        "", "", "return", f"with {{arena = {LARGEST_INT}, values = 1, bound = 2, alignment = 3}}"
    ),
    "an index into nothing": _main(
        "%x: u8[2, 0] input, %i: u16[1] input", "u8[2, 1]", "%0 = take %x, %i {axis = 1} : u8[2, 1] return %0"
    ),
    "a slot called param": _main(
        "%a: f32[3] param, %b: f32[3] param, %optimizer/param/a: f32[3] optimizer, %optimizer/param/b: f32[3] optimizer",
        "f32[3] update(%a), f32[3] update(%b), f32[3] update(%optimizer/param/a), f32[3] update(%optimizer/param/b)",
        "%0 = add %a, %optimizer/param/a : f32[3] %1 = add %b, %optimizer/param/b : f32[3] "
        "%2 = mul %a, %a : f32[3] %3 = mul %b, %b : f32[3] return %0, %1, %2, %3",
    ),
}
KEYS_RULE = "rule: up to 32 axes and 2**40 elements, and keys are scalars"
REFUSED = {
    "an array of keys": (_main("%k: key[4] input", "key[4]", "return %k"), KEYS_RULE),
    "a key as an array": (
        _main("%k: key[] input", "key[1]", "%0 = reshape %k {shape = [1]} : key[1] return %0"),
        KEYS_RULE,
    ),
    "a view of a key": (
        _main("%k: key[] input", "key[]", "%0 = permute_dims %k {axes = []} : key[] return %0"),
        "permute_dims does not take key\n  rule: the element type is floating or signed integer or unsigned integer or bool",
    ),
    "an attribute of 65 bits": (
        _main("%x: f32[4] input", "f32[4]", f"%0 = softmax %x {{axis = {1 << 64}}} : f32[4] return %0"),
        f"{1 << 64} is outside 64 bits",
    ),
    "an arena of a word": (
        _main("", "", "return", 'with {arena = "x"}'),
        "in @main: attribute arena is what plan counted, an integer of at least 0",
    ),
    "a negative alignment": (
        _main("", "", "return", "with {alignment = -1}"),
        "in @main: attribute alignment is what plan counted, an integer of at least 0",
    ),
    "kernels that run each other twice": (
        "module @m { func @k0(%x: f32[4]) -> (f32[4]) { %0 = neg %x : f32[4] return %0 } "
        + " ".join(
            f"func @k{n}(%x: f32[4]) -> (f32[4]) {{ %0 = fused %x {{kernel = @k{n - 1}}} : f32[4] "
            f"%1 = fused %0 {{kernel = @k{n - 1}}} : f32[4] return %1 }}"
            for n in range(1, 64)
        )
        + " }",
        "function @k21 runs 6291454 instructions\n  rule: a function and those that it runs have up to 4194304 instructions",
    ),
    "kernels too deep in each other": (
        "module @m { func @k0(%x: f32[4]) -> (f32[4]) { return %x } "
        + " ".join(
            f"func @k{n}(%x: f32[4]) -> (f32[4]) {{ %0 = fused %x {{kernel = @k{n - 1}}} : f32[4] return %0 }}"
            for n in range(1, 2000)
        )
        + " }",
        "function @k64 holds too many kernels in each other\n  rule: functions nest up to 64 deep",
    ),
}


@pytest.mark.parametrize("text", RUN.values(), ids=RUN.keys())
def test_it_runs_alike_everywhere(text: str) -> None:
    assert [check(text, seed) for seed in (0, 1)] == ["ran", "ran"]


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused(text: str, message: str) -> None:
    with pytest.raises(IRError) as caught:
        parse(text).verify()
    assert message in str(caught.value)
