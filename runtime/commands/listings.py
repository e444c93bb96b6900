"""``irc ops``, ``passes`` and ``backends``: what is registered, one line each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...backends import base, kernels
from ...ir import OPS, Attr
from ...ir.errors import BackendError
from ...ir.op import REQUIRED
from ...ir.print import attribute
from ...passes import PASSES
from .settings import show


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, with the columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([*[cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)], row[-1]]).rstrip()
        for row in rows
    ]


def _print(rows: Sequence[Sequence[str]]) -> None:
    show("\n".join(aligned(rows)))


def _summary(doc: str | None) -> str:
    """The first sentence of a docstring, as plain text."""
    first = " ".join((doc or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.;])\s+(?=[A-Z])|  Backward|\s+Backward:", first)[0].replace("``", "").rstrip(".;")


def list_ops(markdown: bool = False) -> None:
    """Every op: name, family, and the first line of its docstring; or the table of the language reference."""
    ops = sorted(OPS.values(), key=lambda op: (op.family, op.name))
    if markdown:
        show(op_table(), end="")
    else:
        _print([(op.name, op.family, _summary(op.__doc__)) for op in ops])


def op_table() -> str:
    """Every op as a row of a Markdown table: operands, attributes with their kinds and defaults, rounding, meaning."""
    rows = ["| op | operands | attributes | rounding | meaning |", "|---|---|---|---|---|"]
    for op in sorted(OPS.values(), key=lambda op: (op.family, op.name)):
        arity = "any" if op.arity is None else str(op.arity)
        attrs = ", ".join(_attribute(name, attr) for name, attr in op.attrs.items())
        checked = " Raises where its check fails." if op.check is not None else ""
        meaning = " ".join((op.__doc__ or "").split()).replace("|", "\\|").replace("``", "`")
        rows.append(f"| `{op.name}` ({op.family}) | {arity} | {attrs} | {op.rounding} | {meaning}{checked} |")
    return "\n".join(rows) + "\n"


def _attribute(name: str, attr: Attr) -> str:
    kind = {"ints": "integers", "literal": "elements", "symbol": "function"}.get(attr.kind, attr.kind)
    if attr.default is REQUIRED:
        return f"`{name}`: {kind}"
    return (
        f"`{name}`: {kind}, may be left out"
        if attr.default is None
        else f"`{name}`: {kind} = {attribute(attr.default)}"
    )


def list_passes() -> None:
    """Every pass and what it does."""
    _print([(name, p.doc.replace("``", "").rstrip(".")) for name, p in PASSES.items()])


def list_backends() -> None:
    """Every backend, what it serves, and the kernel table behind the exact ones."""
    rows: list[tuple[str, str, str]] = []
    for name in base.available():
        try:
            backend = base.get(name)
        except BackendError as error:
            rows.append((name, "", error.message))
            continue
        devices = ", ".join(f"{d}: {backend.unavailable(d) or 'available'}" for d in ("cpu", "cuda"))
        rows.append((name, devices, _summary(type(backend).__doc__)))
    _print(rows)
    reason = kernels.fallback_reason()
    show(f"kernel table (cpu): {kernels.table().summary}" + (f"; not native: {reason}" if reason else ""))
