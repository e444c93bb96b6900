"""Ops, rules and backends from outside: what they get wrong is said, and nothing of theirs is taken from a cache."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir.backends import base, kernels
from tapeir.backends.base import Executable, compile_module, get
from tapeir.backends.compiled import program_text
from tapeir.ir import OPS, Builder, GraphBuilder, Module, Value, forward, reverse
from tapeir.ir.errors import IRError, VerifyError
from tapeir.ir.op import Absent, Check, Elementwise
from tapeir.ir.types import DType, bf16, f16, f32, f64
from tapeir.passes import PASSES, Context, Pass, PassManager
from tapeir.passes.manager import per_function
from tapeir.passes.rewrite import sweep
from tapeir.runtime.compare import compare


@pytest.fixture
def own() -> Iterator[None]:
    """Ops of the block are forgotten behind it."""
    before = dict(OPS)
    yield
    for name in set(OPS) - set(before):
        del OPS[name]
        delattr(Builder, name)


def one_op(name: str) -> Module:
    recorder = GraphBuilder()
    x = recorder.argument(f32[4], "x")
    y = getattr(Builder(recorder), name)(x)
    return Module("m", [recorder.function("main", [(x, "input")], [(y, None)])])


def widening() -> None:
    class Widen(Elementwise):
        """``y = x``, which is said to keep the dtype."""

        name = "widen"
        arity = 1
        rounding = "pinned"

        def eval(self, xp: Any, x: Any) -> Any:
            return x

        def scalar(self, s: Any, x: Any) -> Any:
            return s.convert(x, f64)

        vjp = Absent("it is a step")

    assert Widen.name in OPS


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_a_rule_that_makes_another_dtype(own: None, backend: str) -> None:
    widening()
    with pytest.raises(TypeError, match="widen: its rule scalar gives f64, and infer says f32"):
        compile_module(get(backend), one_op("widen"), "main", "cpu").run([np.ones(4, np.float32)])


class TooLargeError(IRError):
    """What ``square_plus`` raises."""


def below_a_billion(s: Any, x: Any, types: Any, attrs: Any) -> Any:
    """Whether the square of ``x`` is."""
    return s.compare("lt", s.mul(x, x), s.like(x, 1e9))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_a_rule_of_several_steps_is_rounded_once_in_16_bits(own: None, table: str, dtype: DType) -> None:
    class SquarePlus(Elementwise):
        """``y = x * x + 1``."""

        name = "square_plus"
        arity = 1
        rounding = "correct"
        check = Check(
            0, below_a_billion, TooLargeError,
            lambda bad, types, attrs: f"{bad} is too large",
        )  # fmt: skip

        def eval(self, xp: Any, x: Any) -> Any:
            return x * x + x.dtype.type(1)

        def scalar(self, s: Any, x: Any) -> Any:
            return s.add(s.mul(x, x), s.like(x, 1))

        vjp = Absent("it is a step")

    recorder = GraphBuilder()
    x = recorder.argument(dtype[77], "x")
    y = getattr(Builder(recorder), SquarePlus.name)(x)
    module = Module("m", [recorder.function("main", [(x, "input")], [(y, None)])])
    given = np.linspace(-200, 200, 77).astype(dtype.numpy)
    wide = given.astype(np.float32)
    wanted = (wide * wide + np.float32(1)).astype(dtype.numpy)
    programs = [compile_module(get(name), module, "main", "cpu") for name in ("eager", "compiled")]
    for program in programs:
        assert program.run([given])[0].view(np.uint16).tolist() == wanted.view(np.uint16).tolist()
        with pytest.raises(TooLargeError, match="is too large"):
            program.run([np.full(77, 4e4, dtype.numpy)])  # float16 holds neither its square nor the limit


def test_an_op_without_a_derivative_has_none_forward(own: None) -> None:
    widening()
    recorder = GraphBuilder()
    x = recorder.argument(f32[4], "x")
    y = Builder(recorder).widen(x)
    with pytest.raises(tp.TraceError, match="widen has no jvp: it is a step"):
        forward(recorder, list(recorder.instructions), [y], [x], [x])


def test_a_cotangent_of_another_type(own: None) -> None:
    class Total(Elementwise):
        """``y = x`` with a wrong derivative."""

        name = "wrongly_derived"
        arity = 1
        rounding = "correct"

        def eval(self, xp: Any, x: Any) -> Any:
            return x

        def scalar(self, s: Any, x: Any) -> Any:
            return x

        def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Any:
            return (lambda: build.sum(dy, axes=(0,)),)

    assert Total.name in OPS
    recorder = GraphBuilder()
    x = recorder.argument(f32[4], "x")
    y = Builder(recorder).wrongly_derived(x)
    with pytest.raises(tp.ShapeError, match=r"vjp of wrongly_derived gives f32\[\] for its operand f32\[4\]"):
        reverse(recorder, list(recorder.instructions), [y], [y], [x])


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        ("my-op", "the text holds names of letters"),
        ("é", "the text holds"),
        ("", "the text holds"),
        ("splat", "is something else"),
    ],
)
def test_a_name_that_an_op_cannot_have(taken: str, words: str) -> None:
    rules = {"__doc__": "``y = x``.", "name": taken, "arity": 1, "rounding": "correct", "vjp": Absent("none")}
    methods: dict[str, Any] = {"eval": lambda self, xp, x: x, "scalar": lambda self, s, x: x}
    before = dict(OPS)
    with pytest.raises(TypeError, match=words):
        type("Named", (Elementwise,), {**rules, **methods})
    assert before == OPS


def test_operands_are_values_and_numbers() -> None:
    recorder = GraphBuilder()
    build, x = Builder(recorder), recorder.argument(f32[4], "x")
    with pytest.raises(TypeError, match="mul: None is neither a value nor a number"):
        build.mul(x, None)
    with pytest.raises(TypeError, match="add: none of its operands is a value"):
        build.add(1.0, 2.0)


def test_a_rewrite_that_changes_a_type() -> None:
    def shrink(function: Any, context: Context) -> bool:
        """relu becomes a sum."""
        return sweep(function, lambda b, i: [b.sum(i.operands[0], axes=(0,))] if i.op.name == "relu" else None, context)

    with pytest.raises(VerifyError, match=r"a rewrite of relu gives f32\[\] in place of f32\[4\]"):
        PassManager({"shrink": Pass("shrink", per_function(shrink))}).run(one_op("relu"), ["shrink"])


@pytest.mark.skipif(kernels.table().name != "native", reason="only native programs are cached")
def test_programs_that_foreign_code_makes_are_not_cached(own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapeir.backends.compiled.llvm_program import program_key

    module = one_op("relu")
    assert program_key(module, module["main"], "", False) is not None

    def nothing(function: Any, context: Context) -> bool:
        """Nothing."""
        return False

    monkeypatch.setitem(PASSES, "dce", Pass("dce", per_function(nothing)))
    assert program_key(module, module["main"], "", False) is None
    monkeypatch.undo()
    widening()
    module = one_op("widen")
    assert program_key(module, module["main"], "", False) is None


class Silent:
    """A backend whose programs give nothing."""

    name = "silent"

    def unavailable(self, device: str) -> str | None:
        return None

    def supports(self, op: Any, device: str) -> bool:
        return True

    def compile(self, func: Any, *, device: str, options: Mapping[str, Any]) -> Executable:
        class Program(Executable):
            def run(self, arrays: Any) -> Any:
                return None

        made = Program(func)
        made.source = "nothing"
        return made

    def cache_key(self) -> str:
        return "silent"


def test_a_backend_that_gives_nothing_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base._REGISTERED, "silent", Silent())  # pyright: ignore[reportPrivateUsage]
    found = compare(one_op("relu"), "main", [np.ones(4, np.float32)], backend="silent")
    assert (found.grade, found.errors) == ("real", (None, "silent gave no results"))
    assert program_text(one_op("relu"), "main", "cpu", backend="silent") == "nothing"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("missing", "no_such_module:Backend", "cannot be loaded: No module named 'no_such_module'"),
        ("incomplete", "builtins:dict", "does not follow the Backend protocol"),
        ("othername", f"{__name__}:Silent", "does not follow the Backend protocol: name = 'othername'"),
    ],
)
def test_a_broken_plugin_is_a_line_of_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, words: str
) -> None:
    from tapeir.runtime.commands.listings import list_backends

    plugin = EntryPoint(name, value, base.GROUP)
    monkeypatch.setattr(base, "entry_points", lambda group: [plugin])
    with pytest.raises(tp.BackendError, match=words):
        get(name)
    list_backends()
    out = capsys.readouterr().out
    assert words in out
    assert "compiled" in out
