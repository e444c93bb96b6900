"""``irc profile``: every kernel is timed, with its ops, lines and work, beside the program in one call."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import MODEL, fill
from typer.testing import CliRunner

from tapeir.backends import Executable, base
from tapeir.backends.eager import EagerBackend
from tapeir.backends.eager.interpret import Interpreter
from tapeir.cli import app
from tapeir.ir import Function, Location, Module, parse
from tapeir.ir.types import Array
from tapeir.runtime import profile as profiling
from tapeir.runtime.commands.modules import Given, ModelIR
from tapeir.runtime.commands.profile import ops_text, places, places_in

TEXT = """\
module @m {
  func @main(
    %x: f32[8, 16] input,
    %w: f32[16, 4] param,
    %t: f32[10, 4] input,
    %n: i64[3] input
  ) -> (f32[8, 4], f32[3, 4]) {
    %0 = matmul %x, %w : f32[8, 4]
    %1 = exp %0 : f32[8, 4]
    %2 = take %t, %n {axis = 0} : f32[3, 4]
    return %1, %2
  }
}
"""
LINE = next(n for n, line in enumerate(MODEL.split("\n"), 1) if "nn.ReLU()" in line)


def _costs_nothing(*given: object) -> float:
    return 0.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(fill(tmp_path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(profiling, "MOST", 6)
    # On a busy machine timing itself may take longer than a small kernel, whose time and rate would be 0.
    monkeypatch.setattr(profiling, "_cost_of_timing", _costs_nothing)
    (tmp_path / "text.ir").write_text(TEXT)
    return tmp_path


def irc(*arguments: str, code: int = 0) -> str:
    done: Any = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def given_arrays() -> list[Array]:
    f = np.float32
    return [np.ones((8, 16), f), np.ones((16, 4), f), np.ones((10, 4), f), np.array([1, 2, 2])]


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_work_is_counted(table: str, backend: str) -> None:
    found = profiling.profile(parse(TEXT), "main", given_arrays(), backend=backend, seconds=0.01)
    assert found.apart
    assert found.rounds >= profiling.FEWEST
    assert [k.seconds for k in found.kernels] == sorted((k.seconds for k in found.kernels), reverse=True)
    by_op = {k.ops: k for k in found.kernels}
    product = by_op[("matmul",)]
    assert product.flops == 2 * 8 * 16 * 4
    assert product.bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert by_op[("exp",)].bytes == 4 * 2 * 8 * 4
    assert by_op[("exp",)].flops == 0
    assert by_op[("take",)].bytes == 4 * 2 * 3 * 4 + 8 * 3, "of what a gather chooses from, as much as it takes"
    assert found.total == sum(k.seconds for k in found.kernels)
    assert found.program > 0
    assert found.call is None


@pytest.mark.parametrize("entry", [("train_step", "train"), ("loss", "eval"), ("forward", "train")])
@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_every_op_of_a_model_is_in_a_kernel(folder: Path, table: str, backend: str, entry: tuple[str, str]) -> None:
    model = ModelIR(folder / "tiny.py", Given({}))
    module = model.module([entry], "traced")
    name = next(iter(module)).name
    calls: list[int] = []
    arrays = model.arrays(module, *entry)
    found = profiling.profile(module, name, arrays, backend=backend, call=lambda: calls.append(1), seconds=0.01)
    assert any(k.flops for k in found.kernels)
    places = [p for k in found.kernels for p in k.locations]
    assert {(Path(p.file).name, p.line) for p in places} >= {("tiny.py", LINE)}
    assert found.call is not None
    assert len(calls) >= profiling.WARM_UP + profiling.FEWEST
    if backend == "compiled":
        assert all(k.seconds > 0 for k in found.kernels)


def test_profiling_leaves_no_trace(folder: Path) -> None:
    model = ModelIR(folder / "tiny.py", Given({}))
    module = model.module([("train_step", "train")], "traced")
    arrays = model.arrays(module, "train_step", "train")
    before = [a.copy() for a in arrays]
    profiling.profile(module, "train_step", arrays, seconds=0.01)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


class InOnePiece:
    """A backend whose program cannot be taken apart."""

    name = "one-piece"

    def unavailable(self, device: str) -> str | None:
        return None

    def supports(self, op: Any, device: str) -> bool:
        return True

    def compile(self, func: Function, *, device: str, options: Mapping[str, Any]) -> Executable:
        inner = EagerBackend().compile(func, device=device, options=options)

        class Whole(Executable):
            def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
                return inner.run(arrays)

        assert isinstance(inner, Interpreter)
        return Whole(func)

    def cache_key(self) -> str:
        return self.name


def test_a_program_in_one_piece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_REGISTERED", {"one-piece": InOnePiece()})
    found = profiling.profile(parse(TEXT), "main", given_arrays(), backend="one-piece", seconds=0.01)
    assert (found.apart, found.kernels, found.total) == (False, (), 0)
    head, note, whole = irc("profile", "text.ir", "--backend", "one-piece").splitlines()
    assert head == "text: @main, backend one-piece, 0 kernels"
    assert note == "backend one-piece gives its program in one piece: there are no kernels to time"
    assert whole.startswith("program in one call ")


# The command


@pytest.mark.parametrize(
    "flags", [["--backend", "compiled"], ["--backend", "eager"], ["--entry", "loss", "--mode", "eval"]]
)
def test_the_table(folder: Path, table: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tapeir.runtime.commands.profile"], "ROWS", 1000)
    head, columns, *rows = irc("profile", "tiny.py", *flags).splitlines()
    backend = flags[1] if flags[0] == "--backend" else "compiled"
    function = "loss_eval" if "loss" in flags else "train_step"
    assert head.startswith(f"tiny: @{function}, backend {backend}, ")
    assert head.endswith(" rounds")
    assert columns.split() == ["share", "us", "rate", "kernel", "ops", "what", "where"]
    assert any(f'tiny.py:{LINE} "0"' in row and "GFLOP/s" in row and "matmul" in row for row in rows)
    assert any(" GB/s " in row for row in rows)
    assert rows[-3].startswith("kernels, one by one ")
    assert rows[-2].startswith("program in one call ")
    assert rows[-1].startswith("as Runtime is called ")
    assert rows[-1].endswith(" us of Python around the program")
    assert max(map(len, [head, columns, *rows])) <= 100


def test_many_rows_are_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tapeir.runtime.commands.profile"], "ROWS", 2)
    text = irc("profile", "tiny.py", "--backend", "eager").splitlines()
    assert text[4].endswith(" more (--json lists all)")


def test_json(folder: Path) -> None:
    found = json.loads(irc("profile", "tiny.py", "--json"))
    assert (found["function"], found["backend"]) == ("train_step", "compiled")
    assert found["kernels_seconds"] == pytest.approx(sum(k["seconds"] for k in found["kernels"]))
    assert found["program_seconds"] > 0
    assert found["call_seconds"] > 0
    product = next(k for k in found["kernels"] if k["ops"] == ["matmul"])
    assert product["flops"] in (2 * 8 * 4 * 8, 2 * 8 * 8 * 3)
    assert product["where"][0].startswith(f"tiny.py:{LINE} ")
    assert sum(k["share"] for k in found["kernels"]) == pytest.approx(1)


def test_text(folder: Path) -> None:
    rows = irc("profile", "text.ir").splitlines()
    assert rows[0].startswith("text: @main, backend compiled, 3 kernels, ")
    assert any("matmul" in row and "text.ir:8" in row for row in rows)
    assert rows[-1].startswith("program in one call ")


def test_wrong_usage(folder: Path) -> None:
    assert "use --mode train" in irc("profile", "tiny.py", "--mode", "eval", code=2)
    assert "--entry nope" in irc("profile", "tiny.py", "--entry", "nope", code=2)
    assert "is not a file" in irc("profile", "none.py", code=2)


def test_ops_and_places_that_fit() -> None:
    assert ops_text(["mul", "add", "mul"], 20) == "2 mul, add"
    assert ops_text(["mul", "add", "mul", "exp", "sqrt"], 12) == "2 mul, +3"
    assert ops_text(["a_very_long_name", "b"], 4) == "a_very_long_name, +1"
    listed = [
        Location("/m/a.py", 3, "0"),
        Location("/m/a.py", 3, "0"),
        Location("/m/b/c.py", 4),
        Location("/x/d.py", 5),
    ]
    assert places(listed, "/m") == ['a.py:3 "0"', "b/c.py:4", "/x/d.py:5"]
    assert places_in(listed, "/m", 100) == 'a.py:3 "0", b/c.py:4, /x/d.py:5'
    assert places_in(listed, "/m", 20) == 'a.py:3 "0", +2'
    assert places_in((), "/m", 20) == ""


def test_modules_are_left_alone() -> None:
    module: Module = parse(TEXT)
    before = str(module)
    profiling.profile(module, "main", given_arrays(), seconds=0.01)
    assert str(module) == before
