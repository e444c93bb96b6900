"""Options of the test suite, and how Hypothesis runs: in CI the same examples every time, elsewhere new ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a machine that only runs tests/gpu may lack it
    pass
else:
    settings.register_profile("base", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("ci", settings.get_profile("base"), derandomize=True)
    settings.load_profile("ci" if os.environ.get("CI") else "base")


# Not the user's cache: tests compile thousands of kernels.
os.environ.setdefault("TAPEIR_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "tapeir"))

# No line about long compilation, however busy the machine is.
os.environ.setdefault("TAPEIR_PATIENCE", "1e9")

# Ctrl-C as in a terminal, also under nohup and behind a shell's &.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="rewrite the expectations of golden cases; refused where execution differs",
    )
    parser.addoption("--heavy", action="store_true", help="with -m slow: run the tests marked heavy too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked heavy run only when they are asked for."""
    if not config.getoption("--heavy"):
        heavy = [i for i in items if i.get_closest_marker("heavy")]
        items[:] = [i for i in items if i not in heavy]
        config.hook.pytest_deselected(items=heavy)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``pytest -m gpu`` imports no other tests: a machine with a device may lack what they need."""
    elsewhere = collection_path.name.startswith("test_") and collection_path.parent.name != "gpu"
    return True if config.option.markexpr == "gpu" and elsewhere else None


@pytest.fixture(params=["in use", "numpy"])
def table(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both targets of the compiled backend."""
    from tapeir.backends import kernels

    if request.param == "in use":
        yield kernels.table().name
    else:
        with kernels.using(kernels.Table()):
            yield "numpy"
