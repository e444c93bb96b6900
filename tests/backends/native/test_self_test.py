"""A compiler that gets a vector wrong is found before its code is used, once for each cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tapeir as tp
from tapeir.backends import compiled, kernels
from tapeir.runtime.commands.listings import list_backends

pytestmark = pytest.mark.skipif(kernels.table().name != "native", reason="about native code")


@pytest.fixture
def unchosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No table is chosen yet, and the disk cache is empty."""
    monkeypatch.delenv("TAPEIR_NATIVE", raising=False)
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path))
    for name in ("_current", "_reason"):
        monkeypatch.setattr(kernels, name, [])
    monkeypatch.setattr(compiled, "_said", [])


def emitted(monkeypatch: pytest.MonkeyPatch, right: str = "", wrong: str = "") -> list[str]:
    """The texts that are compiled from now on, by a compiler that takes ``right`` for ``wrong``."""
    from tapeir.backends.native import engine

    texts, emit = list[str](), engine.emit_object

    def recorded(text: str) -> bytes:
        texts.append(text)
        return emit(text.replace(right, wrong))

    monkeypatch.setattr(engine, "emit_object", recorded)
    return texts


@pytest.mark.usefixtures("unchosen")
def test_it_runs_once_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapeir.backends.native import self_test

    texts = emitted(monkeypatch)
    assert self_test.fault() is None
    assert len(texts) == 1
    assert self_test.fault() is None
    assert len(texts) == 1


WRONG = {
    "reversed": ("<16 x i32> <i32 15, i32 14, ", "<16 x i32> <i32 15, i32 15, "),
    "padded": ("icmp ult <16 x i32> ", "icmp ule <16 x i32> "),
}
"""For the view that fails, what a compiler would have to take for what."""


@pytest.mark.usefixtures("unchosen")
@pytest.mark.parametrize("case", WRONG)
def test_a_fault_falls_back_to_numpy_and_says_why(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emitted(monkeypatch, *WRONG[case])
    function = tp.compile(lambda x: tp.ops.flip(x) + 1)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert np.array_equal(function(np.arange(3)), [3, 2, 1])
    assert isinstance(function.executable(np.arange(3)), compiled.NumpyProgram)
    reason = kernels.fallback_reason()
    assert reason is not None
    assert reason.startswith("llvmlite compiles vectors wrongly for ")
    assert f" ({case} " in reason
    assert reason.endswith("); install another version of llvmlite")
    assert f"a NumPy program runs, not native code: {reason}" in capsys.readouterr().err
    list_backends()
    assert f"; not native: {reason}" in capsys.readouterr().out
