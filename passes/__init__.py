"""The whole compiler in one screen: every pass by name, and the pipelines that lead to each stage."""

from __future__ import annotations

from .canonicalize import canonicalize
from .compose import compose
from .cse import cse
from .dce import dce
from .decompose import decompose
from .fold import fold
from .fuse import fuse
from .inline import dissolve, inline
from .manager import Application, Context, Pass, PassManager, Provenance, Record
from .plan import plan
from .update import update

PASSES: dict[str, Pass] = {
    "compose": compose,  # a product, its bias and its activation become one op, where the target has that
    "canonicalize": canonicalize,  # local rewrites that keep every bit
    "decompose": decompose,  # composites become their decompositions
    "fold": fold,  # ops on constants become constants
    "cse": cse,  # equal ops are computed once
    "dce": dce,  # ops nobody uses go away
    "dissolve": dissolve,  # kernels of a text that are no single nest of loops become ops again
    "update": update,  # one kernel for the optimiser rule of all parameters
    "fuse": fuse,  # groups of ops become kernels: map, row and column nests of loops
    "inline": inline,  # kernels become ops again, for a target without loops of its own
    "plan": plan,  # every value gets a place
}

OPTIMIZE = ("canonicalize", "cse", "compose", "decompose", "fold", "canonicalize", "cse", "dce")
FUSE = (*OPTIMIZE, "dissolve", "update", "cse", "dce", "fuse", "dce")
PIPELINES: dict[str, tuple[str, ...]] = {
    "traced": (),
    "optimized": OPTIMIZE,
    "fused": FUSE,
    "planned": (*FUSE, "plan"),
}
UNFUSED = (*OPTIMIZE, "dissolve", "update", "cse", "dce", "plan")
"""As ``planned``, with every op a kernel of its own: for finding the op and the rewrite that are wrong."""
NUMPY = (*OPTIMIZE, "inline", "update", "cse", "dce", "plan")
"""What leads to a program of array calls: only updates are kernels."""
VERSION = 14
"""Changes whenever a pipeline may give other IR, or a target another program, for the same input."""

__all__ = [
    "NUMPY",
    "PASSES",
    "PIPELINES",
    "UNFUSED",
    "VERSION",
    "Application",
    "Context",
    "Pass",
    "PassManager",
    "Provenance",
    "Record",
]
