"""What a line of the cron table is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rqstack.registry.timetable import Timetable, parse

CATCH_UP = 60
"""Seconds. Firings that are late by at most this all run: so a restart, a failover or a lost Redis costs none."""

MISFIRE_GRACE = 3_600
"""Seconds. Default of `Entry.misfire_grace`."""

DECLARED = "declared:"
"""The source of an entry of task code, before the name of its project."""

RUN_TIME = "run-time"
"""The source of an entry made by `job_scheduler` or `Scheduler.cron`."""


@dataclass(frozen=True)
class Entry:
    """A line of the cron table.

    Args:
        id: Made by `entry_id`; part of the job ids of its firings.
        name: What people see.
        task: The dotted path of the function.
        timetable: When it fires.
        queue: The queue of its jobs.
        misfire_grace: Seconds by which a missed firing may still run. Of several missed firings the last one runs;
            those late by no more than `CATCH_UP` all run.
        source: `DECLARED` and a project: in its code, replaced at each start and deploy. `RUN_TIME`: stays until it is
            cancelled.
        description: What the job list shows.
        template: The fields of the job that each firing makes.
    """

    id: str
    name: str
    task: str
    timetable: Timetable
    queue: str
    misfire_grace: int = MISFIRE_GRACE
    source: str = RUN_TIME
    description: str = ""
    template: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> str:
        """A digest of all that matters: two entries of one version are the same."""
        digest = hashlib.sha256()
        for key, value in sorted(self._plain().items()):
            digest.update(f"{key}={value}\0".encode())
        for key, raw in sorted(self.template.items()):
            digest.update(key.encode() + b"=" + raw + b"\0")
        return digest.hexdigest()[:16]

    def fields(self) -> dict[str, str]:
        """What is stored of it, besides the template."""
        return {**self._plain(), "version": self.version, "source": self.source}

    @classmethod
    def from_fields(cls, id: str, fields: Mapping[bytes, bytes]) -> Entry:
        """Read what `fields` wrote.

        Raises:
            ValueError: The time zone is not known on this machine.
        """
        text = {key.decode(): value.decode() for key, value in fields.items()}
        return cls(
            id=id,
            name=text["name"],
            task=text["task"],
            timetable=parse(text["timetable"], text["zone"]),
            queue=text["queue"],
            misfire_grace=int(text["misfire_grace"]),
            source=text["source"],
            description=text["description"],
        )

    def job_id(self, firing: int) -> str:
        """The id of the job of a firing: the same from every scheduler."""
        return f"cron-{self.id}-{datetime.fromtimestamp(firing, UTC):%Y%m%dT%H%M%SZ}"

    def _plain(self) -> dict[str, str]:
        return {
            "name": self.name,
            "task": self.task,
            "timetable": self.timetable.text,
            "zone": self.timetable.zone,
            "queue": self.queue,
            "misfire_grace": str(self.misfire_grace),
            "description": self.description,
        }


def entry_id(name: str | None, task: str, timetable: Timetable, arguments: str) -> str:
    """The id of an entry: from its name where it has one, else from the task, its times and its arguments.

    Args:
        name: The name that it was given, if any.
        task: The dotted path of the function.
        timetable: When it fires.
        arguments: A text that is the same for the same arguments in every process: see `arguments_text`.
    """
    identity = [name] if name else [task, timetable.text, timetable.zone, arguments]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", (name or task.rpartition(".")[2])).strip("-")[:40]
    return f"{readable}-{digest}" if readable else digest


def arguments_text(args: Iterable[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Arguments as text that is the same in every process; None where they are more than JSON can say."""
    try:
        return json.dumps([list(args), dict(kwargs)], sort_keys=True)
    except (TypeError, ValueError):
        return None


def check_grace(value: float | None) -> int:
    """A misfire grace in whole seconds.

    Raises:
        ValueError: It is negative or no number.
    """
    if value is None:
        return MISFIRE_GRACE
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"misfire_grace={value!r}: should be seconds, 0 or more.")
    return int(value)
