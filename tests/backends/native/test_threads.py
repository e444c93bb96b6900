"""The worker pool: the same result with any number of threads, callers that do not wait for each other, forks, idling, a clean exit."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="native code is made by llvmlite")

from tapeir.backends.native import engine, threads
from tapeir.ir.types import Array

# Each unit adds its own number and, times 2**32, the length of its chunk: the result shows who was run, how often, in which chunks.
TEXT = """
declare void @tapeir_parallel(ptr, ptr, i64, i64)

define internal void @range(ptr %x, i64 %begin, i64 %end) {
entry:
  %length = sub i64 %end, %begin
  %high = shl i64 %length, 32
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %p = getelementptr i64, ptr %x, i64 %i
  %old = load i64, ptr %p
  %plus = add i64 %old, %i
  %new = add i64 %plus, %high
  store i64 %new, ptr %p
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @tasks(ptr %x, i64 %units, i64 %chunks, i64 %times) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @tapeir_parallel(ptr @range, ptr %x, i64 %units, i64 %chunks)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %times
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

Tasks = Callable[[Array, int, int], None]


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TAPEIR_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    before = threads.threads()
    yield
    threads.set_threads(before)


@pytest.fixture
def tasks() -> Tasks:
    library = engine.load(TEXT, {"tapeir_parallel": threads.address()}, "test of the pool")
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(library.address("tasks"))

    def run(x: Array, chunks: int, times: int = 1) -> None:
        call(x.ctypes.data, x.size, chunks, times)

    return run


def expected(units: int, chunks: int, times: int = 1) -> Array:
    lengths = np.diff([units * c // chunks for c in range(chunks + 1)])
    return (np.arange(units) + (np.repeat(lengths, lengths) << 32)) * times


POOLED = "@worker" in threads.source()
needs_pool = pytest.mark.skipif(not POOLED, reason="this platform has no pool: chunks run one after another")


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("units", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("chunks", [1, 2, 3, 16, 1000, 1 << 20])
def test_every_unit_runs_once_in_the_chunk_of_its_number(tasks: Tasks, count: int, units: int, chunks: int) -> None:
    threads.set_threads(count)
    x = np.zeros(units, np.int64)
    tasks(x, chunks, 1)
    assert np.array_equal(x, expected(units, chunks))


@pytest.mark.parametrize("chunks", [0, -3])
def test_fewer_than_one_chunk_is_one(tasks: Tasks, chunks: int) -> None:
    x = np.zeros(10, np.int64)
    tasks(x, chunks, 1)
    assert np.array_equal(x, expected(10, 1))


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_thousands_of_tasks(tasks: Tasks, count: int) -> None:
    threads.set_threads(count)
    for units, chunks in ((64, 2), (1000, 5), (300, 40)):
        x = np.zeros(units, np.int64)
        tasks(x, chunks, 5000)
        assert np.array_equal(x, expected(units, chunks, 5000))


@needs_pool
def test_workers_that_sleep_are_woken(tasks: Tasks) -> None:
    threads.set_threads(4)
    x = np.zeros(5000, np.int64)
    for _ in range(100):
        tasks(x, 4, 1)
        time.sleep(0.001)
    assert np.array_equal(x, expected(5000, 4, 100))


@needs_pool
def test_chunks_run_on_workers_too() -> None:
    threads.set_threads(2)
    met = threading.Barrier(2)  # passed only if two chunks run at the same time
    broken = list[int]()

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    def chunk(_: int, begin: int, end: int) -> None:
        try:
            met.wait(30)
        except threading.BrokenBarrierError:
            broken.append(begin)

    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    signature(threads.address())(ctypes.cast(chunk, ctypes.c_void_p), None, 2, 2)
    assert not broken


def test_a_task_inside_a_chunk_runs_there() -> None:
    threads.set_threads(2)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    parallel = signature(threads.address())
    ran = list[tuple[int, int]]()

    @function
    def inner(_: int, begin: int, end: int) -> None:
        ran.append((begin, end))

    @function
    def outer(_: int, begin: int, end: int) -> None:
        parallel(ctypes.cast(inner, ctypes.c_void_p), None, 6, 3)

    parallel(ctypes.cast(outer, ctypes.c_void_p), None, 4, 4)
    assert sorted(ran) == sorted([(0, 2), (2, 4), (4, 6)] * 4)


# Chunk 0 stays with the caller; neither chunk ends before both have begun.
MODES = """
declare void @tapeir_parallel(ptr, ptr, i64, i64)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse.stmxcsr(ptr)
@begun = internal global i64 0
@flushing = private constant i32 40896

define internal void @chunk(ptr %x, i64 %begin, i64 %end) {
entry:
  %old = atomicrmw add ptr @begun, i64 1 seq_cst
  br label %wait
wait:
  %now = load atomic i64, ptr @begun seq_cst, align 8
  %both = icmp uge i64 %now, 2
  br i1 %both, label %report, label %wait
report:
  %p = getelementptr i32, ptr %x, i64 %begin
  call void @llvm.x86.sse.stmxcsr(ptr %p)
  ret void
}

define void @modes(ptr %x) {
  %kept = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %kept)
  call void @llvm.x86.sse.ldmxcsr(ptr @flushing)
  call void @tapeir_parallel(ptr @chunk, ptr %x, i64 2, i64 2)
  call void @llvm.x86.sse.ldmxcsr(ptr %kept)
  store atomic i64 0, ptr @begun seq_cst, align 8
  ret void
}
"""


@needs_pool
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the mode as x86 does")
def test_workers_do_not_inherit_flushing_of_denormals() -> None:
    threads.set_threads(1)
    threads.set_threads(2)  # so that the worker is made by the call
    library = engine.load(MODES, {"tapeir_parallel": threads.address()}, "test of the pool")
    x = np.zeros(2, np.uint32)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("modes"))(x.ctypes.data)
    assert [hex(mode & ~0x3F) for mode in x.tolist()] == ["0x9fc0", "0x1f80"]


def test_several_callers_at_once(tasks: Tasks) -> None:
    threads.set_threads(2)
    results = [np.zeros(2000, np.int64) for _ in range(4)]

    def caller(x: Array) -> None:
        for _ in range(40):
            tasks(x, 8, 50)

    callers = [threading.Thread(target=caller, args=(x,)) for x in results]
    for c in callers:
        c.start()
    for _ in range(20):
        threads.set_threads(3)
        threads.set_threads(2)
    for c in callers:
        c.join()
    for x in results:
        assert np.array_equal(x, expected(2000, 8, 2000))


def test_the_number_of_threads_is_bounded() -> None:
    threads.set_threads(1000)
    assert threads.threads() in (1, threads.MOST_WORKERS + 1)
    threads.set_threads(1)
    assert threads.threads() == 1
    with pytest.raises(ValueError, match="0 threads cannot run anything: give at least 1"):
        threads.set_threads(0)


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a fresh interpreter, after the definitions it uses."""
    start = f"""
import ctypes, os, sys, threading, time
import numpy as np
from tapeir.backends.native import engine, threads
library = engine.load({TEXT!r}, {{"tapeir_parallel": threads.address()}})
call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(library.address("tasks"))
x = np.zeros(1000, np.int64)
def workers():
    return len(os.listdir("/proc/self/task"))
def run(times=100):
    x[:] = 0
    call(x.ctypes.data, x.size, 4, times)
    return bool((x == (np.arange(1000) + (250 << 32)) * times).all())
"""
    every = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + script], env=every, capture_output=True, text=True, timeout=120
    )


def test_the_environment_sets_the_number() -> None:
    for value, found in (("1", 1), ("3", 3 if POOLED else 1)):
        assert run_script("print(threads.threads(), run())", TAPEIR_THREADS=value).stdout == f"{found} True\n"


@needs_pool
def test_forked_children_and_their_parent_have_workers_again() -> None:
    script = """
before = workers()
assert run() and workers() == before + 2, workers()
for _ in range(10):
    child = os.fork()
    if not child:
        alone = workers() == 1
        good = run() and workers() == 3 and run() and threads.threads() == 3
        os._exit(0 if alone and good else 1)
    assert run()
    assert os.waitpid(child, 0)[1] == 0
assert run() and workers() >= 3
print("done")
"""
    result = run_script(script, TAPEIR_THREADS="3", OPENBLAS_NUM_THREADS="1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


@needs_pool
def test_a_fork_while_the_pool_is_busy() -> None:
    script = """
own = np.zeros(1000, np.int64)
def busy():
    call(own.ctypes.data, own.size, 4, 200000)
thread = threading.Thread(target=busy)
thread.start()
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0 if run() else 1)
    assert os.waitpid(child, 0)[1] == 0
thread.join()
print(bool((own == (np.arange(1000) + (250 << 32)) * 200000).all()))
"""
    result = run_script(script, TAPEIR_THREADS="3")
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


@needs_pool
def test_an_idle_pool_uses_no_time() -> None:
    script = """
assert run()
time.sleep(0.05)
start = time.process_time()
time.sleep(1)
print(time.process_time() - start)
"""
    result = run_script(script, TAPEIR_THREADS="4", OPENBLAS_NUM_THREADS="1")
    assert float(result.stdout) < 0.05


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "threads.set_threads(1)"])
def test_the_interpreter_ends_cleanly(end: str) -> None:
    for times in (1, 1000):
        result = run_script(f"assert run({times})\n{end}", TAPEIR_THREADS="4")
        assert (result.returncode, result.stderr) == (3 if "exit" in end else 0, "")


def test_the_interpreter_ends_while_a_caller_is_in_the_pool() -> None:
    script = """
big = np.zeros(100000, np.int64)
def forever():
    while True:
        call(big.ctypes.data, big.size, 4, 100)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
"""
    result = run_script(script, TAPEIR_THREADS="4")
    assert (result.returncode, result.stderr) == (0, "")
