"""The examples train to what their pages say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tapeir as tp

EXAMPLES = Path(__file__).parents[2] / "examples"


def irc(*arguments: Any, cwd: Path) -> dict[str, Any]:
    """``irc run --json``; its result."""
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(tp.__file__).parents[1])}
    command = [sys.executable, "-m", "tapeir", "run", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_digits_reach_their_accuracy(tmp_path: Path) -> None:
    result = irc(EXAMPLES / "digits_mlp.py", "--backend", "compiled", cwd=tmp_path)
    assert (result["backend"], result["step"]) == ("compiled", 1000)
    assert result["test"]["accuracy"] >= 0.95


@pytest.mark.parametrize(
    ("name", "bound"),
    [("simple_mlp", 0.01), ("minibatch_mlp", 0.2), ("digits_norm", 0.2), ("digits_cnn", 0.1)],
    ids=lambda v: str(v),
)
def test_examples_learn(name: str, bound: float, tmp_path: Path) -> None:
    result = irc(EXAMPLES / f"{name}.py", "--backend", "compiled", cwd=tmp_path)
    assert result["loss_before"] > 2 * result["loss_after"]
    assert result["test"]["loss"] < bound


def test_an_example_prints_its_report(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(tp.__file__).parents[1])}
    command = [
        sys.executable,
        "-m",
        "tapeir",
        "run",
        str(EXAMPLES / "simple_mlp.py"),
        "--backend",
        "compiled",
        "--steps",
        "40",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("simple_mlp: ")
    assert "test: loss" in done.stdout
    assert "true values" in done.stdout
