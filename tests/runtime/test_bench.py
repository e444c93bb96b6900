"""``irc bench``, and the programs of other frameworks that it times: they compute what the interpreter computes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, MODEL, fails, fill, irc
from hypothesis import HealthCheck, given, settings
from program_strategies import Program, programs
from strategies import operand_types

from tapeir.backends.compiled import lower
from tapeir.backends.eager.interpret import run
from tapeir.ir import OPS, BackendError, Function, GraphBuilder, IRError, Module, parse
from tapeir.ir.op import Control, Op
from tapeir.ir.types import Array, bf16, f16, f32
from tapeir.runtime import bench as benching
from tapeir.runtime import peers
from tapeir.runtime.commands.bench import duration
from tapeir.runtime.commands.modules import Given, ModelIR

FRAMEWORKS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in peers.WRITERS
]


def near(a: Array, b: Array, places: int = 200) -> bool:
    """Whether two results are the same but for rounding, in units of the larger one's epsilon."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool((a == b).all())
    with np.errstate(all="ignore"):
        return bool(
            np.allclose(a, b, rtol=places * np.finfo(a.dtype).eps, atol=1e3 * np.finfo(a.dtype).eps, equal_nan=True)
        )


def translated(module: Module, name: str, framework: str, arrays: Any) -> tuple[Array, ...]:
    """The results of a function, taken to the optimized stage, in another framework."""
    function = lower(module, "optimized")[name]
    return peers.WRITERS[framework](function).peer().run(arrays)


def samples() -> Iterator[Any]:
    for name, op in OPS.items():
        if not isinstance(op, Control):
            yield pytest.param(op, id=name)


def written(function: Function, framework: str) -> tuple[peers.Peer | None, str]:
    """The program of a framework, or None and why there is none."""
    try:
        return peers.WRITERS[framework](function).peer(), ""
    except BackendError as error:
        return None, str(error)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("op", list(samples()))
def test_every_op_is_what_the_interpreter_gives(op: Op, framework: str) -> None:
    for sample in op.samples(np.random.default_rng(0)):
        types = operand_types(op, sample.operands)
        recorder = GraphBuilder()
        arguments = [recorder.argument(t, f"x{n}") for n, t in enumerate(types)]
        results = recorder.bind(op, tuple(arguments), op.attributes(sample.attrs))
        if any(v.type.dtype in (f16, bf16) for v in (*arguments, *results)):
            continue
        function = recorder.function("main", [(v, "input") for v in arguments], [(r, None) for r in results])
        arrays = [np.asarray(a) for a in sample.operands]
        try:
            wanted = run(function, arrays)
        except IRError:
            continue
        peer, refused = written(lower(Module("m", [function]), ["decompose"])["main"], framework)
        if peer is None:
            assert framework == "torch"
            assert "u64" in refused
            continue
        for got, expected in zip(peer.run(arrays), wanted, strict=True):
            assert near(np.asarray(got), np.asarray(expected)), (
                f"{types} {sample.attrs}\n{peer.source}\n{got} {expected}"
            )


@pytest.mark.parametrize("framework", FRAMEWORKS)
@settings(
    max_examples=int(os.environ.get("TAPEIR_FUZZ", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(program=programs())
def test_random_programs_are_translated(program: Program, framework: str) -> None:
    function = lower(program.module, "optimized")["main"]
    try:
        wanted = run(function, program.arrays, program.module)
    except IRError:
        return
    for got, expected in zip(translated(program.module, "main", framework, program.arrays), wanted, strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype


MODELS = {
    # With Adam the update of a bias before batch norm would be the sign of a rounding error.
    "dropout and batch norm": MODEL.replace("optim.Adam", "optim.SGD"),
    "attention": HEADER
    + """
from tapeir import ops
class Model(nn.Module):
    def __init__(self):
        self.tokens = nn.Embedding(7, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 7)
    def forward(self, x):
        h = self.norm(self.tokens(x))
        h = h + ops.scaled_dot_product_attention(h, h, h, is_causal=True)
        return ops.reshape(self.out(ops.gelu(h)), (-1, 7))
model = Model()
inputs = (np.arange(12).reshape(3, 4) % 7, np.arange(12) % 7)
config = tp.Trainer.Config(objective="cross_entropy", optimizer=tp.optim.AdamW(lr=1e-2))
""",
}


def model_step(folder: Path, text: str, dtype: str) -> tuple[Module, list[Array]]:
    (folder / "net.py").write_text(text)
    model = ModelIR(folder / "net.py", Given({"dtype": dtype}))
    module = model.module([("train_step", "train")], "traced")
    return module, model.arrays(module, "train_step", "train")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("text", list(MODELS.values()), ids=list(MODELS))
def test_a_step_is_what_the_interpreter_gives(tmp_path: Path, text: str, dtype: str, framework: str) -> None:
    module, arrays = model_step(tmp_path, text, dtype)
    wanted = run(module["train_step"], arrays, module)
    for got, expected in zip(translated(module, "train_step", framework, arrays), wanted, strict=True):
        assert got.dtype == expected.dtype
        tolerance = 1e-4 if dtype == "float32" else 1e-10
        assert np.allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("framework", ["compiled", *FRAMEWORKS])
def test_contenders_train_alike(tmp_path: Path, framework: str) -> None:
    (tmp_path / "net.py").write_text(MODELS["attention"])
    path = str(tmp_path / "net.py")
    eager, other = (benching.trainee_of(benching.Request(path, name)) for name in ("eager", framework))
    wanted = [eager.step() for _ in range(4)]
    assert np.allclose([other.step() for _ in range(4)], wanted, rtol=1e-3)
    other.reset()
    assert np.isclose(other.step(), wanted[0], rtol=1e-3)
    assert benching.one_round(other, 0.001) > 0
    assert (eager.compiles, eager.planned()) == (False, None)
    assert (other.planned() or 0) > 0 if framework == "compiled" else other.planned() is None


# The text of a program


class Written(peers.TorchWriter):
    """Writes without the framework."""

    def __init__(self, function: Function) -> None:
        peers.Writer.__init__(self, function)


def test_the_text_of_a_program() -> None:
    module = parse(
        """\
module @m {
  func @main(
    %x: f32[2, 3] input,
    %w: f32[3] param
  ) -> (f32[2], f32[3] update(%w)) {
    %0 = constant {value = 2.0} : f32[2, 3]
    %1 = mul %x, %0 : f32[2, 3]
    %2 = sum %1 {axes = [1]} : f32[2]
    %3 = neg %w : f32[3]
    return %2, %3
  }
}
"""
    )
    assert Written(module["main"]).write() == (
        "def step(state, inputs):\n"
        "    (a1,) = state\n"
        "    (a0,) = inputs\n"
        "    v0 = a0 * 2.0\n"
        "    v1 = torch.sum(v0, dim=(1,), keepdim=False, dtype=torch.float32); del v0\n"
        "    v2 = -a1\n"
        "    return (v2,), (v1,)\n"
    )


def test_composites_are_refused() -> None:
    recorder = GraphBuilder()
    x = recorder.argument(f32[3], "x")
    made = recorder.bind(OPS["relu"], (x,), {})
    function = recorder.function("main", [(x, "input")], [(made[0], None)])
    with pytest.raises(
        BackendError, match="relu is no op that another framework is given: decompose and inline come first"
    ):
        Written(function).write()


# The command


def test_bench(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    done = irc(folder, "bench", "tiny.py", "--against", "eager,compiled", "--rounds", "2", "--seconds", "0.02")
    assert (done.code, done.err) == (0, "")
    head, columns, ours, eager, last = done.out.splitlines()
    assert head == "tiny: train_step, 8 rows, f32, device cpu, medians of 2 rounds of 0.02 s"
    assert re.split(r"  +", columns.strip()) == ["step", "first step", "with cache", "planned", "peak growth"]
    assert re.match(r"compiled  +[\d.]+ [mu]s  +[\d.]+ m?s  +[\d.]+ m?s  +[\d.]+ KiB  ", ours)
    assert re.match(r"eager  +[\d.]+ [mu]s \([\d.]+x\)  +-  +-  +-  ", eager)
    assert last == "in brackets: how many times that of compiled"
    assert max(map(len, done.out.splitlines())) <= 100


def test_bench_json(tmp_path: Path) -> None:
    done = irc(fill(tmp_path), "bench", "tiny.py", "--backend", "eager", "--rounds", "1", "--seconds", "0.01", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["model"] == "tiny"
    (ours,) = found["contenders"]
    assert (ours["contender"], ours["cold"], ours["planned"], ours["note"]) == ("eager", None, None, None)
    assert ours["step"] == ours["rounds"][0] > 0
    assert 0 < ours["loss"] < 10


def test_bench_refuses(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    assert "--against nope: it is" in fails(folder, "bench", "tiny.py", "--against", "nope", code=2)
    assert "--rounds 0: it is at least 1" in fails(folder, "bench", "tiny.py", "--rounds", "0", code=2)
    assert "--seconds 0.0: it is above 0" in fails(folder, "bench", "tiny.py", "--seconds", "0", code=2)
    (folder / "alone.py").write_text(HEADER + "model = nn.Linear(2, 2)\ninputs = (tp.f32[3, 2],)\n")
    assert "has no target in its batch" in fails(folder, "bench", "alone.py")
    (folder / "wrong.py").write_text(HEADER + "model = nn.Linear(2, 2)\ninputs = (tp.f32[3, 5], tp.f32[3, 2])\n")
    text = fails(folder, "bench", "wrong.py")
    assert "backend compiled does not train this model" in text
    assert "5" in text


def test_what_is_not_there_or_fails_gets_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(MODELS["attention"])
    monkeypatch.setitem(benching.PEERS, "no_such_framework", ("no_such_framework",))
    request = benching.Request(str(tmp_path / "net.py"), "eager")
    costs = benching.bench(request, ["no_such_framework", "nope"], rounds=1, seconds=0.01)
    assert [c.contender for c in costs] == ["eager", "no_such_framework", "nope"]
    assert costs[0].step is not None
    assert costs[1].note == "no_such_framework is not installed (pip install no_such_framework)"
    assert costs[2].note.startswith("backend 'nope' is not known")
    assert costs[1].step is None


def test_a_process_that_ends_says_what_it_said_last(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("1 / 0\n")
    (cost,) = benching.bench(benching.Request(str(tmp_path / "net.py"), "eager"), rounds=1, seconds=0.01)
    assert cost.note == "its process ended with 1: ZeroDivisionError: division by zero"


def test_contenders() -> None:
    assert benching.contenders(["torch", "eager", "jax", "eager"]) == ["torch", "torch.compile", "eager", "jax"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-6, "1.23 us"), (45.6e-6, "45.6 us"), (0.789, "789 ms"), (15.04, "15.0 s"), (1234, "1234 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
