"""Entries of the cron table."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rqstack.registry.timetable import Timetable, parse, time_zone
from rqstack.transport.damaged import LONGEST_NAME

CATCH_UP = 60
"""Seconds. Firings that are late by at most this all run, so a restart, a failover or a short outage loses none."""

MISFIRE_GRACE = 3_600
"""Seconds. Default of `Entry.misfire_grace`."""

DECLARED = "declared:"
"""Prefix of the source of an entry that task code declares; the name of the project follows."""

RUN_TIME = "run-time"
"""Source of an entry made by `job_scheduler` or `Scheduler.cron`."""

_LONGEST = 100_000
"""Bytes that the fields of an entry may have."""

_LONGEST_GRACE = 10**10
"""Seconds that a misfire grace in Redis may have."""

_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


class UnknownZone(ValueError):
    """This machine does not know a time zone; another one may."""


@dataclass(frozen=True)
class Entry:
    """An entry of the cron table.

    Args:
        id: From `entry_id`; part of the job ids of its firings.
        task: The dotted path of the function.
        misfire_grace: Seconds by which a missed firing may still run. Of several missed firings the last one runs;
            those late by no more than `CATCH_UP` all run.
        source: `DECLARED` and a project: synced with its code at each start and deploy. `RUN_TIME`: stays until it is
            cancelled.
        template: The fields of the job hash that each firing copies.
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
        """A digest of everything but the id and the source: equal versions mean equal entries."""
        digest = hashlib.sha256()
        for key, value in sorted(self._attributes().items()):
            digest.update(f"{key}={value}\0".encode())
        for key, raw in sorted(self.template.items()):
            digest.update(key.encode() + b"=" + raw + b"\0")
        return digest.hexdigest()[:16]

    def fields(self) -> dict[str, str]:
        """The fields of its hash in Redis; the template is stored apart."""
        return {**self._attributes(), "version": self.version, "source": self.source}

    @classmethod
    def from_fields(cls, id: str, fields: Mapping[bytes, bytes]) -> Entry:
        """Read an entry that `fields` wrote.

        Raises:
            UnknownZone: This machine does not know the time zone.
            ValueError: The fields are damaged.
            KeyError: One is missing.
        """
        if sum(map(len, fields.values())) > _LONGEST:
            raise ValueError(f"its fields have more than {_LONGEST} bytes")
        text = {key.decode(): value.decode() for key, value in fields.items()}
        text["version"]
        for name in (text["queue"], text["task"], text["name"]):
            if not name or "\0" in name or len(name) > LONGEST_NAME:
                raise ValueError("it has an invalid name")
        misfire_grace = int(text["misfire_grace"])
        if not 0 <= misfire_grace <= _LONGEST_GRACE:
            raise ValueError(f"its misfire grace of {text['misfire_grace']:.20} s is out of range")
        timetable_text, zone = text["timetable"], text["zone"]
        if not _ZONE.fullmatch(zone):
            raise ValueError("its time zone is invalid")
        try:
            time_zone(zone)
        except ValueError as error:
            raise UnknownZone(str(error)) from None
        return cls(
            id=id,
            name=text["name"],
            task=text["task"],
            timetable=parse(timetable_text, zone),
            queue=text["queue"],
            misfire_grace=misfire_grace,
            source=text["source"],
            description=text["description"],
        )

    def job_id(self, firing: int) -> str:
        """The id of the job of a firing, which every scheduler computes alike."""
        return f"cron-{self.id}-{datetime.fromtimestamp(firing, UTC):%Y%m%dT%H%M%SZ}"

    def _attributes(self) -> dict[str, str]:
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
    """The id of an entry: from its name if it has one, else from its task, timetable and arguments.

    Args:
        task: The dotted path of the function.
        arguments: Text that is equal for equal arguments in every process, from `arguments_text`.
    """
    identity = [name] if name else [task, timetable.text, timetable.zone, arguments]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", (name or task.rpartition(".")[2])).strip("-")[:40]
    return f"{readable}-{digest}" if readable else digest


def arguments_text(args: Iterable[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Arguments as JSON, which is the same text in every process; None if JSON cannot represent them."""
    try:
        return json.dumps([list(args), dict(kwargs)], sort_keys=True)
    except (TypeError, ValueError):
        return None


def check_misfire_grace(value: float | None) -> int:
    """Validate a misfire grace and return it in whole seconds.

    Raises:
        ValueError: It is negative or not a number.
    """
    if value is None:
        return MISFIRE_GRACE
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"misfire_grace={value!r}: should be seconds, 0 or more.")
    return int(value)
