"""The order of packages, and what the documents say of it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


LINT_IMPORTS = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]


def test_imports_go_down_and_make_no_cycle() -> None:
    """Imports in functions and under TYPE_CHECKING count too."""
    done = subprocess.run(LINT_IMPORTS, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_without_a_layer_is_refused(tmp_path: Path) -> None:
    package = shutil.copytree(ROOT / "src" / "rqstack", tmp_path / "rqstack")
    (package / "strange.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [*LINT_IMPORTS, "--contract", "layers"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "strange" in done.stdout + done.stderr


def test_importing_the_package_loads_none_of_its_modules() -> None:
    """The health check imports it every few seconds; public names are loaded on first use."""
    program = "import sys, rqstack; print(*sorted(name for name in sys.modules if name.startswith('rqstack')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rqstack", "rqstack.lazy"]


def test_every_public_name_is_found() -> None:
    program = "import rqstack; print(*(name for name in rqstack.__all__ if getattr(rqstack, name, None) is None))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_the_table_of_packages_is_generated() -> None:
    spec = importlib.util.spec_from_file_location("package_table", ROOT / "docs" / "package_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "architecture.md").read_text() == module.page(), "run `make package-table`"


def test_the_files_that_contributing_names_exist() -> None:
    """'Where is … decided?': each answer names files."""
    _, _, answers = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where is it decided?")
    rows = [row for row in answers.splitlines() if row.startswith("| ") and not row.startswith("| question")]
    assert len(rows) >= 20
    for row in rows:
        paths = re.findall(r"`([\w./-]+/[\w./-]+|[\w-]+\.\w+)`", row.rpartition(" | ")[2])
        assert paths, row
        for path in paths:
            assert (ROOT / path).exists() or (ROOT / "src" / "rqstack" / path).exists(), f"{path}: {row}"
