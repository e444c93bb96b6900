"""float16 and bfloat16: 16 bits in memory, float32 in between, one rounding an op, the same bits on every target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits
from strategies import SPECIAL, fill, operand_types, special_floats

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends import kernels
from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend
from tapeir.backends.eager import EagerBackend
from tapeir.backends.eager.interpret import execute
from tapeir.backends.native import narrow
from tapeir.ir import OPS, GraphBuilder, Module, Op, Sample, TensorType, parse
from tapeir.ir.op import Contract, Control, Elementwise, Reduce, Scatter
from tapeir.ir.types import DTYPES, Array, DType, bf16, f16, f32, f64, i16, i32, i64, type_of, u64
from tapeir.passes import Provenance
from tapeir.runtime.data import Dataset

NARROW = (f16, bf16)
narrow_dtypes = pytest.mark.parametrize("dtype", NARROW, ids=str)
NAMES = sorted(name for name, op in OPS.items() if not isinstance(op, Control))
COMPUTED = [
    n for n in NAMES if isinstance(OPS[n], (Elementwise, Reduce, Contract, Scatter)) and "dtype" not in OPS[n].attrs
]
"""Ops that compute with floats by a rule of their own."""


@pytest.fixture(params=["processor", "integers", "numpy"])
def rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What converts float16: the processor, integer arithmetic as on one that cannot, or NumPy."""
    if request.param == "numpy":
        with kernels.using(kernels.Table()):
            yield "numpy"
        return
    if kernels.table().name != "native":
        pytest.skip("about native programs")
    if request.param == "integers":
        monkeypatch.setattr(narrow, "converts", lambda: False)
    yield request.param


def narrowed(op: Op, dtype: DType) -> list[Sample]:
    """The float32 samples of an op in another dtype."""
    found: list[Sample] = []
    for sample in op.samples(np.random.default_rng(0)):
        floating = [a.dtype for a in sample.operands if a.dtype.kind == "f"]
        words = {i32: i16} if op.name == "bitcast" else {}
        attrs = {n: {f32: dtype, **words}.get(a, a) if isinstance(a, DType) else a for n, a in sample.attrs.items()}
        if all(d == np.float32 for d in floating) and (floating or attrs != sample.attrs):
            with np.errstate(all="ignore"):
                arrays = [a.astype(dtype.numpy) if a.dtype.kind == "f" else a for a in sample.operands]
            if op.name == "bitcast" and not floating:
                arrays = [a.astype(np.int16) for a in arrays]
            found.append(Sample(tuple(arrays), attrs))
    return found


def module_of(op: Op, sample: Sample) -> Module:
    recorder = GraphBuilder()
    recorder.at = ()
    operands = tuple(recorder.argument(t, f"x{n}") for n, t in enumerate(operand_types(op, sample.operands)))
    results = recorder.bind(op, operands, op.attributes(sample.attrs))
    return Module("ops", [recorder.function("main", [(v, "input") for v in operands], [(r, None) for r in results])])


def compiled(module: Module, *arrays: Array) -> tuple[Array, ...]:
    """The results of the compiled program, which is built anew: nothing in the disk cache says how it rounds."""
    program = compile_module(CompiledBackend(), module, "main", "cpu", {"provenance": Provenance()})
    return program.run(arrays)


def interpreted(module: Module, *arrays: Array) -> tuple[Array, ...]:
    return compile_module(EagerBackend(), module, "main", "cpu").run(arrays)


@narrow_dtypes
@pytest.mark.parametrize("name", NAMES)
def test_every_op_has_the_bits_of_the_tape(name: str, dtype: DType, table: str) -> None:
    for sample in narrowed(OPS[name], dtype):
        module = module_of(OPS[name], sample)
        wanted = interpreted(module, *sample.operands)
        program = compile_module(CompiledBackend(), module, "main", "cpu")
        for _ in range(2):
            found = program.run(sample.operands)
            assert all(map(same_bits, wanted, found)), f"{found} is not {wanted} in a {table} program\n{program.source}"


@narrow_dtypes
@pytest.mark.parametrize("name", COMPUTED)
def test_an_op_is_computed_in_float32_and_rounded_once(name: str, dtype: DType, table: str) -> None:
    op, random = OPS[name], np.random.default_rng(5)
    for sample in narrowed(op, dtype):
        wild = [fill(random, type_of(a), True) if a.dtype == dtype.numpy else a for a in sample.operands]
        for arrays in (sample.operands, wild):
            wide = [a.astype(np.float32) if a.dtype == dtype.numpy else a for a in arrays]
            attrs = op.attributes(sample.attrs)

            def run(given: Any, op: Op = op, attrs: dict[str, Any] = attrs) -> Array:
                types = tuple(map(type_of, given))
                with np.errstate(all="ignore"):
                    return np.asarray(execute(op, types, attrs, list(given), op.result_types(types, attrs)[0])[0])

            found, wanted = run(arrays), run(wide)
            with np.errstate(all="ignore"):
                wanted = wanted.astype(dtype.numpy) if wanted.dtype == np.float32 else wanted
            assert same_bits(found, wanted), f"{arrays}: {found} is not {wanted}"


# Conversions


def every(dtype: DType) -> Array:
    """All values of a dtype."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)


def nearest(x: Fraction, dtype: DType) -> Array:
    """A number rounded once, by comparing exact distances; ties to even."""
    bits = np.arange(0x8000, dtype=np.uint16)
    with np.errstate(all="ignore"):
        values = bits.view(dtype.numpy).astype(np.float64)
    last = int(np.isfinite(values).sum()) - 1
    size = abs(x)
    at = min(int(np.searchsorted(values[: last + 1], float(size))), last)
    low = next(n for n in (at, at - 1, at - 2) if n <= 0 or Fraction(values[n]) <= size)
    low = max(low, 0)
    above = Fraction(values[low + 1]) if low < last else 2 * Fraction(values[last]) - Fraction(values[last - 1])
    twice = 2 * size - Fraction(values[low]) - above
    chosen = low + (twice > 0 or (twice == 0 and low % 2 == 1))
    return np.array([chosen | (0x8000 if x < 0 else 0)], np.uint16).view(dtype.numpy)


def casts(source: DType, target: DType, count: int) -> Module:
    x, y = source[count], target[count]
    return parse(
        f"module @m {{ func @main(%x: {x} input) -> ({y}) {{ %0 = cast %x {{dtype = {target}}} : {y} return %0 }} }}"
    )


def both(module: Module, x: Array) -> Array:
    """What tape and program give for an array, which is the same."""
    (tape,), (program,) = interpreted(module, x), compiled(module, x)
    assert same_bits(tape, program)
    return program


@narrow_dtypes
def test_all_values_are_widened_exactly_and_come_back(dtype: DType, rounds: str) -> None:
    x = every(dtype)
    wide = both(casts(dtype, f32, x.size), x)
    with np.errstate(all="ignore"):
        assert same_bits(wide, x.astype(np.float32))
    assert same_bits(both(casts(f32, dtype, x.size), wide), x)


@narrow_dtypes
def test_float32_is_rounded_to_nearest_even(dtype: DType, rounds: str) -> None:
    """Every value, the middles between neighbours, what lies next to them, and random patterns."""
    with np.errstate(all="ignore"):
        values = np.sort(every(dtype)[np.isfinite(every(dtype))].astype(np.float32))
        middles = (values[1:].astype(np.float64) / 2 + values[:-1].astype(np.float64) / 2).astype(np.float32)
        top = np.float32(65520.0) if dtype is f16 else np.float32(3.3961776e38)
        edges = np.array([top, -top, *SPECIAL]).astype(np.float32)
        known = np.concatenate([values, middles, edges])
        around = [np.nextafter(known, np.float32(s)) for s in (np.inf, -np.inf)]
        random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, np.uint64).astype(np.uint32).view(np.float32)
        x = np.concatenate([known, *around, random])
        assert same_bits(both(casts(f32, dtype, x.size), x), x.astype(dtype.numpy))


def hard(dtype: DType) -> list[Fraction]:
    """Numbers that two roundings, first to float32 or float64, would bring to another neighbour."""
    digits = 11 if dtype is f16 else 8
    found: list[Fraction] = []
    for exponent in (-20, -14, -1, 0, 3, 14) if dtype is f16 else (-130, -100, -1, 0, 3, 40, 61):
        one = Fraction(2) ** exponent
        for n in (0, 1, 2):
            middle = one + one * (2 * n + 1) / Fraction(2) ** digits
            found += [middle, *(middle + sign * one / 2**k for sign in (1, -1) for k in (24, 30, 40, 44))]
    return [s * x for x in found for s in (1, -1)]


@narrow_dtypes
def test_float64_is_rounded_once(dtype: DType, rounds: str) -> None:
    exact = [x for x in hard(dtype) if Fraction(float(x)) == x]
    x = np.array([float(n) for n in exact])
    wanted = np.concatenate([nearest(n, dtype) for n in exact])
    assert same_bits(both(casts(f64, dtype, x.size), x), wanted)
    with np.errstate(all="ignore"):
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 5e-324, -5e-324, 1e-45])
        assert same_bits(both(casts(f64, dtype, special.size), special), special.astype(np.float32).astype(dtype.numpy))


@narrow_dtypes
@pytest.mark.parametrize("source", [i64, u64], ids=str)
def test_large_integers_are_rounded_once(source: DType, dtype: DType, rounds: str) -> None:
    info = np.iinfo(source.numpy)
    found: list[int] = [0, 1, 3, 2049, 65519, 65520, 65521, int(info.max), int(info.min), (1 << 40) + 1, 1 << 40]
    for exponent in (24, 33, 39, 40, 53, 61, 62):
        middle = (1 << exponent) + (1 << (exponent - 8))
        found += [middle + d for d in (0, 1, -1, 1 << (exponent - 24), (1 << (exponent - 24)) + 1, 1 << 15, -(1 << 15))]
    found += [-n for n in found if source is i64 and n > 0]
    x = np.array(found, source.numpy)
    wanted = np.concatenate([nearest(Fraction(n), dtype) for n in found])
    assert same_bits(both(casts(source, dtype, x.size), x), wanted)


@narrow_dtypes
def test_casts_to_and_from_every_dtype(dtype: DType, rounds: str) -> None:
    random = np.random.default_rng(2)
    x = np.concatenate([every(dtype)[::7], special_floats(dtype)])
    for other in (d for d in DTYPES.values() if d.kind in "fiub"):
        both(casts(dtype, other, x.size), x)
        both(casts(other, dtype, 333), fill(random, other[333], True))


@narrow_dtypes
def test_a_constant_is_rounded_once(dtype: DType) -> None:
    """Also one that is no float32."""
    x = 1 + 2.0 ** -(11 if dtype is f16 else 8) + 2.0**-40
    found = ops.full((3,), x, dtype)
    assert np.asarray(found).astype(float).tolist() == [1 + 2.0 ** -(10 if dtype is f16 else 7)] * 3


@narrow_dtypes
def test_uniform_draws_are_truncated(dtype: DType, table: str) -> None:
    count = 1 << 16
    text = """module @m { func @main(%k: key[] input) -> (T[N], f32[N]) {
        %0 = uniform %k {shape = [N], dtype = T} : T[N] %1 = uniform %k {shape = [N], dtype = f32} : f32[N] return %0, %1 } }"""
    module = parse(text.replace("N", str(count)).replace("T[", f"{dtype}[").replace("= T}", f"= {dtype}}}"))
    key = np.array([3, 4], np.uint32)
    short, exact = compiled(module, key)
    assert all(map(same_bits, interpreted(module, key), (short, exact)))
    difference = exact.astype(float) - short.astype(float)
    assert short.astype(float).max() < 1.0
    assert (difference >= 0).all()
    assert (difference <= exact * 2.0 ** (-10 if dtype is f16 else -7)).all()


# Programs


def values(dtype: DType, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype.numpy)


def with_gradients(x: Any, w: Any) -> tuple[Any, ...]:
    def loss(x: Any, w: Any) -> Any:
        h = ops.layer_norm(ops.gelu(x @ w), w.shape[1])
        p = ops.softmax(h)
        return ops.mean(ops.log(p + 0.01) * ops.where(h > 0, p, -h)) + ops.max(h) + ops.sum(h, axis=0)[-1]

    value, (dx, dw) = tp.value_and_grad(loss, argnums=(0, 1))(x, w)
    return (
        value,
        dx,
        dw,
        ops.argmax(x, axis=1),
        ops.take(w, ops.argmax(w, axis=0) * 0, 0),
        x[:, ::-1] * 2,
        x[1:] + x[:-1],
    )


@narrow_dtypes
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 3, 2), (5, 17, 16), (33, 31, 47), (3, 300, 130)])
def test_a_fused_program_has_the_bits_of_its_ops(shape: tuple[int, int, int], dtype: DType, table: str) -> None:
    rows, inner, columns = shape
    x, w = values(dtype, rows, inner), values(dtype, inner, columns, seed=1)
    found, wanted = (tp.compile(with_gradients, backend=b)(x, w) for b in ("compiled", "eager"))
    assert all(same_bits(np.asarray(a), np.asarray(b)) for a, b in zip(found, wanted, strict=True))


@narrow_dtypes
def test_every_size_and_alignment(dtype: DType, table: str) -> None:
    def f(x: Any) -> Any:
        return ops.tanh(x[1:]) * x[:-1], ops.sum(x), ops.min(x), x[::3] > x[::-1][::3], ops.exp(x) - 1.5

    for size in (1, 2, 3, 15, 16, 17, 31, 33, 47, 64, 130):
        x = values(dtype, size + 1, seed=size)[1:]  # two bytes after the beginning of an allocation
        found, wanted = (tp.compile(f, backend=b)(x) for b in ("compiled", "eager"))
        assert all(same_bits(np.asarray(a), np.asarray(b)) for a, b in zip(found, wanted, strict=True)), size


@narrow_dtypes
def test_arrays_of_nothing(dtype: DType, table: str) -> None:
    def f(x: Any, w: Any) -> Any:
        return x @ w, ops.sum(x, axis=1), ops.exp(w), ops.concat([x, x * 2])

    for shape in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        x, w = values(dtype, *shape[:2]), values(dtype, *shape[1:])
        found, wanted = (tp.compile(f, backend=b)(x, w) for b in ("compiled", "eager"))
        assert all(same_bits(np.asarray(a), np.asarray(b)) for a, b in zip(found, wanted, strict=True)), shape


class Attention(nn.Module):
    """One head over its own elements, each of which sees those before it."""

    def __init__(self, width: int) -> None:
        self.inputs = nn.Linear(width, 3 * width)
        self.width = width

    def forward(self, x: Any) -> Any:
        h, w = self.inputs(x), self.width
        parts = (h[:, :, n * w : (n + 1) * w] for n in range(3))
        return x + ops.scaled_dot_product_attention(*parts, is_causal=True)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "dense": (
        lambda: nn.Sequential(nn.Linear(7, 13), nn.GELU(), nn.LayerNorm(13), nn.Dropout(0.3), nn.Linear(13, 5)),
        (9, 7), "cross_entropy",
    ),
    "images": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 5)),
        (6, 2, 6, 6), "cross_entropy",
    ),
    "sequences": (lambda: nn.Sequential(Attention(8), nn.Linear(8, 3)), (3, 5, 8), "mse"),
}  # fmt: skip


@narrow_dtypes
@pytest.mark.parametrize("name", NETWORKS)
def test_training(name: str, dtype: DType, table: str) -> None:
    make, shape, objective = NETWORKS[name]
    x = values(f32, *shape)
    y = np.arange(shape[0]) % 5 if objective == "cross_entropy" else values(f32, *shape[:-1], 3, seed=1)
    made = [
        tp.Runtime(
            make(), objective=objective, optimizer=tp.optim.Adam(lr=0.01, eps=1e-3), dtype=dtype, backend=b, seed=3
        )
        for b in ("eager", "compiled")
    ]
    losses = [[np.asarray(rt.step(x, y)) for _ in range(6)] for rt in made]
    assert all(map(same_bits, *losses)), losses
    assert losses[0][0].dtype == dtype.numpy
    assert float(losses[0][-1]) < float(losses[0][0])
    for view in ("params", "buffers", "optimizer_state"):
        left, right = (getattr(rt, view) for rt in made)
        assert not [n for n in left if not same_bits(np.asarray(left[n]), np.asarray(right[n]))], view
    assert all(a.dtype == dtype.numpy for a in made[0].params.values())


def test_the_memory_of_widened_products_is_told() -> None:
    if kernels.table().name != "native":
        pytest.skip("about native programs")
    module = parse(
        "module @m { func @main(%a: bf16[64, 32] input, %b: bf16[32, 48] input) -> (bf16[64, 48]) {"
        " %0 = matmul %a, %b {transpose_a = false, transpose_b = false} : bf16[64, 48] return %0 } }"
    )
    program = compile_module(CompiledBackend(), module, "main", "cpu")
    assert int(program.memory) >= TensorType(f32, (64 * 32 + 32 * 48 + 64 * 48,)).nbytes


def test_a_program_has_the_kernels_of_float32() -> None:
    if kernels.table().name != "native":
        pytest.skip("about native programs")
    counts: dict[str, int] = {}
    for dtype in (f32, *NARROW):
        x, w = values(dtype, 32, 48), values(dtype, 48, 16, seed=1)
        program: Any = tp.compile(with_gradients, backend="compiled").executable(x, w)
        counts[str(dtype)] = len(program.kernels)
    assert len(set(counts.values())) == 1, counts


# Arrays of bfloat16, which NumPy itself does not count among floats


def plus_one(x: Any) -> Any:
    return x + (ops.ones((3,)) if x.dtype is not i64 else 1)


def test_arrays_of_bfloat16_are_floats_to_every_door() -> None:
    x, y = values(bf16, 8, 3), values(bf16, 8, 2)
    half = ops.full((), 0.1)
    assert half.dtype == np.float32
    assert ops.mean(x).dtype == bf16.numpy
    assert tp.compile(plus_one)(x).dtype == bf16.numpy
    assert Dataset([x, y]).cast(f32).columns[0].dtype == np.float32
    for backend in ("eager", "compiled"):
        rt = tp.Runtime(nn.Linear(3, 2), dtype="float32", backend=backend)
        wide = [a.astype(np.float32) for a in (x, y)]
        assert float(rt.loss(x, y)) == float(rt.loss(*wide))
        rt.load_state({"weight": values(bf16, 2, 3), "bias": values(bf16, 2)})
        assert rt.params["weight"].dtype == np.float32
    counts = tp.compile(plus_one).executable(np.arange(3))
    with pytest.raises(TypeError, match="not an array of bfloat16"):
        counts(x[:3, 0])
