"""Options of the test suite, and how Hypothesis runs: in CI the same examples every time, elsewhere new ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("base", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("base"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "base")


# Not the user's cache: tests compile thousands of kernels.
os.environ.setdefault("TAPEIR_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "tapeir"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="rewrite the expectations of golden cases; refused where execution differs",
    )
