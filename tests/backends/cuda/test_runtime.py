"""``Runtime`` with its state in a device's memory; the device is the host behind the shim."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threaded import hammer

import tapeir as tp
from tapeir import nn
from tapeir.backends.cuda import devices
from tapeir.ir.errors import NonFiniteError, OutOfRangeError

from .on_cpu import CpuDevice, compiler, once

pytestmark = [once, pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")]


@pytest.fixture
def device() -> Iterator[CpuDevice]:
    with devices.registered("cuda", CpuDevice()) as found:
        assert isinstance(found, CpuDevice)
        yield found


def runtime(where: str, **options: Any) -> tp.Runtime:
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    backend = "compiled"
    return tp.Runtime(
        model, objective="cross_entropy", optimizer=tp.optim.Adam(lr=0.01), backend=backend, device=where, **options
    )


X = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
Y = np.arange(12) % 3


def test_training_agrees_with_the_cpu_to_rounding(device: CpuDevice) -> None:
    here, there = runtime("cpu"), runtime("cuda")
    for _ in range(5):
        assert float(there.step(X, Y)) == pytest.approx(float(here.step(X, Y)), rel=1e-5)
    for view in ("params", "buffers", "optimizer_state"):
        for name, array in getattr(here, view).items():
            np.testing.assert_allclose(getattr(there, view)[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert there.step_count == 5
    with there.in_mode("eval"):
        np.testing.assert_allclose(there.predict(X), here.eval().predict(X), rtol=1e-4, atol=1e-5)


def test_launches_of_a_step(device: CpuDevice) -> None:
    rt = runtime("cuda")
    rt.step(X, Y)
    before = device.launched
    rt.step(X, Y)
    (program,) = rt.artifacts.values()
    assert device.launched - before == program.program.launches  # type: ignore[attr-defined]


def test_a_failing_step_leaves_everything_as_it_was(device: CpuDevice) -> None:
    rt = runtime("cuda")
    rt.step(X, Y)
    before = {**rt.params, **rt.buffers, **rt.optimizer_state}
    with pytest.raises(OutOfRangeError, match="index 7 is out of range"):
        float(rt.step(X, np.where(Y == 1, 7, Y)))
    after = {**rt.params, **rt.buffers, **rt.optimizer_state}
    assert all(np.array_equal(before[n], after[n]) for n in before)
    assert rt.step_count == 1
    float(rt.step(X, Y))


def test_the_guard_finds_what_made_a_nan(device: CpuDevice) -> None:
    rt = tp.Runtime(nn.Linear(8, 1), backend="compiled", device="cuda", guard="nonfinite")
    y = np.ones((12, 1), np.float32)
    float(rt.step(X, y))
    with pytest.raises(NonFiniteError):
        rt.step(np.full_like(X, np.nan), y)
    float(rt.step(X, y))


def test_state_is_saved_and_loaded(device: CpuDevice, tmp_path: Path) -> None:
    rt = runtime("cuda")
    rt.step(X, Y)
    rt.save(tmp_path / "a.safetensors")
    again = runtime("cuda", seed=3)
    again.load_state({**rt.params, **rt.buffers, **rt.optimizer_state})
    assert all(np.array_equal(rt.params[n], again.params[n]) for n in rt.params)
    on_cpu = runtime("cpu")
    on_cpu.load_state({**rt.params, **rt.buffers, **rt.optimizer_state})
    assert float(on_cpu.step(X, Y)) == pytest.approx(float(rt.step(X, Y)), rel=1e-5)


def test_without_a_device_the_error_says_so() -> None:
    with pytest.raises(tp.BackendError, match="cannot use device 'cuda'"):
        runtime("cuda")


def test_training_prints_samples_and_one_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    class Counted(CpuDevice):
        def used(self) -> dict[str, Any]:
            return {"used": 4096, "reserved": 8192, "free": 1 << 20, "total": 1 << 21}

    data = tp.data.arrays(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32))
    config = tp.Trainer.Config(backend="compiled", device="cuda")
    with devices.registered("cuda", Counted()):
        options = tp.Trainer.TrainOptions(steps=5, batch_size=4, cuda_mem_watch=2, progress=False)
        trained = tp.Trainer.new(nn.Linear(2, 1), config).train(data, options)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"cuda_mem step=2: used=4096 reserved=8192 peak=4096 free={1 << 20} total={1 << 21}"
    assert [re.findall(r"step=(\d+)", line) for line in out] == [["2"], ["4"], ["5"], []]
    assert out[-1] == "cuda_mem steady"
    assert trained.report.steps == 5
    assert trained.report.loss_after is not None


def test_an_error_names_its_step() -> None:
    labels = np.array([0, 1, 0, 1, 7, 1, 0, 1, 0, 1])
    data = tp.data.arrays(np.ones((10, 2), np.float32), labels)
    for device in ("cpu", "cuda"):
        config = tp.Trainer.Config(backend="compiled", device=device, objective="cross_entropy")
        with devices.registered("cuda", CpuDevice()):
            options = tp.Trainer.TrainOptions(steps=10, shuffle=False, progress=False)
            with pytest.raises(tp.IRError, match=r"in step 5$"):
                tp.Trainer.new(nn.Linear(2, 2), config).train(data, options)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_threads_share_a_device(device: CpuDevice, backend: str) -> None:
    """Two runtimes on one device, one of them from two threads."""

    def made() -> tp.Runtime:
        model = nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.2))
        return tp.Runtime(model, objective="cross_entropy", backend=backend, device="cuda")

    rt, other, alone = made(), made(), made()
    other.eval()
    expected = other.predict(X)

    def step(_: int) -> None:
        assert np.isfinite(float(rt.step(X, Y)))

    def predict(_: int) -> None:
        np.testing.assert_array_equal(other.predict(X), expected)

    hammer(0.3, step, step, predict, predict)
    for _ in range(rt.step_count):
        alone.step(X, Y)
    for name, array in alone.params.items():
        np.testing.assert_array_equal(rt.params[name], array)
