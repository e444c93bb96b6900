"""The ``irc`` command in a process and a folder of its own, and small files for it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tapeir as tp
from tapeir.backends import kernels

MODEL = """\
import numpy as np
import tapeir as tp
from tapeir import nn

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

def data():
    x = np.sin(np.arange(120.0)).reshape(30, 4)
    return tp.data.arrays(x, np.arange(30) % 3).split(0.8, seed=0)

config = tp.Trainer.Config(objective="cross_entropy", optimizer=tp.optim.Adam(lr=1e-2))
options = tp.Trainer.TrainOptions(steps=6, batch_size=8, log_every=2)

def report(trained):
    print("report", trained.runtime.step_count, tp.args())
"""

NEEDED = ("PATH", "LD_LIBRARY_PATH", "CUDA", "NVIDIA", "TAPEIR_PATIENCE")
"""Beginnings of the names of variables that a command is given: what finds Python's packages and the libraries of a device, and how
long compiling goes on without a line about it.
"""

HEADER = "import numpy as np\nimport tapeir as tp\nfrom tapeir import nn\n"

IR = """\
module @m {
  func @main(
    %x: f32[3] input
  ) -> (f32[3]) {
    %0 = mul %x, %x : f32[3]
    %1 = mul %x, %x : f32[3]
    %2 = add %0, %1 : f32[3]
    %3 = exp %x : f32[3]
    return %2
  }
}
"""


@dataclass(frozen=True)
class Done:
    """What a finished command left."""

    code: int
    out: str
    err: str


def irc(folder: Path, *arguments: Any) -> Done:
    """Run ``irc`` in a folder."""
    given = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment = {name: value for name, value in os.environ.items() if name.startswith(NEEDED)}
    environment |= {"NO_COLOR": "1", "PYTHONPATH": os.pathsep.join([str(Path(tp.__file__).parents[1]), *given])}
    if kernels.table().name == "numpy":
        environment["TAPEIR_NATIVE"] = "0"  # asked for, so no command says that it is not native
    command = [sys.executable, "-m", "tapeir", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "\x1b" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def fails(folder: Path, *arguments: Any, code: int = 1) -> str:
    """Run a command that must fail; its message."""
    done = irc(folder, *arguments)
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert done.err.strip()
    return done.err


def fill(tmp_path: Path) -> Path:
    """A folder with a model file and the same IR under two names."""
    (tmp_path / "tiny.py").write_text(MODEL)
    (tmp_path / "m.ir").write_text(IR)
    (tmp_path / "m.txt").write_text(IR)
    return tmp_path
