"""``contract`` in native code: the products of ``products.py`` with NumPy's own BLAS, which is set to one thread."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...ir.types import Array, DType
from .. import kernels
from . import engine, products, threads


@dataclass(frozen=True)
class _Library:
    """What NumPy's own BLAS library offers: addresses by the names the native code gives them, and what it says of itself."""

    symbols: dict[str, int]
    wide: bool
    description: str
    unavailable: str | None = None


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _said(library: ctypes.CDLL, name: str) -> str:
    function = getattr(library, name, None)
    if function is None:
        return "unknown"
    function.argtypes, function.restype = [], ctypes.c_char_p
    return " ".join((function() or b"").decode("ascii", "replace").split())


@lru_cache(maxsize=1)
def _library() -> _Library:
    core: Any = getattr(np, "_core", None)
    try:
        library = ctypes.CDLL(core._multiarray_umath.__file__)
    except (AttributeError, OSError) as error:
        return _Library({}, True, "none", f"NumPy's extension module cannot be opened: {error}")
    for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("", "")):
        names = {
            f"tapeir_{r}_{t}": f"{prefix}cblas_{t_}{r}{suffix}"
            for r in ("gemm", "gemv")
            for t, t_ in (("f32", "s"), ("f64", "d"))
        }
        if not all(hasattr(library, name) for name in names.values()):
            continue
        said = f"{prefix}openblas_"
        if not hasattr(library, f"{said}set_num_threads{suffix}"):
            return _Library({}, True, "none", "the threads of NumPy's BLAS cannot be fixed: it is not OpenBLAS")
        kernels.blas()
        config, name = _said(library, f"{said}get_config{suffix}"), _said(library, f"{said}get_corename{suffix}")
        text = f"{config} core {name}, {names['tapeir_gemm_f32']}, 1 thread a block"
        return _Library({n: _address(library, found) for n, found in names.items()}, suffix == "64_", text)
    return _Library({}, True, "none", f"NumPy {np.__version__}'s BLAS exports no cblas_sgemm under a known name")


def unavailable() -> str | None:
    """Why products of floats cannot be native here; ``None`` if they can.  Those of integers always can."""
    return _library().unavailable


def description() -> str:
    """What the bits of a product depend on besides its shape: for cache keys and for reports."""
    return f"{_library().description}; {products.RULES}"


def _abi_known() -> bool:
    """Whether an array's data, rank and shape are where this module's code looks for them."""
    probe = np.zeros((3, 5, 7), np.float32)
    at = id(probe)
    if ctypes.sizeof(ctypes.c_void_p) != 8 or np.ndarray.__basicsize__ < products.SHAPE + 8:
        return False
    if ctypes.c_void_p.from_address(at + products.DATA).value != probe.ctypes.data:
        return False
    if ctypes.c_int.from_address(at + products.RANK).value != 3:
        return False
    shape = ctypes.c_void_p.from_address(at + products.SHAPE).value
    return shape is not None and [*(ctypes.c_int64 * 3).from_address(shape)] == [3, 5, 7]


@lru_cache
def _module(dtype: str) -> engine.Library:
    """The loaded products of a dtype; raises ``KeyError`` for one that has none."""
    if dtype not in (products.INTEGERS if unavailable() else (*products.INTEGERS, *products.FLOATS)):
        raise KeyError(dtype)
    bound = {"tapeir_parallel": threads.address(), **_library().symbols}
    return engine.load(products.source(dtype, _library().wide), bound, about=f"matrix products of {dtype}")


def address(dtype: DType) -> int:
    """Where ``tapeir_contract_T`` of a dtype begins, for binding into programs; raises ``KeyError`` where there is none."""
    name = dtype.name.replace("u", "i")
    return _module(name).address(f"tapeir_contract_{name}")


class _Calls(dict[Any, Any]):
    """The products as Python calls them, by NumPy dtype, each loaded when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.by_arrays = _abi_known()

    def __missing__(self, dtype: Any) -> Any:
        name = f"{dtype.kind}{dtype.itemsize * 8}".replace("u", "i")
        start = "arrays_" if self.by_arrays else "tapeir_contract_"
        pointers, numbers = [ctypes.c_void_p] * 3, [ctypes.c_int64] * (2 if self.by_arrays else 6)
        call = ctypes.CFUNCTYPE(None, *pointers, *numbers)(_module(name).address(start + name))
        self[dtype] = call
        return call


@lru_cache(maxsize=1)
def _calls() -> _Calls:
    return _Calls()


def contract(a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """``out = a @ b`` over the last two axes, each operand's swapped where its flag says so.

    All three have one dtype and the same leading axes and are row-major contiguous; that is not checked.  Raises ``KeyError`` for
    a dtype without a product.
    """
    calls = _calls()
    call = calls[out.dtype]
    if calls.by_arrays:
        call(id(a), id(b), id(out), transpose_a, transpose_b)
        return
    *batch, m, n = out.shape
    k = a.shape[-2 if transpose_a else -1]
    batches = int(np.prod(batch, dtype=np.int64))
    call(a.ctypes.data, b.ctypes.data, out.ctypes.data, batches, m, k, n, transpose_a, transpose_b)
