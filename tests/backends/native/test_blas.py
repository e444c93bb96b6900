"""``contract`` in native code: right for every shape and flag, exact for integers, the same bits with any number of threads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="native code is made by llvmlite")

from tapeir.backends.native import blas, threads
from tapeir.ir.types import DTYPES, Array

Dtype = np.dtype[Any]
FLOATS: list[Dtype] = [np.dtype(t) for t in ("float32", "float64")]
INTEGERS: list[Dtype] = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLAGS = list(itertools.product((False, True), repeat=2))


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPEIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    before = threads.threads()
    yield
    threads.set_threads(before)


@pytest.fixture(autouse=True)
def needs_blas(request: pytest.FixtureRequest) -> None:
    reason = blas.unavailable()
    if reason is not None and "integer" not in request.node.name:
        pytest.skip(reason)


def operands(
    seed: int, dtype: Dtype, batch: tuple[int, ...], m: int, k: int, n: int, ta: bool, tb: bool
) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    shapes = (*batch, k, m) if ta else (*batch, m, k), (*batch, n, k) if tb else (*batch, k, n)
    if dtype.kind == "f":
        a, b = (generator.standard_normal(s).astype(dtype) for s in shapes)
    else:
        info = np.iinfo(dtype)
        a, b = (generator.integers(info.min, info.max, s, dtype, endpoint=True) for s in shapes)
    return a, b


def swapped(x: Array, flag: bool) -> Array:
    return np.swapaxes(x, -1, -2) if flag else x


def product(a: Array, b: Array, ta: bool, tb: bool) -> Array:
    """The result in an array that held NaN, or for integers something else than zero."""
    shape = (*a.shape[:-2], swapped(a, ta).shape[-2], swapped(b, tb).shape[-1])
    out = np.full(shape, np.nan if a.dtype.kind == "f" else 77, a.dtype)
    blas.contract(a, b, out, ta, tb)
    return out


def check(a: Array, b: Array, ta: bool, tb: bool) -> None:
    left, right = swapped(a, ta).astype(np.float64), swapped(b, tb).astype(np.float64)
    found, wanted = product(a, b, ta, tb).astype(np.float64), np.matmul(left, right)
    scale = np.matmul(np.abs(left), np.abs(right))
    bound = np.finfo(a.dtype).eps * max(4.0, 2.0 * left.shape[-1] ** 0.5) * scale
    assert np.all(np.abs(found - wanted) <= bound)


SIZES = (0, 1, 2, 7, 8, 9, 33, 64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("ta", "tb"), FLAGS)
def test_products_of_all_small_sizes(dtype: Dtype, ta: bool, tb: bool) -> None:
    for seed, (m, k, n) in enumerate(itertools.product(SIZES, SIZES, SIZES)):
        check(*operands(seed, dtype, (), m, k, n, ta, tb), ta, tb)


LARGE = [(128, 784, 96), (96, 100, 512), (1, 700, 900), (900, 700, 1), (65, 1030, 130), (31, 300, 31), (1, 300000, 1)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("ta", "tb"), FLAGS)
@pytest.mark.parametrize(("m", "k", "n"), LARGE)
def test_products_of_larger_sizes(dtype: Dtype, ta: bool, tb: bool, m: int, k: int, n: int) -> None:
    check(*operands(0, dtype, (), m, k, n, ta, tb), ta, tb)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("ta", "tb"), FLAGS)
@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 5), (2, 1, 3, 2)])
def test_batches_are_each_a_product(dtype: Dtype, ta: bool, tb: bool, batch: tuple[int, ...]) -> None:
    for m, k, n in ((4, 2, 8), (1, 9, 5), (70, 20, 30), (5, 0, 3), (0, 4, 2), (100, 90, 60)):
        a, b = operands(1, dtype, batch, m, k, n, ta, tb)
        check(a, b, ta, tb)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype: Dtype) -> None:
    shapes = [((), 128, 784, 256), ((), 300, 300, 300), ((), 700, 650, 640), ((), 64, 2000, 64), ((), 1, 1024, 1024)]
    shapes += [((), 1024, 1024, 1), ((3,), 200, 200, 200), ((32,), 64, 16, 64), ((9,), 33, 65, 129), ((), 97, 700, 100)]
    for (batch, m, k, n), (ta, tb) in itertools.product(shapes, FLAGS):
        a, b = operands(2, dtype, batch, m, k, n, ta, tb)
        results = list[bytes]()
        for count in (1, 2, 4, 2):
            threads.set_threads(count)
            results.append(product(a, b, ta, tb).tobytes())
        assert len(set(results)) == 1, (batch, m, k, n, ta, tb)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_bits_do_not_depend_on_the_alignment(dtype: Dtype) -> None:
    for (m, k, n), (ta, tb) in itertools.product(
        [(4, 2, 8), (20, 30, 10), (1, 50, 60), (64, 64, 64), (100, 99, 98)], FLAGS
    ):
        a, b = operands(3, dtype, (), m, k, n, ta, tb)
        moved: list[Array] = [np.empty(x.size + 1, dtype)[1:].reshape(x.shape) for x in (a, b)]
        for target, x in zip(moved, (a, b), strict=True):
            target[...] = x
        assert product(a, b, ta, tb).tobytes() == product(moved[0], moved[1], ta, tb).tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_infinity_and_nan_spread_as_they_should(dtype: Dtype) -> None:
    for m, k, n in ((3, 4, 5), (1, 80, 80), (80, 80, 1), (40, 40, 40)):
        a, b = operands(4, dtype, (), m, k, n, False, False)
        a[0, 0], b[1, 0] = np.inf, np.nan
        found = product(a, b, False, False)
        assert np.all(np.isnan(found[:, 0]))
        assert np.all(np.isinf(found[0, 1:]))
        assert np.all(np.isfinite(found[1:, 1:]))


def test_a_small_product_writes_nothing_beside_its_result() -> None:
    for n in range(1, 20):
        whole = np.full(4 * n + 40, 7.0, np.float32)
        out = whole[20 : 20 + 4 * n].reshape(4, n)
        a, b = operands(5, FLOATS[0], (), 4, 3, n, False, False)
        blas.contract(a, b, out)
        assert np.all(whole[:20] == 7.0)
        assert np.all(whole[20 + 4 * n :] == 7.0)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("ta", "tb"), FLAGS)
def test_integer_products_wrap_and_are_exact(dtype: Dtype, ta: bool, tb: bool) -> None:
    shapes = [((), m, k, n) for m, k, n in itertools.product((0, 1, 3, 17), repeat=3)]
    for batch, m, k, n in [*shapes, ((2, 3), 5, 6, 7), ((), 90, 80, 100), ((10,), 40, 30, 30)]:
        a, b = operands(6, dtype, batch, m, k, n, ta, tb)
        assert np.array_equal(product(a, b, ta, tb), np.matmul(swapped(a, ta), swapped(b, tb)))


def test_what_is_bound_into_programs() -> None:
    addresses = {
        t: blas.address(DTYPES[t]) for t in ("f32", "f64", *(f"{t}{bits}" for t in "iu" for bits in (8, 16, 32, 64)))
    }
    assert all(addresses.values())
    assert addresses["u8"] == addresses["i8"]
    with pytest.raises(KeyError):
        blas.address(DTYPES["bf16"])
    assert "1 thread a block" in blas.description()
    assert "\n" not in blas.description()


def test_arrays_are_called_by_address_where_their_layout_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = blas._calls()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(blas, "_abi_known", lambda: False)
    blas._calls.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        a, b = operands(7, FLOATS[0], (2, 3), 20, 30, 10, True, False)
        slow = product(a, b, True, False)
        assert not blas._calls().by_arrays  # pyright: ignore[reportPrivateUsage]
    finally:
        blas._calls.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert calls.by_arrays
    assert slow.tobytes() == product(a, b, True, False).tobytes()


def test_without_blas_only_products_of_integers_are_native(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = blas._Library({}, True, "none", "no BLAS here")  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(blas, "_library", lambda: missing)
    blas._module.cache_clear()  # pyright: ignore[reportPrivateUsage]
    blas._calls.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        assert blas.unavailable() == "no BLAS here"
        with pytest.raises(KeyError):
            blas.address(DTYPES["f32"])
        a = np.arange(6).reshape(2, 3)
        assert np.array_equal(product(a, a, False, True), a @ a.T)
        with pytest.raises(KeyError):
            product(np.zeros((2, 2)), np.zeros((2, 2)), False, False)
    finally:
        blas._module.cache_clear()  # pyright: ignore[reportPrivateUsage]
        blas._calls.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_another_dtype_has_no_product() -> None:
    half = np.zeros((2, 2), np.float16)
    with pytest.raises(KeyError):
        blas.contract(half, half, half)
