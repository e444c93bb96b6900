"""Another library has set this thread to flush denormal numbers: nothing computes other bits, and the thread's mode stays as it was set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from float_modes import flushing, needs_modes

import tapeir as tp
from tapeir import ops
from tapeir.backends.base import compile_module, get
from tapeir.ir import OPS, GraphBuilder, Module, TensorType, float_mode
from tapeir.ir.op import Control
from tapeir.ir.types import Array, f32, f64, type_of

from .small import BACKENDS, X, Y, bits, runtime

pytestmark = [pytest.mark.usefixtures("table"), needs_modes]
DOWN = 0x2000
"""Rounding towards minus infinity."""


def denormal(*shape: int) -> Array:
    rng = np.random.default_rng(0)
    return (rng.uniform(0.5, 2.0, shape) * 1e-39 * rng.choice([-1, 1], shape)).astype(np.float32)


def halves(x: Any) -> Any:
    for _ in range(30):
        x = ops.tanh(x) * 1.01
    return x


def product(x: Any) -> Any:
    return (x @ ops.matrix_transpose(x * 1e38)) * 1e-3 + ops.sum(x)


def constants(x: Any) -> Any:
    return x * 0.0 + np.array([1e-40, 3e-41, 5e-45] * 8) + 1e-40 + ops.astype(np.float64(1e-40), "float32")


def narrowed(x: Any) -> Any:
    return ops.astype(ops.astype(x, "float64") * 0.3, "float32") + ops.softmax(x * 1e30, axis=1) * 1e-42


def folded(x: Any) -> Any:
    return x + ops.exp(ops.full((24,), -90.0)) * ops.full((24,), 0.25)


PROGRAMS = (halves, product, constants, narrowed, folded)


@pytest.mark.parametrize("f", PROGRAMS)
@pytest.mark.parametrize("rows", [3, 3000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_gives_the_same_bits(f: Callable[..., Any], rows: int, backend: str) -> None:
    x = denormal(rows if f is not product else 24, 24)
    expected = tp.compile(f, backend=backend)(x).tobytes()
    with flushing(DOWN):
        one = tp.compile(f, backend=backend)
        assert {one(x).tobytes() for _ in range(3)} == {expected}
    assert expected == tp.compile(f, backend="eager")(x).tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_runtime_gives_the_same_bits(backend: str, tmp_path: Path) -> None:
    def run() -> list[Any]:
        rt = runtime(backend, optimizer=tp.optim.Adam(1e-38))
        x = (X * 1e-39).astype(np.float64)  # becomes float32 at the boundary
        losses = [float(rt.step(x, Y)) for _ in range(3)]
        rt.load_state({**rt.params, **{n: np.full(a.shape, 1e-40) for n, a in rt.buffers.items()}})
        rt.save(tmp_path / "state.safetensors")
        loaded = tp.Runtime.load(tmp_path / "state.safetensors", runtime().setting.declared.model, backend=backend)
        return [losses, bits(rt), bits(loaded), rt.predict(x).tobytes(), rt.loss_and_grads(x, Y)[1]["0.bias"].tobytes()]

    expected = run()
    with flushing(DOWN):
        assert run() == expected


def squares(x: Any) -> Any:
    return ops.sum(x * x * 0.5)


def test_transforms_traces_and_texts() -> None:
    x = denormal(5, 5)
    text = (
        "module @m {\n  func @main() -> (f32[]) {\n    %0 = constant {value = 1e-40} : f32[]\n    return %0\n  }\n}\n"
    )

    def run() -> list[Any]:
        gradient = tp.grad(squares)(x)
        tangent = tp.jvp(halves, (x,), (x,))[1]
        return [gradient.tobytes(), tangent.tobytes(), str(tp.trace(constants, tp.f32[3, 24])), str(tp.parse(text))]

    expected = run()
    with flushing(DOWN):
        assert run() == expected


def op_cases() -> list[tuple[str, Module, list[Array]]]:
    """Every op on operands that are denormal, in f32 and f64."""
    found: list[tuple[str, Module, list[Array]]] = []
    for op in OPS.values():
        if not op.__class__.__module__.startswith("tapeir.") or isinstance(op, Control):
            continue
        for dtype, tiny in ((f32, 1e-39), (f64, 1e-310)):
            for sample in op.samples(np.random.default_rng(0)):
                types = [type_of(a) for a in sample.operands]
                if not types or types[0].dtype is not dtype or not types[0].size:
                    continue
                scale = dtype.numpy.type(tiny)
                arrays = [a * scale if t.dtype is dtype else a for a, t in zip(sample.operands, types, strict=True)]
                found.append((f"{op.name} {dtype}", _module(op, types, sample.attrs), arrays))
                break
    return found


def _module(op: Any, types: list[TensorType], attrs: Any) -> Module:
    recorder = GraphBuilder()
    given = [recorder.argument(t, f"x{n}") for n, t in enumerate(types)]
    results = recorder.bind(op, tuple(given), op.attributes(attrs))
    return Module("m", [recorder.function("main", [(v, "input") for v in given], [(r, None) for r in results])])


def test_every_op_gives_the_same_bits() -> None:
    differ: list[str] = []
    names = set[str]()
    for name, module, arrays in op_cases():
        program = compile_module(get("eager"), module, "main", "cpu")
        expected = [np.asarray(a).tobytes() for a in program.run(arrays)]
        with flushing(DOWN):
            found = [np.asarray(a).tobytes() for a in program.run(arrays)]
        names.add(name)
        if found != expected:
            differ.append(name)
    assert not differ
    assert len(names) > 100


def test_where_the_mode_cannot_be_changed_an_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_mode, "is_standard", lambda: False)
    with pytest.raises(tp.BackendError, match="treats denormal numbers as zero") as info:
        ops.tanh(np.zeros(3, np.float32))
    assert "torch.set_flush_denormal(False)" in str(info.value)
