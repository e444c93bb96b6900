"""Standard output that cannot be written: one line, and exit code 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = "import tapeir as tp\nfrom tapeir import nn\nmodel = nn.Linear(4, 3)\ninputs = (tp.f32[2, 4],)\n"
COMMANDS = [["ops"], ["passes"], ["--version"], ["--help"], ["dump", "m.py", "--entry", "forward"]]
FULL = Path("/dev/full")


def _run(command: list[str], redirection: str, folder: Path, unbuffered: bool) -> subprocess.CompletedProcess[str]:
    (folder / "m.py").write_text(MODEL)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    words = " ".join([sys.executable, "-m", "tapeir", *command, redirection])
    return subprocess.run(["sh", "-c", words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is full")
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_a_full_device(command: list[str], unbuffered: bool, tmp_path: Path) -> None:
    done = _run(command, f"> {FULL}", tmp_path, unbuffered)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes it")
@pytest.mark.parametrize("command", [["ops"], ["dump", "m.py", "--entry", "forward"]], ids=lambda c: c[0])
def test_closed_output(command: list[str], tmp_path: Path) -> None:
    done = _run(command, ">&-", tmp_path, unbuffered=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output is closed; > /dev/null discards it\n")


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes it")
def test_closed_errors_do_not_mix_with_the_output(tmp_path: Path) -> None:
    done = _run(["dump", "none.py"], "2>&-", tmp_path, unbuffered=False)
    assert (done.stdout, done.returncode != 0) == ("", True)
