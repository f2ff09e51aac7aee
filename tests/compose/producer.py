"""A producer as an app has it, run as a process of its own: reads JSON from stdin, prints JSON.

enqueue TASK   [[argument, …], …]  ->  [job id, …]
outcomes       [job id, …]         ->  {job id: [status, result, worker name]}
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rq.job import Job

from rqstack import autodiscover, connect, get_settings
from rqstack.registry.registry import registry
from rqstack.security import get_job_serializer


def enqueue(name: str, calls: list[list[Any]]) -> list[str]:
    autodiscover()
    return [job.id for job in registry.get(name).enqueue_many([tuple(call) for call in calls])]


def outcomes(ids: list[str]) -> dict[str, list[Any]]:
    settings = get_settings()
    jobs = Job.fetch_many(ids, connection=connect(settings), serializer=get_job_serializer(settings))
    found = {}
    for identity, job in zip(ids, jobs, strict=True):
        result = job.latest_result() if job else None
        value = result.return_value if result else None
        found[identity] = [job.get_status(refresh=False).value, value, job.worker_name] if job else ["lost", None, None]
    return found


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(enqueue(sys.argv[2], given) if sys.argv[1] == "enqueue" else outcomes(given)))
