"""The device through CuPy and nvmath, with stand-ins for both that put off all work until somebody waits."""

from __future__ import annotations

import gc
import signal
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn
from tapeir.backends.cuda import devices
from tapeir.backends.cuda.device import DeviceArray
from tapeir.ir.errors import OutOfRangeError

from .fake_cuda import NULL, FakeCuda, Memory, NdArray, fake_cuda
from .on_cpu import compiler, once

pytestmark = [once, pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    with fake_cuda(monkeypatch) as found:
        yield found


X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
Y = np.arange(6) % 3


def runtime(device: str, backend: str = "compiled", **options: Any) -> tp.Runtime:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    return tp.Runtime(
        model, objective="cross_entropy", optimizer=tp.optim.SGD(lr=0.1), backend=backend, device=device, **options
    )


def test_steps_under_way_give_the_losses_of_their_batches(cuda: FakeCuda) -> None:
    here, there = runtime("cpu"), runtime("cuda")
    batches = [(X * (n + 1), (Y + n) % 3) for n in range(7)]
    expected = [float(here.step(*b)) for b in batches]
    losses = [there.step(*b) for b in batches]
    np.testing.assert_allclose([float(x) for x in losses], expected, rtol=1e-5)
    for name, array in here.params.items():
        np.testing.assert_allclose(there.params[name], array, rtol=1e-5)
    assert there.step_count == 7
    assert cuda.replayed == 5  # the first step on either side is launched kernel by kernel


def test_every_replay_launches_what_the_program_says(cuda: FakeCuda) -> None:
    rt = runtime("cuda")
    for _ in range(4):
        float(rt.step(X, Y))
    before = cuda.launched
    float(rt.step(X, Y))
    (program,) = rt.artifacts.values()
    assert cuda.launched - before == program.program.launches  # type: ignore[attr-defined]


def test_large_batches_are_copied_ahead(cuda: FakeCuda) -> None:
    model = nn.Linear(3000, 2)
    here, there = (
        tp.Runtime(model, optimizer=tp.optim.SGD(lr=1e-5), backend="compiled", device=d) for d in ("cpu", "cuda")
    )
    batches = [(np.full((8, 3000), n, np.float32), np.ones((8, 2), np.float32)) for n in range(5)]
    losses = [there.step(*b) for b in batches]
    np.testing.assert_allclose([float(x) for x in losses], [float(here.step(*b)) for b in batches], rtol=1e-4)


def test_an_error_comes_with_the_loss_and_stops_what_follows(cuda: FakeCuda) -> None:
    rt = runtime("cuda")
    for _ in range(5):
        float(rt.step(X, Y))
    before = dict(rt.params)
    bad = rt.step(X, Y + 5)
    later = rt.step(X, Y)
    with pytest.raises(OutOfRangeError, match="index 5 is out of range"):
        float(bad)
    with pytest.raises(OutOfRangeError):
        float(later)
    assert all(np.array_equal(before[n], rt.params[n]) for n in before)
    assert rt.step_count == 5
    float(rt.step(X, Y))
    assert rt.step_count == 6


def test_another_program_does_not_run_past_an_error(cuda: FakeCuda) -> None:
    rt = runtime("cuda")
    float(rt.step(X, Y))
    float(rt.step(X[:4], Y[:4]))
    before = dict(rt.params)
    bad = rt.step(X, Y + 5)
    with pytest.raises(OutOfRangeError):
        rt.step(X[:4], Y[:4])
    with pytest.raises(OutOfRangeError):
        float(bad)
    assert all(np.array_equal(before[n], rt.params[n]) for n in before)
    assert rt.step_count == 2


def test_reading_state_waits_and_raises(cuda: FakeCuda) -> None:
    rt = runtime("cuda")
    rt.step(X, Y + 5)
    with pytest.raises(OutOfRangeError):
        dict(rt.params)
    assert rt.step_count == 0


def test_where_a_graph_cannot_be_captured_kernels_are_launched(
    cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda.cannot_capture = True
    rt = runtime("cuda")
    losses = [float(rt.step(X, Y)) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert cuda.replayed == 0
    assert capsys.readouterr().err.count("not as one CUDA graph: cudaErrorStreamCaptureUnsupported") == 1


def test_memory_that_runs_out_leaves_the_runtime_usable(cuda: FakeCuda) -> None:
    rt = runtime("cuda")
    loss = float(rt.step(X, Y))
    before = dict(rt.params)
    room, cuda.room = cuda.room, 4096
    with pytest.raises(tp.BackendError, match="not enough memory") as raised:
        rt.step(np.tile(X, (200, 1)), np.tile(Y, 200))
    assert "largest" in str(raised.value)
    assert "test_cupy_device.py:" in str(raised.value)
    cuda.room = room
    assert all(np.array_equal(before[n], rt.params[n]) for n in before)
    assert float(rt.step(X, Y)) < loss


def test_eager_equals_compiled(cuda: FakeCuda) -> None:
    model = nn.Linear(3, 2)
    eager, compiled = (
        tp.Runtime(model, backend=b, device="cuda", optimizer=tp.optim.SGD(lr=0.1)) for b in ("eager", "compiled")
    )
    x, y = X[:, :3], X[:, 3:]
    for _ in range(3):
        assert float(eager.step(x, y)) == float(compiled.step(x, y))
    assert all(np.array_equal(eager.params[n], compiled.params[n]) for n in eager.params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats(cuda: FakeCuda, dtype: str, tmp_path: Path) -> None:
    wide, narrow = runtime("cpu"), runtime("cuda", dtype=dtype)
    for _ in range(3):
        assert float(narrow.step(X, Y)) == pytest.approx(float(wide.step(X, Y)), rel=2e-2)
    narrow.save(tmp_path / "state.safetensors")
    again = runtime("cuda", dtype=dtype, seed=5)
    again.load_state({**narrow.params, **narrow.buffers, **narrow.optimizer_state})
    assert float(again.step(X, Y)) == float(narrow.step(X, Y))


def foreign(array: np.ndarray[Any, Any]) -> NdArray:
    """An array of another library, made on the legacy default stream."""
    memory = Memory(array.nbytes)
    memory.array[:] = array.reshape(-1).view(np.uint8)
    return NdArray(array.shape, array.dtype, memory)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_other_libraries_may_change_an_array_after_the_step_that_reads_it(cuda: FakeCuda, backend: str) -> None:
    here, there = runtime("cpu"), runtime("cuda", backend)
    x, y = foreign(X), foreign(Y)
    losses: list[Any] = []
    for n in range(4):
        losses.append(there.step(x, y))
        NULL.ask(partial(x.data.array.view(np.float32).__setitem__, slice(None), X.reshape(-1) * (n + 2)))
    expected = [float(here.step(X * (n + 1), Y)) for n in range(4)]
    assert [float(loss) for loss in losses] == pytest.approx(expected, rel=1e-5)
    assert x.asked


def test_other_libraries_memory_is_held_until_its_copy_is_made(cuda: FakeCuda) -> None:
    def double(x: Any) -> Any:
        return x * 2.0

    call = tp.compile(double, device="cuda")
    x = foreign(X)
    kept = weakref.ref(x)
    y = call(x)
    del x
    gc.collect()
    assert kept() is not None
    assert np.array_equal(y, X * 2)
    call(foreign(X))
    gc.collect()
    assert kept() is None


def test_memory_that_comes_back_is_used_after_what_other_libraries_do_with_it(cuda: FakeCuda) -> None:
    device = devices.find("cuda")
    given = DeviceArray(device, tp.f32[6, 5])
    given.__dlpack__(stream=1)
    gc.collect()
    done: list[bool] = []
    NULL.ask(lambda: done.append(True))
    device.allocate(64)
    device.wait(device.mark())
    assert done


def interrupt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ctrl-C at a launch."""
    launch, count = cuda.launch, 0

    def launched(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            signal.raise_signal(signal.SIGINT)
        launch(*given)

    driver = sys.modules["cupy.cuda"].driver
    monkeypatch.setattr(driver, "launchKernel", launched)


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("before", [0, 1, 2, 4])
def test_ctrl_c_meets_no_step_in_the_middle(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, before: int, at: int
) -> None:
    rt, whole = runtime("cuda"), runtime("cuda")
    for _ in range(before):
        rt.step(X, Y)
    interrupt(cuda, monkeypatch, at)
    try:
        rt.step(X, Y)
    except KeyboardInterrupt:
        assert before < 4
    else:
        assert before == 4, "a replayed graph launches no kernel by itself"
    monkeypatch.undo()
    for _ in range(before + 1):
        whole.step(X, Y)
    assert rt.step_count == before + 1
    assert all(np.array_equal(rt.params[n], whole.params[n]) for n in rt.params)
    assert float(rt.step(X, Y)) == float(whole.step(X, Y))


def test_other_libraries_memory_is_held_until_the_step_is_done(cuda: FakeCuda) -> None:
    rt = runtime("cuda")
    y = foreign(Y)
    given = [weakref.ref(x) for x in [foreign(X) for _ in range(3)] if rt.step(x, y)]
    assert all(ref() is not None for ref in given[1:])
    dict(rt.params)
    rt.step(foreign(X), y)
    gc.collect()
    assert not any(ref() for ref in given)


def test_what_it_takes_is_said(cuda: FakeCuda) -> None:
    assert tp.backends.get("compiled").unavailable("cuda") is None
    assert tp.backends.get("eager").unavailable("cuda:3") == "CUDA finds 1 device, numbered from 0"
