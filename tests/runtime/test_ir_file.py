"""Running functions of IR: which one, on what arrays, and what its results are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import fails, irc
from hypothesis import given
from outcomes import same_bits
from strategies import arrays
from typer.testing import CliRunner

from tapeir.cli import app
from tapeir.ir import DTYPES, IRError, parse, philox
from tapeir.ir.errors import DataError
from tapeir.ir.types import bf16
from tapeir.runtime.ir_file import (
    EntryError,
    argument_names,
    arguments,
    checked,
    entry_of,
    example_arrays,
    read_arrays,
    result_names,
    write_arrays,
)

STEP = """module @train {
  func @step(
    %x: f32[4] input,
    %w: f32[4] param,
    %seen: i64[] buffer,
    %key: key[] input,
    %optimizer/step: i64[] optimizer
  ) -> (f32[], f32[4] grad(%w), f32[4] update(%w), i64[] update(%seen), i64[] update(%optimizer/step)) {
    %one = constant {value = 1} : i64[]
    %0 = fold_in %key, %optimizer/step : key[]
    %1 = uniform %0 {shape = [4], dtype = f32} : f32[4]
    %2 = add %x, %1 : f32[4]
    %3 = sub %w, %2 : f32[4]
    %4 = mul %3, %3 : f32[4]
    %loss = sum %4 {axes = [0], keepdims = false} : f32[]
    %5 = add %3, %3 : f32[4]
    %6 = constant {value = 0.1} : f32[4]
    %7 = mul %5, %6 : f32[4]
    %8 = sub %w, %7 : f32[4]
    %9 = add %seen, %one : i64[]
    %10 = add %optimizer/step, %one : i64[]
    return %loss, %5, %8, %9, %10
  }
}
"""
SEVERAL = """module @m {
  func @f(%x: f32[2] input) -> (f32[2]) {
    %0 = neg %x : f32[2] loc("user.py":7 in "a")
    return %0
  }
  func @main(%x: f32[2] input) -> (f32[2], f32[2], f32[2]) {
    %h = exp %x : f32[2]
    %0 = fused %h {kernel = @k} : f32[2]
    return %h, %0, %h
  }
  func @k(%0: f32[2]) -> (f32[2]) {
    return %0
  }
}
"""
TAKE = """module @m {
  func @f(%x: f32[4] input, %i: i64[2] input) -> (f32[2]) {

    %0 = take %x, %i {axis = 0} : f32[2]
    return %0
  }
}
"""


def test_the_entry() -> None:
    module = parse(SEVERAL)
    assert entry_of(module).name == "main"
    assert entry_of(module, "@f").name == "f"
    assert entry_of(module, "k").name == "k"
    assert (
        entry_of(parse(SEVERAL.replace("@main", "@g").replace("func @f(", "func @k2("))["g"] and parse(STEP)).name
        == "step"
    )
    with pytest.raises(EntryError, match="module @m has several functions: @f, @g"):
        entry_of(parse(SEVERAL.replace("@main", "@g")))
    with pytest.raises(EntryError, match="has no function @none: @f, @main"):
        entry_of(module, "@none")


def test_kernels_are_no_entries() -> None:
    text = SEVERAL[: SEVERAL.index("  func @f")] + SEVERAL[SEVERAL.index("  func @main") :].replace("@main", "@only")
    assert entry_of(parse(text)).name == "only"


def test_result_names() -> None:
    assert result_names(parse(SEVERAL)["main"]) == ["h", "out1", "h_1"]
    assert result_names(parse(STEP)["step"]) == ["loss", "grad(w)", "w", "seen", "optimizer/step"]


@pytest.mark.parametrize("name", [d for d in DTYPES if d != "key"])
def test_arrays_of_every_dtype_come_back(name: str, tmp_path: Path) -> None:
    dtype = DTYPES[name]
    function = parse(f"module @m {{ func @f(%a: {name}[3] input) -> () {{ return }} }}")["f"]
    array = np.array([0, 1, 1]).astype(dtype.numpy)
    write_arrays(tmp_path / "a.npz", {"a": array})
    (found,) = arguments(function, read_arrays(tmp_path / "a.npz"))
    assert same_bits(found, array)


@given(arrays(bf16))
def test_narrow_words_are_kept(array: Any) -> None:
    dimensions = ", ".join(map(str, array.shape))
    function = parse(f"module @m {{ func @f(%a: bf16[{dimensions}] input) -> () {{ return }} }}")["f"]
    (found,) = arguments(function, {"a": array.view(np.uint16)})
    assert same_bits(found, array)


FITS = [
    ("f32[2]", np.array([1.5, 2.5]), True),
    ("f64[2]", np.array([1.5, 2.5], np.float32), True),
    ("f32[2]", np.array([1, 2]), False),
    ("i64[2]", np.array([1.0, 2.0]), False),
    ("u8[2]", np.array([0, 255]), True),
    ("u8[2]", np.array([0, 256]), False),
    ("u8[2]", np.array([-1, 0]), False),
    ("i64[2]", np.array([1, 1 << 63], np.uint64), False),
    ("bool[2]", np.array([0, 1]), False),
    ("f32[2]", np.zeros(3), False),
    ("f32[2]", np.zeros((2, 1)), False),
]


@pytest.mark.parametrize(("type", "array", "fits"), FITS, ids=lambda x: str(x)[:20])
def test_arguments_fit_or_are_refused(type: str, array: Any, fits: bool) -> None:
    function = parse(f"module @m {{ func @f(%a: {type} input) -> () {{ return }} }}")["f"]
    if fits:
        assert np.array_equal(arguments(function, {"a": array})[0], array)
    else:
        with pytest.raises(DataError, match="argument a is"):
            arguments(function, {"a": array})


def test_arrays_by_name_or_in_order() -> None:
    function = parse(TAKE)["f"]
    x, i = np.arange(4.0), np.array([1, 2])
    for given_ in ({"i": i, "x": x}, [x, i], (x, i)):
        assert [a.dtype.name for a in checked(function, given_)] == ["float32", "int64"]
    with pytest.raises(DataError, match=r"@f takes 2 arrays \(x, i\), not 1"):
        checked(function, [x])
    with pytest.raises(DataError, match=r"argument x is f32\[4\], not an array of shape \[5\]"):
        checked(function, [np.ones(5), i])


def test_keys_come_from_the_seed() -> None:
    function = parse(STEP)["step"]
    given_ = {"x": np.zeros(4), "w": np.zeros(4), "seen": np.array(0), "optimizer/step": np.array(0)}
    found = arguments(function, given_, seed=5)
    assert found[3].tolist() == philox.key_of_seed(5).tolist()
    with pytest.raises(DataError, match=r"@step needs x: f32\[4\], seen: i64\[\]; given are w, optimizer/step"):
        arguments(function, {n: a for n, a in given_.items() if n not in ("x", "seen")})


def test_example_arrays_are_the_same_for_a_seed() -> None:
    function = parse(STEP)["step"]
    first, again, other = (example_arrays(function, seed) for seed in (1, 1, 2))
    assert all(same_bits(a, b) for a, b in zip(first, again, strict=True))
    assert not same_bits(first[0], other[0])
    assert set(first[2].reshape(-1).tolist()) <= {0, 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "step.ir").write_text(STEP)
    (tmp_path / "several.ir").write_text(SEVERAL)
    (tmp_path / "take.ir").write_text(TAKE)
    given = {
        "x": np.arange(4.0),
        "w": np.ones(4),
        "seen": np.array(3),
        "optimizer/step": np.array(0),
        "unused": np.ones(2),
    }
    write_arrays(tmp_path / "in.npz", given)
    return tmp_path


def test_run_feeds_updates_back(folder: Path) -> None:
    outputs: list[dict[str, Any]] = []
    for backend in ("compiled", "eager"):
        done = irc(
            folder, "run", "step.ir", "--inputs", "in.npz", "--steps", 3, "--outputs", "out.npz", "--backend", backend
        )
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"step: @step, 13 ops, backend {backend}, device cpu, seed 0\nloss: f32[] = ")
        outputs.append(dict(read_arrays(folder / "out.npz")))
    assert list(outputs[0]) == ["loss", "grad(w)", "w", "seen", "optimizer/step"]
    assert all(same_bits(outputs[0][n], outputs[1][n]) for n in outputs[0])
    assert (outputs[0]["seen"], outputs[0]["optimizer/step"]) == (6, 3)
    # Three single runs, each on the results of the one before, are the same.
    state = {**read_arrays(folder / "in.npz")}
    for n in range(3):
        write_arrays(folder / f"{n}.npz", state)
        assert irc(folder, "run", "step.ir", "--inputs", f"{n}.npz", "--outputs", "next.npz").code == 0
        state |= read_arrays(folder / "next.npz")
    assert all(same_bits(state[n], a) for n, a in outputs[0].items())


def test_run_of_one_of_several_and_json(folder: Path) -> None:
    np.savez(folder / "x.npz", x=np.array([1.0, np.inf]))
    done = irc(folder, "run", "several.ir", "--entry", "@f", "--inputs", "x.npz", "--json")
    assert (done.code, done.err.split(":")[0]) == (0, "several")
    result = json.loads(done.out)
    assert result["results"] == {"out0": [-1.0, "-inf"]}
    assert (result["entry"], result["backend"], result["seed"]) == ("f", "compiled", 0)
    done = irc(folder, "run", "several.ir", "--inputs", "x.npz")
    assert "h: f32[2] = [2.718" in done.out
    assert "@f, @g" in fails(_renamed(folder), "run", "g.ir", "--inputs", "x.npz", code=2)


def _renamed(folder: Path) -> Path:
    (folder / "g.ir").write_text(SEVERAL.replace("@main", "@g"))
    return folder


def test_an_error_names_the_line_of_the_text(folder: Path) -> None:
    np.savez(folder / "bad.npz", x=np.arange(4.0), i=np.array([1, 4]))
    texts = {fails(folder, "run", "take.ir", "--inputs", "bad.npz", "--backend", b) for b in ("eager", "compiled")}
    assert len(texts) == 1
    text = texts.pop()
    assert "take.ir:4" in text
    assert "%0 = take %x, %i {axis = 0} : f32[2]" in text
    assert "index 4 is out of range" in text


def test_bad_inputs(folder: Path) -> None:
    (folder / "text.npz").write_text("no")
    np.save(folder / "one.npy", np.ones(3))
    objects: dict[str, Any] = {**read_arrays(folder / "in.npz"), "x": np.array([{}], object)}
    np.savez(folder / "object.npz", **objects)
    assert "remedy: --inputs FILE.npz" in fails(folder, "run", "step.ir", code=2)
    for name, words in (
        ("text.npz", "is no .npz archive"), ("one.npy", "is no .npz archive"), ("object.npz", "array 'x' cannot be read"),
    ):  # fmt: skip
        assert words in fails(folder, "run", "step.ir", "--inputs", name)
        assert "pickle" not in fails(folder, "run", "step.ir", "--inputs", name)
    assert "is not a file" in fails(folder, "run", "step.ir", "--inputs", "none.npz", code=2)
    assert "is a folder" in fails(folder, "run", "step.ir", "--inputs", "in.npz", "--outputs", ".", code=2)
    (folder / "empty.ir").write_text("module @m {}")
    assert "has no functions" in fails(folder, "run", "empty.ir", code=2)
    text = fails(folder, "run", "take.ir", "--inputs", "in.npz")
    assert "@f needs i: i64[2]; given are x, w" in text


def test_a_run_that_fails_writes_nothing(folder: Path) -> None:
    np.savez(folder / "bad.npz", x=np.arange(4.0), i=np.array([1, 4]))
    fails(folder, "run", "take.ir", "--inputs", "bad.npz", "--outputs", "out.npz")
    assert not (folder / "out.npz").exists()
    np.savez(folder / "good.npz", x=np.arange(4.0), i=np.array([1, 3]))
    result = CliRunner().invoke(
        app,
        [
            "run",
            str(folder / "take.ir"),
            "--inputs",
            str(folder / "good.npz"),
            "--outputs",
            str(folder / "take.ir" / "o"),
        ],
    )
    assert isinstance(result.exception, IRError)
    assert "cannot be written" in str(result.exception)


def test_arguments_without_names_have_names_of_their_own() -> None:
    text = "module @m {\n  func @f(%in1: f32[2], %0: f32[2]) -> (f32[2]) {\n    %1 = sub %in1, %0 : f32[2]\n    return %1\n  }\n}\n"
    assert argument_names(parse(text)["f"]) == ["in1", "in1_1"]


def test_names_that_are_given_are_kept_by_those_that_have_them() -> None:
    head = "%0: f32[] input, %in0: f32[] input, %in2: f32[] param, %1: f32[] input"
    results = "f32[] grad(%0), f32[] grad(%in2), f32[] update(%in2), f32[], f32[]"
    text = (
        f"module @m {{ func @main({head}) -> ({results}) {{ %out4 = neg %1 : f32[] return %0, %0, %0, %out4, %0 }} }}"
    )
    function = parse(text).verify()["main"]
    assert argument_names(function) == ["in0_1", "in0", "in2", "in3"]
    assert result_names(function) == ["grad(in0_1)", "grad(in2)", "in2", "out4", "out4_1"]
