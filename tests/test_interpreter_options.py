"""Python's own options and a broken installation: what is left of the package still works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import numpy as np
import tapeir as tp
from tapeir import nn
rt = tp.Runtime(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), backend=BACKEND)
print(float(rt.step(np.ones((4, 3)), np.ones((4, 2)))).hex())
"""


def output(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_without_docstrings_and_assertions(backend: str) -> None:
    code = RUN.replace("BACKEND", repr(backend))
    assert output("-OO", "-c", code) == output("-O", "-c", code) == output("-c", code)


@pytest.mark.parametrize("command", ["ops", "passes", "backends", "--help"])
def test_commands_without_docstrings(command: str) -> None:
    assert output("-OO", "-m", "tapeir", command)


@pytest.mark.parametrize(
    "error", ["OSError('Could not find/load shared object file')", "RuntimeError('x')", "ImportError('y')"]
)
def test_an_llvmlite_that_cannot_load_its_library_is_left_alone(error: str, tmp_path: Path) -> None:
    package = tmp_path / "llvmlite"
    (package / "binding").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "binding" / "__init__.py").write_text(f"raise {error}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    expected = output("-c", RUN.replace("BACKEND", "'compiled'"), TAPEIR_NATIVE="0")
    assert output("-c", RUN.replace("BACKEND", "'compiled'"), PYTHONPATH=path, TAPEIR_NATIVE="") == expected
    told = output("-m", "tapeir", "backends", PYTHONPATH=path, TAPEIR_NATIVE="")
    assert f"llvmlite cannot be loaded: {error.split(chr(39))[1]}" in " ".join(told.split())
