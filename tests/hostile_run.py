"""Runs IR texts on every backend, one a line of JSON on standard input, and prints a line of JSON for each.

A process of its own: what raises, crashes or hangs is known by the line that was begun and not finished.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from outcomes import Outcome, agree, outcome
from strategies import inputs_of

from tapeir.backends import kernels
from tapeir.backends.base import compile_module, get
from tapeir.backends.compiled import lower, program_text
from tapeir.ir import IRError, Module, ParseError, VerifyError, parse, print_module
from tapeir.ir.types import bf16, f16
from tapeir.runtime.ir_file import EntryError, entry_of
from tapeir.runtime.page import view_page

LARGEST = 1 << 20
"""Elements of all values of a module that is run."""
STAGES = ("traced", "optimized", "fused", "planned")


class WrongError(Exception):
    """What a text does that none may."""


def _read(text: str) -> Module | None:
    try:
        return parse(text).verify()
    except (ParseError, VerifyError) as error:
        str(error)
        return None


def _same_text(module: Module, what: str) -> None:
    """The text of a module gives the module back."""
    text = print_module(module, locations=True)
    again = parse(text).verify()
    if again != module or print_module(again, locations=True) != text:
        raise WrongError(f"{what}: the text changes when it is parsed")


def _refused(do: Callable[[], Any]) -> bool:
    """Whether something raises an error of the project."""
    try:
        do()
    except IRError as error:
        str(error)
        return True
    return False


def _kind(found: Outcome) -> str:
    return type(found).__name__


def _run(module: Module, name: str, seed: int) -> None:
    arrays = inputs_of(module[name], seed, seed % 2 == 1)
    for table in (kernels.table(), kernels.Table()):
        with kernels.using(table):
            found = [
                outcome(lambda given, b=b: compile_module(get(b), module, name, "cpu").run(given), arrays)
                for b in ("eager", "compiled")
            ]
        if agree(*found):
            continue
        if not all(isinstance(x, IRError) for x in found) or _kind(found[0]) != _kind(found[1]):
            raise WrongError(f"table {table.name}: compiled gives {found[1]!r}, not {found[0]!r}")


def check(text: str, seed: int) -> str:
    """What became of a text, in a word.  Raises where it does what none may."""
    module = _read(text)
    if module is None:
        return "refused"
    _same_text(module, "traced")
    view_page(module)
    types = [v.type for f in module for v in f.values()]
    if sum(t.size for t in types) > LARGEST:
        return "large"
    for device in ("cpu", "cuda"):
        for stage in STAGES[1:]:
            if not _refused(lambda device=device, stage=stage: lower(module, stage, device)):
                _same_text(lower(module, stage, device), f"{device} {stage}")
    try:
        name = entry_of(module).name
    except EntryError:
        return "several"
    _refused(lambda: program_text(module, name, "cuda:0"))
    if any(t.dtype in (f16, bf16) for t in types):
        return "narrow"  # the compiled backend has none of these on a CPU, and says so
    _run(module, name, seed)
    return "ran"


def main() -> None:
    for line in sys.stdin:
        text, seed = json.loads(line)
        print(json.dumps("begun"), flush=True)
        print(json.dumps(check(text, seed)), flush=True)


if __name__ == "__main__":
    main()
