"""Documents with real output: reading, running and rewriting their commands.

``<!-- file NAME -->`` before a fenced block is a file; ``<!-- run -->`` before a ``console`` block is a run of commands, each line behind
``$``, with what they print.
"""

from __future__ import annotations

import inspect
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    return TIME.sub("0.00 ms", done.stdout).replace(f"{folder}{os.sep}", "")


def _row(name: str, thing: Any, alone: bool) -> str:
    """A line of a table: how a function or class is called, and the first line of its docstring."""
    taken = inspect.signature(thing).parameters.values()
    own = [] if alone else [p.replace(annotation=p.empty) for p in taken if p.name != "line"]
    call = f"{name}{inspect.Signature(own)}".replace("<factory>", "{}") if own else name
    said = (inspect.getdoc(thing) or "").partition("\n")[0].replace("``", "`").replace("|", "\\|")
    return f"| `{call}` | {said} |\n"


def library() -> str:
    """The tables of layers, functions and optimisers, made from their docstrings."""
    nn, optim = tp.nn, tp.optim
    kinds = {n: getattr(nn, n) for n in nn.__all__ if inspect.isclass(getattr(nn, n))}
    state = ("Module", "Parameter", "Buffer", "Objective")
    layers = {n: c for n, c in kinds.items() if n not in state}
    tables = {
        "`tp.nn`: what models are declared with": {n: kinds[n] for n in state},
        "`tp.nn`: layers": layers,
        "`tp.nn.init`: initialisers": {n: getattr(nn.init, n) for n in nn.init.__all__},
        "`tp.optim`": {n: c for n in optim.__all__ if inspect.isclass(c := getattr(optim, n))},
        "`tp.ops`": {n: getattr(tp.ops, n) for n in tp.ops.__all__},
    }
    text = ""
    for title, things in tables.items():
        rows = [
            _row(n, x, inspect.isclass(x) and x.__init__ in (object.__init__, nn.Module.__init__))
            for n, x in things.items()
        ]
        text += f"\n## {title}\n\n| | |\n|---|---|\n{''.join(rows)}"
    return text + "\n"


def rerun(text: str, folder: Path) -> str:
    """A document with the output of its commands as it is now."""
    prepare(text, folder)

    def block(match: re.Match[str]) -> str:
        commands = [line for line in match[2].splitlines() if line.startswith("$ ")]
        shown = "".join(f"{line}\n{execute(line[2:], folder)}" for line in commands)
        return match[1] + shown + match[3]

    return RUN.sub(block, text)
