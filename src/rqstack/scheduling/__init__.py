"""The schedule: one-off, delayed and repeated jobs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rqstack.scheduling.declared import schedule
    from rqstack.scheduling.interface import job_scheduler
    from rqstack.scheduling.process import SchedulerProcess
    from rqstack.scheduling.scheduler import Scheduler

__all__ = ["Scheduler", "SchedulerProcess", "job_scheduler", "schedule"]

_HOMES = {
    "Scheduler": "rqstack.scheduling.scheduler",
    "SchedulerProcess": "rqstack.scheduling.process",
    "job_scheduler": "rqstack.scheduling.interface",
    "schedule": "rqstack.scheduling.declared",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rqstack.scheduling' has no attribute {name!r}")
