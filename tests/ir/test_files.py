"""IR files: text and large constants come back, and nothing is lost or left behind when something goes wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeir import ir
from tapeir.ir import DTYPES, GraphBuilder, IRError, Module, ParseError, VerifyError
from tapeir.ir.files import read_tensors, side_file, tensors_bytes
from tapeir.ir.literal import Literal
from tapeir.ir.types import DType, Shape

CONSTANT_DTYPES = [d for d in DTYPES.values() if d.name != "key"]


def with_constants(*arrays: Any) -> Module:
    """A module of one function that gives constants."""
    recorder = GraphBuilder()
    recorder.at = ()
    results = [recorder.bind(ir.OPS["constant"], (), {"value": Literal.of(np.asarray(a))})[0] for a in arrays]
    return Module("m", [recorder.function("f", [], [(v, None) for v in results])]).verify()


def elements(dtype: DType, shape: Shape = (4, 5)) -> Any:
    count = int(np.prod(shape))
    if dtype.floating:
        values = np.linspace(-3, 3, count)
        values[:5] = [np.nan, np.inf, -np.inf, -0.0, 1e-7]
        return values.astype(dtype.numpy).reshape(shape)
    return (np.arange(count) % (2 if dtype.kind == "b" else 100)).astype(dtype.numpy).reshape(shape)


def saved(folder: Path, module: Module | None = None) -> Path:
    path = folder / "net.ir"
    ir.save(module or with_constants(np.arange(40.0)), path)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("dtype", CONSTANT_DTYPES, ids=str)
def test_constants_of_every_dtype_come_back(dtype: DType, tmp_path: Path) -> None:
    array = elements(dtype)
    path = saved(tmp_path, with_constants(array, array.reshape(20), array[:1, :2]))
    found = ir.load(path)
    assert found == with_constants(array, array.reshape(20), array[:1, :2])
    literals = [i.attrs["value"] for i in found["f"].instructions]
    assert [v.data.dtype for v in literals] == [dtype.numpy] * 3
    assert literals[0].data.tobytes() == Literal.of(array).data.tobytes()
    assert len(read_tensors(side_file(path))[0]) == 2, "the type is part of the name: two shapes, two entries"


def test_equal_constants_are_kept_once(tmp_path: Path) -> None:
    path = saved(tmp_path, with_constants(np.arange(40.0), np.arange(40.0)))
    assert len(read_tensors(side_file(path))[0]) == 1
    assert path.read_text().count("data = @sha256_") == 2


def test_small_constants_need_no_second_file(tmp_path: Path) -> None:
    saved(tmp_path, with_constants(np.arange(16.0), np.full((100, 100), 2.5)))
    assert list(files(tmp_path)) == ["net.ir"]


def test_saving_again_changes_no_byte(tmp_path: Path) -> None:
    path = saved(tmp_path, with_constants(*(elements(d) for d in CONSTANT_DTYPES)))
    before = files(tmp_path)
    ir.save(ir.load(path), path)
    assert files(tmp_path) == before
    assert sorted(before) == ["net.ir", "net.safetensors"]


def test_folders_are_made(tmp_path: Path) -> None:
    ir.save(with_constants(np.arange(40.0)), tmp_path / "a" / "b" / "net.ir")
    assert sorted(files(tmp_path / "a" / "b")) == ["net.ir", "net.safetensors"]


def test_locations_relative_to_a_folder(tmp_path: Path) -> None:
    module = with_constants(1.0)
    module["f"].instructions[0].location = (ir.Location(str(tmp_path / "net.py"), 3, "a"),)
    ir.save(module, tmp_path / "net.ir", locations=True, base=str(tmp_path))
    assert ir.load(tmp_path / "net.ir")["f"].instructions[0].location == (ir.Location("net.py", 3, "a"),)


# What is not as it was


def test_a_missing_side_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    side_file(path).unlink()
    with pytest.raises(
        ParseError,
        match=r"the elements of this constant are missing: .*\.safetensors, where they belong, is not there\n  remedy",
    ) as caught:
        ir.load(path)
    assert (caught.value.file, caught.value.line) == (str(path), 3)


def test_a_constant_that_is_not_in_the_side_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    text = path.read_text()
    saved(tmp_path, with_constants(np.arange(50.0)))
    path.write_text(text)
    with pytest.raises(ParseError, match="are missing"):
        ir.load(path)


def test_altered_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = bytearray(side_file(path).read_bytes())
    content[-1] ^= 1
    side_file(path).write_bytes(content)
    with pytest.raises(ParseError, match="the elements of this constant were altered"):
        ir.load(path)


@pytest.mark.parametrize("other", [np.float32, np.int64])
def test_an_altered_type(other: Any, tmp_path: Path) -> None:
    path = saved(tmp_path)
    arrays, metadata = read_tensors(side_file(path))
    side_file(path).write_bytes(tensors_bytes({n: a.astype(other) for n, a in arrays.items()}, metadata))
    with pytest.raises(ParseError, match="were altered"):
        ir.load(path)


def test_an_altered_shape(tmp_path: Path) -> None:
    path = saved(tmp_path)
    arrays, metadata = read_tensors(side_file(path))
    side_file(path).write_bytes(tensors_bytes({n: a.reshape(4, 10) for n, a in arrays.items()}, metadata))
    with pytest.raises(ParseError, match="were altered"):
        ir.load(path)


def test_an_altered_type_in_the_text(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_text(path.read_text().replace("f64[40]", "f64[4, 10]"))
    with pytest.raises(ParseError, match="were altered"):
        ir.load(path)


@pytest.mark.parametrize("content", [b"", b"not a tensor file", b"\xff" * 100])
def test_a_side_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path)
    side_file(path).write_bytes(content)
    with pytest.raises(IRError) as caught:
        ir.load(path)
    assert "net.safetensors" in str(caught.value)
    assert "net.ir" in str(caught.value)


# Other people's files


@pytest.mark.parametrize("kind", ["weights", "garbage", "folder"])
def test_a_foreign_file_is_not_overwritten(kind: str, tmp_path: Path) -> None:
    foreign = tmp_path / "net.safetensors"
    if kind == "weights":
        foreign.write_bytes(tensors_bytes({"w": np.ones(3)}, {"kind": "weights"}))
    elif kind == "garbage":
        foreign.write_bytes(b"my notes")
    else:
        foreign.mkdir()
    before = files(tmp_path)
    with pytest.raises(IRError, match=r"holds no constants of IR\n  remedy: another name for net\.ir"):
        saved(tmp_path)
    assert files(tmp_path) == before
    path = saved(tmp_path, with_constants(1.0))
    assert ir.load(path) == with_constants(1.0), "text without large constants takes no notice of it"
    assert {n: c for n, c in files(tmp_path).items() if n != "net.ir"} == before


def test_a_stale_side_file_is_removed(tmp_path: Path) -> None:
    saved(tmp_path)
    saved(tmp_path, with_constants(1.0))
    assert list(files(tmp_path)) == ["net.ir"]


# Files that cannot be written or read


def refuse_writing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the disk full for one file; root may write everywhere, so permissions would not tell."""
    opened: Any = os.open

    def full(path: Any, *args: Any, **options: Any) -> Any:
        if Path(path).name.startswith(f".{name}."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", full)


@pytest.mark.parametrize("name", ["net.ir", "net.safetensors"])
def test_a_full_disk_leaves_what_was_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = files(tmp_path)
    refuse_writing(monkeypatch, name)
    with pytest.raises(IRError, match=r"net\.ir cannot be written: No space left on device"):
        ir.save(with_constants(np.arange(60.0)), path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["net.ir", "net.safetensors"])
def test_a_full_disk_leaves_nothing_half_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_writing(monkeypatch, name)
    with pytest.raises(IRError):
        saved(tmp_path)
    assert files(tmp_path) == {}


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(IRError, match="cannot be written: "):
        ir.save(with_constants(np.arange(40.0)), tmp_path / "file" / "net.ir")
    assert list(files(tmp_path)) == ["file"]


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "net.ir").mkdir()
    with pytest.raises(IRError, match="is a folder\n  remedy: the name of a file in it"):
        saved(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.ir"]
    with pytest.raises(IRError, match="cannot be read: Is a directory"):
        ir.load(tmp_path / "net.ir")


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name(path: str) -> None:
    with pytest.raises(IRError, match="is a folder"):
        ir.save(with_constants(1.0), path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = files(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(IRError, match="cannot be written: Permission denied"):
            ir.save(with_constants(np.arange(60.0)), path)
        assert files(tmp_path) == before
    finally:
        tmp_path.chmod(0o700)


def test_text_does_not_go_where_constants_would(tmp_path: Path) -> None:
    with pytest.raises(IRError, match=r"remedy: another ending, such as \.ir"):
        ir.save(with_constants(np.arange(40.0)), tmp_path / "net.safetensors")
    assert files(tmp_path) == {}


def test_a_long_name(tmp_path: Path) -> None:
    with pytest.raises(IRError, match="cannot be written: File name too long"):
        ir.save(with_constants(1.0), tmp_path / ("n" * 300 + ".ir"))
    assert files(tmp_path) == {}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IRError, match=r"none\.ir cannot be read: No such file or directory"):
        ir.load(tmp_path / "none.ir")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "net.ir"
    path.write_bytes(b'module @"\xff\xfe" { }')
    with pytest.raises(IRError, match=r"net\.ir is not IR text: it is not UTF-8"):
        ir.load(path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "net.ir"
    path.write_bytes(b"")
    with pytest.raises(ParseError, match="the end of the text where one of these belongs: module") as caught:
        ir.load(path)
    assert str(caught.value).startswith(f"{path}:1:1: ")


def test_what_is_loaded_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "net.ir"
    path.write_text("module @m {\nfunc @f(%x: f32[4]) -> (f32[5]) {\n%0 = neg %x : f32[5]\nreturn %0\n}\n}")
    with pytest.raises(VerifyError, match=r"net\.ir:3:15: in @f, neg number 0: the result type is f32\[4\]"):
        ir.load(path)


def test_lines_of_windows_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path)
    expected = ir.load(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert ir.load(path) == expected


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "bom.ir").write_bytes(b"\xef\xbb\xbfmodule @m {}\r\n")
    assert ir.load(tmp_path / "bom.ir") == Module("m")
