"""Every stage of every example is text that reads back, runs again to the same bits, and is the same on every machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import ir
from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend
from tapeir.backends.eager.interpret import run
from tapeir.runtime.commands.modules import ALL, Given, ModelIR
from tapeir.runtime.ir_file import example_arrays

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(p.stem for p in EXAMPLES.glob("*.py"))
STAGES = ("traced", "grad", "optimized", "fused", "planned", "tape")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_reads_back_and_runs_to_the_same_bits(name: str, stage: str, tmp_path: Path) -> None:
    model = ModelIR(EXAMPLES / f"{name}.py", Given({"batch_size": 8}))
    for entry in model.entries(None, None):
        module = model.module([entry], stage)
        text = ir.print_module(module, locations=True, base=model.base)
        again = tp.parse(text).verify()
        assert again == module
        assert ir.print_module(again, locations=True) == text
        ir.save(module, tmp_path / "m.ir")
        assert ir.load(tmp_path / "m.ir") == module
        function = next(iter(module))
        for seed in (0, 1):
            arrays = example_arrays(function, seed)
            expected = run(function, [a.copy() for a in arrays], module)
            found = run(again[function.name], [a.copy() for a in arrays], again)
            compiled = compile_module(CompiledBackend(), again, function.name, "cpu").run(arrays)
            for a, b, c in zip(expected, found, compiled, strict=True):
                assert same_bits(a, b)
                assert same_bits(np.asarray(a), np.asarray(c))


DUMP = """
import contextlib, hashlib, io, sys
from pathlib import Path
from tapeir.runtime.commands import DumpRequest, dump
from tapeir.runtime.commands.modules import ALL, Given, STAGES

for path in sorted(Path(sys.argv[1]).glob("*.py")):
    for stage in STAGES:
        for entry, mode in ALL:
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                dump(path, DumpRequest(stage, entry, mode, locations=stage != "program"), Given({"batch_size": 8}))
            print(path.stem, stage, entry, mode, hashlib.sha256(text.getvalue().encode()).hexdigest())
"""


def test_dumps_do_not_depend_on_hashes_or_folders(tmp_path: Path) -> None:
    """All stages, entries and modes of all examples: byte-identical under other hash seeds and from another folder."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(EXAMPLES, elsewhere)
    texts: list[str] = []
    for seed, folder in (("0", EXAMPLES), ("1", EXAMPLES), ("4294967295", elsewhere)):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(tp.__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", DUMP, str(folder)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    assert texts[0].count("\n") == len(NAMES) * 7 * len(ALL)
    assert len({hashlib.sha256(t.encode()).hexdigest() for t in texts}) == 1, texts
