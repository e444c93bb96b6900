"""``irc bench``, and the programs of other frameworks that it times: they compute what the interpreter computes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, MODEL, fails, fill, irc
from strategies import Program, operand_types, programs

import tapeir as tp
from hypothesis import HealthCheck, given, settings
from tapeir.backends.compiled import lower
from tapeir.backends.eager.interpret import run
from tapeir.ir import OPS, BackendError, GraphBuilder, IRError, Module, philox
from tapeir.ir.op import Composite, Control, Op
from tapeir.ir.types import Array, bf16, f16
from tapeir.runtime import peers

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
        return bool(np.allclose(a, b, rtol=places * np.finfo(a.dtype).eps, atol=1e3 * np.finfo(a.dtype).eps, equal_nan=True))


def translated(module: Module, name: str, framework: str, arrays: Any) -> tuple[Array, ...]:
    """The results of a function, taken to the optimized stage, in another framework."""
    function = lower(module, "optimized")[name]
    return peers.WRITERS[framework](function).peer().run(arrays)


def samples() -> Iterator[Any]:
    for name, op in OPS.items():
        if not isinstance(op, Control):
            yield pytest.param(op, id=name)


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
        try:
            # Not lowered: an op on its own is what is held against the interpreter.
            source = lower(Module("m", [function]), ["decompose"])["main"]
            peer = peers.WRITERS[framework](source).peer()
        except BackendError as error:
            assert framework == "torch", error
            assert "u64" in str(error), error
            continue
        for got, expected in zip(peer.run(arrays), wanted, strict=True):
            assert near(np.asarray(got), np.asarray(expected)), f"{types} {sample.attrs}\n{peer.source}\n{got} {expected}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@settings(max_examples=int(os.environ.get("TAPEIR_FUZZ", "30")), deadline=None, suppress_health_check=list(HealthCheck))
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
    from tapeir.runtime.commands.modules import Given, ModelIR

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
