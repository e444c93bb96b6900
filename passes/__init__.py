"""The whole compiler in one screen: every pass by name, and the pipelines that lead to each stage."""

from __future__ import annotations

from .canonicalize import canonicalize
from .cse import cse
from .dce import dce
from .decompose import decompose
from .fold import fold
from .fuse import fuse
from .manager import Application, Context, Pass, PassManager, Provenance, Record
from .plan import plan

PASSES: dict[str, Pass] = {
    "canonicalize": canonicalize,  # local rewrites that keep every bit
    "decompose": decompose,  # composites become their decompositions
    "fold": fold,  # ops on constants become constants
    "cse": cse,  # equal ops are computed once
    "dce": dce,  # ops nobody uses go away
    "fuse": fuse,  # groups become kernels: one optimiser rule over all parameters
    "plan": plan,  # every value gets a place
}

OPTIMIZE = ("canonicalize", "decompose", "fold", "canonicalize", "cse", "dce")
PIPELINES: dict[str, tuple[str, ...]] = {
    "traced": (),
    "optimized": OPTIMIZE,
    "fused": (*OPTIMIZE, "fuse", "cse", "dce"),
    "planned": (*OPTIMIZE, "fuse", "cse", "dce", "plan"),
}
VERSION = 1
"""Changes whenever a pipeline may give other IR for the same input."""

__all__ = [
    "PASSES",
    "PIPELINES",
    "VERSION",
    "Application",
    "Context",
    "Pass",
    "PassManager",
    "Provenance",
    "Record",
]
