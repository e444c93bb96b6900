"""The one pool of worker threads of native code, itself native: ``void tapeir_parallel(ptr f, ptr arguments, i64 units, i64 chunks)``.

``f`` is ``void f(ptr arguments, i64 begin, i64 end)``.  Chunk ``c`` is the units from ``units*c/chunks`` to ``units*(c+1)/chunks``,
whatever runs it, so results never depend on the number of threads.  The caller claims chunks as the workers do and waits only for
chunks that were begun; a call while the pool is busy, or from inside a chunk, runs its chunks itself.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
from functools import cache
from string import Template
from typing import Any

from ..cores import wanted_threads
from . import engine, float_mode

MOST_WORKERS = 15
SPIN_NANOSECONDS = 60_000
"""How long a worker looks for the next task before it sleeps: above the gaps between the kernels of a program, below what is felt."""

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_RELAX = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

_SEQUENTIAL = """
define internal void @chunks(ptr %f, ptr %arguments, i64 %units, i64 %chunks) {
entry:
  br label %loop
loop:
  %c = phi i64 [ 0, %entry ], [ %c1, %next ]
  %begin = phi i64 [ 0, %entry ], [ %end, %next ]
  %c1 = add i64 %c, 1
  %scaled = mul i64 %units, %c1
  %end = udiv i64 %scaled, %chunks
  %some = icmp ult i64 %begin, %end
  br i1 %some, label %run, label %next
run:
  call void %f(ptr %arguments, i64 %begin, i64 %end)
  br label %next
next:
  %more = icmp ult i64 %c1, %chunks
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

_ALONE = """
define void @tapeir_parallel(ptr %f, ptr %arguments, i64 %units, i64 %chunks) {
entry:
  %some = icmp sgt i64 %units, 0
  br i1 %some, label %split, label %done
split:
  %least = call i64 @llvm.smax.i64(i64 %chunks, i64 1)
  call void @chunks(ptr %f, ptr %arguments, i64 %units, i64 %least)
  br label %done
done:
  ret void
}
declare i64 @llvm.smax.i64(i64, i64)
"""

# A job is published in @word: its sequence number, count of chunks and next chunk in 24, 20 and 20 bits.  Whoever moves the next
# chunk on by cmpxchg owns that chunk, and reads the job's fields only then: the fields cannot be replaced before @done counts the
# chunk, so even a sequence number that came round again is harmless.  The caller keeps chunk 0, so that with two threads a range
# stays in the cache it was in.  @signal changes after @word; workers sleep on it.  A worker adds itself to @sleepers before the
# kernel compares @signal, a publisher changes @signal before it reads @sleepers: one of them sees the other.  @lock is held by the
# one caller that uses the pool, and by whoever starts or stops workers.
_POOL = """
@word = internal global i64 0, align 128
@done = internal global i64 0, align 128
@signal = internal global i32 0, align 128
@sleepers = internal global i32 0, align 128
@lock = internal global i32 0, align 128
@function = internal global ptr null, align 128
@arguments = internal global ptr null
@units = internal global i64 0
@stopping = internal global i32 0, align 128
@wanted = internal global i64 0
@running = internal global i64 0
@handles = internal global [$most x i64] zeroinitializer

%clock = type { i64, i64 }
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @clock_gettime(i32, ptr)
declare i32 @sched_yield()
declare i64 @syscall(i64, ...)
$declarations

define internal i1 @lock_now() {
  %seen = load atomic i32, ptr @lock monotonic, align 4
  %free = icmp eq i32 %seen, 0
  br i1 %free, label %try, label %busy
try:
  %pair = cmpxchg ptr @lock, i32 0, i32 1 acquire monotonic
  %got = extractvalue { i32, i1 } %pair, 1
  ret i1 %got
busy:
  ret i1 false
}

define internal void @unlock() {
  store atomic i32 0, ptr @lock release, align 4
  ret void
}

define internal i64 @nanoseconds() {
  %time = alloca %clock
  %failed = call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %rest = getelementptr %clock, ptr %time, i64 0, i32 1
  %fraction = load i64, ptr %rest
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %fraction
  ret i64 %sum
}

; Claim and run chunks until none is left.
define internal void @work() {
entry:
  %first = load atomic i64, ptr @word acquire, align 8
  br label %look
look:
  %seen = phi i64 [ %first, %entry ], [ %current, %lost ], [ %after, %counted ]
  %next = and i64 %seen, 1048575
  %high = lshr i64 %seen, 20
  %count = and i64 %high, 1048575
  %some = icmp ult i64 %next, %count
  br i1 %some, label %claim, label %out
claim:
  %moved = add i64 %seen, 1
  %pair = cmpxchg ptr @word, i64 %seen, i64 %moved acquire acquire
  %won = extractvalue { i64, i1 } %pair, 1
  %current = extractvalue { i64, i1 } %pair, 0
  br i1 %won, label %mine, label %lost
lost:
  br label %look
mine:
  %f = load ptr, ptr @function
  %arguments = load ptr, ptr @arguments
  %units = load i64, ptr @units
  %low = mul i64 %units, %next
  %begin = udiv i64 %low, %count
  %next1 = add i64 %next, 1
  %top = mul i64 %units, %next1
  %end = udiv i64 %top, %count
  %any = icmp ult i64 %begin, %end
  br i1 %any, label %run, label %counted
run:
  call void %f(ptr %arguments, i64 %begin, i64 %end)
  br label %counted
counted:
  %before = atomicrmw add ptr @done, i64 1 release
  %after = load atomic i64, ptr @word acquire, align 8
  br label %look
out:
  ret void
}

define internal ptr @worker(ptr %unused) {
entry:
  $mode
  br label %loop
loop:
  %seen = load atomic i32, ptr @signal acquire, align 4
  %stopping = load atomic i32, ptr @stopping acquire, align 4
  %stop = icmp ne i32 %stopping, 0
  br i1 %stop, label %out, label %run
run:
  call void @work()
  %start = call i64 @nanoseconds()
  %limit = add i64 %start, $spin
  br label %spin
spin:
  %turn = phi i32 [ 0, %run ], [ %turn1, %quiet ], [ 0, %time ]
  %now = load atomic i32, ptr @signal acquire, align 4
  %changed = icmp ne i32 %now, %seen
  br i1 %changed, label %loop, label %quiet
quiet:
  $relax
  %turn1 = add i32 %turn, 1
  %check = icmp eq i32 %turn1, 32
  br i1 %check, label %time, label %spin
time:
  %clock = call i64 @nanoseconds()
  %late = icmp sgt i64 %clock, %limit
  br i1 %late, label %sleep, label %spin
sleep:
  %a = atomicrmw add ptr @sleepers, i32 1 seq_cst
  %b = call i64 (i64, ...) @syscall(i64 $futex, ptr @signal, i32 128, i32 %seen, ptr null, ptr null, i32 0)
  %c = atomicrmw sub ptr @sleepers, i32 1 seq_cst
  br label %loop
out:
  ret ptr null
}

define internal void @signal_workers(i64 %useful) {
entry:
  %old = atomicrmw add ptr @signal, i32 1 seq_cst
  %sleepers = load atomic i32, ptr @sleepers seq_cst, align 4
  %none = icmp eq i32 %sleepers, 0
  br i1 %none, label %out, label %some
some:
  %asleep = zext i32 %sleepers to i64
  %running = load i64, ptr @running
  %awake = sub i64 %running, %asleep
  %missing = sub i64 %useful, %awake
  %wake = icmp sgt i64 %missing, 0
  br i1 %wake, label %call, label %out
call:
  %number = trunc i64 %missing to i32
  %woken = call i64 (i64, ...) @syscall(i64 $futex, ptr @signal, i32 129, i32 %number, ptr null, ptr null, i32 0)
  br label %out
out:
  ret void
}

; Make the workers that are wanted, with the lock held.  Their signals are blocked, but for those of faults: a signal must reach
; the interpreter's own threads.  Where no more threads can be had, fewer will do.
define internal void @start() noinline {
entry:
  %all = alloca [128 x i8], align 16
  %kept = alloca [128 x i8], align 16
  %a = call i32 @sigfillset(ptr %all)
  %b = call i32 @sigdelset(ptr %all, i32 4)
  %c = call i32 @sigdelset(ptr %all, i32 6)
  %d = call i32 @sigdelset(ptr %all, i32 7)
  %e = call i32 @sigdelset(ptr %all, i32 8)
  %g = call i32 @sigdelset(ptr %all, i32 11)
  %h = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %kept)
  br label %loop
loop:
  %made = phi i64 [ 0, %entry ], [ %more, %created ]
  %wanted = load i64, ptr @wanted
  %missing = icmp slt i64 %made, %wanted
  br i1 %missing, label %create, label %out
create:
  %handle = getelementptr [$most x i64], ptr @handles, i64 0, i64 %made
  %failed = call i32 @pthread_create(ptr %handle, ptr null, ptr @worker, ptr null)
  %refused = icmp ne i32 %failed, 0
  br i1 %refused, label %fewer, label %created
created:
  %more = add i64 %made, 1
  br label %loop
fewer:
  store atomic i64 %made, ptr @wanted monotonic, align 8
  br label %out
out:
  store i64 %made, ptr @running
  %j = call i32 @pthread_sigmask(i32 2, ptr %kept, ptr null)
  ret void
}

; End all workers, with the lock held.
define internal void @stop() noinline {
entry:
  store atomic i32 1, ptr @stopping release, align 4
  call void @signal_workers(i64 1000)
  %running = load i64, ptr @running
  br label %loop
loop:
  %joined = phi i64 [ 0, %entry ], [ %more, %join ]
  %left = icmp slt i64 %joined, %running
  br i1 %left, label %join, label %out
join:
  %slot = getelementptr [$most x i64], ptr @handles, i64 0, i64 %joined
  %handle = load i64, ptr %slot
  %failed = call i32 @pthread_join(i64 %handle, ptr null)
  %more = add i64 %joined, 1
  br label %loop
out:
  store i64 0, ptr @running
  store atomic i32 0, ptr @stopping release, align 4
  ret void
}

define void @tapeir_parallel(ptr %f, ptr %arguments, i64 %units, i64 %chunks) {
entry:
  %some = icmp sgt i64 %units, 0
  br i1 %some, label %split, label %return
split:
  %one = icmp sle i64 %chunks, 1
  br i1 %one, label %plain, label %several
plain:
  call void %f(ptr %arguments, i64 0, i64 %units)
  ret void
several:
  %wanted = load atomic i64, ptr @wanted monotonic, align 8
  %alone = icmp eq i64 %wanted, 0
  %many = icmp ugt i64 %chunks, 1048575
  %never = or i1 %alone, %many
  br i1 %never, label %sequential, label %take
take:
  %locked = call i1 @lock_now()
  br i1 %locked, label %check, label %sequential
sequential:
  call void @chunks(ptr %f, ptr %arguments, i64 %units, i64 %chunks)
  ret void
check:
  %running = load i64, ptr @running
  %idle = icmp eq i64 %running, 0
  br i1 %idle, label %begin, label %publish
begin:
  call void @start()
  br label %publish
publish:
  store ptr %f, ptr @function
  store ptr %arguments, ptr @arguments
  store i64 %units, ptr @units
  store atomic i64 0, ptr @done monotonic, align 8
  %old = load atomic i64, ptr @word monotonic, align 8
  %sequence = lshr i64 %old, 40
  %following = add i64 %sequence, 1
  %shifted = shl i64 %following, 40
  %count = shl i64 %chunks, 20
  %job = or i64 %shifted, %count
  %word = or i64 %job, 1
  store atomic i64 %word, ptr @word release, align 8
  %others = sub i64 %chunks, 1
  %present = load i64, ptr @running
  %fewer = icmp slt i64 %others, %present
  %useful = select i1 %fewer, i64 %others, i64 %present
  call void @signal_workers(i64 %useful)
  %end = udiv i64 %units, %chunks
  %any = icmp ugt i64 %end, 0
  br i1 %any, label %first, label %rest
first:
  call void %f(ptr %arguments, i64 0, i64 %end)
  br label %rest
rest:
  call void @work()
  br label %wait
wait:
  %turn = phi i32 [ 0, %rest ], [ %turn1, %pause ], [ %turn, %yield ]
  %done = load atomic i64, ptr @done acquire, align 8
  %complete = icmp uge i64 %done, %others
  br i1 %complete, label %finish, label %more
more:
  %long = icmp ugt i32 %turn, 2000
  br i1 %long, label %yield, label %pause
pause:
  $relax
  %turn1 = add i32 %turn, 1
  br label %wait
yield:
  %ignored = call i32 @sched_yield()
  br label %wait
finish:
  call void @unlock()
  br label %return
return:
  ret void
}

; Change the number of workers; 0 if the pool was busy for all of the given number of attempts, and is then as before.
define i64 @tapeir_pool_resize(i64 %workers, i64 %attempts) {
entry:
  br label %try
try:
  %turn = phi i64 [ 0, %entry ], [ %turn1, %again ]
  %turn1 = add i64 %turn, 1
  %locked = call i1 @lock_now()
  br i1 %locked, label %change, label %busy
busy:
  %out_of_turns = icmp sge i64 %turn1, %attempts
  br i1 %out_of_turns, label %fail, label %again
again:
  %ignored = call i32 @sched_yield()
  br label %try
fail:
  ret i64 0
change:
  call void @stop()
  %keep = icmp slt i64 %workers, 0
  br i1 %keep, label %finish, label %set
set:
  store atomic i64 %workers, ptr @wanted monotonic, align 8
  br label %finish
finish:
  call void @unlock()
  ret i64 1
}

define i64 @tapeir_pool_workers() {
  %wanted = load atomic i64, ptr @wanted monotonic, align 8
  ret i64 %wanted
}

; In a forked child no worker exists, and the lock's holder may not either.
define void @tapeir_pool_forked() {
  store i64 0, ptr @running
  store atomic i32 0, ptr @sleepers monotonic, align 4
  store atomic i32 0, ptr @stopping monotonic, align 4
  store atomic i64 0, ptr @word monotonic, align 8
  store atomic i32 0, ptr @lock release, align 4
  ret void
}
"""


def _pooled() -> bool:
    """Whether this platform has what the pool is made of; elsewhere chunks run one after another."""
    if not sys.platform.startswith("linux") or platform.machine() not in _FUTEX or ctypes.sizeof(ctypes.c_long) != 8:
        return False
    process = ctypes.CDLL(None)
    return all(hasattr(process, name) for name in ("pthread_create", "pthread_join", "pthread_sigmask", "syscall"))


def source() -> str:
    """The pool's LLVM text for this platform."""
    if not _pooled():
        return _SEQUENTIAL + _ALONE
    machine = platform.machine()
    relax, pause = _RELAX.get(machine, ("", ""))
    mode, set_mode = float_mode.setting()  # a thread inherits that of whoever makes it
    return _SEQUENTIAL + Template(_POOL).substitute(
        most=MOST_WORKERS, spin=SPIN_NANOSECONDS, futex=_FUTEX[machine],
        declarations=f"{relax}\n{mode}", relax=pause, mode=set_mode,
    )  # fmt: skip


class _Pool:
    """The loaded pool.  Its code is never unloaded: workers run in it."""

    def __init__(self) -> None:
        library = engine.load(source(), about="thread pool")
        self.library = library
        self.address = library.address("tapeir_parallel")
        self.pooled = _pooled()
        if not self.pooled:
            return
        signature = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self.resize: Any = signature(library.address("tapeir_pool_resize"))
        self.workers: Any = ctypes.CFUNCTYPE(ctypes.c_int64)(library.address("tapeir_pool_workers"))
        # Called in a fork, where no other thread may take the interpreter meanwhile.
        self.rest: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(
            library.address("tapeir_pool_resize")
        )
        self.forked: Any = ctypes.PYFUNCTYPE(None)(library.address("tapeir_pool_forked"))
        self.resize(min(wanted_threads() - 1, MOST_WORKERS), 1)
        atexit.register(self.resize, 0, 100_000)
        # Workers are made anew by the first task after a fork, in the parent and in the child.
        os.register_at_fork(before=lambda: self.rest(-1, 1), after_in_child=self.forked)


@cache
def _pool() -> _Pool:
    return _Pool()


def address() -> int:
    """Where ``tapeir_parallel`` begins; it stays there as long as the process lives."""
    return _pool().address


def threads() -> int:
    """How many threads run chunks, the caller's included."""
    pool = _pool()
    return int(pool.workers()) + 1 if pool.pooled else 1


def set_threads(count: int) -> None:
    """Use ``count`` threads, the caller's included; no result depends on it.  ``TAPEIR_THREADS`` sets it from outside."""
    if count < 1:
        raise ValueError(f"{count} threads cannot run anything: give at least 1")
    pool = _pool()
    if pool.pooled:
        while not pool.resize(min(count - 1, MOST_WORKERS), 1000):
            pass
