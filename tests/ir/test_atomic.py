"""Files appear whole or not at all: two writers at once, killed writers, links, modes, pipes and the order of what reaches the disk."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tapeir.ir import atomic
from tapeir.ir.atomic import write_atomically, write_together

posix = pytest.mark.skipif(sys.platform == "win32", reason="another system's files")
LEFT = re.compile(r"\..*\.[0-9a-f]{16}\.partial")


def files(folder: Path) -> dict[str, bytes]:
    """The files in a folder and their content."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writing_atomically_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a"
    write_atomically(path, b"long content")
    write_atomically(path, b"new")
    assert files(path.parent) == {"a": b"new"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


@posix
def test_links_stay_and_their_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "deep" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to("deep/target")
    (tmp_path / "second").symlink_to("link")
    (tmp_path / "dangling").symlink_to("new/target")
    (tmp_path / "round").symlink_to("round")
    write_atomically(link, b"one")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"one")
    write_atomically(tmp_path / "second", b"two")
    assert ((tmp_path / "second").is_symlink(), link.is_symlink(), target.read_bytes()) == (True, True, b"two")
    write_atomically(tmp_path / "dangling", b"three")
    assert ((tmp_path / "dangling").is_symlink(), (tmp_path / "new" / "target").read_bytes()) == (True, b"three")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        write_atomically(tmp_path / "round", b"four")
    assert [p.name for p in target.parent.iterdir()] == ["target"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_the_mode_of_a_file_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (mode, b"new")


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["a" * 255, "é" * 120, "\n", "[a]*", ".hidden", "a.1f.partial"])
@posix
def test_any_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"one")
    write_atomically(tmp_path / name, b"two")
    assert files(tmp_path) == {name: b"two"}


def test_threads_may_write_one_file(tmp_path: Path) -> None:
    """Each content is whole, none meets another's temporary file, and none is left."""
    path, errors = tmp_path / "file", list[OSError]()

    def write(number: int) -> None:
        try:
            for _ in range(40):
                write_atomically(path, bytes([number]) * 2000)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        if path.exists():
            found = path.read_bytes()
            assert (len(found), len(set(found))) == (2000, 1)
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(files(tmp_path)) == ["file"]


WRITER = """
import os, sys
from pathlib import Path
from tapeir.ir import atomic
path, content = Path(sys.argv[1]), b"x" * int(sys.argv[2])
if len(sys.argv) > 3:
    atomic.os.replace = lambda *_: (print("staged", flush=True), input())
while True:
    atomic.write_atomically(path, content)
"""


def writer(path: Path, size: int, *more: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", WRITER, str(path), str(size), *more]
    process: Any = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process


def kill(process: Any) -> None:
    with process:
        process.kill()


@posix
def test_what_a_killed_writer_left_goes_at_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")
    (tmp_path / ".state.0123456789abcdef.partial.txt").write_bytes(b"another's")
    (tmp_path / ".other.0123456789abcdef.partial").write_bytes(b"of another file")
    killed, alive = writer(path, 10, "stop"), writer(path, 20, "stop")
    for process in (killed, alive):
        assert process.stdout.readline() == b"staged\n"
    kill(killed)
    held = [name for name in files(tmp_path) if LEFT.fullmatch(name)]
    assert len(held) == 3
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    found = files(tmp_path)
    assert sorted(map(len, (found[n] for n in held if n in found))) == [15, 20], "a living writer keeps its file"
    kill(alive)
    write_atomically(path, b"newer")
    assert set(files(tmp_path)) == {"state", ".state.0123456789abcdef.partial.txt", ".other.0123456789abcdef.partial"}


@posix
@pytest.mark.slow
def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"begin")
    for turn in range(40):
        process = writer(path, 200_000)
        before = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == before:
            time.sleep(0.01)
        time.sleep(0.001 * (turn % 11))
        kill(process)
        assert len(path.read_bytes()) == 200_000
    write_atomically(path, b"end")
    assert files(tmp_path) == {"state": b"end"}


@posix
def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def replaced(a: Any, b: Any) -> None:
        done.append("name")
        replace(a, b)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not tell what a descriptor is")
    monkeypatch.setattr(atomic.os, "fsync", synced)
    monkeypatch.setattr(atomic.os, "replace", replaced)
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert done == ["file", "file", "name", "name", "folder"]


@posix
def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def refuse(code: int) -> None:
        def synced(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(code, os.strerror(code))
            sync(descriptor)

        monkeypatch.setattr(atomic.os, "fsync", synced)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not tell what a descriptor is")
    refuse(errno.EINVAL)
    write_atomically(tmp_path / "a", b"1")
    refuse(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomically(tmp_path / "a", b"2")
