"""The run log: what a crash leaves of it, numbers that JSON has no word for, and logs that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, irc
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

import tapeir as tp
from tapeir import nn
from tapeir.runtime import progress
from tapeir.runtime.progress import RunLog

X = np.random.Generator(np.random.Philox(1)).standard_normal((10, 3))
DATA = tp.data.arrays(X, X[:, :1])
Options = tp.Trainer.TrainOptions
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")


def trainer(lr: float = 0.05) -> tp.Trainer:
    return tp.Trainer.new(nn.Linear(3, 1), tp.Trainer.Config(optimizer=tp.optim.SGD(lr)))


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").splitlines()]


def record(step: int) -> str:
    return json.dumps({"step": step, "loss": 1.5}) + "\n"


KEPT = {
    "nothing beyond": (record(1) + record(2), record(1) + record(2)),
    "steps beyond": (record(1) + record(2) + record(3) + record(4), record(1) + record(2)),
    "an incomplete last line": (record(1) + '{"step": 2, "lo', record(1)),
    "no line end": (record(1) + record(2)[:-1], record(1) + record(2)),
    "lines of others": ("# a note\n\n" + record(1) + "[1]\n" + record(2), "# a note\n\n" + record(1) + "[1]\n" + record(2)),
    "beyond in the middle": (record(1) + record(9) + record(2), record(1) + record(2)),
    "deep": ("[" * 100_000 + "\n" + record(1), "[" * 100_000 + "\n" + record(1)),
    "no number": ('{"step": Infinity}\n{"step": NaN}\n{"step": []}\n', '{"step": Infinity}\n{"step": NaN}\n{"step": []}\n'),
    "windows": (record(1).replace("\n", "\r\n"), record(1).replace("\n", "\r\n")),
    "empty": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_a_resumed_run_keeps_the_lines_up_to_its_step(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before, after = KEPT[kind]
    path.write_bytes(before.encode())
    log = RunLog(path, 2)
    log.write(step=3)
    log.close()
    assert path.read_bytes().decode() == after + '{"step": 3}\n'


def test_bytes_that_are_no_text_stay(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xff\xfe\0\n" + record(1).encode() + b"\xff")
    RunLog(path, 1).close()
    assert path.read_bytes() == b"\xff\xfe\0\n" + record(1).encode()


@pytest.mark.parametrize("content", [record(1) + record(2), record(1) + record(2) + record(3), record(1) + '{"st'])
def test_killed_while_it_reopens_the_log_a_run_loses_no_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process ends, the file is the old one or the new one."""
    path = tmp_path / "log.jsonl"

    class Killed(BaseException):
        pass

    for name in ("open", "write", "fsync", "replace", "close", "truncate", "ftruncate"):
        path.write_text(content)
        with monkeypatch.context() as patched:
            patched.setattr(os, name, lambda *_args, **_more: (_ for _ in ()).throw(Killed))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
            with contextlib.suppress(Killed):
                RunLog(path, 2).close()
        assert path.read_text().startswith(record(1))
        assert (record(2) in path.read_text()) == (record(2) in content)


def test_a_link_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "log.jsonl"
    target.write_text(record(1) + record(2))
    link.symlink_to(target)
    log = RunLog(link, 1)
    log.write(step=2)
    log.close()
    assert link.is_symlink()
    assert target.read_text() == record(1) + '{"step": 2}\n'


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "log.jsonl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for first in (0, 3):
        log = RunLog(pipe, first)
        log.write(step=first + 1)
        log.sync()
        log.close()
        assert log.error is None
    assert os.read(reader, 100) == b'{"step": 1}\n{"step": 4}\n'
    os.close(reader)


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    trainer(lr=1e30).train(DATA, Options(steps=8, batch_size=4, log=path))
    losses = [r["loss"] for r in lines(path)]
    assert len(losses) == 8
    assert losses[-1] is None
    log = RunLog(path, 0)
    log.write(step=1, loss=math.inf, lr=-math.inf, seconds=0.5, memory=None)
    log.close()
    assert lines(path) == [{"step": 1, "loss": None, "lr": None, "seconds": 0.5, "memory": None}]


# Logs that cannot be written


def state(path: Path) -> dict[str, Any]:
    return {name: array.tobytes() for name, array in load_file(path).items()}


@full
def test_a_full_disk_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, kept = tmp_path / "whole.safetensors", tmp_path / "kept.safetensors"
    trainer().train(DATA, Options(steps=5, batch_size=4, checkpoint=whole))
    report = trainer().train(DATA, Options(steps=5, batch_size=4, checkpoint=kept, log="/dev/full")).report
    reason = f"log /dev/full cannot be written: {os.strerror(errno.ENOSPC)}"
    assert report.log_error is not None
    assert report.log_error.startswith(reason)
    assert capsys.readouterr().err.count(reason) == 1
    assert report.steps == 5
    assert state(kept) == state(whole)


def test_a_log_that_is_removed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "logs", tmp_path / "logs" / "log.jsonl"

    class Removes:
        def on_step(self, trainer: Any, step: int, loss: float) -> None:
            if step == 2:
                path.unlink()
                folder.rmdir()

    options = Options(steps=5, batch_size=4, log=path, callbacks=[Removes()], checkpoint=tmp_path / "s.safetensors")
    trained = trainer().train(DATA, options)
    assert trained.report.log_error is not None
    assert f"log {path} cannot be written: it was removed" in trained.report.log_error
    assert capsys.readouterr().err.count("the run goes on") == 1
    assert (trained.report.steps, (tmp_path / "s.safetensors").exists()) == (5, True)


def test_a_disk_that_fills_in_the_middle_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The incomplete line goes when the run is resumed."""
    path = tmp_path / "log.jsonl"
    log = RunLog(path, 0)
    log.write(step=1)
    write, left = os.write, [5]

    def almost_full(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count, left[0] = write(descriptor, data[: left[0]]), 0
        return count

    with monkeypatch.context() as patched:
        patched.setattr(progress.os, "write", almost_full)
        log.write(step=2)
        log.write(step=3)
    log.close()
    assert path.read_text() == '{"step": 1}\n{"ste'
    resumed = RunLog(path, 1)
    resumed.write(step=2)
    resumed.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("name", ["folder", "file/log.jsonl", "a\0b", "a" * 300])
def test_a_log_that_cannot_be_opened_is_named_before_the_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(tp.IRError, match=r"log .* cannot be used: "):
        trainer().train(DATA, Options(log=tmp_path / name))


MODEL = (
    HEADER
    + """
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
x = np.sin(np.arange(160.0)).reshape(40, 4)
data = tp.data.arrays(x, np.cos(x[:, :2]))
config = tp.Trainer.Config(optimizer=tp.optim.Adam(1e-2), backend="eager")
options = tp.Trainer.TrainOptions(steps=400, batch_size=8)
"""
)


@full
def test_the_command_saves_and_then_fails(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    done = irc(tmp_path, "run", "m.py", "--steps", 3, "--log", "/dev/full", "--save", "s.safetensors", "--json")
    assert done.code == 1
    assert json.loads(done.out)["log_error"].startswith("log /dev/full cannot be written: ")
    assert done.err.rstrip().split("\n")[-2] == f"error: log /dev/full cannot be written: {os.strerror(errno.ENOSPC)}"
    assert (tmp_path / "s.safetensors").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGKILL")
def test_killed_at_random_moments_and_resumed_a_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Forty rounds: the log is whole after each, the state at the end is that of one run, and no temporary file is left."""
    (tmp_path / "m.py").write_text(MODEL)
    steps = 400
    irc(tmp_path, "run", "m.py", "--log", "whole.jsonl", "--save", "whole.safetensors")
    whole = [(r["step"], r["loss"]) for r in lines(tmp_path / "whole.jsonl")]
    assert [step for step, _ in whole] == list(range(1, steps + 1))
    log, kept, random = tmp_path / "out" / "log.jsonl", tmp_path / "out" / "state.safetensors", Random(5)
    settings = ["--set", f"checkpoint={kept}", "--set", "checkpoint_every=1", "--log", str(log), "--no-progress"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for turn in range(40):
        resume = ["--resume", str(kept)] if kept.exists() else []
        command = [sys.executable, "-m", "tapeir", "run", "m.py", *settings, *resume]
        begun = kept.stat().st_mtime_ns if kept.exists() else None
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        ) as run:
            while run.poll() is None and (not kept.exists() or kept.stat().st_mtime_ns == begun) and turn % 4:
                time.sleep(0.002)
            # Every fourth is killed about when it opens its log.
            time.sleep(random.random() * 0.03 if turn % 4 else 0.4 + random.random() * 0.4)
            run.send_signal(signal.SIGKILL)
        if kept.exists():
            done = int(load_file(kept)["optimizer/step"])
            found = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
            assert [(r["step"], r["loss"]) for r in found][:done] == whole[:done]
    done = irc(tmp_path, "run", "m.py", *settings, "--resume", kept)
    assert done.code == 0, done
    assert [(r["step"], r["loss"]) for r in lines(log)] == whole
    assert state(kept) == state(tmp_path / "whole.safetensors")
    assert {p.name for p in kept.parent.iterdir()} == {"log.jsonl", "state.safetensors"}
