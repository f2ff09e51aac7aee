"""Checks what Redis holds when all jobs have ended: nothing lost, each outcome recorded once, nothing left over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

RESULTS = {b"1": "success", b"2": "failure", b"3": "stopped", b"4": "retried", b"5": "max retries exceeded"}
"""RQ's types of results."""

_REGISTRY = {
    "finished": "finished",
    "failed": "failed",
    "stopped": "failed",
    "canceled": "canceled",
    "deferred": "deferred",
    "scheduled": "scheduled",
}
"""The registry that lists a job of each status."""

_NEVER_LEFT = ("wip", "queue", "execution", "executions", "ready", "intermediate", "scheduled")
"""Keys, by what follows the prefix, that are gone when no job waits or runs."""


_COUNTED = ("crashes", "ratelimit")
"""Keys of rqstack that count something per job; they expire."""


@dataclass(frozen=True)
class Ended:
    """The state in which one job must have ended.

    Args:
        status: On its record; "gone" if the record must not exist.
        results: The types of its results, in their order: all of them.
        queue: Its queue.
        also_in: A registry that may list it, too.
    """

    status: str
    results: Sequence[str] = ()
    queue: str = "default"
    also_in: str = ""


FINISHED = Ended("finished", ("success",))
FAILED = Ended("failed", ("failure",))
STOPPED = Ended("stopped", ("failure",))
CANCELED = Ended("canceled")
DEFERRED = Ended("deferred")
GONE = Ended("gone")


def problems(redis: Redis, expected: Mapping[str, Ended], prefix: str = "rq") -> list[str]:
    """All deviations from the expected state when all jobs have ended, one per line.

    Args:
        redis: All of whose keys are looked at.
        expected: Every job that was ever enqueued.
        prefix: RQ's key prefix.
    """
    found = _records(redis, expected, prefix)
    known = set(expected)
    listed: dict[str, Counter[str]] = defaultdict(Counter)
    for raw in redis.scan_iter(f"{prefix}*", count=10_000):
        key = raw.decode(errors="replace")
        if key.startswith(f"{prefix}stack:"):
            found += _own_key(redis, key, key.removeprefix(f"{prefix}stack:"), known)
        elif key.startswith(f"{prefix}:"):
            found += _rq_key(redis, key, key.removeprefix(f"{prefix}:"), expected, listed)
    wanted: dict[str, Counter[str]] = defaultdict(Counter)
    for job, end in expected.items():
        if registry := _REGISTRY.get(end.status):
            wanted[f"{registry}:{end.queue}"][job] += 1
    for name in {*listed, *wanted}:
        registry = name.partition(":")[0]
        found += [f"{prefix}:{name} lacks {job}" for job in wanted[name] - listed[name]]
        found += [
            f"{prefix}:{name} lists {job}, which is {expected[job].status if job in known else 'unknown'}"
            for job in listed[name] - wanted[name]
            if job not in known or expected[job].also_in != registry
        ]
    return found


def assert_settled(redis: Redis, expected: Mapping[str, Ended], prefix: str = "rq") -> None:
    """Every job has ended once, as expected, and nothing is left in any registry. Arguments as `problems`."""
    found = problems(redis, expected, prefix)
    assert found == [], "\n".join(found)


def forget_jobs(redis: Redis, prefix: str = "rq") -> None:
    """Delete all that concerns jobs; workers stay on record, and whatever else there is."""
    of_jobs = {*_NEVER_LEFT, *_REGISTRY.values(), "job", "results", "rl", "rl-keys", "group", "groups"}
    names = {f"{prefix}:{kind}" for kind in of_jobs} | {f"{prefix}stack:{kind}" for kind in _COUNTED}
    depth = prefix.count(":") + 2
    keys = [key for key in redis.scan_iter(f"{prefix}*", count=10_000) if _begin(key, depth) in names]
    if keys:
        redis.unlink(*keys)


def _begin(key: bytes, parts: int) -> str:
    return ":".join(key.decode(errors="replace").split(":")[:parts])


def read_ends(redis: Redis, jobs: Sequence[str], prefix: str = "rq") -> dict[str, tuple[str, list[str]]]:
    """The status ("gone" without a record) and the types of the results of each job."""
    found = {}
    for begin in range(0, len(jobs), 1000):
        part = jobs[begin : begin + 1000]
        with redis.pipeline(transaction=False) as pipeline:
            for job in part:
                pipeline.hget(f"{prefix}:job:{job}", "status")
                pipeline.exists(f"{prefix}:job:{job}")
                pipeline.xrange(f"{prefix}:results:{job}")
            replies = iter(pipeline.execute())
        for job in part:
            status, exists, entries = next(replies), next(replies), next(replies)
            is_now = status.decode() if status else "without status" if exists else "gone"
            found[job] = is_now, [RESULTS.get(entry[b"type"], "?") for _, entry in entries]
    return found


def _records(redis: Redis, expected: Mapping[str, Ended], prefix: str) -> list[str]:
    """The deviations in the jobs' statuses and results."""
    found = []
    for job, (status, results) in read_ends(redis, list(expected), prefix).items():
        end = expected[job]
        if status != end.status:
            found.append(f"{job} is {status}, not {end.status}")
        if results != list(end.results):
            found.append(f"{job} has the results {results}, not {list(end.results)}")
    return found


def _rq_key(
    redis: Any, key: str, rest: str, expected: Mapping[str, Ended], listed: dict[str, Counter[str]]
) -> list[str]:
    kind, _, name = rest.partition(":")
    if kind in set(_REGISTRY.values()) - {"scheduled"}:
        listed[rest].update(member.decode() for member in redis.zrange(key, 0, -1))
        return []
    if kind in _NEVER_LEFT:
        return [f"{key} is left: {_content(redis, key)}"]
    if kind == "worker" and name.endswith(":executions"):
        return [f"{key} is left: {_content(redis, key)}"]
    if kind == "rl" and name.endswith((":allowed", ":rate_limited")):
        return [f"{key} is left: {_content(redis, key)}"]
    if kind == "job":
        # Where a job had several parents, RQ leaves it in the list of those that ended first, for as long as they last.
        job = name.removesuffix(":dependents").removesuffix(":dependencies").removeprefix(":")
        if job not in expected:
            return [f"{key} is of no known job"]
        return [f"{key} is left"] if name.endswith(":dependents") and expected[job].status == "gone" else []
    if kind == "results":
        return [] if name in expected else [f"{key} is of no known job"]
    return []


def _own_key(redis: Any, key: str, rest: str, known: set[str]) -> list[str]:
    kind = rest.partition(":")[0]
    if kind == "running":
        leases = redis.hgetall(key)
        held = {worker: lease for worker, lease in leases.items() if not lease.startswith(b"=")}
        return [f"{key} still has {held}"] if held else []
    if kind == "claim":
        return [f"{key} is left: {_content(redis, key)}"]
    if kind in _COUNTED:
        # They are counts over a length of time, and expire.
        return [] if redis.ttl(key) > 0 else [f"{key} never expires"]
    if kind in ("metrics", "supervisors", "supervisor", "schedulers", "scheduler", "cron"):
        return []
    # Whatever else there is: it must not hold a job.
    text = key + repr(_content(redis, key))
    named = [job for job in known if job in text] if len(known) < 1000 else []
    return [f"{key} still names {named}"] if named else []


def _content(redis: Any, key: str) -> Any:
    """The content of a key, for a message."""
    kind = redis.type(key)
    if kind == b"hash":
        return redis.hgetall(key)
    if kind == b"list":
        return redis.lrange(key, 0, 9)
    if kind == b"set":
        return list(redis.smembers(key))[:10]
    if kind == b"zset":
        return redis.zrange(key, 0, 9)
    if kind == b"stream":
        return redis.xrange(key, count=10)
    return redis.get(key) if kind == b"string" else None
