"""The trainer: how long runs are, their order of rows, callbacks, logs, data files, and exact resume across processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn
from tapeir.runtime.data import Loader, permutation

Options = tp.Trainer.TrainOptions
Config = tp.Trainer.Config
X: Any = np.random.default_rng(0).standard_normal((10, 3))
Y: Any = X[:, :1] * 2 - 1
DATA = tp.data.arrays(X, Y)


def trainer(**config: Any) -> tp.Trainer:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))
    return tp.Trainer.new(model, Config(optimizer=tp.optim.Adam(0.05), **config))


def bits(rt: tp.Runtime) -> dict[str, bytes]:
    return {n: a.tobytes() for n, a in {**rt.params, **rt.buffers, **rt.optimizer_state}.items()}


class Calls:
    """A callback that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_train_start(self, advanced: Any) -> None:
        assert isinstance(advanced, tp.Trainer.Advanced)
        self.heard.append(("start", advanced.runtime.step_count))

    def on_step(self, advanced: Any, step: int, loss: float) -> None:
        assert advanced.runtime.step_count == step
        assert isinstance(loss, float)
        self.heard.append(("step", step))

    def on_epoch_end(self, advanced: Any, epoch: int) -> None:
        self.heard.append(("epoch", epoch))

    def on_train_end(self, advanced: Any) -> None:
        self.heard.append(("end", advanced.runtime.step_count))

    def on_eval(self, advanced: Any, evaluation: Any) -> None:
        self.heard.append(("eval", evaluation.rows))


# How long a run is


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1), ({"steps": 7}, 7), ({"epochs": 2}, 6), ({"steps": 4, "epochs": 2}, 4), ({"steps": 9, "epochs": 2}, 6), ({"steps": 0}, 0),
        ({"epochs": 0}, 0), ({"steps": 7, "stop_at": 3}, 3), ({"steps": 3, "stop_at": 7}, 3), ({"epochs": 1, "batch_size": 10}, 1),
        ({"epochs": 1, "batch_size": 100}, 1), ({"epochs": 1, "batch_size": 1}, 10),
    ],
    ids=str,
)  # fmt: skip
def test_steps_and_epochs(options: dict[str, Any], steps: int) -> None:
    trained = trainer().train(DATA, Options(**dict[str, Any]({"batch_size": 4, **options})))
    assert trained.runtime.step_count == steps
    assert trained.report.steps == steps
    assert trained.runtime.mode == "train"
    assert (trained.report.loss_before is None) == (steps == 0)


def test_the_short_last_batch_is_trained_on() -> None:
    sizes: list[int] = []

    class Seen(nn.Module):
        """Notes the rows of each traced batch."""

        def __init__(self) -> None:
            self.layer = nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            sizes.append(x.shape[0])
            return self.layer(x)

    trained = tp.Trainer.new(Seen()).train(DATA, Options(epochs=2, batch_size=4))
    assert sizes == [4, 4, 4, 2, 4, 4, 2]  # the first is recorded twice, to see that it gives the same program
    sizes.clear()
    compiled = tp.Trainer.new(Seen(), Config(backend="compiled")).train(DATA, Options(epochs=2, batch_size=4))
    assert sizes == [4, 4, 2, 2]
    assert bits(trained.runtime) == bits(compiled.runtime)


def test_refused_options() -> None:
    for options in (
        {"steps": -1},
        {"epochs": -1},
        {"stop_at": -1},
        {"batch_size": 0},
        {"log_every": -1},
        {"cuda_mem_watch": -1},
        {"checkpoint_every": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            Options(**dict[str, Any](options))
    for name in ("accumulate", "scheduler", "eval_every", "unknown"):
        with pytest.raises(TypeError):
            Options(**dict[str, Any]({name: 1}))
    for name in ("clip_norm", "unknown"):
        with pytest.raises(TypeError):
            Config(**dict[str, Any]({name: 1}))
    with pytest.raises(tp.IRError, match="no rows"):
        trainer().train(tp.data.arrays(X[:0], Y[:0]), Options())


# The order of rows


def test_permutations_are_pinned() -> None:
    assert permutation(10, 0, "shuffle").tolist() == GOLDEN_SHUFFLE
    assert permutation(10, 0, "shuffle", 1).tolist() == GOLDEN_SHUFFLE_1
    assert permutation(10, 0, "split").tolist() == GOLDEN_SPLIT
    assert sorted(permutation(1000, 7, "shuffle").tolist()) == list(range(1000))
    others = [permutation(100, s, site, e).tolist() for s in (0, 1) for site in ("shuffle", "split") for e in (0, 1)]
    assert len({tuple(o) for o in others}) == 8
    assert permutation(0, 0, "shuffle").tolist() == []


GOLDEN_SHUFFLE = [6, 0, 4, 9, 8, 7, 3, 5, 1, 2]
GOLDEN_SHUFFLE_1 = [0, 3, 2, 7, 6, 1, 8, 9, 4, 5]
GOLDEN_SPLIT = [9, 5, 6, 7, 8, 0, 1, 4, 2, 3]


def test_loaders() -> None:
    rows = tp.data.arrays(np.arange(10), np.arange(10) * 10)
    loader = Loader(rows, 4, shuffle=True, seed=0)
    assert len(loader) == 3
    epochs = [np.concatenate([b[0] for b in loader.epoch(n)]).tolist() for n in (0, 1)]
    assert epochs == [GOLDEN_SHUFFLE, GOLDEN_SHUFFLE_1]
    assert all((x * 10 == y).all() for x, y in loader)
    plain = Loader(rows, 4, shuffle=False)
    assert [b[0].tolist() for b in plain] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    whole = [(e, b[0].tolist()) for _, (e, b) in zip(range(9), loader.steps(), strict=False)]
    assert [e for e, _ in whole] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for start in range(7):
        assert [(e, b[0].tolist()) for _, (e, b) in zip(range(9 - start), loader.steps(start), strict=False)] == whole[
            start:
        ]


def test_split() -> None:
    rows = tp.data.arrays(np.arange(10), np.arange(10.0))
    a, b = rows.split(0.7, seed=0)
    assert a.columns[0].tolist() + b.columns[0].tolist() == GOLDEN_SPLIT
    assert (len(a), len(b)) == (7, 3)
    assert [len(d) for d in rows.split(1.0)] == [10, 0]
    assert rows.split(0.7, seed=1)[0].columns[0].tolist() != a.columns[0].tolist()
    for bad in (-0.1, 1.5):
        with pytest.raises(tp.IRError, match="fraction"):
            rows.split(bad)


def test_runs_are_deterministic() -> None:
    options = Options(epochs=2, batch_size=4)
    whole = [bits(trainer(backend=b).train(DATA, options).runtime) for b in ("eager", "compiled", "eager")]
    assert whole[0] == whole[1] == whole[2]
    assert bits(trainer(seed=1).train(DATA, options).runtime) != whole[0]
    assert bits(trainer().train(DATA, Options(epochs=2, batch_size=4, shuffle=False)).runtime) != whole[0]


# Callbacks, reports, evaluation


def test_callbacks() -> None:
    calls, more = Calls(), Calls()
    trainer().train(DATA, Options(epochs=2, batch_size=4, callbacks=[calls, object(), more]))
    expected: list[tuple[Any, ...]] = [
        ("start", 0), ("step", 1), ("step", 2), ("step", 3), ("epoch", 0), ("step", 4), ("step", 5), ("step", 6), ("epoch", 1), ("end", 6),
    ]  # fmt: skip
    assert calls.heard == more.heard == expected


def test_callbacks_of_a_resumed_run(tmp_path: Path) -> None:
    trainer().train(DATA, Options(steps=6, stop_at=2, batch_size=4)).save(tmp_path / "a.safetensors")
    calls = Calls()
    trainer().train(DATA, Options(steps=4, batch_size=4, resume=tmp_path / "a.safetensors", callbacks=[calls]))
    assert calls.heard == [("start", 2), ("step", 3), ("epoch", 0), ("step", 4), ("end", 4)]


def test_report_and_evaluation() -> None:
    labels = (X[:, 0] > 0).astype(np.int64)
    data = tp.data.arrays(X, labels)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    for backend in ("eager", "compiled"):
        trained = tp.Trainer.new(model, Config(objective="cross_entropy", backend=backend, dtype="float")).train(
            data, Options(steps=4, batch_size=4)
        )
        report = trained.report
        assert report.loss_before is not None
        assert report.loss_after is not None
        assert report.seconds > 0
        assert report.peak_memory is None or report.peak_memory > 0
        logits = X @ trained.runtime.params["0.weight"].T + trained.runtime.params["0.bias"]
        np.testing.assert_allclose(trained.predict(X), logits, rtol=1e-12)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        evaluation = trained.eval(data)
        np.testing.assert_allclose(evaluation.loss, -log_p[np.arange(10), labels].mean(), rtol=1e-12)
        assert evaluation.metrics == {"accuracy": (logits.argmax(1) == labels).mean()}
        assert evaluation.rows == 10
        assert "accuracy" in str(evaluation)
        assert trained.runtime.mode == "train"
        with pytest.raises(tp.IRError, match="no rows"):
            trained.eval(tp.data.arrays(X[:0], labels[:0]))


def test_evaluation_weighs_rows() -> None:
    x = np.arange(1500.0).reshape(-1, 1) / 1500
    trained = tp.Trainer.new(nn.Linear(1, 1), Config(dtype="float")).train(
        tp.data.arrays(x, x * 3), Options(batch_size=100)
    )
    w, b = trained.runtime.params["weight"], trained.runtime.params["bias"]
    np.testing.assert_allclose(
        trained.eval(tp.data.arrays(x, x * 3)).loss, ((x @ w.T + b - x * 3) ** 2).mean(), rtol=1e-11
    )


def test_print_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    trained = trainer().train(DATA, Options())
    trained.print_prediction("there", X[:2])
    assert capsys.readouterr().out.startswith("there: [[")


def test_log_every(capsys: pytest.CaptureFixture[str]) -> None:
    trainer().train(DATA, Options(steps=7, batch_size=4, log_every=3))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "3"], ["step", "6"], ["step", "7"]]
    assert all(line.split()[2] == "loss" for line in lines)


def test_advanced() -> None:
    advanced = tp.Trainer.Advanced(nn.Sequential(nn.Linear(3, 1)), Config(dtype="float"))
    losses = [float(advanced.step(batch)) for batch in advanced.loader(DATA, batch_size=5)]
    assert len(losses) == advanced.runtime.step_count == 2
    advanced.set_mode("eval")
    with pytest.raises(ValueError, match="eval mode"):
        advanced.step((X, Y))
    with advanced.in_mode("train"):
        advanced.step((X, Y))
    with pytest.raises(ValueError, match="train or eval"):
        advanced.set_mode("test")
    calls = Calls()
    advanced.callbacks.append(calls)
    advanced.evaluate(DATA)
    assert calls.heard == [("eval", 10)]


# The run log


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.jsonl"
    trainer().train(DATA, Options(steps=5, batch_size=4, log=path))
    records = read(path)
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5]
    assert all(set(r) == {"step", "loss", "lr", "seconds", "memory"} for r in records)
    assert all(r["lr"] == 0.05 for r in records)
    assert all(isinstance(r["loss"], float) and r["seconds"] >= 0 for r in records)
    trainer().train(DATA, Options(steps=2, batch_size=4, log=path))
    assert [r["step"] for r in read(path)] == [1, 2], "a fresh run begins a fresh log"


def test_the_log_of_a_resumed_run_is_that_of_the_whole_run(tmp_path: Path) -> None:
    whole, parts, state = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl", tmp_path / "state.safetensors"
    trainer().train(DATA, Options(steps=8, batch_size=4, log=whole))
    # The process goes on to step 5, but the checkpoint is of step 4: the last line is of a step that is done again.
    trainer().train(DATA, Options(steps=8, stop_at=5, batch_size=4, log=parts))
    trainer().train(DATA, Options(steps=8, stop_at=4, batch_size=4)).save(state)
    trainer().train(DATA, Options(steps=8, batch_size=4, log=parts, resume=state))
    assert [(r["step"], r["loss"]) for r in read(parts)] == [(r["step"], r["loss"]) for r in read(whole)]


def test_a_log_cut_short_by_a_crash_is_resumed(tmp_path: Path) -> None:
    log, state = tmp_path / "log.jsonl", tmp_path / "state.safetensors"
    trainer().train(DATA, Options(steps=8, stop_at=4, batch_size=4, log=log)).save(state)
    with log.open("a") as file:
        file.write('{"step": 5, "lo')
    trainer().train(DATA, Options(steps=6, batch_size=4, log=log, resume=state))
    assert [r["step"] for r in read(log)] == [1, 2, 3, 4, 5, 6]


def test_a_log_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(tp.IRError, match="log"):
        trainer().train(DATA, Options(log=tmp_path))


# Resume


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_resume_equals_the_whole_run(stop: int, backend: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    whole = trainer(backend=backend).train(DATA, Options(steps=8, batch_size=4))
    trainer(backend=backend).train(DATA, Options(steps=8, batch_size=4, stop_at=stop)).save(path)
    rest = trainer(backend=backend).train(DATA, Options(steps=8, batch_size=4, resume=path))
    assert bits(rest.runtime) == bits(whole.runtime)
    assert rest.report.steps == 8 - stop
    assert rest.report.loss_after == whole.report.loss_after
    done = trainer(backend=backend).train(DATA, Options(steps=stop, batch_size=4, resume=path))
    assert done.report.steps == 0
    assert done.report.loss_before is None


def test_checkpoints_while_training(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"

    class Stop:
        """Ends the run as Ctrl-C does."""

        def on_step(self, advanced: Any, step: int, loss: float) -> None:
            if step == 5:
                raise KeyboardInterrupt

    options: dict[str, Any] = {
        "steps": 8,
        "batch_size": 4,
        "checkpoint": path,
        "checkpoint_every": 2,
        "log": tmp_path / "log.jsonl",
    }
    with pytest.raises(KeyboardInterrupt):
        trainer().train(DATA, Options(**options, callbacks=[Stop()]))
    assert [r["step"] for r in read(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5]
    rest = trainer().train(DATA, Options(**options, resume=path))
    assert rest.report.steps == 4
    assert bits(rest.runtime) == bits(trainer().train(DATA, Options(steps=8, batch_size=4)).runtime)
    assert [r["step"] for r in read(tmp_path / "log.jsonl")] == list(range(1, 9))
    assert bits(tp.Runtime.load(path, trainer().model)) == bits(rest.runtime)


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    trainer().train(DATA, Options(steps=2)).save(path)
    for config, message in (({"seed": 1}, "seed"), ({"dtype": "float"}, "dtype")):
        with pytest.raises(tp.CheckpointError, match=message):
            trainer(**config).train(DATA, Options(steps=4, resume=path))
    with pytest.raises(tp.CheckpointError, match="is not there"):
        trainer().train(DATA, Options(resume=tmp_path / "none"))


MODEL = """
import numpy as np
import tapeir as tp
from tapeir import nn

model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 1))

def data():
    x = np.sin(np.arange(66.0)).reshape(22, 3)
    return tp.data.arrays(x, x[:, :1] ** 2)

config = tp.Trainer.Config(optimizer=tp.optim.AdamW(lr=1e-2))
options = tp.Trainer.TrainOptions(steps=11, batch_size=4)
"""


def irc(*arguments: Any, cwd: Path) -> dict[str, Any]:
    """``irc run --json`` in another process; its result."""
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(tp.__file__).parents[1])}
    command: Sequence[str] = [sys.executable, "-m", "tapeir", "run", "model.py", "--json", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", ["float", "float32", "bfloat16"])
def test_resume_across_processes_and_backends(dtype: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    whole = irc("--dtype", dtype, "--save", "whole.safetensors", cwd=tmp_path)
    legs = [("eager", 3), ("compiled", 6), ("eager", 11)]
    result: dict[str, Any] = {}
    for n, (backend, stop) in enumerate(legs):
        resume = ["--resume", "part.safetensors"] if n else []
        result = irc(
            "--dtype",
            dtype,
            "--backend",
            backend,
            "--stop-at",
            stop,
            "--save",
            "part.safetensors",
            *resume,
            cwd=tmp_path,
        )
        assert result["step"] == stop
        assert result["backend"] == backend
    assert result["loss_after"] == whole["loss_after"]
    assert (tmp_path / "part.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


# Data


def test_arrays() -> None:
    data = tp.data.arrays([[1, 2], [3, 4]], [1.0, 2.0])
    assert len(data) == 2
    assert [c.dtype.kind for c in data.columns] == ["i", "f"]
    assert "2 rows" in repr(data)
    x, y = data[1:]
    assert (x.tolist(), y.tolist()) == ([[3, 4]], [2.0])
    with pytest.raises(tp.IRError, match="6 and 5 rows"):
        tp.data.arrays(np.zeros(6), np.zeros(5))
    for bad in (np.array(1.0), np.array(["a", "b"]), np.array([None, 1])):
        with pytest.raises(tp.IRError, match="column 1"):
            tp.data.arrays(np.zeros(2), bad)
    with pytest.raises(tp.IRError, match="at least one column"):
        tp.data.arrays()


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y, objects=np.array([{}], object))
    assert (tp.data.npz(path, "x", "y").columns[0] == X).all()
    with pytest.raises(tp.IRError, match=r"a\.npz has no array z; it has x, y, objects"):
        tp.data.npz(path, "x", "z")
    with pytest.raises(tp.IRError, match=r"a\.npz cannot be read"):
        tp.data.npz(path, "objects")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:100])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("bad", "cut", "empty", "none", "one"):
        with pytest.raises(tp.IRError, match=rf"{name}\.npz"):
            tp.data.npz(tmp_path / f"{name}.npz", "x")


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('kind,size,"y, z",name\nb,1,2,n\na,3.5,-4e1,m\n\nb,5,6,l\n')
    data = tp.data.csv(path, target="y, z", one_hot=["kind"], drop=["name"])
    features, target = data.columns
    assert features.tolist() == [[0, 1, 1], [1, 0, 3.5], [0, 1, 5]]
    assert target.tolist() == [[2], [-40], [6]]
    assert features.dtype == target.dtype == np.float64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3,four\n", r"a\.csv:3: y is 'four', not a number"),
        ("x,y\n1,2\n\n\n?,4\n", r"a\.csv:5: x is '\?', not a number"),
        ("x,y\n1,2\n3\n", r"a\.csv:3: 1 fields where the header has 2"),
        ("x,y\n1,2\n\n3,4,5\n", r"a\.csv:4: 3 fields where the header has 2"),
        ('x,y\n"1\n",2\n3,four\n', r"a\.csv:4: y is 'four'"),
        ("", r"a\.csv is empty"),
        ("x,z\n1,2\n", r"a\.csv has no column 'y'; it has x, z"),
        ("x,y\n1,\n", r"a\.csv:2: y is '', not a number"),
    ],
    ids=[
        "number",
        "number after blank lines",
        "fields",
        "fields after a blank line",
        "quoted line break",
        "empty",
        "column",
        "no text",
    ],
)
def test_csv_errors_name_the_file_line_and_column(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(tp.IRError, match=message):
        tp.data.csv(tmp_path / "a.csv", target="y")


def test_csv_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"x,y\n\xff\xfe,1\n")
    for name in ("none", "bytes"):
        with pytest.raises(tp.IRError, match=rf"{name}\.csv cannot be read"):
            tp.data.csv(tmp_path / f"{name}.csv", target="y")
    (tmp_path / "bytes.csv").write_text("x,y\n1,2\n")
    with pytest.raises(tp.IRError, match="no column 'colour'"):
        tp.data.csv(tmp_path / "bytes.csv", target="y", one_hot=["colour"])
