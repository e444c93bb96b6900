"""What does not fit the machine is refused before it is allocated, with the user's line, the size in words and a remedy."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops
from tapeir.backends.base import compile_module, get
from tapeir.ir import memory

from .small import BACKENDS

pytestmark = pytest.mark.usefixtures("table")
HUGE = 1 << 40


def full(x: Any) -> Any:
    return x[:1] + ops.full((HUGE,), 1.0)


def zeros(x: Any) -> Any:
    return ops.zeros((HUGE, 4))


def ranged(x: Any) -> Any:
    return ops.arange(HUGE)


def stepped(x: Any) -> Any:
    return ops.arange(0.0, HUGE * 1.0, 0.5)


def broadcast(x: Any) -> Any:
    return ops.exp(ops.broadcast_to(x[0], (HUGE,)))


def outer(x: Any) -> Any:
    wide = ops.broadcast_to(x[0], (1 << 20, 1))
    return wide @ ops.matrix_transpose(wide)


def taken(x: Any) -> Any:
    return ops.take(x, ops.broadcast_to(ops.zeros((), dtype="int64"), (HUGE,)), axis=0)


def joined(x: Any) -> Any:
    return ops.concat([ops.zeros((HUGE,)), x])


def constant(x: Any) -> Any:
    return ops.tanh(ops.ones((HUGE,)))


PROGRAMS = (full, zeros, ranged, stepped, broadcast, outer, taken, joined, constant)


def refused(call: Callable[[], Any], line: str | None) -> None:
    begin = time.process_time()
    with pytest.raises(tp.BackendError, match=r"not enough memory: .* takes .* TB, more than the limit of") as info:
        call()
    assert "remedy: smaller arrays, or another TAPEIR_MEMORY_LIMIT" in str(info.value)
    assert line is None or line in str(info.value)
    assert time.process_time() - begin < 60  # nobody counts to 2**40


@pytest.mark.parametrize("f", PROGRAMS)
def test_a_huge_value_is_refused_on_every_backend(f: Callable[..., Any]) -> None:
    x = np.ones(3, np.float32)
    for backend in BACKENDS:
        refused(lambda backend=backend: tp.compile(f, backend=backend)(x), "test_memory_limit.py")


@pytest.mark.parametrize("call", [lambda: ops.zeros((HUGE,)), lambda: ops.arange(HUGE), lambda: ops.full(HUGE, 2)])
def test_outside_a_runtime(call: Callable[[], Any]) -> None:
    refused(call, "test_memory_limit.py")


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_a_runtime(backend: str) -> None:
    class Wide(nn.Module):
        def forward(self, x: Any) -> Any:
            return ops.tanh(x * 1.0) + ops.zeros((HUGE, 1))

    refused(lambda: tp.Runtime(Wide(), backend=backend).predict(np.ones(3)), "test_memory_limit.py")


def test_state() -> None:
    refused(lambda: tp.Runtime(nn.Linear(1 << 20, 1 << 20)), None)


TEXTS = {
    "splat": "%0 = constant {value = 1.0} : f32[1099511627776]\n    %1 = sqrt %0 : f32[1099511627776]",
    "iota": "%1 = iota {dtype = f32, shape = [1099511627776], axis = 0} : f32[1099511627776]",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind: str) -> None:
    module = tp.parse(
        f"module @m {{\n  func @main() -> (f32[1099511627776]) {{\n    {TEXTS[kind]}\n    return %1\n  }}\n}}\n"
    ).verify()
    for backend in BACKENDS:
        refused(lambda backend=backend: compile_module(get(backend), module, "main", "cpu")(), None)


def tanh_product(x: Any) -> Any:
    return ops.tanh(x) @ x


def test_the_limit_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((1 << 10, 1 << 10), np.float32)
    for backend in BACKENDS:
        f = tp.compile(tanh_product, backend=backend)
        monkeypatch.setenv("TAPEIR_MEMORY_LIMIT", "2M")
        with pytest.raises(tp.BackendError, match=r"f32\[1024, 1024\].* takes .* MB, more than the limit of 2 MB"):
            f(x)
        monkeypatch.setenv("TAPEIR_MEMORY_LIMIT", "1 GB")
        assert f(x).shape == x.shape
    monkeypatch.setenv("TAPEIR_MEMORY_LIMIT", "much")
    with pytest.raises(tp.BackendError, match="TAPEIR_MEMORY_LIMIT=much: it is a number of bytes, such as 8G"):
        memory.memory_limit()


def test_a_broadcast_that_is_never_written_out_is_no_allocation() -> None:
    """A compiled program may reduce what it never holds."""
    x = np.ones((400, 1, 3), np.float32)

    def distances(x: Any) -> Any:
        return ops.sum((x - ops.permute_dims(x, (1, 0, 2))) ** 2, axis=2)

    assert tp.compile(distances)(x).shape == (400, 400)


OUT_OF_MEMORY = """
import resource
import numpy as np
import tapeir as tp
from tapeir import ops
f = tp.compile(lambda x: ops.tanh(x) + 1, backend={backend!r})
x = np.ones((1 << 26,), np.float32)
f(x[:4096])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20),) * 2)
try:
    f(x)
except tp.BackendError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_that_cannot_be_had_is_an_error_of_ours(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY.format(backend=backend)], capture_output=True, text=True, check=False
    )
    assert "not enough memory" in done.stdout, done.stderr
    assert re.search(r"takes (256 MB|1 GB)", done.stdout), done.stdout  # a NumPy program holds every value
    assert "remedy: smaller arrays" in done.stdout


# Ranges

RANGES = [
    (7,),
    (2, 9),
    (0, 10, 3),
    (10, 0, -3),
    (5, 5),
    (5, 2),
    (0.0, 1.0, 0.1),
    (1.5, -2.0, -0.25),
    (3, 4.5),
    (-4, 4, 1),
    (0, 1, 7),
]


@pytest.mark.parametrize("numbers", RANGES)
@pytest.mark.parametrize("dtype", [None, "float64", "int32", "float32"])
def test_ranges_are_numpys(numbers: tuple[float, ...], dtype: str | None) -> None:
    expected = np.arange(*numbers)
    wanted = dtype or ("int64" if expected.dtype.kind == "i" else "float32")
    if dtype == "int32" and (expected % 1).any():
        with pytest.raises(tp.DtypeError, match="does not fit i32"):
            ops.arange(*numbers, dtype=dtype)
        return
    for backend in BACKENDS:
        found = tp.compile(lambda: ops.arange(*numbers, dtype=dtype), backend=backend)()
        assert found.dtype == wanted
        np.testing.assert_array_equal(found, expected.astype(wanted))


def test_a_range_is_made_by_the_program() -> None:
    module = tp.trace(lambda: ops.arange(0, 100_000, 5))
    assert len(str(module)) < 1000
    with pytest.raises(ValueError, match="the step is not 0"):
        ops.arange(0, 3, 0)
