"""Without llvmlite the NumPy table and NumPy programs are in use, and a line says so once."""

from __future__ import annotations

import numpy as np
import pytest

import tapeir as tp
from tapeir.backends import compiled, kernels
from tapeir.backends.compiled import NumpyProgram


def test_without_llvmlite_a_numpy_program_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TAPEIR_NATIVE", raising=False)
    for name in ("_current", "_reason"):
        monkeypatch.setattr(kernels, name, [])
    monkeypatch.setattr(compiled, "_said", [])
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    x = np.linspace(-1, 1, 40, dtype=np.float32)
    for shape in ((40,), (8, 5)):
        function = tp.compile(lambda x: tp.ops.tanh(x) + 1)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        assert isinstance(function.executable(x.reshape(shape)), NumpyProgram)
        assert np.array_equal(function(x.reshape(shape)), np.tanh(x.reshape(shape)) + 1)
    said = capsys.readouterr().err
    assert said.count("a NumPy program runs, not native code: llvmlite is not installed") == 1


def test_asked_for_it_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TAPEIR_NATIVE", "0")
    for name in ("_current", "_reason"):
        monkeypatch.setattr(kernels, name, [])
    monkeypatch.setattr(compiled, "_said", [])
    tp.compile(lambda x: x + 1)(np.zeros(3))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert kernels.fallback_reason() == "TAPEIR_NATIVE=0"
    assert capsys.readouterr().err == ""
