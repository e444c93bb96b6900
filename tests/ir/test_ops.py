"""Registry-wide: type rules, values, text, derivatives and both backends for every op, from its own samples and random shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import same_bits
from strategies import (
    ELEMENTWISE,
    REDUCE,
    VIEWS,
    elementwise_samples,
    indexed_samples,
    join_samples,
    matmul_samples,
    operand_types,
    reduce_samples,
    shapes,
    special_floats,
    view_attributes,
    view_samples,
    windowed_samples,
)

from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend
from tapeir.backends.eager import EagerBackend, Tape
from tapeir.backends.eager.interpret import execute
from tapeir.ir import (
    OPS,
    Absent,
    Builder,
    DtypeError,
    GraphBuilder,
    Module,
    Op,
    Sample,
    ShapeError,
    TensorType,
    forward,
    parse,
    philox,
    reverse,
)
from tapeir.ir.op import Composite, Control, Elementwise, Gather, Join, Layout, Reduce, Scatter, View
from tapeir.ir.types import Array, Shape, bf16, bool_, f16, f32, f64, i64, key, type_of

# Ops that own functions cannot be sampled: their operands are those of a function of some module.
NAMES = sorted(name for name, op in OPS.items() if not isinstance(op, Control))
RTOL = {f64: 1e-12, f32: 1e-5, f16: 2e-3, bf16: 2e-2}
ATOL = {f64: 1e-14, f32: 1e-6, f16: 1e-3, bf16: 1e-2}
fuzzed = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def samples(name: str) -> list[Sample]:
    found = list(OPS[name].samples(np.random.default_rng(0)))
    assert found, f"{name} has samples"
    return found


def typed(op: Op, sample: Sample) -> tuple[tuple[TensorType, ...], dict[str, Any], tuple[TensorType, ...]]:
    types = operand_types(op, sample.operands)
    attrs = op.attributes(sample.attrs)
    return types, attrs, op.result_types(types, attrs)


def reference(op: Op, arrays: Sequence[Array], attrs: dict[str, Any]) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        found = op.eval(np, *arrays, **attrs)
    return tuple(found) if op.results > 1 else (np.asarray(found),)


def computed(op: Op, sample: Sample) -> tuple[Array, ...]:
    types, attrs, results = typed(op, sample)
    with np.errstate(all="ignore"):
        return tuple(map(np.asarray, execute(op, types, attrs, list(sample.operands), results[0])))


def module_of(op: Op, sample: Sample) -> Module:
    types, attrs, _ = typed(op, sample)
    recorder = GraphBuilder()
    recorder.at = ()
    operands = tuple(recorder.argument(t, f"x{n}") for n, t in enumerate(types))
    results = recorder.bind(op, operands, attrs)
    return Module("ops", [recorder.function("main", [(v, "input") for v in operands], [(r, None) for r in results])])


def check_inference(op: Op, sample: Sample) -> None:
    _, attrs, results = typed(op, sample)
    for found, result in zip(reference(op, sample.operands, attrs), results, strict=True):
        assert (key[()] if result.dtype is key else type_of(found)) == result
        assert found.shape == result.array_shape


def check_value(op: Op, sample: Sample) -> None:
    _, attrs, results = typed(op, sample)
    for wanted, found, result in zip(reference(op, sample.operands, attrs), computed(op, sample), results, strict=True):
        check_close(op, sample, wanted, found, result)


def check_close(op: Op, sample: Sample, wanted: Array, found: Array, result: TensorType) -> None:
    assert found.dtype == wanted.dtype == result.dtype.numpy
    assert found.shape == wanted.shape
    if not result.dtype.floating:
        assert (found == wanted).all(), f"{found} is not {wanted}"
        return
    # Sums that cancel lose digits in proportion to what was added, not to what is left.
    floating = [a[np.isfinite(a)].astype(np.float64) for a in sample.operands if type_of(a).dtype.floating]
    scale = max([1.0, *(float(np.abs(a).max(initial=0)) for a in floating)])
    extent = max([1, *(a.size for a in sample.operands)])
    loose = ATOL[result.dtype] * (scale if scale < 1e6 else 1.0) * (1 if isinstance(op, Elementwise) else extent)
    np.testing.assert_allclose(
        found.astype(np.float64), wanted.astype(np.float64), rtol=RTOL[result.dtype], atol=loose, equal_nan=True
    )


def check_backends(op: Op, sample: Sample) -> None:
    module = module_of(op, sample)
    interpreted = compile_module(EagerBackend(), module, "main", "cpu").run(sample.operands)
    assert all(map(same_bits, interpreted, computed(op, sample)))
    program = compile_module(CompiledBackend(), module, "main", "cpu")
    for _ in range(2):
        for wanted, found in zip(interpreted, program.run(sample.operands), strict=True):
            assert same_bits(wanted, found), f"{found} is not {wanted}\n{program.source}"


def check_text(op: Op, sample: Sample) -> None:
    module = module_of(op, sample)
    again = parse(str(module))
    again.verify()
    assert again == module


def is_smooth(op: Op, sample: Sample) -> bool:
    return (
        sample.smooth and typed(op, sample)[2][0].dtype is f64 and any(a.dtype == np.float64 for a in sample.operands)
    )


def check_derivatives(op: Op, sample: Sample) -> None:
    types, attrs, results = typed(op, sample)
    random = np.random.default_rng(1)
    active = [n for n, t in enumerate(types) if t.dtype is f64]
    directions = {n: np.asarray(random.uniform(-1, 1, types[n].shape)) for n in active}
    cotangents = [np.asarray(random.uniform(-1, 1, r.shape)) for r in results]
    size = sum(r.size for r in results)

    def tape() -> tuple[Tape, list[Any], tuple[Any, ...]]:
        recorded = Tape()
        values = [recorded.argument(t, f"x{n}", a) for n, (t, a) in enumerate(zip(types, sample.operands, strict=True))]
        return recorded, values, recorded.bind(op, tuple(values), attrs)

    # What is infinite everywhere around, such as the maximum of padding alone, has no slope to compare.
    finite = [np.isfinite(r) for r in reference(op, list(sample.operands), attrs)]
    cotangents = [np.where(f, c, 0.0) for f, c in zip(finite, cotangents, strict=True)]

    def met(arrays: Sequence[Array]) -> float:
        return sum(float((a[f] * c[f]).sum()) for a, c, f in zip(arrays, cotangents, finite, strict=True))

    assert not isinstance(op.vjp, Absent), f"{op.name} has smooth samples and no vjp"
    recorded, values, ys = tape()
    dys = [Builder(recorded).literal(c) for c in cotangents]
    found = reverse(recorded, list(recorded.instructions), ys, dys, [values[n] for n in active])
    gradients = [np.zeros(types[n].shape) if g is None else g.array for n, g in zip(active, found, strict=True)]
    assert all(g.shape == types[n].shape and g.dtype == np.float64 for n, g in zip(active, gradients, strict=True))
    backward = sum(float((g * directions[n]).sum()) for n, g in zip(active, gradients, strict=True))

    step = 1e-5

    def moved(sign: float) -> float:
        arrays = [a + sign * step * directions[n] if n in directions else a for n, a in enumerate(sample.operands)]
        return met(reference(op, arrays, attrs))

    slope = (moved(1.0) - moved(-1.0)) / (2 * step)
    np.testing.assert_allclose(backward, slope, rtol=1e-6, atol=1e-7 * max(1, size))

    assert not isinstance(op.jvp, Absent), f"{op.name} has a vjp and no jvp"
    recorded, values, ys = tape()
    tangents = [Builder(recorded).literal(directions[n]) for n in active]
    ahead = [
        np.zeros(r.shape) if t is None else np.asarray(t.array)
        for t, r in zip(
            forward(recorded, list(recorded.instructions), ys, [values[n] for n in active], tangents),
            results,
            strict=True,
        )
    ]
    assert [a.shape for a in ahead] == [r.shape for r in results]
    np.testing.assert_allclose(backward, met(ahead), rtol=1e-9, atol=1e-11 * max(1, size))


def check_all(op: Op, sample: Sample) -> None:
    check_inference(op, sample)
    check_value(op, sample)
    check_backends(op, sample)
    check_text(op, sample)
    if is_smooth(op, sample):
        check_derivatives(op, sample)


CHECKS: dict[str, Callable[[Op, Sample], None]] = {
    "inference": check_inference,
    "value": check_value,
    "backends": check_backends,
    "text": check_text,
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str, check: str) -> None:
    for sample in samples(name):
        CHECKS[check](OPS[name], sample)


@pytest.mark.parametrize("name", NAMES)
def test_operands_of_other_types_give_types_or_an_error(name: str) -> None:
    op, met = OPS[name], set[object]()
    others = [TensorType(d, s) for d in (f32, i64, bool_, key) for s in ((), (0,), (3,), (2, 3), (3, 2), (2, 1, 3))]
    for sample in op.samples(np.random.default_rng(0)):
        types, attrs = tuple(map(type_of, sample.operands)), op.attributes(sample.attrs)
        form = (types, repr(attrs))
        if form in met or len(met) > 20:
            continue
        met.add(form)
        counts = range(len(types) + 2) if op.arity is None else [len(types)]
        replaced = [(*types[:n], other, *types[n + 1 :]) for n in range(len(types)) for other in others]
        for operands in [*replaced, *[(other,) * n for n in counts for other in others]]:
            try:
                found = op.result_types(operands, attrs)
            except (ShapeError, DtypeError):
                continue
            assert all(isinstance(t, TensorType) for t in found)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name: str) -> None:
    for sample in samples(name):
        if is_smooth(OPS[name], sample):
            check_derivatives(OPS[name], sample)


def test_every_differentiable_op_has_smooth_samples() -> None:
    def is_differentiable(op: Op) -> bool:
        return not isinstance(op.vjp, Absent) and any(typed(op, s)[2][0].dtype.floating for s in samples(op.name))

    rough = {n for n in NAMES if is_differentiable(OPS[n]) and not any(is_smooth(OPS[n], s) for s in samples(n))}
    # stop_gradient's derivative is not that of its value.
    assert rough == {"stop_gradient"}


# Random shapes, by family


@settings(parent=fuzzed, max_examples=80)
@given(st.sampled_from(ELEMENTWISE).flatmap(lambda op: st.tuples(st.just(op), elementwise_samples(op))))
def test_elementwise_on_any_shape(case: tuple[Elementwise, Sample]) -> None:
    check_all(*case)


@settings(parent=fuzzed, max_examples=40)
@given(st.sampled_from(REDUCE).flatmap(lambda op: st.tuples(st.just(op), reduce_samples(op))))
def test_reduce_on_any_shape(case: tuple[Reduce, Sample]) -> None:
    check_all(*case)


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if isinstance(op, View)))
def test_views_on_any_shape(name: str) -> None:
    assert name in VIEWS, f"strategies.VIEWS gives attributes of {name}"

    @fuzzed
    @given(view_samples(name))
    def check(sample: Sample) -> None:
        check_all(OPS[name], sample)

    check()


@pytest.mark.parametrize("name", ["overlap_add", "conv", "max_pool", "avg_pool"])
def test_windowed_ops_on_any_shape(name: str) -> None:
    @fuzzed
    @given(windowed_samples(name))
    def check(sample: Sample) -> None:
        check_all(OPS[name], sample)

    check()


@settings(parent=fuzzed, max_examples=200)
@given(st.data())
def test_layouts_of_views_show_their_elements(data: st.DataObject) -> None:
    shape: Shape = data.draw(shapes(max_rank=4, empty=False))
    memory = np.arange(math.prod(shape))
    x: Any = memory.reshape(shape)
    layout = Layout.contiguous(shape)
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(VIEWS)))
        op: Any = OPS[name]
        attrs = data.draw(view_attributes(name, x.shape))
        y: Any = op.eval(np, x, **attrs)
        if y.size == 0 or not y.shape:
            return
        found = op.layout(layout, **attrs)
        copied = not np.shares_memory(y, memory)
        assert (found is None) == copied or name == "windows", f"{name} of {layout} with {attrs}"
        if found is None:
            return
        shown = np.lib.stride_tricks.as_strided(memory[found.offset :], found.shape, [8 * s for s in found.strides])
        assert np.array_equal(shown, y), f"{name} of {layout} with {attrs} is not {found}"
        x, layout = shown, found


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if isinstance(op, Join)))
def test_joins_on_any_shape(name: str) -> None:
    @fuzzed
    @given(join_samples(name))
    def check(sample: Sample) -> None:
        check_all(OPS[name], sample)

    check()


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if isinstance(op, (Gather, Scatter))))
def test_indexing_on_any_shape(name: str) -> None:
    @fuzzed
    @given(indexed_samples(name))
    def check(sample: Sample) -> None:
        check_all(OPS[name], sample)

    check()


@fuzzed
@given(matmul_samples())
def test_matmul_on_any_shape(sample: Sample) -> None:
    check_all(OPS["matmul"], sample)


# Special values


def _special_operands(op: Op, dtype: Any) -> Iterator[tuple[Array, ...]]:
    values = special_floats(dtype)
    if op.name == "where":
        a, b = (g.reshape(-1) for g in np.meshgrid(values, values))
        yield np.arange(a.size) % 3 == 0, a, b
    elif op.arity == 1:
        yield (values,)
        for v in values:
            yield (np.asarray(v),)
    else:
        yield tuple(g.reshape(-1) for g in np.meshgrid(*[values] * (op.arity or 0)))


FLOAT_OPS = sorted(
    n for n, op in OPS.items()
    if (isinstance(op, Elementwise) and "f" in op.accepts) or (isinstance(op, Composite) and n in ("relu", "gelu", "silu", "softplus"))
)  # fmt: skip


@pytest.mark.parametrize("dtype", [f64, f32], ids=str)
@pytest.mark.parametrize("name", FLOAT_OPS)
def test_special_values(name: str, dtype: Any) -> None:
    op = OPS[name]
    attributes: list[dict[str, Any]] = [{}]
    if name == "cast":
        attributes = [{"dtype": d} for d in ("f64", "f32", "i64", "i32", "i8", "u8", "u32", "u64", "bool")]
    elif name == "bitcast":
        attributes = [{"dtype": "i64" if dtype is f64 else "i32"}]
    for operands in _special_operands(op, dtype):
        for attrs in attributes:
            sample = Sample(operands, attrs, False)
            check_backends(op, sample)
            if isinstance(op, Composite):
                continue  # where an intermediate overflows, the decomposition is what defines the value
            if op.name in ("sin", "cos", "pow"):
                # Their condition is unbounded here; reference and table must still be the same function, to rounding.
                (wanted,), (found,) = reference(op, operands, op.attributes(attrs)), computed(op, sample)
                np.testing.assert_allclose(
                    found, wanted, rtol=4 * np.finfo(found.dtype).eps, atol=np.finfo(found.dtype).tiny
                )
            elif op.name in ("remainder", "floor_divide"):
                assert same_bits(reference(op, operands, op.attributes(attrs))[0], computed(op, sample)[0])
            else:
                check_value(op, sample)


# Philox


@pytest.mark.parametrize(
    ("counter", "words", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], words: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Random123's kat_vectors for philox4x32 10."""
    counters = np.array([[counter[n]] * 3 for n in (0, 2, 1, 3)], np.uint64)
    before, out = counters.copy(), np.empty((3, 4), np.uint32)
    philox.philox(counters, np.array(words, np.uint32), out, np.empty((philox.SCRATCH_ROWS, 3), np.uint64))
    assert out.tolist() == [list(expected)] * 3
    assert (counters == before).all()


def _one_block(key: Array, counter: tuple[int, ...]) -> Array:
    out = np.empty((1, 4), np.uint32)
    counters = np.array([[counter[n]] for n in (0, 2, 1, 3)], np.uint64)
    philox.philox(counters, key, out, np.empty((philox.SCRATCH_ROWS, 1), np.uint64))
    return out[0]


@fuzzed
@given(st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 64) - 1))
def test_fold_in_is_the_block_that_draws_never_meet(seed: int, data: int) -> None:
    made = philox.fold_in(philox.key_of_seed(seed), data)
    assert (made == _one_block(philox.key_of_seed(seed), (data & 0xFFFFFFFF, data >> 32 & 0xFFFFFFFF, 0, 1))[:2]).all()


@fuzzed
@given(st.integers(0, (1 << 64) - 1), st.integers(0, 40), st.integers(0, 40))
def test_words_are_prefixes(seed: int, short: int, more: int) -> None:
    origin = philox.key_of_seed(seed)
    long = philox.words(origin, short + more)
    assert (philox.words(origin, short) == long[:short]).all()
    if short:
        assert (_one_block(origin, ((short - 1) // 4, 0, 0, 0))[(short - 1) % 4]) == long[short - 1]


# The registry


def _rule(*_: Any, **__: Any) -> Any: ...


RULES: dict[str, Any] = {
    "infer": _rule,
    "eval": _rule,
    "rounding": "correct",
    "vjp": Absent("a test"),
    "jvp": Absent("a test"),
    "samples": _rule,
    "__doc__": "An op.",
}
LOWERING: dict[str, Any] = {
    "scalar": _rule, "combine": "sum", "identity": _rule, "layout": _rule, "blocks": _rule, "walk": _rule, "decompose": _rule,
    "bodies": ("a",),
}  # fmt: skip
FAMILIES: tuple[type[Op], ...] = (Elementwise, Reduce, View, Join, Gather, Composite, Control)


def _define(base: type, name: str, **rules: Any) -> None:
    type("Broken", (base,), {"name": name, "arity": 1, "__module__": __name__, **rules})


@pytest.mark.parametrize("missing", RULES)
def test_an_op_without_a_rule_is_refused(missing: str) -> None:
    rules = {n: r for n, r in RULES.items() if n != missing}
    with pytest.raises(TypeError, match=rf"test_broken.*Broken.*{'a docstring' if missing == '__doc__' else missing}"):
        _define(Op, "test_broken", **rules)
    assert "test_broken" not in OPS
    assert not hasattr(Builder, "test_broken")


@pytest.mark.parametrize(("base", "missing"), [(c, r) for c in FAMILIES for r in c.lowering])
def test_an_op_without_its_familys_lowering_is_refused(base: type[Op], missing: str) -> None:
    rules = {**RULES, **LOWERING}
    with pytest.raises(TypeError, match=rf"test_broken.*lacks .*{missing}"):
        _define(base, "test_broken", **{n: r for n, r in rules.items() if n != missing})
    assert "test_broken" not in OPS


def test_a_taken_name_is_refused() -> None:
    before = OPS["add"]
    with pytest.raises(TypeError, match=r"'add' is registered already, by Add"):
        _define(Op, "add", **RULES)
    assert OPS["add"] is before


@pytest.mark.parametrize("name", sorted(OPS))
def test_absent_rules_have_reasons(name: str) -> None:
    op = OPS[name]
    for rule in ("infer", "eval", "vjp", "jvp", "samples", *op.lowering):
        found = getattr(op, rule)
        assert not isinstance(found, Absent) or len(found.reason.split()) >= 3, f"{name}.{rule}"


@pytest.mark.parametrize("name", sorted(OPS))
def test_docstring_and_rounding(name: str) -> None:
    op = OPS[name]
    assert (op.__doc__ or "").strip().endswith((".", "``"))
    assert op.rounding in ("correct", "pinned")
    assert op.family


def test_f32_is_the_dtype_of_some_sample_of_every_floating_op() -> None:
    for op in ELEMENTWISE:
        assert "f" not in op.accepts or any(a.dtype == f32.numpy for s in samples(op.name) for a in s.operands), op.name
