"""``irc cache``: what is there, whether a program is and what its key is made of, and clearing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, fill
from typer.testing import CliRunner

from tapeir.backends import cache, kernels
from tapeir.cli import app
from tapeir.runtime.commands.cache import age, amount

native = pytest.mark.skipif(kernels.table().name != "native", reason=f"no native code: {kernels.fallback_reason()}")


class Command:
    """Runs ``irc`` in this process, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done: Any = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, (done.output, done.exception)
        return done.output


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(fill(tmp_path))
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return Command(tmp_path)


def test_ls_and_clear(command: Command) -> None:
    kept = command.folder / "kept"
    assert command("cache", "ls") == f"0 entries, 0 B of at most 512 MiB, in {kept}\n"
    cache.write("kernels", "abcdefghijklmnop", b"12345", "kernel of @f, m")
    cache.write("programs", "0" * 64, bytes(5000), "@f of m, " + "very " * 40 + "long")
    head, first, second, total = command("cache", "ls").splitlines()
    assert head.split() == ["kind", "key", "size", "used", "what"]
    rows = sorted([first, second])
    assert rows[0].split()[:2] == ["kernels", "abcdefghijkl"]
    assert rows[0].endswith("s ago  kernel of @f, m")
    assert rows[1].split()[:4] == ["programs", "000000000000", "5.2", "KiB"]
    assert total.startswith("2 entries, 5.")
    assert total.endswith(f" KiB of at most 512 MiB, in {kept}")
    assert max(len(first), len(second)) <= 100
    assert command("cache", "clear") == f"deleted 2 entries from {kept}\n"
    assert not cache.entries()
    cache.write("kernels", "a", b"", "one")
    assert command("cache", "clear") == f"deleted 1 entry from {kept}\n"


def test_a_cache_that_is_off(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEIR_CACHE", "off")
    for arguments in (["ls"], ["clear"], ["why"], ["why", "tiny.py"]):
        text = command("cache", *arguments)
        assert text == "the cache is off (TAPEIR_CACHE=off): nothing is read from it or written to it\n"


@native
def test_why_of_a_model(command: Command) -> None:
    head, state, made, *parts = command("cache", "why", "tiny.py").splitlines()
    assert head.startswith("tiny: @train_step, backend compiled, key ")
    assert state == "not in the cache: it is compiled when it is first run"
    assert made == "the key is made of"
    assert [line.split()[0] for line in parts if line[2] != " "] == ["text", "compiler", "settings"]
    assert any("numerics exact, pipeline " in line for line in parts)
    assert max(map(len, parts)) <= 102
    command("run", "tiny.py", "--backend", "compiled", "--steps", "1")
    head_after, state = command("cache", "why", "tiny.py").splitlines()[:2]
    assert head_after == head
    assert state.startswith("in the cache: @train_step of tiny, ")
    assert state.endswith("s ago")
    other = command("cache", "why", "tiny.py", "--batch-size", "5").splitlines()
    assert other[0] != head
    assert other[1] == "not in the cache: it is compiled when it is first run"
    assert other[-1].startswith(f"under other keys: 1 program of @train_step, the latest {head.split()[-1]}, used ")
    fast = command("cache", "why", "tiny.py", "--numerics", "fast").splitlines()
    assert fast[1].startswith("not in the cache")
    assert any("numerics fast" in line for line in fast)
    forward = command("cache", "why", "tiny.py", "--entry", "forward", "--mode", "eval").splitlines()
    assert forward[0].startswith("tiny: @forward_eval, ")


@native
def test_why_of_text(command: Command) -> None:
    assert "not in the cache" in command("cache", "why", "m.ir")
    np.savez(command.folder / "x.npz", x=np.ones(3, np.float32))
    command("run", "m.ir", "--inputs", "x.npz")
    assert "in the cache: @main of m, " in command("cache", "why", "m.ir", "--entry", "@main")
    assert "has no function nope" in " ".join(command("cache", "why", "m.ir", "--entry", "nope", code=2).split())


@native
def test_why_marks_what_is_not_what_it_was(command: Command) -> None:
    lines = command("cache", "why", "m.ir").splitlines()
    text, compiler, settings = (line.split()[1] for line in lines[3:] if line[2] != " ")
    cache.write("programs", "older", b"", f"@main of m, 3 kernels, text {text}, compiler 00000000, settings {settings}")
    marked = [line for line in command("cache", "why", "m.ir").splitlines() if "<- not what it was" in line]
    assert [line.split()[:2] for line in marked] == [["compiler", compiler]]


@native
def test_why_without_a_file(command: Command) -> None:
    head, *parts = command("cache", "why").splitlines()
    assert head == f"in every key of a program, besides its text; the cache is in {command.folder / 'kept'}"
    assert [line.split()[0] for line in parts if line[0] != " "] == ["compiler", "settings"]
    assert "flags of a model go with a file" in command("cache", "why", "--entry", "loss", code=2)


def test_why_nothing_is_cached(command: Command) -> None:
    (command.folder / "eager.py").write_text(
        HEADER + "model = nn.Linear(2, 2)\ninputs = (tp.f32[3, 2], tp.f32[3, 2])\n"
    )
    text = command("cache", "why", "eager.py", "--backend", "eager")
    assert text == "eager: @train_step: backend eager keeps nothing in this cache\n"
    with kernels.using(kernels.Table()):
        text = command("cache", "why", "eager.py")
        assert text.startswith("eager: @train_step: a NumPy program, which is made anew in each process (")
        assert text.endswith("): nothing is cached\n")
        assert "a NumPy program" in command("cache", "why")


def test_sizes_and_ages() -> None:
    assert [amount(n) for n in (0, 1023, 1024, 200 << 10, 5 << 20, 3 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "200 KiB", "5.0 MiB", "3.0 GiB",
    ]  # fmt: skip
    assert [age(s) for s in (3, 119, 120, 7200, 200000)] == ["3 s", "119 s", "2 min", "2 h", "2 d"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no numbers of users")
def test_a_refused_folder_is_named_and_left_alone(command: Command) -> None:
    kept = command.folder / "kept"
    (kept / "kernels").mkdir(parents=True)
    (kept / "kernels" / f"a{cache.SUFFIX}").write_bytes(b"")
    kept.chmod(0o777)
    for name in ("ls", "why", "clear"):
        assert f"{kept} is not used as a cache of code: its group or others can write it" in command("cache", name)
    assert list((kept / "kernels").iterdir())
