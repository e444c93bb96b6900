"""Files that are damaged or made to harm: every reader raises its own error with the file's name, and nothing else.

``TAPEIR_FUZZ=10000`` tries as many of them.
"""

from __future__ import annotations

import os
import py_compile
import struct
import traceback
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hostile import WORDS

import tapeir as tp
from tapeir import ir
from tapeir.ir import Builder, GraphBuilder, Module
from tapeir.ir.errors import DataError, IRError
from tapeir.ir.literal import Literal
from tapeir.ir.types import f32
from tapeir.runtime import npz
from tapeir.runtime.ir_file import arguments, read_arrays
from tapeir.runtime.model_file import ModelFileError, load

from .mutations import EXTREMES, damaged, described, header_damaged, member_damaged, npy, npz_of
from .small import X, Y, network, runtime

CASES = int(os.environ.get("TAPEIR_FUZZ", "800"))
DATA = tp.data.arrays(X, Y)
MODEL = b"""# -*- coding: utf-8 -*-
from tapeir import nn

model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())  # \xc3\xa9
text = "a" 'b' f"{1 + 2}" \"\"\"c\"\"\"
number = [0x10, 1e3, (1, 2), {"a": 3}]
"""
CSV = b'kind,size,"y, z",name\nb,1,2,n\na,3.5,-4e1,m\n\nb,5,6,"l ""k"""\n'


def _state(folder: Path) -> bytes:
    rt = runtime()
    rt.step(X, Y)
    rt.save(folder / "valid.safetensors")
    return (folder / "valid.safetensors").read_bytes()


def _text(folder: Path) -> tuple[bytes, bytes]:
    """IR text, and the file of its large constants."""
    recorder = GraphBuilder()
    recorder.at = ()
    build = Builder(recorder)
    x = recorder.argument(f32[5, 4], "x")
    y = build.add(x, build.constant(value=Literal.of(np.arange(20.0, dtype=np.float32).reshape(5, 4))))
    ir.save(Module("m", [recorder.function("f", [(x, "input")], [(y, None)])]), folder / "valid.ir")
    return (folder / "valid.ir").read_bytes(), (folder / "valid.safetensors").read_bytes()


def _archive(folder: Path) -> bytes:
    np.savez_compressed(
        folder / "valid.npz", x=X, y=np.asarray(Y), z=np.zeros((0, 3), np.float32), big=np.ones(3, ">i4")
    )
    return (folder / "valid.npz").read_bytes()


Reads = Callable[[Path], Any]
OF_MODELS = (NameError, TypeError, AttributeError, ImportError, ValueError, ArithmeticError, LookupError)
"""What a model's own code may raise."""


def _reads(path: Path, read: Reads, kinds: type[Exception] | tuple[type[Exception], ...] = IRError) -> bool:
    """Whether a file is read; an error is of the kinds and names the file."""
    found: Exception | None = None
    try:
        read(path)
    except kinds as error:
        found = error
    assert found is None or path.stem in str(found), found
    return found is None


def _load(path: Path) -> Any:
    return tp.Runtime.load(path, network())


def _resume(path: Path) -> Any:
    return tp.Trainer.new(network()).train(DATA, tp.Trainer.TrainOptions(resume=path, steps=0, batch_size=6))


@pytest.mark.parametrize("read", [_load, _resume], ids=["load", "resume"])
def test_state_files(read: Reads, tmp_path: Path) -> None:
    valid, path = _state(tmp_path), tmp_path / "damaged.safetensors"
    count = 0
    for case in range(CASES // 8):
        random = Random(case)
        path.write_bytes(
            header_damaged(valid, random) if random.random() < 0.6 else damaged(valid, valid[:400], random)
        )
        count += _reads(path, read, tp.CheckpointError)
    assert count < CASES // 8


def test_side_files_of_text(tmp_path: Path) -> None:
    text, valid = _text(tmp_path)
    path = tmp_path / "damaged.ir"
    path.write_bytes(text)
    side, count = path.with_suffix(".safetensors"), 0
    for case in range(CASES // 8):
        random = Random(case)
        side.write_bytes(
            header_damaged(valid, random) if random.random() < 0.6 else damaged(valid, valid[:400], random)
        )
        count += _reads(path, ir.load)
    assert count < CASES // 8


def test_text(tmp_path: Path) -> None:
    text, valid = _text(tmp_path)
    path = tmp_path / "damaged.ir"
    path.with_suffix(".safetensors").write_bytes(valid)
    for case in range(CASES // 8):
        path.write_bytes(damaged(text, CSV + MODEL, Random(case)))
        _reads(path, ir.load)


def _read_all(path: Path) -> None:
    archive = read_arrays(path)
    for name in archive:
        assert archive[name].dtype.kind in "biufc"


def _read_named(path: Path) -> None:
    tp.data.npz(path, "x", "y")


@pytest.mark.parametrize("read", [_read_all, _read_named], ids=["inputs", "data"])
def test_archives(read: Reads, tmp_path: Path) -> None:
    valid, path = _archive(tmp_path), tmp_path / "damaged.npz"
    count = 0
    for case in range(CASES // 8):
        random = Random(case)
        path.write_bytes(member_damaged(valid, random) if random.random() < 0.5 else damaged(valid, valid, random))
        count += _reads(path, read, DataError)
    assert 0 < count < CASES // 8


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "damaged.csv"
    for case in range(CASES // 8):
        path.write_bytes(damaged(CSV, MODEL, Random(case)))
        _reads(path, lambda p: tp.data.csv(p, "y, z", ["kind"], ["name"]), DataError)


def test_model_files(tmp_path: Path) -> None:
    """What a model's own code raises comes through; that it is no Python does not."""
    path = tmp_path / "damaged.py"
    for case in range(CASES // 8):
        path.write_bytes(damaged(MODEL, CSV, Random(case)))
        found: Exception | None = None
        try:
            load(path)
        except (ModelFileError, *OF_MODELS) as error:
            found = error
        if isinstance(found, ModelFileError):
            assert "damaged.py" in str(found)
        elif found is not None:
            files = [frame.filename for frame in traceback.extract_tb(found.__traceback__)]
            assert str(path) in files, found


# What is known to harm

MEMBERS = {
    "objects": (npy(np.array([{}], object), allow_pickle=True), "it holds Python objects"),
    "fields": (npy(np.zeros(2, [("a", "f4")])), "not numbers"),
    "text": (npy(np.array(["a"])), "not numbers"),
    "dates": (npy(np.zeros(2, "M8[s]")), "not numbers"),
    "a part": (described("{'descr': '(1000000000,)f4', 'fortran_order': False, 'shape': ()}"), "not numbers"),
    "unknown": (described("{'descr': '<f7', 'fortran_order': False, 'shape': ()}"), "not numbers"),
    "nothing": (b"", "it is no array of NumPy"),
    "version": (described("{}", version=9)[:8] + b"\0\0", "it is no array of NumPy"),
    "an expression": (described("__import__('os').system('true')"), "its header describes no array"),
    "nested": (described("[" * 5000), "its header describes no array"),
    "signs": (described("-" * 9000 + "1"), "its header describes no array"),
    "a list": (described("[1, 2]"), "its header describes no array"),
    "keys": (described("{'descr': '<f4'}"), "its header describes no array"),
    "a long header": (described("{}" + " " * 20_000), "its header has 20,002 bytes"),
    "negative": (described("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "its header describes no array"),
    "true": (described("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "its header describes no array"),
    "axes": (described("{'descr': '<f4', 'fortran_order': False, 'shape': " + repr((1,) * 80) + "}"), "describes no array"),
    "order": (described("{'descr': '<f4', 'fortran_order': 1, 'shape': (0,)}"), "its header describes no array"),
    "too little": (npy(np.ones(5))[:-1], "takes 168 bytes, and the archive declares 167"),
    "too much": (npy(np.ones(5)) + b"a", "takes 168 bytes, and the archive declares 169"),
    "huge": (described("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387903, 9)}"), "and the archive declares"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEMBERS)
def test_members_that_are_no_arrays_of_numbers(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    content, reason = MEMBERS[kind]
    path.write_bytes(npz_of({"x.npy": content, "y.npy": npy(np.ones(2))}))
    for read in (lambda: read_arrays(path)["x"], lambda: tp.data.npz(path, "x")):
        with pytest.raises(DataError) as caught:
            read()
        assert f"{path} cannot be read: array 'x' cannot be read: " in str(caught.value)
        assert reason in str(caught.value)
    assert tp.data.npz(path, "y").columns[0].tolist() == [1, 1]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression(method: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz_of({"x.npy": npy(np.ones(2))}, method))
    with pytest.raises(DataError, match=rf"compressed by method {method}; numpy\.savez_compressed deflates"):
        tp.data.npz(path, "x")


def test_arrays_come_as_numpy_wrote_them(tmp_path: Path) -> None:
    arrays = {
        "c": X, "columns": np.asfortranarray(X), "big": np.arange(6, dtype=">i4").reshape(2, 3), "number": np.float32(3),
        "empty": np.ones((0, 4)),
        "bool": np.array([True, False]), "complex": np.ones(2, np.complex128), "é/ü": np.arange(3, dtype=np.uint8),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (np.shape(array), np.asarray(array).dtype.newbyteorder("="))
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize("asked", [True, False])
def test_a_bomb_takes_no_memory(asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that would take a thousand times as much."""
    monkeypatch.setattr(npz, "FREE_BYTES", 1 << 20)
    path, size = tmp_path / "bomb.npz", 64 << 20
    np.savez_compressed(path, bomb=np.zeros(size, np.uint8), x=X)
    assert path.stat().st_size < size // 500
    tracemalloc.start()
    try:
        if asked:
            with pytest.raises(DataError, match=r"array 'bomb' cannot be read: it would take 67,108,992 bytes"):
                tp.data.npz(path, "x", "bomb")
        else:
            assert tp.data.npz(path, "x").columns[0].shape == X.shape
        assert tracemalloc.get_traced_memory()[1] < size // 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("declared", [100, 127, 129, 1 << 20, 0xFFFFFFFE])
def test_a_member_that_declares_another_size(declared: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    content = npz_of({"x.npy": npy(np.zeros(0))})
    at = content.rindex(b"PK\x01\x02") + 24
    assert content[at : at + 4] == struct.pack("<I", 128)
    path.write_bytes(content[:at] + struct.pack("<I", declared) + content[at + 4 :])
    with pytest.raises(
        DataError, match=f"takes 128 bytes, and the archive declares {declared:,}|ends too early|Bad CRC-32"
    ):
        tp.data.npz(path, "x")


def test_many_arrays_together_are_limited_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "FREE_BYTES", 10_000)
    monkeypatch.setattr(npz, "RATIO", 0)
    path = tmp_path / "a.npz"
    path.write_bytes(npz_of({f"x{n}.npy": npy(np.zeros(500)) for n in range(4)}))
    assert len(tp.data.npz(path, "x0", "x3").columns) == 2
    with pytest.raises(
        DataError, match=r"array 'x2' cannot be read: it would take 4,128 bytes.*\n  remedy: numpy\.load"
    ):
        tp.data.npz(path, "x0", "x1", "x2")


def test_only_the_arguments_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz_of({"x.npy": npy(np.ones(2, np.float32)), "bad.npy": b"\0" * 10, "other.txt": b"a"}))
    function = ir.parse("module @m { func @f(%x: f32[2] input) -> (f32[2]) { return %x } }")["f"]
    assert arguments(function, read_arrays(path))[0].tolist() == [1, 1]
    missing = ir.parse("module @m { func @f(%z: f32[2] input) -> (f32[2]) { return %z } }")["f"]
    with pytest.raises(DataError, match=r"@f needs z: f32\[2\]; given are x, bad"):
        arguments(missing, read_arrays(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.npz", "a.safetensors"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "a.ir").write_text(
        "module @m { func @f() -> (f32[40]) {\n%0 = constant {data = @sha256_a} : f32[40]\nreturn %0\n} }"
    )
    for read in (
        lambda: tp.data.npz(tmp_path / "a.npz", "x"),
        lambda: tp.Runtime.load(tmp_path / "a.safetensors", network()),
        lambda: ir.load(tmp_path / "a.ir"),
    ):
        with pytest.raises(IRError, match="it is no regular file"):
            read()


def test_names_that_no_file_has(tmp_path: Path) -> None:
    for word in WORDS:
        name = f"{tmp_path}/none-{word}"
        for read in (
            lambda name=name: tp.data.npz(name, "x"),
            lambda name=name: tp.data.csv(name, "x"),
            lambda name=name: tp.Runtime.load(name, network()),
            lambda name=name: ir.load(name),
            lambda name=name: read_arrays(name),
        ):
            with pytest.raises(IRError):
                read()
    for word in ("a\0b", "\ud800"):
        with pytest.raises(tp.CheckpointError):
            runtime().save(f"{tmp_path}/{word}\0")


DEEP = {
    "brackets": "(" * 5000 + ")" * 5000,
    "signs": "-" * 200_000 + "1",
    "sums": "1" + "+1" * 200_000,
    "lists": "[" * 100_000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_python_that_is_nested_too_deeply(kind: str, tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(f"x = {DEEP[kind]}\n")
    with pytest.raises(ModelFileError, match=r"deep\.py"):
        load(tmp_path / "deep.py")


def test_a_damaged_compiled_form_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("x = 1\n")
    compiled = Path(py_compile.compile(str(path), doraise=True) or "")
    head = compiled.read_bytes()[:16]
    for rest in (b"", b"\xff", b"\xe3", b"i\x01\0\0\0"):
        compiled.write_bytes(head + rest)
        with pytest.raises(IRError, match=r"model\.py cannot be compiled"):
            load(path)


def test_extremes_cover_words_of_every_size() -> None:
    assert max(EXTREMES) == (1 << 64) - 1
