"""``irc cache``: what the disk cache holds, whether a model's program is there and what its key is made of, and clearing it."""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...backends import base, cache, kernels
from ...backends.compiled import CompiledBackend
from ...ir import Function, Module
from ...ir.escape import shortened
from ...ir.print import quote
from ...passes import VERSION
from ..ir_file import EntryError, entry_of
from ..runtime import NUMERICS
from .listings import aligned
from .modules import Given, backend_for, is_ir, read_ir
from .profile import measured_backend, model_entry
from .settings import UsageError, choice, entry, show

SHOWN = 12
"""Characters of a key that are shown."""
WIDTH = 100
_LONG = 48  # characters of a word that is shown whole
_PART = re.compile(r"\b(text|compiler|settings) ([0-9a-f]{8})\b")


def amount(count: int) -> str:
    """Bytes as a person reads them."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.{0 if size >= 100 else 1}f} {unit}"


def age(seconds: float) -> str:
    """How long ago, in the largest unit of which there are two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _off() -> str | None:
    """None, or the line that says why there is no cache."""
    if cache.folder() is not None:
        return cache.refusal()
    if os.environ.get("TAPEIR_CACHE") == "off":
        return "the cache is off (TAPEIR_CACHE=off): nothing is read from it or written to it"
    return "there is no cache: this user has no home folder\n  remedy: TAPEIR_CACHE=FOLDER"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun.replace('entry', 'entrie')}s"


@entry
def cache_ls() -> None:
    """Print a line an entry, the latest used first, and a total."""
    off = _off()
    if off is not None:
        show(off)
        return
    entries = cache.entries()
    rows = [("kind", "key", "size", "used", "what")]
    rows += [(e.kind, e.key[:SHOWN], amount(e.size), f"{age(e.age)} ago", shortened(e.about, 40)) for e in entries]
    if entries:
        show("\n".join(aligned(rows)))
    total = amount(sum(e.size for e in entries))
    show(f"{_count(len(entries), 'entry')}, {total} of at most {amount(cache.LIMIT)}, in {cache.folder()}")


@entry
def cache_clear() -> None:
    """Delete every entry, and print how many there were."""
    off = _off()
    show(off if off is not None else f"deleted {_count(cache.clear(), 'entry')} from {cache.folder()}")


# why


@entry
def cache_why(path: Path | None, name: str | None, mode: str | None, given: Given) -> None:
    """Print whether the program of an entry is in the cache, and what its key is made of; without a file, what all keys share."""
    off = _off()
    if off is not None:
        show(off)
        return
    if path is None:
        if name is not None or mode is not None or given.flags or given.arguments:
            raise UsageError("flags of a model go with a file")
        show(f"in every key of a program, besides its text; the cache is in {cache.folder()}")
        show("\n".join(_lines(_shared(), {})))
        return
    module, function, backend, numerics = _program(path, name, mode, given)
    kept = _keeps_nothing(backend)
    if kept is not None:
        show(f"{path.stem}: @{quote(function.name)}: {kept}")
        return
    from ...backends.compiled.llvm_program import program_key  # it needs llvmlite

    parts = program_key(module, function, base.get(backend).cache_key(), numerics == "fast")
    if parts is None:
        show(f"{path.stem}: @{quote(function.name)}: an op, a rewrite or a pass is not TapeIR's own: nothing is cached")
        return
    key = parts.name
    programs = [e for e in cache.entries() if e.kind == "programs"]
    found = next((e for e in programs if e.key == key), None)
    others = [e for e in programs if e.key != key and e.about.startswith(f"@{function.name} of {module.name},")]
    show(f"{path.stem}: @{quote(function.name)}, backend {backend}, key {key[:SHOWN]}")
    if found is not None:
        show(f"in the cache: {found.about}, {amount(found.size)}, used {age(found.age)} ago")
    else:
        show("not in the cache: it is compiled when it is first run")
    before = dict(_PART.findall(others[0].about)) if others and found is None else {}
    show("the key is made of")
    text = Part("text", parts.text[:8], "ops, types, names and source lines: irc dump --locations prints it")
    compiler = Part("compiler", parts.compiler[:8], _COMPILER)
    settings = Part("settings", parts.settings[:8], _settings(numerics))
    show("\n".join(f"  {line}" for line in _lines([text, compiler, settings], before)))
    if others:
        latest = f"the latest {others[0].key[:SHOWN]}, used {age(others[0].age)} ago"
        show(f"under other keys: {_count(len(others), 'program')} of @{quote(function.name)}, {latest}")


class Part(NamedTuple):
    """A part of a program's key: its name, a fingerprint, and what it is."""

    name: str
    fingerprint: str
    what: str


_COMPILER = "sizes and times of TapeIR's own files"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _shared() -> list[Part]:
    """What is in the key of every program."""
    settings = Part("settings", _short(base.get("compiled").cache_key()), _settings(None))
    if kernels.table().name != "native":
        return [Part("compiler", "-", _why_numpy()), settings]
    from ...backends.compiled.llvm_program import sources

    return [Part("compiler", sources()[:8], _COMPILER), settings]


def _settings(numerics: str | None) -> str:
    words = [
        w if len(w) <= _LONG else f"{w[: _LONG // 2]}...({_short(w)})" for w in kernels.table().description.split()
    ]
    head = f"numerics {numerics}, " if numerics is not None else ""
    return f"{head}pipeline {VERSION}, kernel table {' '.join(words)}"


def _lines(parts: Sequence[Part], before: Mapping[str, str]) -> Iterator[str]:
    """A line or more a part; ``before`` has the fingerprints of an older program."""
    for name, fingerprint, what in parts:
        changed = "  <- not what it was" if before.get(name, fingerprint) != fingerprint else ""
        first, *rest = textwrap.wrap(what, WIDTH - 24, break_long_words=False) or [""]
        yield f"{name:<10}{fingerprint:<10}{first}{changed}".rstrip()
        yield from (" " * 20 + line for line in rest)


def _why_numpy() -> str:
    return f"a NumPy program, which is made anew in each process ({kernels.fallback_reason() or 'no native table'})"


def _keeps_nothing(backend: str) -> str | None:
    """None where a backend keeps its programs in the cache, else why not."""
    if not isinstance(base.get(backend), CompiledBackend):
        return f"backend {backend} keeps nothing in this cache"
    return None if kernels.table().name == "native" else f"{_why_numpy()}: nothing is cached"


def _program(path: Path, name: str | None, mode: str | None, given: Given) -> tuple[Module, Function, str, str]:
    """What would be compiled: the function and all it names as a module, the backend and the numerics."""
    numerics = given.flags.get("numerics")
    choice("--numerics", numerics, NUMERICS)
    if is_ir(path):
        backend, _ = backend_for(given.flags)
        module = read_ir(path)
        if module.origin is not None:
            module.origin.locate(module)
        try:
            function = entry_of(module, name)
        except EntryError as error:
            raise UsageError(str(error)) from None
    else:
        model, chosen, mode = model_entry(path, given, name, mode)
        backend, numerics = measured_backend(model, given), model.config.numerics
        module = model.module([(chosen, mode)], "traced")
        function = next(iter(module))
    alone, pending = Module(module.name, [function]), [function]
    while pending:
        pending += [alone.add(module[s]) for s in pending.pop().symbols() if s not in alone.functions]
    return alone, function, backend, numerics or "exact"
