"""The pages of ``irc view`` and ``irc diff --html``: one HTML file each, which loads nothing and works without a network.

``tree.py`` groups and layers nodes, ``content.py`` writes what they say, ``layout.js`` places them,
``pane.js`` draws them, and ``page.js`` is the rest of the page.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from .content import Content, content

if TYPE_CHECKING:
    from ...ir.diff import Diff, Side
    from ...ir.graph import Module

__all__ = ["diff_page", "view_page"]


def view_page(module: Module, *, base: str | None = None) -> str:
    """A page with the graph of every function of a verified module; files are shown relative to ``base``."""
    return _page(module.name, {"sides": [content(module, module.name, base).json()], "diff": None})


def diff_page(
    a: Module,
    b: Module,
    diff: Diff,
    *,
    titles: tuple[str, str],
    base: tuple[str | None, str | None] = (None, None),
) -> str:
    """A page with two verified modules side by side and the list of their differences."""
    left, right = content(a, titles[0], base[0]), content(b, titles[1], base[1])
    differences = [
        {
            "kind": d.kind,
            "what": d.what,
            "detail": d.detail,
            "function": next(side.function for side in (d.a, d.b) if side is not None),
            "sides": [_where(left, d.a), _where(right, d.b)],
        }
        for d in diff.differences
    ]
    ops = [(*left.index[x], *right.index[y]) for x, y in diff.pairs.items() if x in left.index and y in right.index]
    functions = {(left.numbers[name], right.numbers[name]): None for name in left.numbers if name in right.numbers}
    functions |= {(f, g): None for f, _, g, _ in ops}
    ends = [pair for f, g in functions for pair in _ends(left, right, f, g)]
    pairs = {"functions": list(functions), "nodes": ops + ends}
    data = {"sides": [left.json(), right.json()], "diff": {"differences": differences, "pairs": pairs}}
    return _page(" | ".join(titles), data)


def _where(at: Content, side: Side | None) -> dict[str, Any] | None:
    """The place of one side of a difference: its function and node, -1 where there is none, and its text."""
    if side is None:
        return None
    if side.instruction is not None and side.instruction in at.index:
        function, node = at.index[side.instruction]
    else:
        function, node = at.find(side.function, side.text)
    return {"function": function, "node": node, "text": side.text}


def _ends(left: Content, right: Content, f: int, g: int) -> Iterator[tuple[int, int, int, int]]:
    """The arguments of two matched functions that have one name, and the results at one position."""
    for kind in ("argument", "result"):
        found: list[dict[str, int]] = []
        for side, number in ((left, f), (right, g)):
            nodes = [(n, node) for n, node in enumerate(side.functions[number]["nodes"]) if node["kind"] == kind]
            keys = [node["values"][0] if kind == "argument" else str(k) for k, (_, node) in enumerate(nodes)]
            found.append({key: n for key, (n, _) in zip(keys, nodes, strict=True)})
        yield from ((f, n, g, found[1][key]) for key, n in found[0].items() if key in found[1])


def _page(title: str, data: dict[str, Any]) -> str:
    asset = files(__name__)
    # JSON in ASCII holds no U+2028; without "<" it can end no script and open no comment.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Template(asset.joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(title).encode("ascii", "xmlcharrefreplace").decode(),
        style=asset.joinpath("page.css").read_text("utf-8"),
        script="\n".join(asset.joinpath(name).read_text("utf-8") for name in ("layout.js", "pane.js", "page.js")),
        data=embedded,
    )
