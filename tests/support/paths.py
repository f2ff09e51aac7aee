"""Where things are in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = ROOT / "tests" / "projects"
"""Task projects that the tests run."""
MODULES = PROJECTS / "modules"
"""Modules of no project, for PYTHONPATH."""
