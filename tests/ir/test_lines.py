"""Which files a location may read a line from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import WORDS, text_of

import tapeir as tp
from tapeir.ir import IRError, Location, parse
from tapeir.ir.lines import LIMIT, WIDTH, source_line
from tapeir.runtime.page import view_page

SECRET = "the secret line"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a source file in it and a secret beside it."""
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.py").write_text("first\n  second é\nthird\n", "utf-8")
    (folder / "inner" / "net.py").write_text("deep\n")
    (tmp_path / "secret.py").write_text(f"{SECRET}\n")
    (folder / "notes.txt").write_text(f"{SECRET}\n")
    monkeypatch.chdir(folder)
    return folder


def _told(file: str, line: int = 1) -> str:
    return str(IRError("message", [Location(file, line)]))


def test_files_below_the_current_folder_show_their_line(project: Path) -> None:
    assert _told("model.py", 2) == "model.py:2\n    second é\nmessage"
    assert _told(str(project / "model.py"), 3).endswith(":3\n    third\nmessage")
    assert source_line("inner/net.py", 1) == source_line("./inner/../inner/net.py", 1) == "deep"
    assert source_line("net.py", 1, str(project / "inner")) == "deep"


@pytest.mark.parametrize("line", [0, -1, 4, 5, 10**30])
def test_lines_that_are_not_there_show_nothing(project: Path, line: int) -> None:
    assert source_line("model.py", line) == ""


def test_a_line_that_changes_is_read_again(project: Path) -> None:
    assert source_line("model.py", 1) == "first"
    (project / "model.py").write_text("other\n")
    os.utime(project / "model.py", ns=(1, 1))
    assert source_line("model.py", 1) == "other"


OUTSIDE: dict[str, Callable[[Path], Any]] = {
    "parent": lambda p: "../secret.py",
    "absolute": lambda p: str(p.parent / "secret.py"),
    "around": lambda p: "inner/../../secret.py",
    "sibling with the same beginning": lambda p: str(p) + "-other/secret.py",
    "another ending": lambda p: "notes.txt",
    "passwords": lambda p: "/etc/passwd",
    "many parents": lambda p: "../" * 40 + "etc/passwd",
    "zeros": lambda p: "/dev/zero",
    "terminal": lambda p: "/dev/tty",
    "standard input": lambda p: "/dev/stdin",
    "environment": lambda p: "/proc/self/environ",
    "folder": lambda p: "inner",
    "nothing": lambda p: "",
    "missing": lambda p: "missing.py",
    "library": lambda p: os.__file__,
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_other_files_show_no_line(project: Path, kind: str) -> None:
    other = project.with_name("project-other")
    other.mkdir()
    (other / "secret.py").write_text(f"{SECRET}\n")
    assert _within(lambda: source_line(OUTSIDE[kind](project), 1)) == ""
    assert _within(lambda: _told(OUTSIDE[kind](project))).count("\n") <= 1


def _within(call: Callable[[], Any], seconds: float = 20) -> Any:
    """What a call gives, which must not wait for anything."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_links_that_lead_outside_show_no_line(project: Path) -> None:
    os.mkfifo(project / "pipe.py")
    (project / "link.py").symlink_to("../secret.py")
    (project / "folder").symlink_to("..", target_is_directory=True)
    (project / "zero.py").symlink_to("/dev/zero")
    (project / "loop.py").symlink_to("loop.py")
    (project / "inside.py").symlink_to("model.py")
    for name in ("pipe.py", "link.py", "folder/secret.py", "zero.py", "loop.py"):
        assert _within(lambda name=name: source_line(name, 1)) == "", name
    assert source_line("inside.py", 1) == "first"


def test_large_files_are_not_read(project: Path) -> None:
    with (project / "large.py").open("wb") as file:
        file.write(b"line\n")
        file.truncate(LIMIT + 1)
    assert source_line("large.py", 1) == ""
    os.truncate(project / "large.py", LIMIT)
    assert source_line("large.py", 1) == "line"


def test_lines_are_cut_and_cannot_speak_to_a_terminal(project: Path) -> None:
    (project / "model.py").write_bytes(b"\x1b[31mred\x9b\xff\n" + b"a" * 5000)
    assert source_line("model.py", 1).startswith("\\x1b[31mred")
    assert source_line("model.py", 1).isprintable()
    assert len(source_line("model.py", 2)) < WIDTH + 10


def test_hostile_names_show_no_line(project: Path) -> None:
    for word in WORDS:
        assert source_line(word, 1) == ""
        assert source_line(word + ".py", 1) == ""


def _reshaped(x: tp.Tensor) -> tp.Tensor:
    return tp.ops.reshape(x, (3,))  # the line


def test_code_of_this_process_is_shown_wherever_it_is(project: Path) -> None:
    """What tracing met is the user's own, even outside of the current folder."""
    assert not Path(__file__).is_relative_to(project)
    with pytest.raises(IRError) as caught:
        tp.compile(_reshaped)(np.ones(2))
    assert "# the line" in str(caught.value)


def test_pages_show_lines_below_their_folder_alone(project: Path) -> None:
    places = ("model.py", "../secret.py", str(project.parent / "secret.py"), "/etc/passwd", "/dev/zero")
    ops = "\n".join(f"%{n} = tanh %x : f32[2] loc({Location(p, 1).file!r}:1)" for n, p in enumerate(places))
    text = f"module @m {{ func @f(%x: f32[2] input) -> (f32[2]) {{\n{ops}\nreturn %0\n}} }}".replace("'", '"')
    module = parse(text).verify()
    for base in (None, str(project)):
        page = _within(lambda base=base: view_page(module, base=base))
        assert '"first"' in page
        assert SECRET not in page
        assert "root:" not in page
    assert '"first"' not in view_page(module, base=str(project / "inner"))


def test_hostile_words_are_text_on_pages(project: Path) -> None:
    """In the document a word stands in JSON without ``<``, or escaped in the title."""
    plain = view_page(parse(text_of("plain")).verify())
    for word in WORDS:
        page = view_page(parse(text_of(word)).verify(), base=str(project))
        assert [c for c in page if not c.isascii()] == [c for c in plain if not c.isascii()]
        assert page.count("<") <= plain.count("<")
