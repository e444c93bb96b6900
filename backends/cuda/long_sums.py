"""Sums of one thread, as CUDA text: more than ``BLOCK`` terms are added up in blocks and pairs, as ``backends/sums.py`` says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..sums import BLOCK, blocks, waiting
from .builder import CBuilder


@dataclass(frozen=True)
class LongSum:
    """A sum under way: the variable that holds the block's sum, the array of sums that wait, and the identity."""

    total: str
    stack: str
    identity: str

    @classmethod
    def of(cls, c: CBuilder, kind: str, total: str, identity: str, terms: int) -> LongSum:
        """The sum of so many terms in variable ``total``; its array is declared here."""
        stack = c.fresh("stack")
        c.line(f"{kind} {stack}[{blocks(terms).bit_length()}];")
        return cls(total, stack, identity)


def end_blocks(c: CBuilder, sums: Iterable[LongSum], number: str) -> None:
    """The sums of block ``number`` take in what waits for them, and wait."""
    for s in sums:
        level, bits = c.fresh("level"), c.fresh("bits")
        c.line(f"int {level} = 0;")
        with c.block(f"for (unsigned {bits} = {number}; {bits} & 1u; {bits} >>= 1)"):
            c.line(f"{s.total} = {s.stack}[{level}++] + {s.total};")
        c.line(f"{s.stack}[{level}] = {s.total};")
        c.line(f"{s.total} = {s.identity};")


def end_terms(c: CBuilder, sums: Iterable[LongSum], at: str, terms: int) -> None:
    """After term ``at`` of so many: at the end of a block its sums wait."""
    found = list(sums)
    if found:
        with c.block(f"if ({at} % {BLOCK} == {BLOCK - 1} || {at} == {terms - 1})"):
            end_blocks(c, found, f"(unsigned){at} / {BLOCK}u")


def finish(c: CBuilder, sums: Iterable[LongSum], terms: int) -> None:
    """The variables hold the sums of all terms."""
    for s in sums:
        lowest, *others = waiting(blocks(terms))
        c.line(f"{s.total} = {s.stack}[{lowest}];")
        for level in others:
            c.line(f"{s.total} = {s.stack}[{level}] + {s.total};")
