"""A CUDA device through CuPy (memory, streams, graphs, NVRTC) and cuBLAS through nvmath's bindings.

Nothing here knows programs.  All work goes to one stream; other lanes, and batches that are copied ahead, have streams of their own.
Where arrays of other libraries are taken or given, events put it in turn with CUDA's legacy default stream, on which PyTorch and CuPy
work unless told otherwise.  It is no blocking stream: while one is captured, nobody may use the default stream.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from ...ir import BackendError
from ...ir.types import DTYPES, Array, DType, bf16, f16, f32, type_of
from .. import cache
from ..base import Sizes
from .device import ALIGNMENT, Device, DeviceArray, Launch

cupy: Any = import_module("cupy")
cublas: Any = import_module("nvmath.bindings.cublas")
cublaslt: Any = import_module("nvmath.bindings.cublasLt")
driver, nvrtc, runtime = (getattr(cupy.cuda, name) for name in ("driver", "nvrtc", "runtime"))
HOLD = """extern "C" __global__ void __launch_bounds__(1) hold(unsigned long long cycles) {
  const long long begin = clock64();
  while ((unsigned long long)(clock64() - begin) < cycles) {}
}
"""
"""A kernel that only takes time."""
HELD = 30_000
"""Cycles, about as long as it takes to ask for a kernel and to record an event."""
WORKSPACE = 32 << 20
"""Bytes that cuBLAS works in: given once, because it must not allocate while a graph is recorded."""
EXACT = ("--fmad=false", "--std=c++17", "-default-device")
FAST = ("--fmad=true", "--use_fast_math", "--std=c++17", "-default-device")
_ON_DEVICE = (2, 13)  # DLPack's numbers of CUDA memory and CUDA managed memory
_NARROW = {f16: 2, bf16: 14}  # cudaDataType_t: CUDA_R_16F, CUDA_R_16BF
_FLOAT = 0  # CUDA_R_32F
_EPILOGUES = {"none": "BIAS", "relu": "RELU_BIAS", "gelu": "GELU_BIAS"}
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapability...
FAILURES = (runtime.CUDARuntimeError, driver.CUDADriverError, cublas.cuBLASError, cublaslt.cuBLASLtError)


def count() -> int:
    """How many devices there are.  Raises ``BackendError`` with CUDA's words where there is no driver."""
    try:
        return int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise BackendError(str(error)) from None


def options(arch: str, fast: bool) -> tuple[str, ...]:
    """What NVRTC is told.  ``--fmad=false``: a product and a sum are rounded where they stand."""
    return (*(FAST if fast else EXACT), f"--gpu-architecture={arch}")


def compiled(source: str, arch: str, fast: bool) -> bytes:
    """The machine code (a cubin) of a source, from the disk cache if it is there."""
    told = options(arch, fast)
    version = ".".join(map(str, nvrtc.getVersion()))
    key = "cuda-" + hashlib.sha256("\n".join([version, *told, source]).encode()).hexdigest()
    found = cache.read("kernels", key)
    if found is not None:
        return found
    program = nvrtc.createProgram(source, "program.cu", (), ())
    try:
        nvrtc.compileProgram(program, told)
        code = bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        raise BackendError(f"NVRTC did not compile a kernel: {error}\n{nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)
    cache.write("kernels", key, code, f"CUDA kernels for {arch}")
    return code


def _set(setter: Callable[..., None], of: int, attributes: Mapping[Any, np.generic]) -> None:
    """Attributes of one of cuBLASLt's objects."""
    for attribute, value in attributes.items():
        word = np.asarray(value)
        setter(of, int(attribute), word.ctypes.data, word.nbytes)


def _destroyed(work: int, layouts: Sequence[int]) -> None:
    cublaslt.matmul_desc_destroy(work)
    for layout in layouts:
        cublaslt.matrix_layout_destroy(layout)


class Graph:
    """A captured graph, ready to be launched."""

    def __init__(self, captured: int, stream: int) -> None:
        self._stream, self._destroy, self._graph = stream, runtime.graphExecDestroy, 0
        try:
            self._graph = runtime.graphInstantiate(captured)
        finally:
            runtime.graphDestroy(captured)
        runtime.graphUpload(self._graph, stream)

    def __call__(self) -> None:
        runtime.graphLaunch(self._graph, self._stream)

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._graph and not ending():
            self._destroy(self._graph)


class CupyDevice(Device):
    """The device of a number; one object for each."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"cuda:{number}" if number else "cuda"
        self._device = cupy.cuda.Device(number)
        with self._device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self._aside = cupy.cuda.Stream(non_blocking=True)
            self._copied = cupy.cuda.Event(disable_timing=True)
            major, minor = (runtime.deviceGetAttribute(a, number) for a in (_MAJOR, _MINOR))
        self.arch, self.tensor_cores = f"sm_{major}{minor}", major >= 8
        self._stream: int = self.stream.ptr
        self._lanes: list[Any] = [self.stream]
        self._modules: dict[tuple[str, bool], int] = {}
        self._handles: dict[tuple[bool, int], int] = {}
        self._workspaces: dict[int, Any] = {}
        self._algorithms: dict[object, Array | None] = {}
        self._held: list[tuple[Any, Sequence[Any]]] = []
        self._returned = False
        """Whether memory came back that other libraries may still use."""
        self._said = False
        try:
            cublas.get_property(0)
        except RuntimeError as error:  # nvmath's, of a library that cannot be loaded
            raise BackendError(f"cuBLAS cannot be used: {error}") from None

    # Memory

    def allocate(self, nbytes: int, zeroed: bool = True) -> Any:
        size = max(nbytes, 1)
        try:
            with self._device, self.stream:
                if self._returned:
                    self._returned = False
                    self.stream.wait_event(cupy.cuda.Stream.null.record())
                memory = cupy.cuda.alloc(size)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None
        if zeroed:
            self.clear(memory, 0, size)
        return memory

    def address(self, memory: Any) -> int:
        return int(memory.ptr)

    def write(self, memory: Any, offset: int, array: Array) -> None:
        if array.nbytes:
            self._here()
            runtime.memcpyAsync(
                memory.ptr + offset, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, self._stream
            )
            runtime.streamSynchronize(self._stream)

    def clear(self, memory: Any, offset: int, nbytes: int) -> None:
        self._here()
        runtime.memsetAsync(memory.ptr + offset, 0, nbytes, self._stream)

    def read(self, memory: Any, offset: int, out: Array) -> None:
        self._here()
        if out.nbytes:
            runtime.memcpyAsync(
                out.ctypes.data, memory.ptr + offset, out.nbytes, runtime.memcpyDeviceToHost, self._stream
            )
        runtime.streamSynchronize(self._stream)

    def copy(self, to: Any, to_offset: int, source: Any, offset: int, nbytes: int) -> None:
        if nbytes:
            self._here()
            runtime.memcpyAsync(
                to.ptr + to_offset, source.ptr + offset, nbytes, runtime.memcpyDeviceToDevice, self._stream
            )

    def pinned(self, nbytes: int) -> Array:
        with self._device:
            return np.frombuffer(cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), np.uint8, nbytes)

    def upload(self, memory: Any, offset: int, pinned: Array, aside: bool = False) -> None:
        self._here()
        stream = self._aside.ptr if aside else self._stream
        runtime.memcpyAsync(memory.ptr + offset, pinned.ctypes.data, pinned.nbytes, runtime.memcpyHostToDevice, stream)
        if aside:
            self._copied.record(self._aside)
            self.stream.wait_event(self._copied)

    def download(self, memory: Any, offset: int, pinned: Array) -> None:
        runtime.memcpyAsync(
            pinned.ctypes.data, memory.ptr + offset, pinned.nbytes, runtime.memcpyDeviceToHost, self._stream
        )

    def mark(self) -> Any:
        with self._device:
            event = cupy.cuda.Event(disable_timing=True)
            event.record(self.stream)
        return event

    def wait(self, mark: Any) -> None:
        mark.synchronize()

    def times(self, work: Sequence[Callable[[], None]]) -> list[float]:
        kernels = self.compile([HOLD], ["hold"], False)
        self._here()
        with self._device:
            events = [cupy.cuda.Event() for _ in range(len(work) + 1)]
        # The device is kept busy until all work is asked for: what lies between two events is then nothing but work.
        self.launch(kernels["hold"], Launch(1, (1, 1)), [HELD * len(work)])()
        events[0].record(self.stream)
        for piece, event in zip(work, events[1:], strict=True):
            piece()
            event.record(self.stream)
        events[-1].synchronize()
        return [cupy.cuda.get_elapsed_time(a, b) / 1e3 for a, b in pairwise(events)]

    def used(self) -> Mapping[str, int]:
        with self._device:
            pool = cupy.get_default_memory_pool()
            free, total = runtime.memGetInfo()
            return {"used": pool.used_bytes(), "reserved": pool.total_bytes(), "free": int(free), "total": int(total)}

    def begin(self) -> None:
        self._here()

    def _here(self) -> None:
        runtime.setDevice(self.number)

    # Kernels

    def compile(self, sources: Sequence[str], names: Sequence[str], fast: bool) -> Mapping[str, Any]:
        missing = [s for s in dict.fromkeys(sources) if (s, fast) not in self._modules]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
                waiting = [pool.submit(compiled, source, self.arch, fast) for source in missing]
                codes = [w.result() for w in waiting]
        else:
            codes = [compiled(s, self.arch, fast) for s in missing]
        self._here()
        for source, code in zip(missing, codes, strict=True):
            self._modules[source, fast] = driver.moduleLoadData(code)
        found: dict[str, Any] = {}
        for source in sources:
            module = self._modules[source, fast]
            found.update({n: driver.moduleGetFunction(module, n) for n in names if f" {n}(" in source})
        return found

    def _lane(self, lane: int) -> Any:
        while len(self._lanes) <= lane:
            with self._device:
                self._lanes.append(cupy.cuda.Stream(non_blocking=True))
        return self._lanes[lane]

    def edge(self, lane: int, to: int) -> tuple[Callable[[], None], Callable[[], None]]:
        with self._device:
            event = cupy.cuda.Event(disable_timing=True)
        return partial(event.record, self._lane(lane)), partial(self._lane(to).wait_event, event)

    def launch(self, kernel: Any, launch: Launch, arguments: Sequence[int], lane: int = 0) -> Callable[[], None]:
        words = (ctypes.c_uint64 * len(arguments))(*arguments)
        places = (ctypes.c_void_p * len(arguments))(*[ctypes.addressof(words) + 8 * n for n in range(len(arguments))])
        (x, y), stream, blocks, given = launch.threads, self._lane(lane).ptr, launch.blocks, ctypes.addressof(places)

        def start(held: Any = (words, places)) -> None:
            driver.launchKernel(kernel, blocks, 1, 1, x, y, 1, 0, stream, given, 0)

        return start

    # Products

    def _workspace(self, lane: int) -> int:
        if lane not in self._workspaces:
            self._workspaces[lane] = self.allocate(WORKSPACE)
        return self.address(self._workspaces[lane])

    @cached_property
    def _factors(self) -> dict[DType, Array]:
        """One and zero, where cuBLAS reads them."""
        return {d: np.array([1, 0], d.numpy) for d in DTYPES.values() if d.floating}

    def _cublas(self, fast: bool, lane: int) -> int:
        """The handle of a lane; all are set alike, so that every lane's products have the same bits."""
        if (fast, lane) not in self._handles:
            self._here()
            handle = cublas.create()
            cublas.set_stream(handle, self._lane(lane).ptr)
            cublas.set_workspace(handle, self._workspace(lane), WORKSPACE)
            # In exact numerics float16 and bfloat16 are rounded once: parts of a sum are added up in float32 too.
            exact = int(cublas.Math.DEFAULT_MATH) | int(cublas.Math.DISALLOW_REDUCED_PRECISION_REDUCTION)
            cublas.set_math_mode(handle, int(cublas.Math.TF32_TENSOR_OP_MATH) if fast else exact)
            self._handles[fast, lane] = handle
        return self._handles[fast, lane]

    def product(
        self, dtype: DType, a: int, b: int, out: int, sizes: Sizes, fast: bool, lane: int = 0
    ) -> Callable[[], None]:
        # cuBLAS has columns where we have rows: it computes the transpose, b' a'.
        batches, m, k, n, ta, tb = sizes
        narrow = _NARROW.get(dtype)
        handle, factors = self._cublas(fast, lane), self._factors[f32 if narrow is not None else dtype]
        one, zero = factors.ctypes.data, factors.ctypes.data + factors.itemsize
        ops = (
            int(cublas.Operation.T if tb else cublas.Operation.N),
            int(cublas.Operation.T if ta else cublas.Operation.N),
        )
        ldb, lda = (k if tb else n), (m if ta else k)
        if narrow is not None:  # added up in float32, and rounded once
            compute, algo = int(cublas.ComputeType.COMPUTE_32F), -1
            return lambda: cublas.gemm_strided_batched_ex(
                handle, *ops, n, m, k, one, b, narrow, ldb, k * n, a, narrow, lda, m * k, zero, out, narrow, n, m * n, batches,
                compute, algo,
            )  # fmt: skip
        if batches == 1:
            gemm = cublas.sgemm if dtype is f32 else cublas.dgemm
            return lambda: gemm(handle, *ops, n, m, k, one, b, ldb, a, lda, zero, out, n)
        batched = cublas.sgemm_strided_batched if dtype is f32 else cublas.dgemm_strided_batched
        return lambda: batched(
            handle, *ops, n, m, k, one, b, ldb, k * n, a, lda, m * k, zero, out, n, m * n, batches
        )  # fmt: skip

    @cached_property
    def _cublaslt(self) -> int:
        self._here()
        return int(cublaslt.create())

    def has_layer(self, dtype: DType, sizes: Sizes, activation: str) -> bool:
        return self._algorithm(dtype, sizes, activation) is not None

    def _layer(self, dtype: DType, sizes: Sizes, bias: int, activation: str) -> tuple[int, list[int]]:
        """What describes a layer to cuBLASLt, and its three matrices."""
        # As in product: columns for rows, so the bias is along the rows of b' a'.
        _, m, k, n, ta, tb = sizes
        narrow = _NARROW.get(dtype)
        kind, compute = (_FLOAT, "COMPUTE_32F_FAST_TF32") if narrow is None else (narrow, "COMPUTE_32F")
        work = cublaslt.matmul_desc_create(int(cublas.ComputeType[compute]), _FLOAT)
        _set(cublaslt.matmul_desc_set_attribute, work, {
            cublaslt.MatmulDescAttribute.TRANSA: np.int32(cublas.Operation.T if tb else cublas.Operation.N),
            cublaslt.MatmulDescAttribute.TRANSB: np.int32(cublas.Operation.T if ta else cublas.Operation.N),
            cublaslt.MatmulDescAttribute.EPILOGUE: np.uint32(cublaslt.Epilogue[_EPILOGUES[activation]]),
            cublaslt.MatmulDescAttribute.BIAS_POINTER: np.int64(bias),
        })  # fmt: skip
        return work, [
            cublaslt.matrix_layout_create(kind, rows, columns, rows)
            for rows, columns in ((k, n) if tb else (n, k), (m, k) if ta else (k, m), (n, m))
        ]

    def _algorithm(self, dtype: DType, sizes: Sizes, activation: str) -> Array | None:
        """cuBLASLt's first choice for matrices at multiples of ``ALIGNMENT``, which it takes for granted; None where it has none."""
        form = dtype, sizes, activation
        if form not in self._algorithms:
            work, (first, second, result) = self._layer(dtype, sizes, self._workspace(0), activation)
            preference = cublaslt.matmul_preference_create()
            room = {cublaslt.MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES: np.uint64(WORKSPACE)}
            _set(cublaslt.matmul_preference_set_attribute, preference, room)
            found, count = np.zeros(1, np.dtype(cublaslt.matmul_heuristic_result_dtype)), np.zeros(1, np.int32)
            with suppress(cublaslt.cuBLASLtError):
                cublaslt.matmul_algo_get_heuristic(
                    self._cublaslt, work, first, second, result, result, preference, 1, found.ctypes.data, count.ctypes.data
                )  # fmt: skip
            cublaslt.matmul_preference_destroy(preference)
            _destroyed(work, (first, second, result))
            self._algorithms[form] = found["algo"].copy() if count[0] else None
        return self._algorithms[form]

    def layer(
        self, dtype: DType, a: int, b: int, out: int, sizes: Sizes, bias: int, activation: str, lane: int = 0
    ) -> Callable[[], None]:
        algorithm, factors = self._algorithm(dtype, sizes, activation), self._factors[f32]
        assert algorithm is not None
        work, (first, second, result) = self._layer(dtype, sizes, bias, activation)
        handle, workspace, stream = self._cublaslt, self._workspace(lane), self._lane(lane).ptr
        one, zero = factors.ctypes.data, factors.ctypes.data + factors.itemsize

        def start(held: Any = (algorithm, factors)) -> None:
            cublaslt.matmul(
                handle, work, one, b, first, a, second, zero, out, result, out, result,
                held[0].ctypes.data, workspace, WORKSPACE, stream,
            )  # fmt: skip

        weakref.finalize(start, _destroyed, work, (first, second, result)).atexit = False
        return start

    # Graphs

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        self._here()
        stream = self._stream
        try:
            runtime.streamBeginCapture(stream, runtime.streamCaptureModeRelaxed)
            captured: int | None = None
            try:
                work()
                captured = runtime.streamEndCapture(stream)
            finally:
                if captured is None:
                    with suppress(*FAILURES):
                        runtime.streamEndCapture(stream)
            assert captured is not None
            graph = Graph(captured, stream)
        except FAILURES as error:
            if not self._said:
                self._said = True
                print(f"{self.name}: kernels are launched one by one, not as one CUDA graph: {error}", file=sys.stderr)
            return work
        return graph

    # Other libraries' arrays

    def take(self, array: Any, floating: DType | None = None) -> DeviceArray | None:
        found = super().take(array, floating)
        if found is not None:
            return found
        dlpack = getattr(array, "__dlpack_device__", None)
        if not hasattr(array, "__cuda_array_interface__") and (dlpack is None or dlpack()[0] not in _ON_DEVICE):
            return None
        made = cupy.cuda.get_current_stream().record()
        with self._device, self.stream:
            self.stream.wait_event(made)
            given = x = cupy.from_dlpack(array) if dlpack is not None else cupy.asarray(array)
            wanted = floating.numpy if floating is not None and x.dtype.kind == "f" else x.dtype
            x = cupy.ascontiguousarray(x, wanted).reshape(x.shape)
            x = x if x.data.ptr % ALIGNMENT == 0 else x.copy()
        return DeviceArray(self, type_of(x), x.data, owner=given)

    def hold(self, arrays: Sequence[DeviceArray]) -> None:
        self._held = [(mark, held) for mark, held in self._held if not mark.done]
        if owners := [a.owner for a in arrays if a.owner is not None]:
            mark = self.mark()
            self._held.append((mark, owners))
            with self._device:
                cupy.cuda.Stream.null.wait_event(mark)

    def lend(self, thing: Any) -> None:
        def returned() -> None:
            self._returned = True

        weakref.finalize(thing, returned).atexit = False

    def exported(self, array: DeviceArray) -> Any:
        self.wait(self.mark())
        with self._device:
            found = cupy.ndarray(array.shape, array.dtype, array.memory + array.offset)
        self.lend(found)
        return found
