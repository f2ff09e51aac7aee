"""A room of the package knows only the rooms before it. Import statements in functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "rqstack"

# From the lowest to the highest. Modules of one line may import each other.
ROOMS = (
    ("errors", "home", "checkout", "defaults", "moments"),
    ("environment", "settings"),
    ("connections", "database", "logs"),
    ("security",),
    ("retries", "timetable"),
    ("enqueue", "discovery", "registry", "declaration", "limiting", "preload", "producer", "publishing", "ratelimit"),
    ("tasks",),
    ("smoke",),
    ("scheduling", "ledger", "backends", "bulk"),
    ("worker",),
    ("metrics", "api"),
    ("stack",),
    ("cli",),
    ("contrib", "pytest_plugin"),
)
RANKS = {name: rank for rank, names in enumerate(ROOMS) for name in names}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Each room that a module imports: (line, room). Imports for type checkers only are left out: they do not run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from imported(ast.Module(node.orelse, []), path)
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide which room is meant"
            names = [
                f"{node.module}.{alias.name}" if node.module == "rqstack" else str(node.module) for alias in node.names
            ]
        for name in names:
            parts = name.split(".")
            if parts[0] == "rqstack" and len(parts) > 1:
                yield node.lineno, parts[1]
        yield from imported(node, path)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_nothing_from_a_higher_room(path: Path) -> None:
    own = room(path)
    assert own in RANKS, f"{own}: give it a room in ROOMS of {Path(__file__).name}"
    upwards = [
        f"{path}:{line} imports rqstack.{name}"
        for line, name in imported(ast.parse(path.read_text()), path)
        if RANKS.get(name, -1) > RANKS[own]
    ]
    assert not upwards


def test_the_check_sees_imports_wherever_they_stand() -> None:
    source = """
from rqstack import cli
if TYPE_CHECKING:
    from rqstack.stack import local
else:
    import rqstack.api.rest
def late():
    if True:
        from rqstack.worker.horse import Worker
"""
    assert list(imported(ast.parse(source), PACKAGE)) == [(2, "cli"), (6, "api"), (9, "worker")]


def test_the_package_itself_imports_nothing_when_it_is_imported() -> None:
    found = list(imported(ast.parse((PACKAGE / "__init__.py").read_text()), PACKAGE))
    assert not found, "rqstack/__init__.py loads its names on first use"
