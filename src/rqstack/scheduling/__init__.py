"""Scheduling: delayed jobs, retries and the cron table."""

from __future__ import annotations

from rqstack.scheduling.cron_declarations import schedule
from rqstack.scheduling.job_scheduler import job_scheduler
from rqstack.scheduling.process import SchedulerProcess
from rqstack.scheduling.scheduler import Scheduler

__all__ = ["Scheduler", "SchedulerProcess", "job_scheduler", "schedule"]
