"""The CUDA text of a few programs, as it is read by people; ``--accept`` rewrites it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapeir.ir import parse

from .on_cpu import program_of

CASES = sorted((Path(__file__).parent / "golden").glob("*.ir"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    program = program_of(parse(path.read_text(encoding="utf-8")))
    calls = "".join(f"// {call}\n" for _, call in program.calls)
    text = "\n\n".join(program.kernels.values()) + f"\n\n{calls}"
    expected = path.with_suffix(".cu")
    if request.config.getoption("--accept"):
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")


def test_there_are_goldens() -> None:
    assert len(CASES) >= 3
