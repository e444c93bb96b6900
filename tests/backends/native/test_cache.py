"""The disk cache: entries survive only whole, any number of writers may race, and a folder that fails caches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tapeir as tp
from tapeir.backends import cache, kernels

KEY = "0f" * 32


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(folder: Path, kind: str = "kernels") -> list[Path]:
    return sorted((folder / kind).iterdir())


def test_what_is_written_is_read() -> None:
    assert cache.read("kernels", KEY) is None
    for data in (b"", b"\n\n", bytes(range(256)) * 50):
        cache.write("kernels", KEY, data, "softmax f32 [128, 10]")
        assert cache.read("kernels", KEY) == data
    assert cache.read("programs", KEY) is None


def test_entries_are_listed_and_cleared(own_folder: Path) -> None:
    assert cache.entries() == []
    cache.write("kernels", "a", b"12345", "one\nof two")
    cache.write("programs", "b", b"", "λ step " * 200)
    listed = {e.kind: e for e in cache.entries()}
    assert (listed["kernels"].key, listed["kernels"].about) == ("a", "one of two")
    assert listed["programs"].about.startswith("λ step λ step")
    for entry in listed.values():
        assert 0 <= entry.age < 60
        assert entry.size == (own_folder / entry.kind / (entry.key + cache.SUFFIX)).stat().st_size
    assert cache.clear() == 2
    assert cache.entries() == []
    assert cache.clear() == 0
    assert stored(own_folder) == []


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "extended", "about", "renamed"])
def test_a_damaged_entry_is_absent_and_removed(own_folder: Path, damage: str) -> None:
    cache.write("kernels", KEY, b"code" * 100, "about")
    (path,) = stored(own_folder)
    content = path.read_bytes()
    key = KEY
    if damage == "renamed":
        key = "f0" * 32
        path = path.rename(path.with_name(key + cache.SUFFIX))
    else:
        changed = {
            "truncated": content[:-1],
            "emptied": b"",
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "extended": content + b"\0",
            "about": content.replace(b"\nabout\n", b"\nabuot\n"),
        }
        path.write_bytes(changed[damage])
    assert cache.read("kernels", key) is None
    assert not path.exists()
    cache.write("kernels", key, b"again", "about")
    assert cache.read("kernels", key) == b"again"


def test_off_keeps_nothing(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEIR_CACHE", "off")
    cache.write("kernels", KEY, b"code", "about")
    assert cache.folder() is None
    assert cache.read("kernels", KEY) is None
    assert cache.entries() == []
    assert cache.clear() == 0
    assert not own_folder.exists()


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path / "file"))
    cache.write("kernels", KEY, b"code", "about")
    assert cache.read("kernels", KEY) is None
    assert cache.entries() == []
    assert cache.clear() == 0


def test_the_default_folder_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPEIR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "tapeir"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder() == tmp_path / ".cache" / "tapeir"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.folder() == tmp_path / "Library" / "Caches" / "tapeir"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.folder() == tmp_path / "local" / "tapeir"


@pytest.mark.parametrize(("kind", "key"), [("kernel", "a"), ("kernels", ""), ("kernels", "../a"), ("kernels", "a.b")])
def test_other_kinds_and_keys_are_refused(kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="kinds are kernels, programs"):
        cache.read(kind, key)


def test_the_longest_unused_go_first(own_folder: Path) -> None:
    for age, key in ((30, "a"), (20, "b"), (10, "c")):
        cache.write("kernels", key, bytes(1000), "")
        path = own_folder / "kernels" / (key + cache.SUFFIX)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    assert cache.read("kernels", "a") is not None  # so "b" is now the longest unused
    cache.prune(2500)
    assert [e.key for e in cache.entries()] == ["a", "c"]


def test_only_old_partial_files_are_removed(own_folder: Path) -> None:
    cache.write("kernels", KEY, b"", "")
    left, current = own_folder / "kernels" / ".partial-left", own_folder / "kernels" / ".partial-current"
    left.write_bytes(b"half")
    current.write_bytes(b"half")
    os.utime(left, (0, 0))
    cache.prune()
    assert not left.exists()
    assert current.exists()


WRITER = """
import sys
from tapeir.backends import cache
own = sys.argv[1].encode()
for turn in range(200):
    cache.write("kernels", "shared", own * 5000, "a writer")
    found = cache.read("kernels", "shared")
    assert found is not None and len(found) == 5000 and len(set(found)) == 1, "torn"
    cache.write("kernels", f"own{sys.argv[1]}{turn % 10}", own, "a writer")
    if turn % 50 == 0:
        cache.prune(60000)
"""


def test_concurrent_writers_never_tear_an_entry(own_folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], env=environment) for name in "abcd"]
    assert [w.wait(120) for w in writers] == [0, 0, 0, 0]
    assert not [p for p in stored(own_folder) if p.name.startswith(".partial")]


TEXT = """
define i32 @answer() {
  ret i32 42
}
"""


def test_an_engine_loads_from_the_cache_and_once(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    from tapeir.backends.native import engine

    monkeypatch.setattr(engine, "_loaded", {})
    first = engine.load(TEXT, about="the answer")
    assert engine.load(TEXT) is first
    assert [e.about for e in cache.entries()] == ["the answer"]

    def refuse(text: str) -> bytes:
        raise AssertionError("emitted again")

    monkeypatch.setattr(engine, "_loaded", {})
    with monkeypatch.context() as patched:
        patched.setattr(engine, "emit_object", refuse)
        again = engine.load(TEXT)
    assert again is not first
    assert again.address("answer")

    (path,) = stored(own_folder)
    path.write_bytes(path.read_bytes()[:-10])
    monkeypatch.setattr(engine, "_loaded", {})
    assert engine.load(TEXT, about="rebuilt").address("answer")
    assert [e.about for e in cache.entries()] == ["rebuilt"]


# Folders and entries of others

owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no numbers of users")
as_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root gives files away")
OTHER = 12345


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was printed on standard error since."""
    monkeypatch.setattr(cache, "_said", set[str]())
    return lambda: capsys.readouterr().err


def refused(said: Callable[[], str], path: Path, fact: str, remedy: str) -> None:
    """Nothing is read, written or deleted, and one line says why."""
    assert cache.read("kernels", KEY) is None
    cache.write("kernels", "new", b"code", "")
    assert cache.entries() == []
    assert cache.clear() == 0
    told = said()
    assert told == f"{path} is not used as a cache of code: {fact}\n  remedy: {remedy}\n"
    assert cache.refusal() == told.rstrip("\n")


@owners
@pytest.mark.parametrize("part", ["", "kernels", "programs"])
@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_a_folder_that_others_can_write_is_refused(
    own_folder: Path, said: Callable[[], str], part: str, mode: int
) -> None:
    cache.write("kernels", KEY, b"code", "")
    cache.write("programs", KEY, b"code", "")
    path = own_folder / part
    path.chmod(mode)
    refused(said, path, "its group or others can write it", f"chmod go-w '{path}'")
    assert len(stored(own_folder)) == 1
    path.chmod(0o755)
    assert cache.read("kernels", KEY) == b"code"


@owners
def test_a_folder_that_a_group_of_others_can_write_is_refused(
    own_folder: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write("kernels", KEY, b"code", "")
    own_folder.chmod(0o770)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "_is_private", lambda group: False)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        refused(said, own_folder, "its group or others can write it", f"chmod go-w '{own_folder}'")
    monkeypatch.setattr(cache, "_is_private", lambda group: True)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert cache.read("kernels", KEY) == b"code"


@owners
def test_a_folder_above_that_others_can_write_is_refused_unless_sticky(
    tmp_path: Path, own_folder: Path, said: Callable[[], str]
) -> None:
    tmp_path.chmod(0o777)
    refused(said, tmp_path, "its group or others can write it", f"chmod go-w '{tmp_path}', or {cache._ELSEWHERE}")  # pyright: ignore[reportPrivateUsage]
    assert not own_folder.exists()
    tmp_path.chmod(0o1777)
    cache.write("kernels", KEY, b"code", "")
    assert cache.read("kernels", KEY) == b"code"
    assert said() == ""


@owners
def test_a_link_is_judged_by_where_it_leads(
    tmp_path: Path, own_folder: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_, link = tmp_path / "open", tmp_path / "link"
    open_.mkdir()
    open_.chmod(0o777)
    link.symlink_to(open_, target_is_directory=True)
    monkeypatch.setenv("TAPEIR_CACHE", str(link / "cache"))
    refused(said, link, "its group or others can write it", f"chmod go-w '{link}', or {cache._ELSEWHERE}")  # pyright: ignore[reportPrivateUsage]


@as_root
@pytest.mark.parametrize("part", ["", "kernels", "programs"])
def test_a_folder_of_another_user_is_refused(own_folder: Path, said: Callable[[], str], part: str) -> None:
    cache.write("kernels", KEY, b"code", "")
    cache.write("programs", KEY, b"code", "")
    os.chown(own_folder / part, OTHER, OTHER)
    fact = f"it belongs to user {OTHER}, and this is user 0"
    refused(said, own_folder / part, fact, "TAPEIR_CACHE=a folder that is yours alone, or TAPEIR_CACHE=off")
    assert len(stored(own_folder)) == 1


@owners
@pytest.mark.parametrize("kind", ["another user's", "writable"])
def test_an_entry_of_others_is_absent_and_replaced(own_folder: Path, said: Callable[[], str], kind: str) -> None:
    cache.write("kernels", KEY, b"code", "")
    (path,) = stored(own_folder)
    if kind == "writable":
        path.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(path, OTHER, OTHER)
    else:
        pytest.skip("only root gives files away")
    assert cache.read("kernels", KEY) is None
    assert f"{path} is not used as a cache of code" in said()
    cache.write("kernels", KEY, b"own", "")
    assert cache.read("kernels", KEY) == b"own"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == os.geteuid()


@owners
def test_folders_are_made_for_the_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        cache.write("kernels", KEY, b"code", "")
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "kernels"]
    assert [p.stat().st_mode & 0o777 for p in made] == [0o700] * 3
    assert cache.read("kernels", KEY) == b"code"
    assert said() == ""


@owners
def test_a_pipe_is_no_entry(own_folder: Path) -> None:
    cache.write("kernels", KEY, b"code", "")
    (path,) = stored(own_folder)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.read("kernels", KEY) is None


def test_systems_without_numbers_of_users_are_not_checked(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    cache.write("kernels", KEY, b"code", "")
    own_folder.chmod(0o777)
    monkeypatch.delattr(os, "geteuid", raising=False)
    assert cache.read("kernels", KEY) == b"code"
    assert said() == ""


@owners
def test_a_program_runs_without_a_refused_cache(own_folder: Path, said: Callable[[], str]) -> None:
    own_folder.mkdir()
    own_folder.chmod(0o777)
    assert np.array_equal(tp.compile(_doubled)(np.ones(11)), np.full(11, 2.0))
    assert list(own_folder.iterdir()) == []
    if kernels.table().name == "native":
        assert said().count("is not used as a cache of code") == 1


def _doubled(x: tp.Tensor) -> tp.Tensor:
    return x * 2.0
