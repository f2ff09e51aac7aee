"""The worker's Lua scripts, and the keys that rqstack adds to RQ's."""

from __future__ import annotations

import hashlib
from importlib.resources import files

SUPERVISORS = "rqstack:supervisors"
"""Sorted set: supervisor id, scored by its last heartbeat (Redis's clock)."""

DEAD = "rqstack:supervisors:dead"
"""Sorted set: supervisors whose jobs were given back, and that are looked at once more before they are forgotten."""

METRICS = "rqstack:metrics"
"""Hash: what workers have counted; see `counters.py`."""

EXECUTION_TTL = 90
"""Seconds until RQ's registries take a run for abandoned, as RQ writes them; supervisors refresh it all the time."""


def supervisor_key(supervisor: str) -> str:
    """Hash of what a supervisor is: its queues, workers and host."""
    return f"rqstack:supervisor:{supervisor}"


def running_key(supervisor: str) -> str:
    """Hash of what each worker of a supervisor holds: its lease (see claim.lua)."""
    return f"rqstack:running:{supervisor}"


def claim_key(worker: str, queue_key: str) -> str:
    """List into which Redis moves a job for an idle worker."""
    return f"rqstack:claim:{worker}:{queue_key}"


def crashes_key(job_id: str) -> str:
    """Hash of how often a job has ended its process (`count`), and in which execution it did so last; for a day."""
    return f"rqstack:crashes:{job_id}"


class Script:
    """A Lua script made of files of this package.

    Args:
        names: The files, in order.
        tail: What is appended.
    """

    def __init__(self, *names: str, tail: str = "") -> None:
        self.source = "\n".join([*(files(__package__).joinpath(name).read_text() for name in names), tail]).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


CLAIM = Script("claim.lua", tail="return claim()")
FINISH = Script("claim.lua", "finish.lua")
RECOVER = Script("recover.lua")
HEARTBEAT = Script("heartbeat.lua")
