"""The disk cache: entries survive only whole, any number of writers may race, and a folder that fails caches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapeir.backends import cache

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
