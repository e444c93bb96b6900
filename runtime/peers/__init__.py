"""A traced function as a program of another framework, for timing beside it: ``torch`` or ``jax.numpy`` text, a line per primitive.

Composites and kernels have to be gone (stage ``optimized``).  Ops are written by family, so no op is named: elementwise rules through
their scalar primitives, views through their own ``eval`` on a writer that looks like an array namespace, the rest through their lowering
rules.  Random words are Philox in the framework's own 64-bit integers, so draws are TapeIR's.  Checks are left out: what raises here is
undefined there.  Results agree with the interpreter to rounding.
"""

from __future__ import annotations

from .jax import JaxWriter
from .torch import TorchWriter
from .writer import Peer, Writer

WRITERS: dict[str, type[Writer]] = {"torch": TorchWriter, "jax": JaxWriter}

__all__ = ["WRITERS", "JaxWriter", "Peer", "TorchWriter", "Writer"]
