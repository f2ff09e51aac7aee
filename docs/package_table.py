"""Writes the table of packages in docs/architecture.md: the layers of pyproject.toml, described by their docstrings."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "src" / "rqstack"
MARK = "<!-- packages: written by `make package-table` -->\n"


def table() -> str:
    """The table, the lowest layer first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    rows = ["| package | what it holds |", "|---|---|"]
    for layer in reversed(layers):
        rows += [f"| `{name}` | {summary(name)} |" for name in layer.split(" | ")]
    return "\n".join(rows) + "\n"


def summary(name: str) -> str:
    """The first line of a package's or module's docstring."""
    path = PACKAGE / name / "__init__.py"
    docstring = ast.get_docstring(ast.parse((path if path.exists() else PACKAGE / f"{name}.py").read_text()))
    return docstring.splitlines()[0] if docstring else ""


def page() -> str:
    """The page with its table as it should be."""
    before, mark, after = PAGE.read_text().partition(MARK)
    assert mark, f"{PAGE} has no line {MARK!r}"
    _, heading, rest = after.partition("\n## ")
    return f"{before}{mark}\n{table()}{heading}{rest}"


if __name__ == "__main__":
    PAGE.write_text(page())
