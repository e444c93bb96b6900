"""Documents with real output: reading, running and rewriting their commands.

``<!-- file NAME -->`` before a fenced block is a file; ``<!-- run -->`` before a ``console`` block is a run of commands, each line behind
``$``, with what they print.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import tapeir as tp

FILE = re.compile(r"<!-- file (\S+) -->\n```\w*\n(.*?)```\n", re.DOTALL)
RUN = re.compile(r"(<!-- run -->\n```console\n)(.*?)(```\n)", re.DOTALL)
TIME = re.compile(r"\d+\.\d+ ms")


def prepare(text: str, folder: Path) -> None:
    """Write a document's files and an ``irc`` into a folder."""
    for name, content in FILE.findall(text):
        (folder / name).write_text(content)
    shim = folder / "bin" / "irc"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tapeir "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)


def execute(command: str, folder: Path) -> str:
    """What a command line prints, with times made equal."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"PATH": path, "NO_COLOR": "1", "PYTHONPATH": str(Path(tp.__file__).parents[1]), "COLUMNS": "200"}
    words = ["bash", "-c", f"{{ {command}\n}} 2>&1"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout, done
    return TIME.sub("0.00 ms", done.stdout)


def rerun(text: str, folder: Path) -> str:
    """A document with the output of its commands as it is now."""
    prepare(text, folder)

    def block(match: re.Match[str]) -> str:
        commands = [line for line in match[2].splitlines() if line.startswith("$ ")]
        shown = "".join(f"{line}\n{execute(line[2:], folder)}" for line in commands)
        return match[1] + shown + match[3]

    return RUN.sub(block, text)
