"""NVRTC from its wheel: CUDA C to a cubin, without a device."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EXACT = ("--fmad=false", "--std=c++17", "-default-device")
FAST = ("--fmad=true", "--use_fast_math", "--std=c++17", "-default-device")


@cache
def library() -> Any:
    """The loaded library, or None where the wheel is missing."""
    spec = find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or ())] if spec is not None else []
    for path in sorted(p for folder in folders for p in folder.glob("*/lib/libnvrtc.so.*")):
        if "builtins" not in path.name and ".alt" not in path.name:
            return ctypes.CDLL(str(path))
    return None


def compile_for(source: str, arch: str, told: tuple[str, ...] = EXACT) -> int:
    """The size of the cubin of a source for an architecture such as ``sm_90``; raises ``AssertionError`` with NVRTC's log."""
    nvrtc, program = library(), ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"program.cu", 0, None, None) == 0
    try:
        options = [o.encode() for o in (*told, f"--gpu-architecture={arch}")]
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        assert not failed, f"{log.value.decode()}\n{source}"
        assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
        return size.value
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
