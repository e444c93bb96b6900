"""Programs on a CUDA device: every op, the examples and random programs; eager and compiled have the same bits, the CPU's to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composites import attention, attention_by_definition, layers
from outcomes import SUMS, agree, outcome

import tapeir as tp
from tapeir import ops
from tapeir.backends.base import compile_module
from tapeir.backends.eager import EagerBackend, host_or
from tapeir.backends.eager.interpret import HOST
from tapeir.ir import OPS, Function, GraphBuilder, IRError, Module, parse
from tapeir.ir.op import Control
from tapeir.ir.types import Array, DType, Shape, bf16, f16, f32, f64
from tapeir.runtime import profile as profiling
from tapeir.runtime.entries import function_of
from tapeir.runtime.model_file import batch_types, load
from tapeir.runtime.trainer import Advanced

from .device import needs_device, same

pytestmark = needs_device
ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
REGRESSIONS = sorted((ROOT / "tests" / "backends" / "regressions").glob("*.ir"))
STEPS = 6


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if not isinstance(op, Control)))
def test_every_op_agrees_with_the_cpu(name: str) -> None:
    pytest.importorskip("hypothesis")
    from strategies import operand_types

    op = OPS[name]
    ops: Any = host_or("cuda")
    for sample in op.samples(np.random.default_rng(0)):
        recorder = GraphBuilder()
        operands = [recorder.argument(t) for t in operand_types(op, sample.operands)]
        recorder.bind(op, tuple(operands), op.attributes(sample.attrs))
        (i,) = recorder.instructions
        types = [v.type for v in (*i.operands, *i.results)]
        if any(t.dtype.name in ("f16", "bf16") for t in types):
            continue
        try:
            with np.errstate(all="ignore"):
                expected = HOST.run(i, [np.asarray(x) for x in sample.operands])
        except IRError as error:
            with pytest.raises(type(error)):
                ops.run(i, [ops.array(x, v.type) for x, v in zip(sample.operands, i.operands, strict=True)])
            continue
        found = ops.run(i, [ops.array(x, v.type) for x, v in zip(sample.operands, i.operands, strict=True)])
        for a, b in zip(expected, found, strict=True):
            if op.rounding == "correct" or np.asarray(a).dtype.kind != "f":
                assert same(a, b), f"{i} of {sample}"
            else:
                np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6, err_msg=f"{i} of {sample}")


def trainers(path: Path, dtype: str, *settings: tuple[str, str]) -> list[tuple[Advanced, list[tuple[Array, ...]]]]:
    """The example trained by each backend and device, and its first batches."""
    made: list[tuple[Advanced, list[tuple[Array, ...]]]] = []
    for backend, device in settings:
        file = load(path)
        data = file.data()
        assert data is not None
        config = file.config.changed(backend=backend, device=device, dtype=dtype)
        advanced = Advanced(file.model, config, path.stem)
        loader = advanced.loader(data[0], file.options.batch_size)
        made.append((advanced, [batch for _, (_, batch) in zip(range(STEPS), loader.steps(), strict=False)]))
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples(path: Path, dtype: str) -> None:
    """Losses, state and gradients: eager and compiled bit for bit, the CPU to rounding."""
    eager, compiled, cpu = trainers(path, dtype, ("eager", "cuda"), ("compiled", "cuda"), ("compiled", "cpu"))
    losses = [[float(a.step(b)) for b in batches] for a, batches in (eager, compiled, cpu)]
    assert losses[0] == losses[1]
    tolerance = 1e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(losses[1], losses[2], rtol=tolerance)
    for view in ("params", "buffers", "optimizer_state"):
        for name, array in getattr(eager[0].runtime, view).items():
            assert same(array, getattr(compiled[0].runtime, view)[name]), name
    batch = eager[1][0]
    (loss, grads), (same_loss, same_grads) = (a.runtime.loss_and_grads(*batch) for a, _ in (eager, compiled))
    assert loss == same_loss
    assert all(same(grads[n], same_grads[n]) for n in grads)
    fresh_there, fresh_here = trainers(path, dtype, ("compiled", "cuda"), ("compiled", "cpu"))
    there, here = (a.runtime.loss_and_grads(*batch)[1] for a, _ in (fresh_there, fresh_here))
    for name, gradient in here.items():
        size = float(np.abs(gradient).max(initial=0.0)) or 1.0
        np.testing.assert_allclose(there[name], gradient, rtol=tolerance, atol=tolerance * size * 1e-2, err_msg=name)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_fused_equals_one_kernel_an_op(path: Path) -> None:
    (advanced, batches), *_ = trainers(path, "float32", ("compiled", "cuda"))
    runtime = advanced.runtime
    types = batch_types(batches[0], runtime.dtype)
    function = function_of(runtime.setting, "train_step", "train", types)
    arguments = runtime.arguments(function, *batches[0])
    outcomes = [run(Module("m", [function]), function, arguments, unfused=unfused) for unfused in (True, False)]
    assert all(same(a, b) for a, b in zip(*outcomes, strict=True))


def test_compare_finds_no_difference() -> None:
    (advanced, batches), *_ = trainers(EXAMPLES[0], "float32", ("compiled", "cuda"))
    runtime = advanced.runtime
    module = runtime.module(*batches[0])
    arrays = runtime.arguments(module["train_step"], *batches[0])
    found = tp.debug.compare(module, "train_step", arrays, device="cuda")
    assert found.grade == "none"
    assert found.kernels > 5


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_profile_times_every_kernel(backend: str) -> None:
    (advanced, batches), *_ = trainers(EXAMPLES[0], "float32", ("compiled", "cuda"))
    module = advanced.runtime.module(*batches[0])
    arrays = advanced.runtime.arguments(module["train_step"], *batches[0])
    found = profiling.profile(module, "train_step", arrays, backend=backend, device="cuda", seconds=0.2)
    assert found.apart
    assert found.total > 0
    assert all(0 <= k.seconds < 0.1 for k in found.kernels)
    assert any(k.flops for k in found.kernels)
    if backend == "compiled":  # small kernels take microseconds; asking for one takes longer
        assert found.total < 2e-5 * len(found.kernels)


# Fast numerics


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
@pytest.mark.parametrize(
    ("lead", "queries", "keys", "columns", "causal", "mask", "by_head"),
    [
        ((), 1, 1, 1, False, "", False),
        ((2, 3), 130, 66, 16, True, "", True),
        ((2,), 70, 90, 12, False, "bool", False),
        ((2,), 70, 90, 12, False, "added", False),
        ((4, 8), 512, 512, 64, True, "", True),
        ((2,), 300, 300, 128, True, "bool", False),
    ],
)
def test_attention_in_fast_numerics(
    lead: Shape, queries: int, keys: int, columns: int, causal: bool, mask: str, by_head: bool, dtype: DType
) -> None:
    shapes = [(*lead, queries, columns), (*lead, keys, columns), (*lead, keys, columns)]
    module, arrays = attention(shapes, dtype, causal, mask != "", by_head, added=mask == "added")
    (name,) = module.functions
    found = run(module, module[name], arrays, numerics="fast")
    again = run(module, module[name], arrays, numerics="fast")
    for a, b, wanted in zip(found, again, attention_by_definition(arrays, causal, by_head), strict=True):
        assert same(a, b)
        x, y = a.astype(np.float64), wanted.astype(np.float64)
        np.testing.assert_allclose(x, y, rtol=0, atol=(2e-2 if dtype is bf16 else 4e-3) * max(1.0, np.abs(y).max()))


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
def test_products_with_epilogues(dtype: DType, activation: str) -> None:
    def function(x: Any) -> Any:
        return ops.gelu(x, approximate="tanh") if activation == "gelu" else getattr(ops, activation)(x)

    module, wide = layers(dtype, function), layers(f64, function)
    (name,) = module.functions
    random = np.random.default_rng(0)
    arrays = [
        random.standard_normal(v.type.shape).astype(np.float32).astype(dtype.numpy) for v in module[name].arguments
    ]
    expected = run(wide, wide[name], [a.astype(np.float64) for a in arrays])
    for found, y in zip(run(module, module[name], arrays, numerics="fast"), expected, strict=True):
        bound = {f32: 5e-3, f16: 2e-2, bf16: 1e-1}[dtype] * float(np.abs(y).max())
        np.testing.assert_allclose(found.astype(np.float64), y, rtol=0, atol=bound)


def run(module: Module, function: Function, arrays: Sequence[Any], **options: Any) -> tuple[Array, ...]:
    done = compile_module(tp.backends.get("compiled"), module, function.name, "cuda", options).run(
        [np.array(a) for a in arrays]
    )
    return tuple(map(np.asarray, done))


def check(module: Module, arrays: Sequence[Array]) -> None:
    eager = compile_module(EagerBackend(), module, "main", "cuda")
    compiled = compile_module(tp.backends.get("compiled"), module, "main", "cuda")
    expected, found = outcome(eager.run, arrays), outcome(compiled.run, arrays)
    assert agree(expected, found), f"{expected!r} is not {found!r}\n{module}"


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda p: p.stem)
def test_regressions(path: Path) -> None:
    pytest.importorskip("hypothesis")
    from strategies import inputs_of

    module = parse(path.read_text(encoding="utf-8"))
    check(module, inputs_of(module["main"], 1, True))


def check_program(program: Any) -> None:
    check(program.module, program.arrays)


def test_random_programs() -> None:
    hypothesis: Any = pytest.importorskip("hypothesis")
    from program_strategies import programs, update_programs

    quick = hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    for strategy in (programs(), update_programs()):
        quick(hypothesis.given(strategy)(check_program))()


def test_row_and_column_lengths() -> None:
    """Sums and extrema of many lengths, with special values, against NumPy in float64."""
    random = np.random.default_rng(0)
    for rows, columns in [
        (1, 1),
        (3, 33),
        (9, 1024),
        (2, 1500),
        (2, 70000),
        (5000, 3),
        (70000, 2),
        (300, 400),
        (1, 100000),
    ]:
        x = random.standard_normal((rows, columns)).astype(np.float32)
        x[0, columns // 2] = np.nan if columns == 33 else x[0, 0]
        module = parse(SUMS.replace("ROWS", str(rows)).replace("COLUMNS", str(columns)))
        a, b, c, d, e = run(module, module["main"], [x])
        wide = x.astype(np.float64)
        np.testing.assert_allclose(a, wide.sum(1), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(b, wide.sum(0), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(e, wide.sum(), rtol=1e-4, atol=1e-1)
        assert np.array_equal(c, x.max(1), equal_nan=True)
        assert np.array_equal(d, x.max(0), equal_nan=True)
        check_lengths = compile_module(EagerBackend(), module, "main", "cuda").run([x])
        assert all(same(p, q) for p, q in zip(check_lengths, (a, b, c, d, e), strict=True))
