"""The floating-point mode in native code: IEEE 754's default, in which denormal numbers are kept and results rounded to the nearest."""

from __future__ import annotations

import platform

_SET = {
    "x86_64": (
        "@mode = private constant i32 8064\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)\ndeclare void @llvm.x86.sse.stmxcsr(ptr)",
        "call void @llvm.x86.sse.ldmxcsr(ptr @mode)",
        "%kept = alloca i32\n  call void @llvm.x86.sse.stmxcsr(ptr %kept)",
        "call void @llvm.x86.sse.ldmxcsr(ptr %kept)",
    ),
    "aarch64": (
        "declare void @llvm.aarch64.set.fpcr(i64)\ndeclare i64 @llvm.aarch64.get.fpcr()",
        "call void @llvm.aarch64.set.fpcr(i64 0)",
        "%kept = call i64 @llvm.aarch64.get.fpcr()",
        "call void @llvm.aarch64.set.fpcr(i64 %kept)",
    ),
}
_SET["AMD64"], _SET["arm64"] = _SET["x86_64"], _SET["aarch64"]


def setting() -> tuple[str, str]:
    """Declarations, and the line that sets the mode; empty where a processor has one mode."""
    return _SET.get(platform.machine(), ("", "", "", ""))[:2]


def guarded(name: str, inner: str) -> str:
    """The function ``i64 @name(ptr)``, which calls ``inner`` in the mode and restores the caller's."""
    declarations, change, keep, restore = _SET.get(platform.machine(), ("", "", "", ""))
    lines = [keep, change, f"%code = call i64 @{inner}(ptr %bases)", restore, "ret i64 %code"]
    body = "\n".join(f"  {line}" for line in lines if line)
    return f"{declarations}\n\ndefine i64 @{name}(ptr %bases) {{\n{body}\n}}".lstrip()
