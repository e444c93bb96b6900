"""``tp.debug``: where a compiled program and the tape part, and pages that show programs.

``compare`` finds the first kernel that differs, ``bisect`` the pass and the rewrite, ``reduce`` the smallest function that still shows
it; ``view_page`` and ``diff_page`` give HTML.
"""

from .bisect import Guilt, bisect
from .compare import Comparison, Finding, Gap, Result, compare
from .page import diff_page, view_page
from .reduce import Reduced, reduce

__all__ = [
    "Comparison",
    "Finding",
    "Gap",
    "Guilt",
    "Reduced",
    "Result",
    "bisect",
    "compare",
    "diff_page",
    "reduce",
    "view_page",
]
