# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
"""Stand-ins for CuPy and nvmath that do the work on the host, as late as CUDA may: when somebody waits for it.

Only what ``cupy_device.py`` uses is here.  Work asked for while a stream is captured goes to the graph and is done at each of its launches.
What CUDA has limits for is held to them: shared memory and threads of a block, waiting and allocating while a stream is captured,
where the matrices of a product begin.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import sys
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from importlib.machinery import ModuleSpec
from typing import Any, Self

import numpy as np

from tapeir.backends.cuda import devices
from tapeir.ir.types import Array, bf16, f16, f32, f64

from .on_cpu import HEAD, Queue, Work, compiled, contracted, with_epilogue

DEVICE = "tapeir.backends.cuda.cupy_device"


class CudaError(RuntimeError):
    """What a failing call raises."""


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class Stream(Queue):
    """A queue that other streams wait for, and that may be captured."""

    known: dict[int, Stream] = {}

    null: Stream
    """The legacy default stream, on which other libraries work."""

    def __init__(self, non_blocking: bool) -> None:
        super().__init__()
        assert non_blocking, "while a blocking stream is captured, nobody may use the default stream"
        self.ptr = 1000 + len(self.known)
        self.known[self.ptr] = self
        self.capture: Capture | None = None

    def ask(self, work: Work) -> None:
        (self.work if self.capture is None else self.capture.works[self]).append(work)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.capture is not None:
            event.capture.wait(self, *event.at)
            return
        assert self.capture is None
        stream, end = event.at
        self.ask(lambda: stream.run(end))

    current: list[Stream] = []

    def __enter__(self) -> Self:
        self.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.current.pop()


class Event:
    """A place in a stream."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.timed = not disable_timing
        self.at: tuple[Stream, int] = NULL, 0
        self.capture: Capture | None = None

    def record(self, stream: Stream) -> None:
        self.capture = stream.capture
        self.at = stream, len(stream.work if stream.capture is None else stream.capture.works[stream])

    def synchronize(self) -> None:
        assert self.capture is None
        stream, end = self.at
        stream.run(end)

    @property
    def done(self) -> bool:
        stream, end = self.at
        return stream.done >= end


def elapsed(begin: Event, end: Event) -> float:
    """Milliseconds between two events of one stream: one for each piece of work between them."""
    assert begin.timed
    assert end.timed
    (stream, first), (same, last) = begin.at, end.at
    assert stream is same
    assert stream.done >= last
    return float(last - first)


class Capture:
    """What streams are asked for while one of them, the first, is captured: those that wait for a captured event take part."""

    def __init__(self, stream: Stream) -> None:
        self.works: dict[Stream, list[Work]] = {stream: []}
        self.queues: dict[Stream, Queue] = {}
        stream.capture = self

    def wait(self, stream: Stream, other: Stream, end: int) -> None:
        assert stream.capture in (None, self)
        stream.capture = self
        self.works.setdefault(stream, []).append(lambda: self.queues[other].run(end))
        self.joined = (stream, other, end)

    def ended(self, origin: Stream) -> None:
        """Every stream that took part must have been waited for to its end."""
        first, *others = self.works
        assert first is origin
        for stream in (first, *others):
            stream.capture = None
        for other in others:
            assert self.joined == (first, other, len(self.works[other])), "cudaErrorStreamCaptureUnjoined"

    def run(self, last_first: bool) -> None:
        """A launch of the graph; of what streams may do in any order, the last does its work first, or the first."""
        self.queues = {stream: Queue(work) for stream, work in self.works.items()}
        for queue in sorted(
            self.queues.values(), key=lambda q: q is self.queues[next(iter(self.works))] and last_first
        ):
            queue.run()


NULL = Stream.null = Stream(True)
Stream.current.append(NULL)


class Memory:
    """Memory that is never given back: work that is still to be done may use it."""

    def __init__(self, nbytes: int) -> None:
        raw = np.full(nbytes + 512, 0xAB, np.uint8)
        start = -raw.ctypes.data % 256
        self.array = raw[start : start + nbytes]
        self.ptr = int(self.array.ctypes.data)

    def __add__(self, offset: int) -> Memory:
        made = Memory(0)
        made.array, made.ptr, made.owner = self.array[offset:], self.ptr + offset, self
        return made

    @classmethod
    def borrowed(cls, owner: NdArray) -> Memory:
        """The memory of another array, for as long as this object lives."""
        made = cls(0)
        made.array, made.ptr, made.owner = owner.data.array, owner.data.ptr, owner
        return made

    owner: Any = None


class Device:
    """The only device."""

    def __init__(self, number: int) -> None:
        assert number == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class NdArray:
    """CuPy's array, and those of other libraries: ``asked`` has the streams on which it was to be ready."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, data: Memory) -> None:
        self.shape, self.dtype, self.data = shape, np.dtype(dtype), data
        self.asked: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: int) -> Any:
        self.asked.append(stream)
        return self

    def reshape(self, shape: tuple[int, ...]) -> NdArray:
        return NdArray(shape, self.dtype, self.data)


def from_dlpack(array: Any) -> NdArray:
    """The memory of another library's array, which it keeps alive."""
    given = array.__dlpack__(stream=Stream.current[-1].ptr)
    return NdArray(given.shape, given.dtype, Memory.borrowed(given))


def in_rows(x: NdArray, dtype: Any) -> NdArray:
    """CuPy's ``ascontiguousarray``, of an array that is."""
    assert x.dtype == dtype
    return x


class FakeCuda:
    """The state of the stand-ins: what was launched, and faults to come."""

    def __init__(self) -> None:
        self.memory: list[Memory] = []
        self.libraries: list[Any] = []
        self.functions: list[Any] = []
        self.graphs: list[Capture] = []
        self.launched = self.replayed = 0
        self.room = 1 << 40
        self.cannot_capture = False
        self.capability: tuple[int, int] = 9, 0
        self.blas_lt: Any = None

    def alloc(self, nbytes: int) -> Memory:
        uncaptured()
        if nbytes > self.room:
            raise OutOfMemoryError(f"Out of memory allocating {nbytes} bytes")
        self.room -= nbytes
        self.memory.append(Memory(nbytes))
        return self.memory[-1]

    def memcpy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        Stream.known[stream].ask(lambda: void(ctypes.memmove(to, source, nbytes)))

    def memset(self, to: int, value: int, nbytes: int, stream: int) -> None:
        Stream.known[stream].ask(lambda: void(ctypes.memset(to, value, nbytes)))

    def begin_capture(self, stream: int, mode: int) -> None:
        if self.cannot_capture:
            raise CudaError("cudaErrorStreamCaptureUnsupported")
        Capture(Stream.known[stream])

    def end_capture(self, stream: int) -> int:
        found = Stream.known[stream].capture
        assert found is not None
        found.ended(Stream.known[stream])
        self.graphs.append(found)
        return len(self.graphs) - 1

    def launch_graph(self, graph: int, stream: int) -> None:
        self.replayed += 1
        last_first = self.replayed % 2 == 0
        Stream.known[stream].ask(lambda: self.graphs[graph].run(last_first))

    def compile(self, source: str, options: tuple[str, ...]) -> bytes:
        kernels = source.split('extern "C"')
        assert all(text.count("__shared__") == len(SHARED.findall(text)) for text in kernels)
        assert max(map(shared_bytes, kernels)) <= 48 << 10, "too much shared data"
        assert f"--gpu-architecture=sm_{self.capability[0]}{self.capability[1]}" in options
        counts = {name: given.count(", ") + 1 for name, given in HEAD.findall(source)}
        self.libraries.append((compiled(source), counts))
        return str(len(self.libraries) - 1).encode()

    def function(self, module: int, name: str) -> int:
        library, counts = self.libraries[module - 1]
        self.functions.append((getattr(library, f"run_{name}"), counts[name]))
        return len(self.functions)

    def launch(self, f: int, grid: int, *rest: int) -> None:
        gy, gz, bx, by, bz, shared, stream, given, extra = rest
        assert 1 <= grid < 1 << 31
        assert 1 <= bx * by <= 1024
        assert (gy, gz, bz, shared, extra) == (1, 1, 1, 0, 0)
        kernel, count = self.functions[f - 1]
        places = (ctypes.c_void_p * count).from_address(given)
        words = (ctypes.c_uint64 * count)(*[ctypes.c_uint64.from_address(p or 0).value for p in places])

        def start() -> None:
            self.launched += 1
            kernel(words, grid, bx, by)

        Stream.known[stream].ask(start)


def void(_: object) -> None:
    """Nothing."""


def uncaptured(*_: object) -> None:
    """Now no stream may be captured."""
    assert all(s.capture is None for s in Stream.known.values()), "cudaErrorStreamCaptureUnsupported"


SHARED = re.compile(r"__shared__ ([a-z ]+) (\w+(?:\[\d+\])*(?:, \w+(?:\[\d+\])*)*);")
BYTES = {"bool": 1, "char": 1, "short": 2, "int": 4, "unsigned": 4, "float": 4, "double": 8, "long": 8}


def shared_bytes(kernel: str) -> int:
    """Bytes of shared memory that a kernel declares, one array behind the other."""
    total = 0
    for kind, names in SHARED.findall(kernel):
        for name in names.split(", "):
            total += BYTES[kind.split()[-1]] * math.prod(map(int, re.findall(r"\[(\d+)\]", name)))
    return total


class Blas:
    """cuBLAS on the host: columns first, by way of the transpose."""

    class cuBLASError(Exception): ...

    class Operation(IntEnum):
        N, T = 0, 1

    class ComputeType(IntEnum):
        COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77

    class Math(IntEnum):
        DEFAULT_MATH, TF32_TENSOR_OP_MATH, DISALLOW_REDUCED_PRECISION_REDUCTION = 0, 3, 16

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.streams: list[Stream] = []
        self.workspaces: dict[int, Stream] = {}
        self.has_workspace: set[int] = set()

    def get_property(self, which: int) -> int:
        return 13

    def create(self) -> int:
        self.streams.append(NULL)
        return len(self.streams)

    def set_stream(self, handle: int, stream: int) -> None:
        self.streams[handle - 1] = Stream.known[stream]
        self.has_workspace.discard(handle)

    def set_workspace(self, handle: int, workspace: int, nbytes: int) -> None:
        assert workspace % 256 == 0
        self.has_workspace.add(handle)
        assert self.workspaces.setdefault(workspace, self.streams[handle - 1]) is self.streams[handle - 1]

    def set_math_mode(self, handle: int, mode: int) -> None:
        assert mode in (3, 16)

    def _gemm(self, kind: Any) -> Callable[..., None]:
        def gemm(handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, *rest: int) -> None:
            a, lda, b, ldb, beta, c, ldc = rest
            assert (lda, ldb, ldc) == (k if ta else m, n if tb else k, m)
            self._ask(handle, kind, (alpha, beta), a, b, c, (1, n, k, m, bool(tb), bool(ta)))

        return gemm

    def _batched(self, kind: Any) -> Callable[..., None]:
        def gemm(handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, *rest: int) -> None:
            a, lda, sa, b, ldb, sb, beta, c, ldc, sc, batches = rest
            assert (lda, ldb, ldc, sa, sb, sc) == (k if ta else m, n if tb else k, m, m * k, n * k, m * n)
            self._ask(handle, kind, (alpha, beta), a, b, c, (batches, n, k, m, bool(tb), bool(ta)))

        return gemm

    def gemm_strided_batched_ex(
        self, handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, *rest: int
    ) -> None:
        a, kind, lda, sa, b, same, ldb, sb, beta, c, also, ldc, sc, batches, compute, algo = rest
        assert (same, also, compute, algo) == (kind, kind, self.ComputeType.COMPUTE_32F, -1)
        assert (lda, ldb, ldc, sa, sb, sc) == (k if ta else m, n if tb else k, m, m * k, n * k, m * n)
        self._ask(handle, {2: f16, 14: bf16}[kind], (alpha, beta), a, b, c, (batches, n, k, m, bool(tb), bool(ta)))

    def _ask(self, handle: int, kind: Any, factors: tuple[int, int], a: int, b: int, c: int, sizes: Any) -> None:
        read = ctypes.c_double if kind is f64 else ctypes.c_float
        assert [read.from_address(f).value for f in factors] == [1.0, 0.0]
        assert handle in self.has_workspace
        assert all(place % 256 == 0 for place in (a, b, c))

        def compute() -> None:
            self.cuda.launched += 1
            contracted(kind, b, a, c, sizes)

        self.streams[handle - 1].ask(compute)


class BlasLt(types.ModuleType):
    """cuBLASLt on the host: its objects are numbers that name what was asked for, until they are destroyed."""

    class cuBLASLtError(Exception): ...

    Epilogue = IntEnum("Epilogue", {"BIAS": 4, "RELU_BIAS": 6, "GELU_BIAS": 36})
    MatmulDescAttribute = IntEnum("MatmulDescAttribute", {"TRANSA": 3, "TRANSB": 4, "EPILOGUE": 7, "BIAS_POINTER": 8})
    MatmulPreferenceAttribute = IntEnum(
        "MatmulPreferenceAttribute",
        {"MAX_WORKSPACE_BYTES": 1},
    )
    matmul_heuristic_result_dtype = np.dtype(
        [("algo", [("data_", "<u8", (8,))]), ("workspace_size", "<u8"), ("state", "<i4")]
    )

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__("nvmath.bindings.cublasLt")
        self.cuda = cuda
        self.objects: dict[int, Any] = {}
        self.made = 0
        self.algorithms: int | None = 1
        """How many it finds; None: asking for them fails."""

    def create(self) -> int:
        return 2

    def _new(self, what: Any) -> int:
        self.made += 1
        self.objects[self.made] = what
        return self.made

    def matmul_desc_create(self, compute: int, scale: int) -> int:
        return self._new({"compute": compute, "scale": scale})

    def matrix_layout_create(self, kind: int, rows: int, columns: int, ld: int) -> int:
        return self._new((kind, rows, columns, ld))

    def matmul_preference_create(self) -> int:
        return self._new({})

    def _set(self, of: int, attribute: int, place: int, size: int) -> None:
        self.objects[of][attribute] = int.from_bytes(ctypes.string_at(place, size), "little")

    matmul_desc_set_attribute = matmul_preference_set_attribute = _set

    def _destroy(self, of: int) -> None:
        del self.objects[of]

    matmul_desc_destroy = matrix_layout_destroy = matmul_preference_destroy = _destroy

    def matmul_algo_get_heuristic(
        self,
        handle: int,
        work: int,
        a: int,
        b: int,
        c: int,
        d: int,
        preference: int,
        wanted: int,
        found: int,
        count: int,
    ) -> None:
        if self.algorithms is None:
            raise self.cuBLASLtError("CUBLAS_STATUS_NOT_SUPPORTED")
        assert list(self.objects[preference].values()) == [32 << 20]
        assert self.objects[work][self.MatmulDescAttribute.BIAS_POINTER]
        ctypes.memset(found, 0x11, 64)
        ctypes.c_int32.from_address(count).value = self.algorithms

    def matmul(
        self, handle: int, work: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int, c_layout: int,
        d: int, d_layout: int, algorithm: int, workspace: int, size: int, stream: int,
    ) -> None:  # fmt: skip
        asked, names = self.objects[work], self.MatmulDescAttribute
        assert [ctypes.c_float.from_address(f).value for f in (alpha, beta)] == [1.0, 0.0]
        assert ctypes.string_at(algorithm, 64) == b"\x11" * 64
        assert (handle, c, c_layout, workspace % 256, size) == (2, d, d_layout, 0, 32 << 20)
        kind, columns, rows, ld = self.objects[d_layout]
        ta, tb = bool(asked[names.TRANSB]), bool(asked[names.TRANSA])
        first, second = self.objects[a_layout], self.objects[b_layout]
        inner = first[1] if tb else first[2]
        assert ld == columns
        assert first == (kind, *((inner, columns, inner) if tb else (columns, inner, columns)))
        assert second == (kind, *((rows, inner, rows) if ta else (inner, rows, inner)))
        assert (asked["scale"], asked["compute"]) == (0, 77 if kind == 0 else 68)
        activation = self.Epilogue(asked[names.EPILOGUE]).name.removesuffix("BIAS").rstrip("_").lower() or "none"
        bias, dtype = asked[names.BIAS_POINTER], {0: f32, 2: f16, 14: bf16}[kind]
        assert all(place % 256 == 0 for place in (a, b, d, bias))

        def compute() -> None:
            self.cuda.launched += 1
            with_epilogue(dtype, b, a, d, (1, rows, inner, columns, ta, tb), bias, activation)

        Stream.known[stream].ask(compute)


def modules(cuda: FakeCuda) -> dict[str, Any]:
    """The modules by name."""
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CudaError, getDeviceCount=lambda: 1, setDevice=void, deviceGetAttribute=lambda a, n: cuda.capability[a - 75],
        memcpyHostToDevice=1, memcpyDeviceToHost=2, memcpyDeviceToDevice=3, streamCaptureModeRelaxed=2, memcpyAsync=cuda.memcpy,
        memsetAsync=cuda.memset, streamSynchronize=lambda s: (uncaptured(), Stream.known[s].run()), memGetInfo=lambda: (cuda.room, 1 << 40),
        streamBeginCapture=cuda.begin_capture, streamEndCapture=cuda.end_capture, graphInstantiate=lambda g: g, graphDestroy=void,
        graphExecDestroy=void, graphUpload=lambda g, s: None, graphLaunch=cuda.launch_graph,
    )  # fmt: skip
    driver = types.SimpleNamespace(
        CUDADriverError=CudaError, moduleLoadData=lambda code: int(code) + 1, moduleGetFunction=cuda.function, launchKernel=cuda.launch,
    )  # fmt: skip
    programs: list[Any] = []

    def create(source: str, name: str, headers: Any, names: Any) -> int:
        programs.append(source)
        return len(programs) - 1

    def compile_(program: int, options: tuple[str, ...]) -> None:
        programs[program] = cuda.compile(programs[program], options)

    nvrtc = types.SimpleNamespace(
        NVRTCError=CudaError, getVersion=lambda: (13, 0), createProgram=create, compileProgram=compile_,
        getCUBIN=lambda p: programs[p], getProgramLog=lambda p: "", destroyProgram=void,
    )  # fmt: skip
    pool = types.SimpleNamespace(
        used_bytes=lambda: sum(m.array.nbytes for m in cuda.memory), total_bytes=lambda: sum(m.array.nbytes for m in cuda.memory)
    )  # fmt: skip
    blas: Any = Blas(cuda)
    for kind, letter in ((f32, "s"), (f64, "d")):
        setattr(blas, f"{letter}gemm", blas._gemm(kind))
        setattr(blas, f"{letter}gemm_strided_batched", blas._batched(kind))

    def module(name: str, **content: Any) -> Any:
        made: Any = types.ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        made.__dict__.update(content)
        return made

    def pinned(nbytes: int) -> Array:
        return np.full(nbytes, 0xCD, np.uint8)

    in_cuda = module(
        "cupy.cuda", driver=driver, nvrtc=nvrtc, runtime=runtime, Device=Device, Stream=Stream, Event=Event, alloc=cuda.alloc,
        alloc_pinned_memory=pinned, memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        get_current_stream=lambda: Stream.current[-1], get_elapsed_time=elapsed,
    )  # fmt: skip
    cupy = module(
        "cupy", cuda=in_cuda, get_default_memory_pool=lambda: pool, from_dlpack=from_dlpack, ascontiguousarray=in_rows, ndarray=NdArray
    )  # fmt: skip
    cuda.blas_lt = lt = BlasLt(cuda)
    bindings = module("nvmath.bindings", cublas=blas, cublasLt=lt)
    return {
        "cupy": cupy,
        "cupy.cuda": in_cuda,
        "nvmath": module("nvmath", bindings=bindings),
        "nvmath.bindings.cublas": blas,
        "nvmath.bindings.cublasLt": lt,
        "nvmath.bindings": bindings,
    }


@contextmanager
def fake_cuda(cache: Any) -> Generator[FakeCuda]:
    """Inside the block CuPy, nvmath and a device seem to be there; ``cache`` is pytest's monkeypatch."""
    cache.setenv("TAPEIR_CACHE", "off")
    cuda = FakeCuda()
    made = modules(cuda)
    before = {n: sys.modules.pop(n, None) for n in (*made, DEVICE)}
    sys.modules.update(made)
    try:
        yield cuda
    finally:
        gc.collect()  # what waits for the stand-ins when it goes, goes now
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
        devices.forget()
