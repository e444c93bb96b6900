"""Mistakes planted in the compiler, for the tests of what finds them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tapeir.backends import kernels
from tapeir.backends.compiled.numpy_writer import Writer
from tapeir.ir import GraphBuilder, Module, Value
from tapeir.ir.build import Builder
from tapeir.ir.types import f32, i32, i64
from tapeir.passes.rewrite import Rewrite


class TanhIsExpm1(Rewrite):
    """tanh(x) is expm1(x), which is wrong."""

    def before(self, build: Any, x: Any) -> Any:
        return build.tanh(x)

    def after(self, build: Any, x: Value) -> Value:
        return build.expm1(x)


class AddAgain(Rewrite):
    """(x + y) + z is x + (y + z), which rounds in another order."""

    def before(self, build: Any, x: Any, y: Any, z: Any) -> Any:
        return build.add(build.add(x, y), z)

    def after(self, build: Any, x: Value, y: Value, z: Value) -> Value:
        return build.add(x, build.add(y, z))


def plant(monkeypatch: pytest.MonkeyPatch, rule: Rewrite) -> None:
    """Add a rule to those of ``canonicalize``."""
    module = sys.modules["tapeir.passes.canonicalize"]
    monkeypatch.setattr(module, "RULES", (*vars(module)["RULES"], rule))


def wrong_primitive(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the code of a scalar primitive 64 units off in compiled programs; the tape keeps the right one."""
    monkeypatch.setenv("TAPEIR_CACHE", "off")
    if kernels.table().name == "native":
        from tapeir.backends.native import nest_positions

        builder: Any = vars(nest_positions)["_Builder"]
        emit = builder.emit

        def off(self: Any, primitive: str, arguments: Any, dtype: Any) -> Any:
            made = emit(self, primitive, arguments, dtype)
            if primitive != name:
                return made
            integer = i32 if dtype is f32 else i64
            return self.bits(self.add(self.bits(made, integer), self.constant(64, integer)), dtype)

        monkeypatch.setattr(builder, "emit", off)
        return
    call = Writer._call  # pyright: ignore[reportPrivateUsage]

    def nudge(out: Any) -> None:
        np.multiply(out, 1 + 64 * np.finfo(out.dtype).eps, out=out)

    def off_call(self: Any, p: Any, out: Any, shape: Any, pool: Any) -> None:
        call(self, p, out, shape, pool)
        if p.name == name:
            self.calls["nudge"] = nudge
            self.line(f"nudge({self.var(out)})")

    monkeypatch.setattr(Writer, "_call", off_call)


def chain(*names: str) -> Module:
    """``@main`` of one argument: the named unary ops one after the other, with a sum of everything at the end."""
    recorder = GraphBuilder()
    recorder.at = ()
    build = Builder(recorder)
    x = recorder.argument(f32[4, 8], "x")
    values = [x]
    for name in names:
        values.append(getattr(build, name)(values[-1]))
    total = values[0]
    for v in values[1:]:
        total = build.add(total, v)
    result = build.sum(total, axes=(0, 1))
    return Module("chain", [recorder.function("main", [(x, "input")], [(result, None)])])
