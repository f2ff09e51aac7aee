"""Reports the progress of stack commands."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Prints a line for the user."""

JOBS_PAGE_LOGIN = "  user {user}, password: DASHBOARD_PASSWORD in .env"
"""How to log in to the jobs page, behind its address."""
