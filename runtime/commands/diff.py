"""``irc diff`` and ``view``: what differs between two programs, and what one looks like."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ...ir import Diff, Difference, Side
from ...ir import diff as structural_diff
from ...ir.errors import places_text
from ...ir.escape import printable
from ...ir.print import quote
from ..page import diff_page, view_page
from .modules import Given, check_stage, opened
from .settings import check_output, choice, entry, note, show, write_text

COLOURS = {"added": "green", "removed": "red", "changed": "yellow"}


@dataclass(frozen=True)
class DiffRequest:
    """What ``irc diff`` or ``irc view`` was asked for."""

    stage: str = "traced"
    entry: str | None = None
    mode: str | None = None
    json: bool = False
    output: Path | None = None


def _checked(request: DiffRequest) -> None:
    check_stage(request.stage, ("traced", "grad", "optimized", "fused", "planned", "tape"))
    choice("--mode", request.mode, ["train", "eval"])


@entry
def diff(a: Path, b: Path, request: DiffRequest, given: Given) -> bool:
    """Print how two modules differ; returns whether they do.  ``output`` gets a page with both graphs."""
    _checked(request)
    check_output(request.output, a, b)
    first, second = (opened(path, request.stage, given, request.entry, request.mode) for path in (a, b))
    found = structural_diff(first.module, second.module)
    bases = _bases(first.base, second.base)
    if request.json:
        show(json.dumps(_json(found, bases), indent=1))
    elif found:
        _print(found, bases)
    if request.output is not None:
        page = diff_page(first.module, second.module, found, titles=(str(a), str(b)), base=bases)
        write_text(page, request.output)
        note(f"wrote {request.output}")
    return bool(found)


def _bases(a: str | None, b: str | None) -> tuple[str | None, str | None]:
    """The folders that both sides' files are shown relative to: one that tells them apart."""
    if a is None or b is None or a == b:
        return a, b
    try:
        common = os.path.commonpath([a, b])
    except ValueError:  # two drives
        return None, None
    return common, common


@entry
def view(path: Path, request: DiffRequest, given: Given) -> None:
    """Write a page with the graph of a module."""
    _checked(request)
    output = request.output or Path(f"{path.stem}.html")
    check_output(output, path)
    module, base = opened(path, request.stage, given, request.entry, request.mode)
    write_text(view_page(module, base=base), output)
    note(f"wrote {output}")


def _json(found: Diff, bases: tuple[str | None, str | None]) -> dict[str, Any]:
    def side(s: Side | None, base: str | None) -> dict[str, Any] | None:
        return s and {"function": s.function, "text": s.text, "location": places_text(s.location, base)}

    listed = [
        {"kind": d.kind, "what": d.what, "detail": d.detail, "a": side(d.a, bases[0]), "b": side(d.b, bases[1])}
        for d in found.differences
    ]
    return {"same": not found, "differences": listed}


def lines(found: Diff, bases: tuple[str | None, str | None] = (None, None)) -> Iterator[tuple[str, str]]:
    """The differences as lines, each with the kind of difference it belongs to (empty: a heading)."""
    heading = ""
    for d in found.differences:
        names = list(dict.fromkeys(f"@{quote(s.function)}" for s in (d.a, d.b) if s is not None))
        if " / ".join(names) != heading:
            heading = " / ".join(names)
            yield heading, ""
        yield from _difference(d, bases)


def _difference(d: Difference, bases: tuple[str | None, str | None]) -> Iterator[tuple[str, str]]:
    def shown(s: Side, base: str | None) -> str:
        return s.text + (f"    {places_text(s.location, base)}" if s.location else "")

    if d.kind == "changed" and d.a is not None and d.b is not None:
        yield f"  ~ {d.what}: {d.detail}", d.kind
        yield f"      - {shown(d.a, bases[0])}", "removed"
        yield f"      + {shown(d.b, bases[1])}", "added"
    else:
        s, base = (d.a, bases[0]) if d.a is not None else (d.b, bases[1])
        assert s is not None
        yield f"  {d.sign} {shown(s, base)}" + (f"    ({d.detail})" if d.detail else ""), d.kind


def _print(found: Diff, bases: tuple[str | None, str | None]) -> None:
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    for line, kind in lines(found, bases):
        console.print(Text(printable(line), style=COLOURS.get(kind, "bold")))
    count = {k: sum(d.kind == k for d in found.differences) for k in ("changed", "removed", "added")}
    total = len(found.differences)
    words = ", ".join(f"{n} {kind}" for kind, n in count.items() if n)
    console.print(Text(f"{total} difference{'' if total == 1 else 's'}: {words}"))
