"""Edits of IR text, most of which make it wrong: pieces, lines and tokens go, come twice, or become others."""

from __future__ import annotations

from random import Random

from module_strategies import TOKEN

from tapeir.ir import DTYPES, OPS

WORDS = (
    "%x", "%0", "%h", '%"3"', '%""', "@k0", "@f", "@m", '@"a b"', "module", "func", "return", "with", "at", "loc", "in", "bytes", "arena",
    "alias", "state", "grad", "update", "input", "param", "buffer", "optimizer", "{", "}", "(", ")", "[", "]", ",", ":", "=", "->", "+8",
    "//", '"', '"a"', "\\", "0", "-1", "4.5", "1e999", "nan", "-inf", "inf", "true", "false", "\n", " ", "\t", "\r", "é", "\0", "٣", "%",
    "@", "-", "+", "data", "value", "axis", "axes", "shape", "dtype", "kernel", "keepdims", "site", "f32[4]", "key[]", "i64[0]", "[4]",
    "shape = [4]", "axes = [0]", "value = 1.0", "value = [1, 2]", 'bytes "AAAA"', "axis = -1", "site = @f", "data = @sha256_0",
    'dtype = "f32"', 'loc("a":1)', "at arena+0", "at alias(%x)", "at state(%0)", *OPS, *DTYPES,
)  # fmt: skip
EXTREMES = (
    "9" * 20, "9" * 401,
    "9" * 5000, "-" + "9" * 400, "1e99999", "1e-99999", "0" * 400, "-0", "-0.0", "18446744073709551616", "1" + "0" * 12,
    '"' + "a" * 5000 + '"', '"\\ud800"', '"\\udcff\\ud83d"', '"\\u0000"', '"\\u001b[31m"', '"\\q"', "%" + "a" * 5000, "%" + "9" * 4096,
    "@" + "a/" * 70 + "a", "f32[" + "1, " * 40 + "1]", "f32[0, 99999999999999]", "[" + "1, " * 400 + "1]", "{" * 50, "(" * 50, "[" * 50,
    '%"' + "b" * 3000 + '"', "a" * 300,
)  # fmt: skip
CHARACTERS = '%@"\\{}()[],:=-+./0123456789aefinlt_ \n\t\r\0\x1b\x85\u2028é日\ud800\U0001f600'


def _piece(text: str, random: Random) -> str:
    start = random.randrange(len(text) + 1)
    return text[start : start + random.choice((1, 3, 10, 40, 200, 1000))]


def _edited(text: str, other: str, random: Random) -> str:
    """A text after one edit; ``other`` is where pieces come from."""
    at = random.randrange(len(text) + 1)
    end = min(len(text), at + random.choice((0, 1, 1, 2, 5, 20)))
    match random.randrange(8):
        case 0:
            return text[:at] + text[end:]
        case 1:
            return text[:at] + random.choice(CHARACTERS) + text[end:]
        case 2:
            return text[:at] + _piece(random.choice((text, other)), random) + text[at:]
        case 3:
            return text[:at] + other[random.randrange(len(other) + 1) :]
        case 4:
            return _line_edit(text, random)
        case _:
            return _token_edit(text, random)


def _line_edit(text: str, random: Random) -> str:
    lines = text.split("\n")
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(3):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            lines.insert(a, lines[b])
        case _:
            del lines[a]
    return "\n".join(lines)


def _token_edit(text: str, random: Random) -> str:
    """One token goes, appears twice, or becomes another."""
    found = list(TOKEN.finditer(text))
    if not found:
        return text
    chosen = random.choice(found)
    token = chosen.group()
    others = ("", f"{token} {token}", random.choice(WORDS), random.choice(EXTREMES), f"{random.choice(WORDS)} {token}")
    return text[: chosen.start()] + random.choice(others) + text[chosen.end() :]


def _kind(token: str) -> str:
    return next((name for name, first in KINDS.items() if token[0] in first), "word")


KINDS = {"value": "%", "symbol": "@", "number": "-0123456789", "string": '"', "offset": "+", "punctuation": "{}()[],:="}


def _like_edit(text: str, random: Random) -> str:
    """One token that is no punctuation becomes another one of its kind: such text parses more often, and is wrong."""
    found = [t for t in TOKEN.finditer(text) if _kind(t.group()) != "punctuation"]
    if not found:
        return text
    chosen = random.choice(found)
    likes = [t.group() for t in found if _kind(t.group()) == _kind(chosen.group()) and t.group() != chosen.group()]
    if _kind(chosen.group()) == "word":
        likes += [*OPS, *DTYPES, "true", "false", "param", "buffer", "grad", "update", "state", "alias"]
    return text[: chosen.start()] + random.choice(likes or ["0"]) + text[chosen.end() :]


def mutated(text: str, other: str, random: Random) -> str:
    """A text after one to four edits, or after one or two that change a token to one of its kind."""
    edits = random.choice((1, 1, 1, 2, 3, 4))
    if random.random() < 0.5:
        for _ in range(min(edits, 2)):
            text = _like_edit(text, random)
        return text
    for _ in range(edits):
        text = _edited(text, other, random)
    return text
