"""The account of all jobs, when every worker has ended."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis


def account(
    client: Redis,
    begun: Mapping[str, int],
    ids: Sequence[str],
    queues: Sequence[str] = ("default",),
    failed: Sequence[str] = (),
) -> None:
    """Every job ran and is recorded once, and nothing is left anywhere. To be called when all workers have ended.

    Args:
        client: Of Redis.
        begun: How often each job has begun.
        ids: Jobs that must have finished.
        queues: All queues.
        failed: Jobs that must have failed.
    """
    assert [job for job in [*ids, *failed] if not begun.get(job)] == [], "these never ran"
    with client.pipeline() as pipeline:
        for job in [*ids, *failed]:
            pipeline.hget(f"rq:job:{job}", "status")
        states = dict(zip([*ids, *failed], pipeline.execute(), strict=True))
        assert {job: states[job] for job in ids if states[job] != b"finished"} == {}
        assert {job: states[job] for job in failed if states[job] != b"failed"} == {}
        for job in ids:
            pipeline.xrange(f"rq:results:{job}")
        results = dict(zip(ids, pipeline.execute(), strict=True))
    wrong = {}
    for job, entries in results.items():
        # type 1 is a success; the signature stands behind the pickle.
        found = [(e[b"type"], pickle.loads(base64.b64decode(e[b"return_value"]))) for _, e in entries]
        if found != [(b"1", job)]:
            wrong[job] = found
    assert wrong == {}, "these are not recorded exactly once"
    with client.pipeline() as pipeline:
        for queue in queues:
            for registry in ("finished", "failed"):
                pipeline.zrange(f"rq:{registry}:{queue}", 0, -1)
        recorded = pipeline.execute()
    assert sorted(name.decode() for names in recorded[::2] for name in names) == sorted(ids)
    assert sorted(name.decode() for names in recorded[1::2] for name in names) == sorted(failed)
    assert left(client) == {}


def left(client: Redis) -> dict[str, Any]:
    """The keys that should not exist any more when all jobs are done and all workers have ended."""
    # RQ keeps the record of a worker that has ended for a minute; its place among the workers is gone.
    patterns = ("rq:wip:*", "rq:queue:*", "rq:execution*", "rq:workers*", "rqstack:claim:*", "rqstack:running:*")
    found: dict[str, Any] = {}
    for pattern in patterns:
        for key in client.scan_iter(pattern, count=10_000):
            found[key.decode()] = client.type(key)
    if supervisors := client.zrange("rqstack:supervisors", 0, -1):
        found["rqstack:supervisors"] = supervisors
    return found
