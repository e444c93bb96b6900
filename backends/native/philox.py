"""Philox4x32-10 as LLVM functions: the words of a draw by their positions (see ``ir/philox.py``)."""

from __future__ import annotations

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = (1 << 32) - 1
ROUNDS = 10


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _rounds(width: int, counter: tuple[str, str, str, str], lines: list[str]) -> list[str]:
    """Ten rounds over a counter of four i32 (or vectors of them); returns the four words.  ``%k0`` and ``%k1`` are the key."""
    kind, wide = ("i32", "i64") if width == 1 else (f"<{width} x i32>", f"<{width} x i64>")

    def splat(value: int, bits: int) -> str:
        return str(value) if width == 1 else f"splat (i{bits} {value})"

    c = list(counter)
    for n in range(ROUNDS):
        keys: list[str] = []
        for k in (0, 1):
            name = f"%key{k}.{n}"
            lines.append(f"  {name} = add i32 %k{k}, {_signed(n * _WEYL[k] & _WORD)}")
            if width > 1:
                lines += [
                    f"  {name}.a = insertelement {kind} poison, i32 {name}, i64 0",
                    f"  {name}.b = shufflevector {kind} {name}.a, {kind} poison, <{width} x i32> zeroinitializer",
                ]
                name += ".b"
            keys.append(name)
        parts: list[tuple[str, str]] = []
        for k, word in ((0, c[0]), (1, c[2])):
            p = f"%p{k}.{n}"
            lines += [
                f"  {p}.w = zext {kind} {word} to {wide}",
                f"  {p} = mul {wide} {p}.w, {splat(_MULTIPLIERS[k], 64)}",
                f"  {p}.s = lshr {wide} {p}, {splat(32, 64)}",
                f"  {p}.h = trunc {wide} {p}.s to {kind}",
                f"  {p}.l = trunc {wide} {p} to {kind}",
            ]
            parts.append((f"{p}.h", f"{p}.l"))
        lines += [
            f"  %x0.{n} = xor {kind} {parts[1][0]}, {c[1]}",
            f"  %y0.{n} = xor {kind} %x0.{n}, {keys[0]}",
            f"  %x2.{n} = xor {kind} {parts[0][0]}, {c[3]}",
            f"  %y2.{n} = xor {kind} %x2.{n}, {keys[1]}",
        ]
        c = [f"%y0.{n}", parts[1][1], f"%y2.{n}", parts[0][1]]
    return c


def _run() -> str:
    lines = [
        "  %block = lshr i64 %position, 2",
        "  %first = insertelement <4 x i64> poison, i64 %block, i64 0",
        "  %all = shufflevector <4 x i64> %first, <4 x i64> poison, <4 x i32> zeroinitializer",
        "  %counters = add <4 x i64> %all, <i64 0, i64 1, i64 2, i64 3>",
        "  %low = trunc <4 x i64> %counters to <4 x i32>",
        "  %shifted = lshr <4 x i64> %counters, splat (i64 32)",
        "  %high = trunc <4 x i64> %shifted to <4 x i32>",
    ]
    a, b, c, d = _rounds(4, ("%low", "%high", "zeroinitializer", "zeroinitializer"), lines)
    pairs = ", ".join(f"i32 {n // 2 + 4 * (n % 2)}" for n in range(8))
    quads = ", ".join(f"i32 {2 * (n // 4) + n % 2 + 8 * (n % 4 // 2)}" for n in range(16))
    lines += [
        f"  %ab = shufflevector <4 x i32> {a}, <4 x i32> {b}, <8 x i32> <{pairs}>",
        f"  %cd = shufflevector <4 x i32> {c}, <4 x i32> {d}, <8 x i32> <{pairs}>",
        f"  %words = shufflevector <8 x i32> %ab, <8 x i32> %cd, <16 x i32> <{quads}>",
        "  ret <16 x i32> %words",
    ]
    body = "\n".join(lines)
    return f"define internal <16 x i32> @philox_run(i64 %position, i32 %k0, i32 %k1) {{\n{body}\n}}"


RUN = _run()
"""``@philox_run(position, key)``: 16 words from a position that is a multiple of 4."""


def each(width: int) -> str:
    """``@philox_each_<width>(positions, key)``: the word at each of ``width`` positions."""
    kind, wide, flags = (
        ("i32", "i64", "i1") if width == 1 else (f"<{width} x i32>", f"<{width} x i64>", f"<{width} x i1>")
    )

    def splat(value: int, bits: int) -> str:
        return str(value) if width == 1 else f"splat (i{bits} {value})"

    zero = "0" if width == 1 else "zeroinitializer"
    lines = [
        f"  %block = lshr {wide} %positions, {splat(2, 64)}",
        f"  %low = trunc {wide} %block to {kind}",
        f"  %shifted = lshr {wide} %block, {splat(32, 64)}",
        f"  %high = trunc {wide} %shifted to {kind}",
        f"  %which.w = trunc {wide} %positions to {kind}",
        f"  %which = and {kind} %which.w, {splat(3, 32)}",
    ]
    words = _rounds(width, ("%low", "%high", zero, zero), lines)
    chosen = words[3]
    for n in (2, 1, 0):
        lines += [
            f"  %is{n} = icmp eq {kind} %which, {splat(n, 32)}",
            f"  %word{n} = select {flags} %is{n}, {kind} {words[n]}, {kind} {chosen}",
        ]
        chosen = f"%word{n}"
    body = "\n".join([*lines, f"  ret {kind} {chosen}"])
    return f"define internal {kind} @philox_each_{width}({wide} %positions, i32 %k0, i32 %k1) {{\n{body}\n}}"


FOLD_IN = """define internal void @fold_in(ptr %out, ptr %key, i64 %data) {
  %at0 = getelementptr i32, ptr %key, i64 1
  %k0 = load i32, ptr %key, align 4
  %k1 = load i32, ptr %at0, align 4
  %low = trunc i64 %data to i32
  %shifted = lshr i64 %data, 32
  %high = trunc i64 %shifted to i32
BODY
}"""


def fold_in() -> str:
    """``@fold_in(out, key, data)``: a new key from a key and 64 bits."""
    lines: list[str] = []
    a, b, _, _ = _rounds(1, ("%low", "%high", "0", "1"), lines)
    lines += [
        "  %at1 = getelementptr i32, ptr %out, i64 1",
        f"  store i32 {a}, ptr %out, align 4",
        f"  store i32 {b}, ptr %at1, align 4",
        "  ret void",
    ]
    return FOLD_IN.replace("BODY", "\n".join(lines))
