"""Scheduling: delayed jobs, retries and the cron table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqstack.lazy import exports
from rqstack.scheduling.cron_declarations import schedule
from rqstack.scheduling.job_scheduler import job_scheduler
from rqstack.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from rqstack.scheduling.process import SchedulerProcess

__all__ = ["Scheduler", "SchedulerProcess", "job_scheduler", "schedule"]

if not TYPE_CHECKING:
    # On first use: the process starts `python -m rqstack.scheduling.cron_loader`, which this package must not import.
    __getattr__ = exports(__name__, {"SchedulerProcess": "process"})
