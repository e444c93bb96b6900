"""The layout keeps its promises: imports follow the table, links and folders agree, backends name no op."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeir.ir import OPS

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.checkout

MAY_IMPORT: dict[str, set[str]] = {
    "ir": set(),
    "frontend": {"ir"},
    "passes": {"ir"},
    "backends": {"ir", "passes"},
    "runtime": {"ir", "frontend", "passes", "backends"},
}


def sources(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path, ast.parse(path.read_text("utf-8"))


def imported_folders(path: Path, tree: ast.Module) -> Iterator[str]:
    """First folder below the package of every relative import, and of every import of tapeir by name."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            if len(here) - node.level + 1 <= 0:
                yield target[0] or node.names[0].name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tapeir":
            yield "tapeir"
        elif isinstance(node, ast.Import):
            yield from ("tapeir" for a in node.names if a.name.split(".")[0] == "tapeir")


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_its_row_says(folder: str) -> None:
    for path, tree in sources(folder):
        foreign = set(imported_folders(path, tree)) - MAY_IMPORT[folder] - {folder}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_links_and_folders_are_the_same_set() -> None:
    links = {p.name for p in (ROOT / "src" / "tapeir").iterdir() if p.is_symlink()}
    assert links == set(MAY_IMPORT)
    for name in links:
        assert (ROOT / "src" / "tapeir" / name).resolve() == ROOT / name


def test_every_folder_says_what_belongs_there() -> None:
    for folder in MAY_IMPORT:
        for path, tree in sources(folder):
            assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no module docstring"


def test_backends_name_no_op() -> None:
    for path, tree in sources("backends"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").endswith("ir.ops"), f"{path} imports ir.ops"
            if isinstance(node, ast.Compare):
                compared = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                owner = ast.unparse(node.left)
                named = [c for c in compared if c in OPS and owner.endswith("op.name")]
                assert not named, f"{path}:{node.lineno} asks for op {named}"


def test_there_is_no_broad_except() -> None:
    for folder in (*MAY_IMPORT, "src/tapeir", "tests", "examples", "benchmarks"):
        for path, tree in sources(folder):
            for node in ast.walk(tree):
                if isinstance(node, ast.ExceptHandler):
                    caught = ast.unparse(node.type) if node.type else "everything"
                    broad = caught in ("everything", "Exception") or (
                        caught == "BaseException" and not isinstance(node.body[-1], ast.Raise)
                    )
                    assert not broad, f"{path}:{node.lineno} catches {caught}"
