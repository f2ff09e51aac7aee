"""Reports the progress of stack commands."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Prints a line for the user."""
