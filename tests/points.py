"""The table of gradients at special points in the documents: rows of a function, a point, and what each library gives there.

A row's function is a Python expression over ``tp.ops``; its gradient is that of the sum of the expression, with respect to every name of
the point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parent.parent / "docs" / "special-points.md"
LIBRARIES = ("TapeIR", "PyTorch", "JAX")
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """A line of the table; ``answers`` has a text for each of ``LIBRARIES``."""

    expression: str
    point: str
    answers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.expression} at {self.point}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The point's numbers and lists of numbers by name."""
        return eval(f"dict({self.point})", {"dict": dict, "inf": inf, "nan": nan})

    def function(self, names: Mapping[str, Any]) -> Callable[..., Any]:
        """The expression as a function of the point's values in order; ``names`` has the functions that it calls."""
        given = list(self.arguments)

        def call(*values: Any) -> Any:
            return eval(self.expression, {**names, "inf": inf}, dict(zip(given, values, strict=True)))

        return call

    def said(self, gradients: Sequence[Any]) -> str:
        """Gradients as the table shows them."""
        shown = [_shown(np.asarray(g, np.float64)) for g in gradients]
        if len(shown) == 1:
            return shown[0]
        return ", ".join(f"d{name} = {text}" for name, text in zip(self.arguments, shown, strict=True))


def _shown(gradient: Any) -> str:
    if gradient.ndim:
        return f"[{', '.join(_shown(g) for g in gradient)}]"
    return f"{float(gradient) + 0.0:.4g}"


def rows(page: Path = PAGE) -> list[Row]:
    """The rows of the page's tables."""
    found = [m.groups() for m in ROW.finditer(page.read_text("utf-8"))]
    return [Row(expression, point, dict(zip(LIBRARIES, answers, strict=True))) for expression, point, *answers in found]
