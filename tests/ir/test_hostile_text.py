"""What verify accepts runs: the same values or the same kind of error on every backend, and never a crash or a foreign error.

``TAPEIR_FUZZ=10000`` tries that many texts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from module_edits import edited
from module_strategies import modules
from program_strategies import programs, update_programs
from text_edits import mutated

import tapeir as tp
from tapeir.ir import Module, parse, print_module

TESTS = Path(__file__).parents[1]
TEXTS = int(os.environ.get("TAPEIR_FUZZ", "24"))
BATCH = 50
SECONDS = 900
"""A batch takes a few seconds; on a busy machine more."""


@cache
def corpus() -> list[str]:
    """The texts of the passes' cases and of what random programs found."""
    found = [p.read_text(encoding="utf-8") for p in sorted((TESTS / "backends/regressions").glob("*.ir"))]
    for path in sorted((TESTS / "passes").glob("*.ir")):
        for part in re.split(r"^// (?:CASE|EXPECT).*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if part.lstrip().startswith("module"):
                found.append(part)
    return found


def texts(count: int) -> list[str]:
    """Texts of edited modules, of the corpus and random ones; some are edited as text as well."""
    found: list[str] = []
    made = modules() | programs().map(lambda p: p.module) | update_programs().map(lambda p: p.module)
    either = st.sampled_from(corpus()).map(parse) | made

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(either, st.integers(0, (1 << 32) - 1).map(Random))
    def collect(module: Module, random: Random) -> None:
        text = print_module(edited(module, random), locations=True)
        found.append(mutated(text, text, random) if random.random() < 0.1 else text)

    collect()
    return found


def run(batch: Sequence[str]) -> list[str]:
    """What became of each text; a text that ends the process, or does not end, is wrong too."""
    path = os.pathsep.join([str(TESTS), str(Path(tp.__file__).parents[1])])
    given_ = "".join(json.dumps([text, n]) + "\n" for n, text in enumerate(batch))
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "hostile_run"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(given_, SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err = f"no end after {SECONDS} s\n{err}"
    found = [json.loads(line) for line in out.splitlines()]
    ended = [x for x in found if x != "begun"]
    if len(ended) < len(batch):
        ended.append(f"WRONG process, code {process.returncode}: {err[-3000:]}")
    return ended


def check(batch: Sequence[str]) -> Counter[str]:
    """How many texts came to what."""
    ended = run(batch)
    wrong = [(text, found) for text, found in zip(batch, ended, strict=False) if found.startswith("WRONG")]
    assert not wrong, "\n\n".join(f"{found}\n{text!r}" for text, found in wrong)
    return Counter(ended)


def test_hostile_texts() -> None:
    found = texts(TEXTS)
    counts: Counter[str] = Counter()
    for n in range(0, len(found), BATCH):
        counts += check(found[n : n + BATCH])
    assert counts.total() == len(found)
    assert counts["ran"] >= len(found) // 10, counts
