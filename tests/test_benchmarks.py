"""The benchmark scripts start, wherever they are called from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapeir.backends.cuda import devices

ROOT = Path(__file__).parents[1]


@pytest.mark.checkout
@pytest.mark.skipif(devices.unavailable("cuda") is None, reason="there is a device to measure")
def test_without_a_device_the_reason_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "benchmarks" / "cuda.py"), "--only", "MLP"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"there is no CUDA device to measure: {devices.unavailable('cuda')}" in done.stderr
