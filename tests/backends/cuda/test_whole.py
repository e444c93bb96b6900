"""Composites that fast numerics compute whole: attention without a matrix of weights, products with bias and activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from composites import attention, attention_by_definition, layers

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends.compiled import lower
from tapeir.backends.cuda.program import CudaProgram
from tapeir.ir.types import DType, Shape, bf16, bool_, f16, f32, f64

from .fake_cuda import FakeCuda, fake_cuda
from .nvrtc import FAST, compile_for, library
from .on_cpu import compiler, executable, once, program_of

pytestmark = once
runs = pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")
TOLERANCE: dict[DType, float] = {f32: 2e-6, f16: 2e-3, bf16: 2e-2}
"""Of the largest element: fragments are not rounded on the CPU, so only the order of sums and the dtype of results differ."""


def attentions(program: CudaProgram) -> list[str]:
    return [str(c).split("<")[0] for _, c in program.calls if str(c).startswith("attention")]


@runs
@pytest.mark.parametrize(
    ("dtype", "causal", "mask", "by_head"),
    [
        (f32, False, None, True),
        (f32, True, None, False),
        (f16, True, bool_, False),
        (bf16, False, None, True),
        (f32, True, f32, False),
        (bf16, False, bf16, False),
    ],
)
@pytest.mark.parametrize(
    ("lead", "queries", "keys", "columns", "values"),
    [
        ((), 1, 1, 1, 1),
        ((1, 2), 16, 16, 8, 8),
        ((2, 1), 70, 90, 12, 5),
        ((1, 1), 130, 66, 16, 24),
        ((1, 1), 34, 67, 72, 80),
    ],
)
def test_attention_and_its_gradient(
    lead: Shape, queries: int, keys: int, columns: int, values: int, causal: bool, mask: DType | None, by_head: bool, dtype: DType
) -> None:  # fmt: skip
    shapes = [(*lead, queries, columns), (*lead, keys, columns), (*lead, keys, values)]
    by_head &= len(lead) == 2
    module, arrays = attention(shapes, dtype, causal, mask is not None, by_head, added=mask is dtype)
    (name,) = module.functions
    program = executable(module, name, numerics="fast")
    assert attentions(program.program) == ["attention", "attention_dq", "attention_dk"]
    if queries > 1:
        assert not [v for v in program.program.function.values() if v.owner and v.type.shape[-2:] == (queries, keys)]
    wanted = attention_by_definition(arrays, causal, by_head)
    for found, expected in zip(program.run(arrays), wanted, strict=True):
        x, y = found.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE[dtype] * max(1, np.nanmax(np.abs(y), initial=0)))


@runs
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_query_that_sees_no_key_gives_0(numerics: str, added: bool) -> None:
    module, arrays = attention([(20, 8), (70, 8), (70, 8)], masked=True, added=added)
    arrays[4][3] = -np.inf if added else False
    (name,) = module.functions
    wanted = attention_by_definition(arrays)
    results = executable(module, name, numerics=numerics).run(arrays)
    for found, expected in zip(results, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    y, dq, _, _ = results
    assert (y[3] == 0).all()
    assert (dq[3] == 0).all()
    assert np.abs(y[2]).max() > 0
    assert np.abs(dq[2]).max() > 0


def launched(program: CudaProgram) -> list[str]:
    return [str(c).split(" (")[0] for _, c in program.calls if str(c).startswith("gemm")]


@pytest.mark.parametrize(
    ("dtype", "columns", "numerics"), [(f32, 8, "exact"), (f64, 8, "fast"), (f32, 136, "fast")], ids=str
)
def test_attention_is_its_decomposition_elsewhere(dtype: DType, columns: int, numerics: str) -> None:
    module, _ = attention([(2, 20, columns), (2, 20, columns), (2, 20, 8)], dtype)
    (name,) = module.functions
    program = program_of(module, name, numerics=numerics)
    assert not attentions(program)
    assert len(launched(program)) == 6


@pytest.mark.skipif(library() is None, reason="needs the nvidia-cuda-nvrtc wheel")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize("columns", [5, 64, 128])
def test_attention_compiles(columns: int, dtype: DType, arch: str) -> None:
    module, _ = attention(
        [(2, 4, 100, columns)] * 3, dtype, True, masked=columns != 64, by_head=columns == 64, added=columns == 128
    )
    (name,) = module.functions
    program = program_of(module, name, numerics="fast")
    assert len(attentions(program)) == 3
    assert compile_for(program.source, arch, FAST)


@runs
@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
def test_products_take_bias_and_activation(dtype: DType) -> None:
    module = layers(dtype)
    (name,) = module.functions
    program = executable(module, name, numerics="fast")
    assert launched(program.program)[:2] == ["gemm NT 1 x [10, 6, 8] bias relu", "gemm NN 1 x [10, 8, 3] bias none"]
    random = np.random.default_rng(0)
    arrays = [
        random.standard_normal(v.type.shape).astype(np.float32).astype(dtype.numpy) for v in module[name].arguments
    ]
    wide = layers(f64)
    expected = executable(wide, name).run([a.astype(np.float64) for a in arrays])
    for found, y in zip(program.run(arrays), expected, strict=True):
        bound = {f32: 1e-5, f16: 1e-2, bf16: 8e-2}[dtype] * np.abs(y).max()
        np.testing.assert_allclose(found.astype(np.float64), y, rtol=0, atol=bound)


def test_products_are_plain_in_exact_numerics() -> None:
    module = layers()
    (name,) = module.functions
    assert not [c for c in launched(program_of(module, name)) if "bias" in c]
    assert str(lower(module, "optimized", "cuda")) == str(lower(module, "optimized", "cuda", "exact"))
    assert "matmul_bias" in str(lower(module, "optimized", "cuda", "fast"))
    assert "matmul_bias" not in str(lower(module, "optimized", "cpu", "fast"))


# Through the device layer, on stand-ins


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    with fake_cuda(monkeypatch) as found:
        yield found


class Reader(nn.Module):
    """Attention between two layers."""

    def __init__(self) -> None:
        self.into = nn.Linear(6, 24)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        q, k, v = (ops.permute_dims(p.reshape((4, 5, 2, 4)), (0, 2, 1, 3)) for p in ops.split(self.into(x), 3, axis=-1))
        y = ops.scaled_dot_product_attention(q, k, v, is_causal=True)
        return ops.relu(self.out(ops.permute_dims(y, (0, 2, 1, 3)).reshape((4, 5, 8))))


X = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)


def runtime(device: str, **options: Any) -> tp.Runtime:
    return tp.Runtime(Reader(), optimizer=tp.optim.SGD(lr=0.1), backend="compiled", device=device, **options)


@runs
def test_training_in_fast_numerics(cuda: FakeCuda) -> None:
    here, there = runtime("cpu"), runtime("cuda", numerics="fast")
    expected = [float(here.step(X, Y)) for _ in range(5)]
    losses = [there.step(X, Y) for _ in range(5)]
    np.testing.assert_allclose([float(x) for x in losses], expected, rtol=1e-5)
    for name, array in here.params.items():
        np.testing.assert_allclose(there.params[name], array, rtol=1e-4, atol=1e-6)
    (program,) = there.artifacts.values()
    assert " mma(" in program.source
    assert cuda.replayed == 3


@runs
def test_a_device_without_tensor_cores_has_the_decomposition(cuda: FakeCuda) -> None:
    cuda.capability = 7, 5
    rt = runtime("cuda", numerics="fast")
    float(rt.step(X, Y))
    (program,) = rt.artifacts.values()
    assert " mma(" not in program.source


@runs
def test_descriptors_go_when_they_are_used(cuda: FakeCuda) -> None:
    rt = runtime("cuda", numerics="fast")
    for _ in range(4):
        float(rt.step(X, Y))
    assert cuda.blas_lt.made
    assert not cuda.blas_lt.objects


@runs
@pytest.mark.parametrize("found", [0, None])
def test_where_cublaslt_has_no_layer_there_is_a_product_and_a_kernel(cuda: FakeCuda, found: int | None) -> None:
    cuda.blas_lt.algorithms = found
    rt = runtime("cuda", numerics="fast")
    assert float(rt.step(X, Y)) == pytest.approx(float(runtime("cpu").step(X, Y)), rel=1e-5)
    (program,) = rt.artifacts.values()
    assert {"gemm", "gemm_bias"} & set(program.kernels) == {"gemm"}
    assert not cuda.blas_lt.objects


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 4, 5), (3, 1, 5), (3, 4, 1)])
def test_layers_with_a_size_of_one_are_decomposed(rows: int, inner: int, columns: int) -> None:
    def layer(x: Any, w: Any, b: Any) -> Any:
        return ops.relu(x @ w + b)

    module = tp.trace(layer, f32[rows, inner], f32[inner, columns], f32[columns])
    assert "matmul_bias" not in str(lower(module, "optimized", "cuda", "fast"))
