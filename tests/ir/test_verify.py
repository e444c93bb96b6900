"""The verifier: every rule has a case that breaks it and asserts the message."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tapeir.ir import OPS, Function, Location, Mark, Module, Value, VerifyError, parse
from tapeir.ir.graph import Instruction, Symbol
from tapeir.ir.literal import Literal
from tapeir.ir.types import f32, f64, i64
from tapeir.ir.verify import verify_function

VALID = """
module @m {
  func @k(%0: f32[4]) -> (f32[4], f32[4]) {
    %1 = neg %0 : f32[4]
    return %1, %0
  }
  func @f(%x: f32[4] input, %w: f32[4] param) -> (f32[4], f32[4] update(%w)) {
    %0 = add %x, %w : f32[4] loc("model.py":7 in "layers.0")
    %1, %2 = fused %0 {kernel = @k} : f32[4], f32[4]
    %3 = sum %1 {axes = [0], keepdims = false} : f32[]
    %4 = broadcast_to %3 {shape = [4]} : f32[4]
    %5 = constant {value = 2.0} : f32[4]
    %6 = mul %2, %5 : f32[4]
    return %4, %6
  }
}
"""

Edit = Callable[[Module, Function], object]


def _swap(m: Module, f: Function) -> None:
    f.instructions[0], f.instructions[1] = f.instructions[1], f.instructions[0]


def _operand(m: Module, f: Function, *operands: Value) -> None:
    f.instructions[0].operands = operands


def _attrs(number: int, **attrs: object) -> Edit:
    def edit(m: Module, f: Function) -> None:
        f.instructions[number].attrs = attrs

    return edit


def _results(number: int, *values: Value) -> Edit:
    def edit(m: Module, f: Function) -> None:
        f.instructions[number].results = values

    return edit


def _twice(m: Module, f: Function) -> None:
    made = f.instructions[1]
    made.results = (made.results[0], made.results[0])


def _recurse(m: Module, f: Function) -> None:
    k = m["k"]
    made = Instruction(OPS["fused"], (k.arguments[0],), {"kernel": Symbol("k")}, [f32[4], f32[4]])
    k.instructions.append(made)


def _recurse_far(m: Module, f: Function) -> None:
    x = Value(f32[4])
    call = Instruction(OPS["fused"], (x,), {"kernel": Symbol("k")}, [f32[4], f32[4]])
    m.add(Function("g", [x], [None], [call], [x, x], [None, None]))
    k = m["k"]
    k.instructions.append(Instruction(OPS["fused"], (k.arguments[0],), {"kernel": Symbol("g")}, [f32[4], f32[4]]))


def _drop_argument(m: Module, f: Function) -> None:
    del f.arguments[1], f.roles[1]


def _foreign_constant(m: Module, f: Function) -> None:
    f.instructions[4].attrs = {"value": Literal.splat(1.0, f32[5])}


CASES: list[tuple[str, Edit, str]] = [
    ("use before definition", _swap, "in @f, fused number 0: operand %?: f32[4] is defined before it is used"),
    (
        "foreign operand",
        lambda m, f: _operand(m, f, f.arguments[0], m["k"].arguments[0]),
        "add number 0: operand %?: f32[4] is",
    ),
    ("removed argument", _drop_argument, "in @f, add number 0: operand %w: f32[4] is defined before it is used"),
    ("too few operands", lambda m, f: _operand(m, f, f.arguments[0]), "add number 0: add takes 2 operands, not 1"),
    (
        "operand shape",
        lambda m, f: setattr(f.arguments[0], "type", f32[5]),
        "add of f32[5] and f32[4]\n  rule: operands have one shape",
    ),
    (
        "operand dtype",
        lambda m, f: setattr(f.arguments[0], "type", f64[4]),
        "add of f64[4] and f32[4]\n  rule: operands have one dtype",
    ),
    (
        "result type",
        lambda m, f: setattr(f.instructions[0].result, "type", f32[5]),
        "add number 0: the result type is f32[4], not f32[5]",
    ),
    (
        "result dtype",
        lambda m, f: setattr(f.instructions[0].result, "type", i64[4]),
        "the result type is f32[4], not i64[4]",
    ),
    ("result of a constant", _foreign_constant, "constant number 4: the result type is f32[5], not f32[4]"),
    ("missing result", _results(1), "fused number 1: fused has 2 results, not 0"),
    ("too many results", _results(0, Value(f32[4]), Value(f32[4])), "add number 0: add has 1 results, not 2"),
    ("one value for two results", _twice, "fused number 1: results are distinct values"),
    (
        "attribute value",
        _attrs(2, axes=(1,), keepdims=False),
        "sum number 2: sum over axes [1] of f32[4]\n  rule: axes are increasing",
    ),
    ("missing attribute", _attrs(2, keepdims=False), "sum number 2: attributes fit the op ("),
    ("ill-typed attribute", _attrs(3, shape=4), "broadcast_to number 3: attributes fit the op ("),
    ("unknown symbol", _attrs(1, kernel=Symbol("g")), "fused number 1: kernel = 'g' names a function of the module"),
    (
        "string for a symbol",
        _attrs(1, kernel="k"),
        "fused number 1: attributes fit the op (op fused, attribute 'kernel': 'k' is not symbol)",
    ),
    ("missing symbol", _attrs(1), "fused number 1: attributes fit the op (op fused needs attribute 'kernel' (symbol))"),
    (
        "kernel operands",
        lambda m, f: setattr(m["k"].arguments[0], "type", f32[5]),
        "neg number 0: the result type is f32[5]",
    ),
    ("removed kernel", lambda m, f: m.functions.pop("k"), "kernel = 'k' names a function of the module"),
    ("recursion", _recurse, "function @k reaches itself through its kernels\n  rule: functions do not recurse"),
    ("recursion by way of another", _recurse_far, "reaches itself through its kernels"),
    (
        "bad role",
        lambda m, f: f.roles.__setitem__(0, "weight"),
        "in @f: role 'weight' is one of input, param, buffer, optimizer",
    ),
    ("missing role", lambda m, f: f.roles.pop(), "in @f: every argument has a role and every result a mark, or None"),
    ("missing mark", lambda m, f: f.marks.pop(), "in @f: every argument has a role and every result a mark, or None"),
    ("duplicate argument", lambda m, f: f.arguments.__setitem__(1, f.arguments[0]), "in @f: an argument appears once"),
    (
        "undefined result",
        lambda m, f: f.results.__setitem__(0, Value(f32[4], "y")),
        "in @f: result %y: f32[4] is defined",
    ),
    (
        "unknown mark",
        lambda m, f: f.marks.__setitem__(0, Mark("loss", f.arguments[0])),
        "a mark is grad or update of an argument",
    ),
    (
        "mark of a result",
        lambda m, f: f.marks.__setitem__(0, Mark("grad", f.results[0])),
        "a mark is grad or update of an argument",
    ),
    (
        "mark of another type",
        lambda m, f: f.results.__setitem__(1, f.instructions[2].result),
        "update of a f32[4] has its type, not f32[]",
    ),
]


def test_the_valid_module_is_valid() -> None:
    module = parse(VALID)
    assert module.verify() is module


@pytest.mark.parametrize(("edit", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_rules(edit: Edit, message: str) -> None:
    module = parse(VALID).verify()
    edit(module, module["f"])
    with pytest.raises(VerifyError) as caught:
        module.verify()
    assert message in caught.value.message


def test_an_error_has_the_line_of_its_instruction() -> None:
    module = parse(VALID)
    module["f"].instructions[0].result.type = f32[5]
    with pytest.raises(VerifyError) as caught:
        module.verify()
    assert caught.value.locations == (Location("model.py", 7, "layers.0"),)
    assert 'made at model.py:7 in "layers.0"\n' in str(caught.value)


def test_a_wrong_kernel_call_is_an_error_of_the_caller() -> None:
    text = VALID.replace("%1, %2 = fused %0 {kernel = @k}", "%1, %2 = fused %0, %x {kernel = @k}")
    with pytest.raises(
        VerifyError, match=r"in @f, fused number 1: fused @k takes \(f32\[4\]\), not \(f32\[4\], f32\[4\]\)"
    ):
        parse(text).verify()


def test_shared_kernels_are_no_recursion() -> None:
    call = "%1 = fused %0 {{kernel = @{}}} : f32[4]"
    function = "func @{}(%0: f32[4]) -> (f32[4]) {{ {} return {} }}"
    parse(
        "module @m { "
        + function.format("a", call.format("b") + " %2 = fused %1 {kernel = @c} : f32[4]", "%2")
        + function.format("b", call.format("c"), "%1")
        + function.format("c", "", "%0")
        + "}"
    ).verify()


def test_a_function_alone_has_no_kernels() -> None:
    module = parse(VALID)
    verify_function(module["k"])
    with pytest.raises(VerifyError, match="names a function of the module"):
        verify_function(module["f"])


def test_a_value_made_by_two_instructions_is_an_error() -> None:
    module = parse(VALID)
    f = module["f"]
    f.instructions[5].results = f.instructions[0].results
    with pytest.raises(VerifyError):
        module.verify()


def test_a_foreign_attribute_is_an_error() -> None:
    module = parse(VALID)
    module["f"].instructions[0].attrs = {"axis": 1}
    with pytest.raises(VerifyError, match="attributes fit the op"):
        module.verify()


def test_two_updates_of_one_argument_are_an_error() -> None:
    text = VALID.replace("(f32[4], f32[4] update(%w))", "(f32[4] update(%w), f32[4] update(%w))")
    with pytest.raises(VerifyError):
        parse(text).verify()


def test_an_update_of_an_input_is_an_error() -> None:
    with pytest.raises(VerifyError):
        parse(VALID.replace("update(%w)", "update(%x)")).verify()


def test_an_alias_of_itself_is_an_error() -> None:
    module = parse(VALID.replace("%6 = mul %2, %5 : f32[4]", "%6 = mul %2, %5 : f32[4] at alias(%6)"))
    with pytest.raises(VerifyError):
        module.verify()


ONE_STATE = "module @m { func @main(%x: f32[2] input, ARGUMENT) -> (f32[2]) { return %x } }"


@pytest.mark.parametrize("role", ["param", "buffer", "optimizer"])
@pytest.mark.parametrize("name", ["0", '""'])
def test_state_without_a_name_is_an_error_at_the_argument(role: str, name: str) -> None:
    text = ONE_STATE.replace("ARGUMENT", f"%{name}: f32[2] {role}")
    with pytest.raises(VerifyError) as caught:
        parse(text).verify()
    assert caught.value.message == (
        f"in @main: {role} number 1 has no name\n"
        "  rule: parameters, buffers and optimizer state have names, each its own\n"
        "  remedy: name the argument, as in %weight: f32[2] param"
    )
    assert f":1:{text.index('%' + name) + 1}:" in str(caught.value)


def test_two_states_of_one_name_are_an_error() -> None:
    module = parse(ONE_STATE.replace("ARGUMENT", "%w: f32[2] param, %v: f32[2] buffer")).verify()
    module["main"].arguments[2].name = "w"
    with pytest.raises(
        VerifyError, match="in @main: another argument has the name of buffer 'w'\n  rule: parameters, buff"
    ):
        module.verify()


def test_state_may_be_called_by_digits_in_quotes_and_inputs_by_nothing() -> None:
    text = ONE_STATE.replace("ARGUMENT", '%"0": f32[2] param, %"": f32[2] input, %1: f32[2] input')
    module = parse(text).verify()
    assert list(module["main"].state_types()) == ["0"]
    assert parse(str(module)) == module
