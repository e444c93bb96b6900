"""The floating-point mode in native code: IEEE 754's default, in which denormal numbers are kept and results rounded to the nearest."""

from __future__ import annotations

import platform
from typing import NamedTuple


class _Mode(NamedTuple):
    """Lines for one processor: declarations, setting the mode, looking at the caller's, and setting that again."""

    declarations: str
    set: str
    look: str
    restore: str


_X86 = _Mode(
    "@mode = private constant i32 8064\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)\ndeclare void @llvm.x86.sse.stmxcsr(ptr)",
    "call void @llvm.x86.sse.ldmxcsr(ptr @mode)",
    """%kept = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %kept)
  %word = load i32, ptr %kept
  %bits = and i32 %word, -64
  %standard = icmp eq i32 %bits, 8064""",
    "call void @llvm.x86.sse.ldmxcsr(ptr %kept)",
)
_ARM = _Mode(
    "declare void @llvm.aarch64.set.fpcr(i64)\ndeclare i64 @llvm.aarch64.get.fpcr()",
    "call void @llvm.aarch64.set.fpcr(i64 0)",
    "%kept = call i64 @llvm.aarch64.get.fpcr()\n  %standard = icmp eq i64 %kept, 0",
    "call void @llvm.aarch64.set.fpcr(i64 %kept)",
)
_PLAIN = _Mode("", "", "%standard = icmp eq i1 0, 0", "")
_MODES = {"x86_64": _X86, "AMD64": _X86, "aarch64": _ARM, "arm64": _ARM}


def setting() -> tuple[str, str]:
    """Declarations, and the line that sets the mode; empty where a processor has one mode."""
    mode = _MODES.get(platform.machine(), _PLAIN)
    return mode.declarations, mode.set


def guarded(name: str, inner: str) -> str:
    """The function ``i64 @name(ptr)``, which calls ``inner`` in the mode and restores the caller's, where that is another."""
    mode = _MODES.get(platform.machine(), _PLAIN)
    return f"""{mode.declarations}

define i64 @{name}(ptr %bases) {{
  {mode.look}
  br i1 %standard, label %plain, label %other
plain:
  %code = call i64 @{inner}(ptr %bases)
  ret i64 %code
other:
  {mode.set}
  %found = call i64 @{inner}(ptr %bases)
  {mode.restore}
  ret i64 %found
}}""".lstrip()
