"""Hooks around forks and jobs; a framework closes its connections here.

A worker calls `if hooks.before_job: hooks.run(hooks.before_job)`, so that an empty list costs a job nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

Hook = Callable[[], object]

before_fork: list[Hook] = []
"""In the parent, before each child is forked: close what two processes must not share."""

after_fork: list[Hook] = []
"""In the child, before its first job."""

before_job: list[Hook] = []
"""In the child, before each job."""

after_job: list[Hook] = []
"""In the child, after each job, whether it succeeded or not."""

log = logging.getLogger("rqstack.worker")


def run(hooks: Iterable[Hook]) -> None:
    """Call each of them. One that raises is logged; it stops neither the others nor the worker."""
    for hook in hooks:
        try:
            hook()
        except Exception:
            log.exception("The hook %s.%s failed", hook.__module__, getattr(hook, "__qualname__", hook))
