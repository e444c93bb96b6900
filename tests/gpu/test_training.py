"""Training on a CUDA device: steps under way, failures, memory, other libraries' arrays, and the command."""

from __future__ import annotations

import gc
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn
from tapeir.backends.cuda import lanes
from tapeir.backends.cuda.executable import CudaExecutable
from tapeir.ir.errors import NonFiniteError, OutOfRangeError

from .device import needs_device, same

pytestmark = needs_device
X = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
Y = np.arange(12) % 3


def runtime(backend: str = "compiled", device: str = "cuda", **options: Any) -> tp.Runtime:
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    optimizer = tp.optim.Adam(lr=0.01)
    return tp.Runtime(model, objective="cross_entropy", optimizer=optimizer, backend=backend, device=device, **options)


def state(rt: tp.Runtime) -> dict[str, Any]:
    return {**rt.params, **rt.buffers, **rt.optimizer_state}


def test_losses_may_be_read_late(capsys: pytest.CaptureFixture[str]) -> None:
    late, soon = runtime(), runtime()
    batches = [(X * (n + 1), (Y + n) % 3) for n in range(20)]
    losses = [late.step(*b) for b in batches]
    assert [float(x) for x in losses] == [float(soon.step(*b)) for b in batches]
    assert all(same(a, state(soon)[n]) for n, a in state(late).items())
    assert late.step_count == 20
    assert "not as one CUDA graph" not in capsys.readouterr().err


@pytest.mark.parametrize("wait", [0.0, None, 1e9], ids=["lanes", "estimated", "one lane"])
def test_products_beside_each_other_have_the_bits_of_the_tape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wait: float | None
) -> None:
    if wait is not None:
        monkeypatch.setattr(lanes, "WAIT", wait)
    widths, random = (512, 1536, 1024, 10), np.random.default_rng(0)
    x, y = random.standard_normal((1024, widths[0])).astype(np.float32), random.integers(0, widths[-1], 1024)

    def made(backend: str) -> tp.Runtime:
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.LayerNorm(b), nn.GELU())]
        optimizer = tp.optim.Adam(lr=0.01)
        return tp.Runtime(
            nn.Sequential(*layers[:-2]), objective="cross_entropy", optimizer=optimizer, backend=backend, device="cuda"
        )

    eager, compiled = made("eager"), made("compiled")
    for n in range(1, 7):
        assert float(eager.step(x * n, y)) == float(compiled.step(x * n, y))
    assert all(same(a, state(compiled)[n]) for n, a in state(eager).items())
    (executable,) = compiled.artifacts.values()
    assert isinstance(executable, CudaExecutable)
    assert any(turn.lane for turn in executable.program.lanes[0]) == (wait != 1e9)
    assert "not as one CUDA graph" not in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats(dtype: str) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))

    def made(backend: str, device: str, dtype: str) -> tp.Runtime:
        optimizer = tp.optim.SGD(lr=0.05)
        return tp.Runtime(
            model, objective="cross_entropy", optimizer=optimizer, backend=backend, device=device, dtype=dtype
        )

    eager, compiled, wide = (
        made("eager", "cuda", dtype),
        made("compiled", "cuda", dtype),
        made("compiled", "cpu", "float32"),
    )
    for _ in range(4):
        losses = [float(rt.step(X, Y)) for rt in (eager, compiled, wide)]
        assert losses[0] == losses[1]
        assert losses[1] == pytest.approx(losses[2], rel=5e-2)
    assert all(same(eager.params[n].view(np.uint16), compiled.params[n].view(np.uint16)) for n in eager.params)


def test_masks_are_those_of_the_cpu() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1))
    here, there = (tp.Runtime(model, backend="compiled", device=d, seed=3) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(there.predict(X), here.predict(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_a_failing_step_changes_nothing(backend: str) -> None:
    rt = runtime(backend)
    for _ in range(3):
        float(rt.step(X, Y))
    before = state(rt)
    with pytest.raises(OutOfRangeError, match="index 7 is out of range"):
        float(rt.step(X, np.where(Y == 1, 7, Y)))
    assert all(same(a, state(rt)[n]) for n, a in before.items())
    float(rt.step(X, Y))
    assert rt.step_count == 4


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_the_guard(backend: str) -> None:
    rt = runtime(backend, guard="nonfinite")
    float(rt.step(X, Y))
    before = state(rt)
    with pytest.raises(NonFiniteError):
        rt.step(np.full_like(X, np.nan), Y)
    assert all(same(a, state(rt)[n]) for n, a in before.items())
    float(rt.step(X, Y))


def test_save_and_resume(tmp_path: Path) -> None:
    whole, first = runtime(), runtime()
    for _ in range(4):
        float(first.step(X, Y))
    first.save(tmp_path / "half.safetensors")
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    second = tp.Runtime.load(tmp_path / "half.safetensors", model, backend="eager", device="cuda")
    losses = [float(second.step(X, Y)) for _ in range(4)]
    assert [float(whole.step(X, Y)) for _ in range(8)][4:] == losses
    assert all(same(a, state(second)[n]) for n, a in state(whole).items())


def test_large_batches_are_copied_while_steps_run() -> None:
    model = nn.Sequential(nn.Linear(3000, 16), nn.ReLU(), nn.Linear(16, 2))
    here, there = (
        tp.Runtime(model, optimizer=tp.optim.SGD(lr=1e-4), backend="compiled", device=d) for d in ("cpu", "cuda")
    )
    batches = [(np.full((64, 3000), n / 9, np.float32), np.ones((64, 2), np.float32)) for n in range(9)]
    losses = [there.step(*b) for b in batches]
    np.testing.assert_allclose([float(x) for x in losses], [float(here.step(*b)) for b in batches], rtol=1e-3)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_memory_that_runs_out(backend: str) -> None:
    rt = tp.Runtime(
        nn.Sequential(nn.Linear(1, 1 << 16), nn.GELU(), nn.Linear(1 << 16, 1)), backend=backend, device="cuda"
    )
    x, y = np.ones((4, 1), np.float32), np.ones((4, 1), np.float32)
    float(rt.step(x, y))
    before = state(rt)
    rows = (rt.device_memory() or {})["total"] // (1 << 18)
    big = np.ones((rows, 1), np.float32)
    with pytest.raises(tp.BackendError, match="memory") as raised:
        float(rt.step(big, big))
    assert "test_training.py:" in str(raised.value)
    if backend == "compiled":
        assert "largest values" in str(raised.value)
        assert f"f32[{rows}, 65536]" in str(raised.value)
    rt.predict(x)  # its tape takes the place of the one that failed
    assert all(same(a, state(rt)[n]) for n, a in before.items())
    float(rt.step(x, y))


def test_ten_thousand_steps_need_no_more_memory() -> None:
    rt = runtime()
    for _ in range(100):
        rt.step(X, Y)
    float(rt.step(X, Y))
    gc.collect()  # runtimes of other tests
    before, host = rt.device_memory(), _resident()
    for _ in range(10_000):
        rt.step(X, Y)
    assert rt.step_count == 10_101
    after = rt.device_memory()
    assert before is not None
    assert after is not None
    assert after["used"] == before["used"]
    assert after["reserved"] == before["reserved"]
    assert _resident() - host < 8 << 20


def _resident() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_planted_leak_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    cupy: Any = pytest.importorskip("cupy")

    class Leak:
        held: list[Any] = []

        def on_step(self, trainer: Any, step: int, loss: float) -> None:
            self.held.append(cupy.zeros(1 << 18, cupy.uint8))

    data = tp.data.arrays(X, Y)
    config = tp.Trainer.Config(backend="compiled", device="cuda", objective="cross_entropy")
    gc.collect()  # runtimes of other tests
    for callbacks, verdict in (((), "cuda_mem steady"), ((Leak(),), f"cuda_mem growing {1 << 18} bytes/step")):
        options = tp.Trainer.TrainOptions(
            steps=100, batch_size=4, cuda_mem_watch=10, progress=False, callbacks=callbacks
        )
        tp.Trainer.new(nn.Linear(8, 3), config).train(data, options)
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == verdict
        assert sum(line.startswith("cuda_mem step=") for line in lines) == 10


@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_arrays_of_the_device_come_and_go(library: str, backend: str) -> None:
    there: Any = pytest.importorskip(library)
    rt, other = runtime(backend), runtime(backend)
    if library == "torch":
        x, y = there.from_numpy(X).cuda(), there.from_numpy(Y).cuda()
    else:
        x, y = there.asarray(X), there.asarray(Y)
    for _ in range(3):
        assert float(rt.step(x, y)) == float(other.step(X, Y))
    with rt.in_mode("eval"), other.in_mode("eval"):
        found: Any = rt.predict(x)
        expected: Any = other.predict(X)
    assert type(expected) is np.ndarray
    assert same(found, expected)
    taken: Any = there.from_dlpack(found)
    assert tuple(taken.shape) == expected.shape
    assert float(taken.sum()) == pytest.approx(float(expected.sum()), rel=1e-5)
    grads: dict[str, Any] = rt.loss_and_grads(x, y)[1]
    assert all(tuple(there.from_dlpack(grads[n]).shape) == rt.params[n].shape for n in grads)


def test_compiled_functions_take_and_give_arrays_of_the_device() -> None:
    cupy: Any = pytest.importorskip("cupy")

    gelu = tp.compile(tp.ops.gelu, device="cuda")
    expected: Any = gelu(X)
    assert type(expected) is np.ndarray
    found = gelu(cupy.asarray(X))
    assert same(cupy.asnumpy(cupy.from_dlpack(found)), expected)
    np.testing.assert_allclose(expected, tp.compile(tp.ops.gelu)(X), rtol=1e-6, atol=1e-7)


def test_fast_numerics_stay_near() -> None:
    exact, fast = runtime(), runtime(numerics="fast")
    for _ in range(5):
        np.testing.assert_allclose(float(fast.step(X, Y)), float(exact.step(X, Y)), rtol=2e-2)
    distances = fast.distance(X, Y)
    assert distances["exact"] < 1e-4
    assert distances["fast"] < 2e-2


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_the_command(tmp_path: Path, backend: str) -> None:
    from commandline import irc

    example = Path(__file__).parents[2] / "examples" / "digits_mlp.py"
    done = irc(
        tmp_path,
        "run",
        example,
        "--cuda",
        "--backend",
        backend,
        "--steps",
        40,
        "--cuda-mem-watch",
        20,
        "--log-every",
        20,
    )
    assert done.code == 0, done.err
    assert f"backend {backend}, device cuda" in done.out
    assert done.out.count("cuda_mem step=") == 2
    assert "cuda_mem steady" in done.out


def test_another_program_does_not_run_past_an_error() -> None:
    rt = runtime()
    float(rt.step(X, Y))
    float(rt.step(X[:4], Y[:4]))
    before = state(rt)
    rt.step(X, np.where(Y == 1, 7, Y))
    with pytest.raises(OutOfRangeError):
        rt.step(X[:4], Y[:4])
    assert all(same(a, state(rt)[n]) for n, a in before.items())
    assert rt.step_count == 2
