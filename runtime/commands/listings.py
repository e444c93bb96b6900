"""``irc ops``, ``passes`` and ``backends``: what is registered, one line each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...backends import base, kernels
from ...ir import OPS
from ...passes import PASSES


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, with the columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([*[cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)], row[-1]]).rstrip()
        for row in rows
    ]


def _print(rows: Sequence[Sequence[str]]) -> None:
    print("\n".join(aligned(rows)))


def _summary(doc: str | None) -> str:
    """The first sentence of a docstring, as plain text."""
    first = " ".join((doc or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.;])\s+(?=[A-Z])|  Backward|\s+Backward:", first)[0].replace("``", "").rstrip(".;")


def list_ops() -> None:
    """Every op: name, family, and the first line of its docstring."""
    _print(
        [(op.name, op.family, _summary(op.__doc__)) for op in sorted(OPS.values(), key=lambda op: (op.family, op.name))]
    )


def list_passes() -> None:
    """Every pass and what it does."""
    _print([(name, p.doc.replace("``", "").rstrip(".")) for name, p in PASSES.items()])


def list_backends() -> None:
    """Every backend, what it serves, and the kernel table behind the exact ones."""
    rows: list[tuple[str, str, str]] = []
    for name in base.available():
        backend = base.get(name)
        devices = ", ".join(f"{d}: {backend.unavailable(d) or 'available'}" for d in ("cpu", "cuda"))
        rows.append((name, devices, _summary(type(backend).__doc__)))
    _print(rows)
    print(f"kernel table (cpu): NumPy; products by {kernels.blas().description}")
