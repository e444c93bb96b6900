"""The documents are true: their commands print what they show, and the table of ops is that of the classes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import fails
from documents import library, rerun

from tapeir.runtime.commands.listings import op_table

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.checkout


def steady(text: str) -> str:
    """Text without what another processor's rounding changes: long numbers, and the width of columns that hold them."""
    return re.sub(r"  +", "  ", re.sub(r"-?\d+\.\d{2,}|\d{5,}", "#", text))


def check(path: Path, now: str, request: pytest.FixtureRequest) -> None:
    """Compare a document with what it should be; ``--accept`` rewrites it."""
    if request.config.getoption("--accept"):
        path.write_text(now, encoding="utf-8")
    assert steady(now) == steady(path.read_text("utf-8")), f"{path.name} is out of date; pytest --accept rewrites it"


@pytest.mark.skipif(shutil.which("bash") is None, reason="the documents' commands are written for bash")
@pytest.mark.parametrize("name", ["how-it-works.md", "recorded-once.md"])
def test_documents_show_real_output(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = DOCS / name
    check(path, rerun(path.read_text("utf-8"), tmp_path), request)


@pytest.mark.parametrize(("name", "part", "made"), [("ir.md", "ops", op_table), ("library.md", "library", library)])
def test_tables_are_made_from_classes_and_docstrings(
    name: str, part: str, made: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    path = DOCS / name
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->\n"
    head, rest = path.read_text("utf-8").split(begin)
    check(path, head + begin + made() + end + rest.split(end)[1], request)


def test_the_error_in_the_reference_is_real(tmp_path: Path) -> None:
    block = re.search(r"```console\n\$ irc check bad\.ir\n(.*?)```", (DOCS / "ir.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    rows = [line.partition(" | ")[2] for line in block[1].splitlines()[1:] if "^" not in line]
    (tmp_path / "bad.ir").write_text("\n".join(rows) + "\n")
    assert fails(tmp_path, "check", "bad.ir") == block[1]


def test_the_tour_in_python_runs() -> None:
    (block,) = re.findall(
        r"```python\n(import numpy as np\n\nimport tapeir as tp\nfrom examples.*?)```",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("\nnone"), "compare finds no difference"
