"""Checkpoints: what is saved and loaded, plain state dicts, and files that are bad, cut, absent or of another model."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

import tapeir as tp
from tapeir import nn

from .small import BACKENDS, X, Y, bits, network, runtime


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer", [tp.optim.AdamW(1e-2, betas=(0.8, 0.99)), tp.optim.SGD(0.1, momentum=0.5), tp.optim.SGD(0.1)], ids=str
)
def test_save_and_load(backend: str, dtype: str, optimizer: tp.optim.Optimizer, tmp_path: Path) -> None:
    rt = runtime(backend, dtype=dtype, optimizer=optimizer, seed=4)
    for _ in range(3):
        rt.step(X, Y)
    path = tmp_path / "deep" / "state.safetensors"
    rt.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["state.safetensors"], "no temporary file is left"
    other = tp.Runtime.load(path, network())
    assert bits(other) == bits(rt)
    assert (other.seed, other.dtype, other.step_count) == (4, rt.dtype, 3)
    assert other.setting.optimizer == optimizer
    for _ in range(3):
        assert float(other.step(X, Y)) == float(rt.step(X, Y))
    assert bits(other) == bits(rt)
    swapped = tp.Runtime.load(path, network(), backend="compiled" if backend == "eager" else "eager")
    for _ in range(3):
        swapped.step(X, Y)
    assert bits(swapped) == bits(rt)


def test_a_plain_state_dict_loads_by_name(tmp_path: Path) -> None:
    rt = runtime()
    path = tmp_path / "plain.safetensors"
    save_file({**rt.params, **rt.buffers, "1.num_batches_tracked": np.array(5)}, path)
    other = runtime(seed=9)
    other.load_state(load_file(path))
    assert {n: a.tobytes() for n, a in other.params.items()} == {n: a.tobytes() for n, a in rt.params.items()}
    with pytest.raises(tp.CheckpointError, match="load_state"):
        tp.Runtime.load(path, network())


def tensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file by hand."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def metadata(text: str) -> dict[str, Any]:
    return {"__metadata__": {"tapeir": text}}


BAD_FILES = {
    "empty": b"",
    "text": b"hello world, this is no tensor file",
    "huge header": struct.pack("<Q", 1 << 60) + b"{}",
    "truncated": tensors({"0.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
    "not json": struct.pack("<Q", 5) + b"{abc}",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "metadata not json": tensors(metadata("{")),
    "metadata no object": tensors(metadata("[1]")),
    "metadata lacks everything": tensors(metadata('{"format": 1}')),
    "metadata of another version": tensors(metadata('{"format": 99}')),
    "unknown optimizer field": tensors(
        metadata('{"format":1,"seed":0,"dtype":"f32","objective":"mse","optimizer":{"name":"SGD","speed":1}}')
    ),
    "unknown dtype": tensors({"0.weight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"12"),
    "foreign": tensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_give_a_checkpoint_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(tp.CheckpointError, match=r"bad\.safetensors"):
        tp.Runtime.load(path, network())
    data = tp.data.arrays(X, Y)
    with pytest.raises(tp.CheckpointError, match=r"bad\.safetensors"):
        tp.Trainer.new(network()).train(data, tp.Trainer.TrainOptions(resume=path, batch_size=6))


def test_files_that_are_not_there_or_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(tp.CheckpointError, match="is not there"):
        tp.Runtime.load(tmp_path / "none.safetensors", network())
    with pytest.raises(tp.CheckpointError):
        tp.Runtime.load(tmp_path, network())
    runtime().save(tmp_path / "a.safetensors")
    with pytest.raises(tp.CheckpointError, match="0"):
        tp.Runtime.load(tmp_path / "a.safetensors", nn.Linear(4, 3))
    (tmp_path / "file").write_text("")
    with pytest.raises(tp.CheckpointError, match="cannot be written"):
        runtime().save(tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize("cut", [7, 100, -1])
def test_a_truncated_checkpoint(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    runtime().save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(tp.CheckpointError, match="safetensors"):
        tp.Runtime.load(path, network())


def test_an_objective_that_is_a_function_must_be_given_again(tmp_path: Path) -> None:
    def mse(prediction: Any, target: Any) -> Any:
        return tp.ops.mean((prediction - target) ** 4)

    path, y = tmp_path / "a.safetensors", np.ones((6, 3))
    rt = runtime(objective=mse)
    rt.save(path)
    with pytest.raises(tp.CheckpointError, match=r"with function mse as objective\n  remedy: .*objective=\.\.\.\)"):
        tp.Runtime.load(path, network())
    assert tp.Runtime.load(path, network(), objective=mse).loss(X, y) == rt.loss(X, y)
    runtime(objective="mse").save(path)
    assert tp.Runtime.load(path, network()).loss(X, y) == runtime(objective="mse").loss(X, y)


def test_another_model_is_said_before_another_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tp.Runtime(nn.Linear(4, 3), optimizer=tp.optim.AdamW()).save(path)
    options = tp.Trainer.TrainOptions(resume=path, batch_size=6)
    with pytest.raises(tp.CheckpointError, match=r"was trained with another model; it lacks 0\.weight"):
        tp.Trainer.new(network()).train(tp.data.arrays(X, Y), options)


def test_an_optimizer_of_the_same_state_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    rt = runtime()
    rt.step(X, Y)
    rt.save(path)
    other = tp.Runtime.load(path, network(), optimizer=tp.optim.AdamW())
    assert bits(other) == bits(rt)
    assert bits(tp.Runtime.load(path, network(), optimizer=None)) == bits(rt)
    with pytest.raises(tp.CheckpointError, match=r"was trained with Adam; SGD has no state m, v"):
        tp.Runtime.load(path, network(), optimizer=tp.optim.SGD())


def test_resuming_where_a_tied_weight_has_another_first_name(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self, first: str, second: str) -> None:
            weight = nn.Parameter((3, 4), nn.init.Normal())
            setattr(self, first, weight)
            setattr(self, second, weight)

        def forward(self, x: Any) -> Any:
            return x @ self.embed.T  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportAttributeAccessIssue]

    path = tmp_path / "a.safetensors"
    trainer, data = tp.Trainer, tp.data.arrays(X, np.ones((6, 3)))
    trainer.new(Tied("embed", "head")).train(data, trainer.TrainOptions(steps=1, checkpoint=path))
    trained = trainer.new(Tied("head", "embed")).train(data, trainer.TrainOptions(steps=2, resume=path))
    assert trained.runtime.step_count == 2


# Partial state files


def _without(path: Path, *left_out: str) -> Path:
    """A copy of a state file without some arrays."""
    opened: Any = safe_open(str(path), framework="numpy")
    with opened as file:
        metadata: dict[str, str] = file.metadata()
    arrays: dict[str, Any] = {n: a for n, a in load_file(path).items() if n not in left_out}
    part = path.with_name("part.safetensors")
    save_file(arrays, part, metadata)
    return part


def test_a_file_that_lacks_any_state_is_refused_by_name(tmp_path: Path) -> None:
    rt, path = runtime(), tmp_path / "a.safetensors"
    rt.step(X, Y)
    rt.save(path)
    for name in load_file(path):
        part = _without(path, name)
        with pytest.raises(tp.CheckpointError, match=re.escape(str(part)) + ".*" + re.escape(name)):
            tp.Runtime.load(part, network())
        options = tp.Trainer.TrainOptions(resume=part, batch_size=6)
        config = tp.Trainer.Config(optimizer=rt.setting.optimizer, objective="cross_entropy")
        with pytest.raises(tp.CheckpointError, match=re.escape(str(part)) + ".*" + re.escape(name)):
            tp.Trainer.new(network(), config).train(tp.data.arrays(X, Y), options)


def test_what_is_missing_is_counted_with_a_remedy(tmp_path: Path) -> None:
    rt, path = runtime(), tmp_path / "a.safetensors"
    rt.save(path)
    slots = [n for n in load_file(path) if n.startswith("optimizer/")]
    part = _without(path, *slots)
    with pytest.raises(
        tp.CheckpointError,
        match=rf"lacks optimizer/.* and {len(slots) - 1} more\n  remedy: Runtime\(model, \.\.\.\) and load_state",
    ):
        tp.Runtime.load(part, network())
    runtime().load_state(load_file(part))  # as the remedy says


def test_an_optimizer_with_more_state_than_the_file_is_refused(tmp_path: Path) -> None:
    runtime(optimizer=tp.optim.SGD(0.1)).save(tmp_path / "a.safetensors")
    with pytest.raises(tp.CheckpointError, match="it lacks optimizer/m"):
        tp.Runtime.load(tmp_path / "a.safetensors", network(), optimizer=tp.optim.SGD(0.1, momentum=0.9))


@pytest.mark.parametrize("value", [np.array(-1), np.array(1 << 63, np.uint64), np.array(7.0), np.array([7])])
def test_a_step_that_is_none(value: Any, tmp_path: Path) -> None:
    rt = runtime()
    before = bits(rt)
    with pytest.raises(tp.CheckpointError, match="optimizer/step"):
        rt.load_state({**rt.params, **rt.buffers, "optimizer/step": value})
    assert bits(rt) == before


WRONG: dict[str, dict[str, Any]] = {
    "format": {"format": 2}, "a list of formats": {"format": [1]}, "seed": {"seed": "0"}, "negative seed": {"seed": -1},
    "large seed": {"seed": 1 << 64}, "true seed": {"seed": True}, "no seed": {"seed": None}, "dtype": {"dtype": "f99"},
    "integer dtype": {"dtype": "i32"}, "list of dtypes": {"dtype": ["f32"]}, "objective": {"objective": ["mse"]},
    "no object": {"optimizer": [1]}, "unnamed": {"optimizer": {"lr": 0.1}}, "list of names": {"optimizer": {"name": ["SGD"]}},
    "text": {"optimizer": {"name": "SGD", "lr": "0.1"}}, "negative": {"optimizer": {"name": "SGD", "lr": -1}},
    "infinite": {"optimizer": {"name": "SGD", "lr": math.inf}}, "nan": {"optimizer": {"name": "SGD", "weight_decay": math.nan}},
    "huge": {"optimizer": {"name": "SGD", "lr": 10**400}}, "null": {"optimizer": {"name": "SGD", "momentum": None}},
    "flag": {"optimizer": {"name": "SGD", "lr": True}}, "no flag": {"optimizer": {"name": "SGD", "nesterov": 1}},
    "unknown": {"optimizer": {"name": "SGD", "line": 1}}, "one beta": {"optimizer": {"name": "Adam", "betas": [0.9]}},
    "number for betas": {"optimizer": {"name": "Adam", "betas": 0.9}}, "three betas": {"optimizer": {"name": "Adam", "betas": [0, 0, 0]}},
    "texts for betas": {"optimizer": {"name": "Adam", "betas": ["a", "b"]}}, "list": {"optimizer": {"name": "SGD", "lr": [0.1]}},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_metadata_of_wrong_kinds_is_refused_with_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    rt = runtime()
    good = {
        "format": 1, "seed": 0, "dtype": "f32", "objective": "mse",
        "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, "extra": {},
    }  # fmt: skip
    save_file(dict(rt.params), path, {"tapeir": json.dumps({**good, **WRONG[kind]})})
    for load in (
        lambda: tp.Runtime.load(path, network()),
        lambda: tp.Trainer.new(network()).train(tp.data.arrays(X, Y), tp.Trainer.TrainOptions(resume=path)),
    ):
        with pytest.raises(tp.CheckpointError, match=r"a\.safetensors"):
            load()
