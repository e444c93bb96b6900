"""CUDA programs as users see them: how many launches a step takes, and the text that ``irc dump`` prints without a device."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import irc

from tapeir.runtime.commands.modules import Given, target

from .on_cpu import program_of

EXAMPLES = Path(__file__).parents[3] / "examples"
LAUNCHES = {"simple_mlp": 15, "minibatch_mlp": 15, "digits_mlp": 15, "digits_norm": 25, "digits_cnn": 27}


def test_every_example_is_counted() -> None:
    assert set(LAUNCHES) == {p.stem for p in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_of_a_training_step(name: str) -> None:
    module, function, _, *_ = target(EXAMPLES / f"{name}.py", Given({}), None, None, None)
    fused, alone = program_of(module, function), program_of(module, function, fused=False)
    assert fused.launches == LAUNCHES[name]
    assert alone.launches > 2 * fused.launches


def test_dump_prints_kernels_and_launches(tmp_path: Path) -> None:
    path = EXAMPLES / "simple_mlp.py"
    command = ["dump", path, "--stage", "program", "--entry", "train_step"]
    done = irc(tmp_path, *command, "--cuda")
    assert (done.code, done.err) == (0, "")
    assert done.out.count('extern "C" __global__ void') >= 5
    assert "// 15 launches" in done.out
    assert "simple_mlp.py:" in done.out
    assert "gemm NT" in done.out
    assert irc(tmp_path, *command, "--device", "cuda:1").out == done.out
    narrow = irc(tmp_path, *command, "--cuda", "--set", "dtype=bfloat16")
    assert (narrow.code, narrow.err) == (0, "")
    assert "from_bf16(" in narrow.out
