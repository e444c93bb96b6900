"""Names from outside cannot speak to a terminal: files, modules, functions, values, places, arrays and arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commandline import irc

WORD = "\x1b]0;planted\x07\x9b31m\u202e\b"
OWN = f"{WORD}.ir"
COMMANDS: dict[str, tuple[str, ...]] = {
    "random arrays": ("run", OWN),
    "an array of another name": ("run", OWN, "--inputs", "x.npz"),
    "an index out of range": ("run", OWN, "--inputs", "far.npz"),
    "json": ("run", OWN, "--json"),
    "entry": ("run", OWN, "--entry", f"{WORD}x"),
    "number": ("run", OWN, "--seed", WORD),
    "model that raises": ("run", "model.py"),
    "traceback": ("run", "model.py", "--debug"),
    "check": ("check", OWN, "b.ir"),
    "parse error": ("check", "bad.ir"),
    "verify error": ("check", "worse.ir"),
    "missing file": ("check", WORD),
    "wrong kind of file": ("dump", OWN),
    "stage": ("dump", "model.py", "--stage", WORD),
    "diff": ("diff", OWN, "b.ir"),
    "view": ("view", OWN),
    "compare": ("compare", OWN),
    "profile": ("profile", OWN),
    "pass": ("opt", OWN, "--passes", WORD),
    "cache": ("cache", "why", OWN),
}


QUICK = ("an index out of range", "parse error", "missing file", "diff", "traceback")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in COMMANDS])
def test_what_is_printed_is_printable(kind: str, tmp_path: Path) -> None:
    name = json.dumps(WORD)
    lines = [
        f"%{name} = exp %x : f32[1] loc({name}:1 in {name})",
        f"%1 = take %{name}, %i {{axis = 0}} : f32[1] loc({name}:2)",
        f"return %{name}, %1",
    ]
    head = f"module @{name} {{\nfunc @{name}(%x: f32[1] input, %i: i64[1] input) -> (f32[1], f32[1]) {{\n"
    text = head + "\n".join(lines) + "\n}\n}\n"
    (tmp_path / OWN).write_text(text)
    (tmp_path / "b.ir").write_text(text.replace("exp", "tanh"))
    (tmp_path / "bad.ir").write_text(text.replace("exp", WORD))
    (tmp_path / "worse.ir").write_text(text.replace("f32[1] loc", "f64[1] loc"))
    (tmp_path / "model.py").write_text(f"raise ValueError({WORD!r})")
    np.savez(tmp_path / "x.npz", allow_pickle=False, **{WORD: np.ones(3)})
    np.savez(tmp_path / "far.npz", x=np.ones(1), i=np.array([7]))
    done = irc(tmp_path, *COMMANDS[kind])
    assert done.out + done.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.out + done.err), done
