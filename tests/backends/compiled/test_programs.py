"""Programs as processes have them: threads, the disk cache, long runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn
from tapeir.backends import cache, kernels

FOLDER = Path(__file__).parents[3]
native = pytest.mark.skipif(kernels.table().name != "native", reason="about native programs")

TRAIN = """
import hashlib, sys
from pathlib import Path
import tapeir as tp
from tapeir.runtime.data import Loader
from tapeir.runtime.model_file import load

for path in sorted(Path("examples").glob("*.py")):
    file = load(path)
    c, data = file.config, file.data()
    rt = tp.Runtime(file.model, objective=c.objective, optimizer=c.optimizer, dtype="float32", backend=sys.argv[1], seed=c.seed)
    digest, count = hashlib.sha256(), 0
    while count < 40:
        for _, batch in Loader(data[0], file.options.batch_size, file.options.shuffle, c.seed).steps():
            digest.update(repr(float(rt.step(*batch))).encode())
            count += 1
            if count == 40:
                break
    for state in (rt.params, rt.buffers, rt.optimizer_state):
        for name, array in state.items():
            digest.update(name.encode() + array.tobytes())
    print(path.stem, digest.hexdigest())
"""


def trained(backend: str, **environment: str) -> str:
    """A digest of losses and state of every example after 40 steps in a process of its own."""
    variables = {**os.environ, "PYTHONPATH": str(FOLDER / "src"), **environment}
    command = [sys.executable, "-c", TRAIN, backend]
    done = subprocess.run(command, cwd=FOLDER, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 4
    return done.stdout


def test_examples_have_the_same_bits_on_one_and_two_threads_of_both_targets() -> None:
    expected = trained("eager", TAPEIR_THREADS="1")
    assert trained("compiled", TAPEIR_THREADS="1") == expected
    assert trained("compiled", TAPEIR_THREADS="2") == expected


@pytest.mark.skipif(kernels.table().name != "native", reason="both targets need llvmlite")
def test_examples_have_the_same_bits_on_one_and_two_threads_of_numpy_programs() -> None:
    expected = trained("eager", TAPEIR_THREADS="1", TAPEIR_NATIVE="0")
    assert trained("compiled", TAPEIR_THREADS="1", TAPEIR_NATIVE="0") == expected
    assert trained("compiled", TAPEIR_THREADS="2", TAPEIR_NATIVE="0") == expected


# Memory

STEPS = """
import sys
import numpy as np
import tapeir as tp
from tapeir import nn

model = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 10))
rt = tp.Runtime(model, objective="cross_entropy", optimizer=tp.optim.Adam(), backend="compiled")
rows = int(sys.argv[1])
x, y = np.ones((rows, 64), np.float32), np.arange(rows) % 10

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

for n in range(10_000):
    loss = rt.step(x * n, y)
    if n == 1_000:
        before = resident()
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(("rows", "target"), [(16, "native"), (160, "native"), (16, "numpy")])
def test_resident_memory_is_flat_over_ten_thousand_steps(rows: int, target: str) -> None:
    """With a batch that is copied into the arena, and one that is read where it is."""
    if target == "native" and kernels.table().name != "native":
        pytest.skip("needs llvmlite")
    variables = {**os.environ, "PYTHONPATH": str(FOLDER / "src"), "TAPEIR_NATIVE": str(int(target == "native"))}
    command = [sys.executable, "-c", STEPS, str(rows)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1 << 20


# The disk cache


def losses() -> list[float]:
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 2))
    rt = tp.Runtime(model, objective="mse", optimizer=tp.optim.Adam(), backend="compiled")
    x, y = np.ones((4, 8), np.float32), np.zeros((4, 2), np.float32)
    return [float(rt.step(x, y)) for _ in range(3)]


@native
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another"])
def test_a_damaged_program_is_built_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path))
    expected = losses()
    (path,) = (tmp_path / "programs").glob("*.entry")
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "empty": b"",
            "another": b"not an entry at all",
        }[damage]
    )
    assert losses() == expected
    assert path.read_bytes() == whole


@native
def test_the_second_time_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path))
    expected = losses()
    from tapeir.backends.native import engine

    def compile_nothing(*arguments: object, **named: object) -> bytes:
        raise AssertionError("a kernel is compiled")

    monkeypatch.setattr(engine, "emit_object", compile_nothing)
    assert losses() == expected
    assert len([e for e in cache.entries() if e.kind == "programs"]) == 1


@native
def test_a_line_says_what_is_compiled_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAPEIR_CACHE", str(tmp_path))
    losses()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TAPEIR_CACHE", "off")
    monkeypatch.setenv("TAPEIR_PATIENCE", "0")
    losses()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compiling @train_step of model: kernel 0 of ")
