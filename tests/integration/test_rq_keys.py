"""What a worker leaves in Redis is what RQ's own worker leaves there: every key, field and time to live.

It fails on the day when a new version of RQ changes its keys.
"""

from __future__ import annotations

import base64
import importlib
import os
import re
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rq
from redis import Redis
from rq import Callback, RateLimit, Repeat, Retry
from rq.command import send_stop_execution_command
from rq.executions import ExecutionRegistry
from rq.group import Group
from rq.job import Dependency, Job
from rq.rate_limit import RateLimitRegistry

from support.paths import MODULES
from support.processes import rqstack_command, start

EXECUTION = re.compile(r"\b[0-9a-f]{32}\b")
SOON = 300
NEAR = 30  # seconds by which times may differ between the two runs


def enqueue_all(queue: rq.Queue, module: ModuleType) -> set[str]:
    """One job of each kind; its id names it. Returns the ids.

    Three kinds are not here, as RQ's way is mended on purpose: in place of a result that does not pickle RQ stores a
    text and calls the job finished, here it fails; a job that was deleted while it waited stays in RQ's intermediate
    list forever, here it is dropped; a job with `failure_ttl=0` leaves its id in RQ's registry of failed jobs, and its
    dependents for ever deferred, here neither.
    """

    def add(name: str, func: Any, *args: Any, **options: Any) -> Job:
        return queue.enqueue(func, args=args, job_id=name, **options)

    for name, value in {"none": None, "number": 7, "text": "ü", "bytes": b"\0\xff", "big": "x" * 100_000}.items():
        add(f"give-{name}", "rq_keys_jobs.give", value)
    add("give-structure", "rq_keys_jobs.give", {"a": [1, (2, 3)], "b": {4}})
    add("give-later", "rq_keys_jobs.give_later", 5)
    add("method", module.Thing(3).add, 4)
    add("instance", module.Thing(3), 4)
    add("keep-meta", "rq_keys_jobs.keep_meta", meta={"who": "me"})
    add("result-ttl-0", "rq_keys_jobs.give", 1, result_ttl=0)
    add("result-ttl-0-none", "rq_keys_jobs.give", result_ttl=0)
    add("result-ttl-long", "rq_keys_jobs.give", 1, result_ttl=5000)
    add("result-ttl-ever", "rq_keys_jobs.give", 1, result_ttl=-1)
    add("waits-not-long", "rq_keys_jobs.give", 1, ttl=9000)
    add("waits-not-long-kept", "rq_keys_jobs.give", 1, ttl=9000, result_ttl=-1)
    add("limited", "rq_keys_jobs.give", 1, job_timeout=50)
    add("unlimited", "rq_keys_jobs.give", 1, job_timeout=-1)
    add("fail", "rq_keys_jobs.fail")
    add("fail-kept-short", "rq_keys_jobs.fail", "KeyError", failure_ttl=700)
    add("fail-kept-ever", "rq_keys_jobs.fail", failure_ttl=-1)
    add("fail-with-meta", "rq_keys_jobs.fail_with_meta", meta={"who": "me"})
    add("fail-ttl", "rq_keys_jobs.fail", ttl=9000)
    add("no-such-module", "rq_keys_no_such.function")
    add("no-such-function", "rq_keys_jobs.no_such")
    add("wrong-arguments", "rq_keys_jobs.give", 1, 2, 3)
    add("leave", "rq_keys_jobs.leave")
    add("too-long", "rq_keys_jobs.hang", job_timeout=1)
    add("retry-at-once", "rq_keys_jobs.fail", retry=Retry(2))
    add("retry-later", "rq_keys_jobs.fail", retry=Retry(2, interval=[SOON, 2 * SOON]))
    add("retry-in-front", "rq_keys_jobs.fail", retry=Retry(1, enqueue_at_front=True))
    add("returns-retry", "rq_keys_jobs.once_more")
    add("returns-retry-always", "rq_keys_jobs.always_more")
    add("returns-retry-later", "rq_keys_jobs.later")
    add("repeat", "rq_keys_jobs.keep_meta", repeat=Repeat(2))
    add("repeat-later", "rq_keys_jobs.give", repeat=Repeat(2, interval=SOON))
    add("repeat-fail", "rq_keys_jobs.fail", repeat=Repeat(2))
    add("on-success", "rq_keys_jobs.give", 1, on_success=Callback("rq_keys_jobs.on_success"))
    add("on-failure", "rq_keys_jobs.fail", on_failure=Callback("rq_keys_jobs.on_failure"))
    add("on-success-bad", "rq_keys_jobs.give", 1, on_success=Callback("rq_keys_jobs.bad_callback"))
    add("on-failure-bad", "rq_keys_jobs.fail", on_failure=Callback("rq_keys_jobs.bad_callback"))
    add("after-good", "rq_keys_jobs.give", 2, depends_on="give-number")
    add("after-bad", "rq_keys_jobs.give", 2, depends_on="fail")
    add("after-bad-allowed", "rq_keys_jobs.give", 2, depends_on=Dependency("fail", allow_failure=True))
    add("after-two", "rq_keys_jobs.give", 2, depends_on=["give-number", "method"])
    add("after-after", "rq_keys_jobs.give", 3, depends_on="after-good")
    add("in-front", "rq_keys_jobs.give", 1, at_front=True)
    add("after-repeat", "rq_keys_jobs.give", depends_on="repeat")
    add("after-retry", "rq_keys_jobs.give", depends_on=Dependency("retry-at-once", allow_failure=True))
    few = RateLimit("few", 2)
    for number in range(3):
        add(f"slot-{number}", "rq_keys_jobs.give", number, rate_limit=few)
    add("slot-fail", "rq_keys_jobs.fail", rate_limit=few)
    add("slot-leave", "rq_keys_jobs.leave", rate_limit=few, at_front=True)
    add("slot-retry", "rq_keys_jobs.fail", rate_limit=few, retry=Retry(2))
    add("slot-retry-later", "rq_keys_jobs.fail", rate_limit=few, retry=Retry(2, interval=SOON))
    add("slot-returns-retry", "rq_keys_jobs.once_more", rate_limit=few)
    add("slot-returns-retry-later", "rq_keys_jobs.later", rate_limit=few)
    add("slot-repeat", "rq_keys_jobs.keep_meta", rate_limit=few, repeat=Repeat(2))
    add("slot-repeat-later", "rq_keys_jobs.give", rate_limit=few, repeat=Repeat(2, interval=SOON))
    add("slot-result-ttl-0", "rq_keys_jobs.give", 1, rate_limit=few, result_ttl=0)
    add("slot-waits-not-long", "rq_keys_jobs.give", 1, rate_limit=few, ttl=9000)
    add("slot-after", "rq_keys_jobs.give", 1, rate_limit=few, depends_on="give-number")
    add("after-slot", "rq_keys_jobs.give", 1, depends_on="slot-1")
    add("slot-on-success-bad", "rq_keys_jobs.give", 1, rate_limit=few, on_success=Callback("rq_keys_jobs.bad_callback"))
    add("slot-last", "rq_keys_jobs.give", 2, rate_limit=few)
    group = Group.create(connection=queue.connection, name="a-group")
    group.enqueue_many(queue, [rq.Queue.prepare_data("rq_keys_jobs.give", (n,), job_id=f"group-{n}") for n in (1, 2)])
    corrupt = add("corrupt", "rq_keys_jobs.give")
    queue.connection.hset(corrupt.key, "data", b"no pickle")
    keys = (key.decode().removeprefix("rq:job:") for key in queue.connection.scan_iter("rq:job:*"))
    return {key for key in keys if ":" not in key}


TIMES = {"created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "birth", "death"}
TIMES |= {"execution_started_at", "execution_ended_at", "total_working_time"}
OWN = {"worker_name", "execution_id", "id", "pid", "hostname", "ip_address"}


def plain(field: str, value: bytes) -> Any:
    """A field's value without what differs from run to run."""
    if field in TIMES:
        return "a time" if value else "none"
    if field in OWN:
        return "its own" if value else "none"
    if field == "exc_string":  # the lines of the traceback name the code of the worker
        last = zlib.decompress(base64.b64decode(value)).decode().strip().splitlines()[-1]
        return last.partition(":")[0] if "DeserializationError" in last else last  # here it also says why
    if field == "data":  # RQ compresses a damaged one, too, when it writes the whole record again
        return zlib.decompress(value) if value[:1] == b"x" else value
    return value.decode("utf-8", "backslashreplace")


def flat(client: Redis) -> dict[tuple[str, str], Any]:
    """Everything in a Redis but rqstack's own keys, as (key, part) and value. Times are seconds from now."""
    seconds, _ = client.time()
    found: dict[tuple[str, str], Any] = {}
    for raw in client.scan_iter(count=1000):
        key = raw.decode()
        if key.startswith("rqstack:"):
            continue
        kind = client.type(raw).decode()
        parts: dict[str, Any] = {"type": kind, "ttl": client.ttl(raw)}
        if kind == "hash":
            parts |= {name.decode(): plain(name.decode(), value) for name, value in client.hgetall(raw).items()}
            # A copy of the last value of a job that runs again, which RQ writes and never reads: results are a stream.
            parts.pop("result", None)
        elif kind == "zset":
            for member, score in client.zrange(raw, 0, -1, withscores=True):
                parts[f"member {member.decode()}"] = score - seconds if score > 1e9 else score
        elif kind == "set":
            parts |= {f"member {member.decode()}": True for member in client.smembers(raw)}
        elif kind == "list":
            parts["items"] = client.lrange(raw, 0, -1)
        elif kind == "stream":
            for number, (_, entry) in enumerate(client.xrange(raw)):
                parts |= {f"{number} {name.decode()}": plain(name.decode(), value) for name, value in entry.items()}
        else:
            parts["value"] = client.get(raw)
        name = re.sub("^rq:worker:[^:]*", "rq:worker:*", key)
        # The ids of executions are random.
        found |= {(*EXECUTION.sub("*", f"{name}\0{part}").split("\0"),): value for part, value in parts.items()}
    return found


def differences(wanted: dict[tuple[str, str], Any], found: dict[tuple[str, str], Any]) -> list[str]:
    lines = []
    for where in sorted(wanted.keys() | found.keys()):
        theirs, ours = wanted.get(where, "(nothing)"), found.get(where, "(nothing)")
        same = theirs == ours
        if isinstance(theirs, int | float) and isinstance(ours, int | float):
            is_time = min(theirs, ours) > NEAR or where[1].startswith("member ")
            same = same or (is_time and abs(theirs - ours) < NEAR)
        if not same:
            lines.append(f"{' '.join(where)}: RQ {theirs!r}, here {ours!r}")
    return lines


@pytest.fixture
def jobs_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(MODULES))
    monkeypatch.setenv("PYTHONPATH", str(MODULES))
    monkeypatch.delitem(sys.modules, "rq_keys_jobs", raising=False)
    return importlib.import_module("rq_keys_jobs")


def rq_worker(name: str) -> Callable[[str], list[str]]:
    command = str(Path(sys.executable).parent / "rq")
    return lambda url: [command, "worker", "--url", url, "--worker-class", name, "--burst", "--quiet", "keys"]


def supervisor(url: str) -> list[str]:
    return rqstack_command("worker", "run", "keys", "--processes", "1", "--burst")


def started(command: Callable[[str], list[str]], client: Redis, folder: Path, ends: ExitStack) -> Callable[[], None]:
    """Start a worker for a client's database. Returns what waits until it has ended well."""
    options = client.connection_pool.connection_kwargs
    url = f"redis://127.0.0.1:{options['port']}/{options['db']}"
    log = folder / f"worker{options['db']}.log"
    process = start(command(url), log, env={**os.environ, "REDIS_URL": url, "RQSTACK_ALLOW_UNREGISTERED": "1"})
    ends.callback(process.wait)
    ends.callback(process.kill)

    def wait() -> None:
        assert process.wait(60) == 0, log.read_text()

    return wait


WORKERS = pytest.mark.parametrize(
    "command", [rq_worker("rqstack.worker.Worker"), supervisor], ids=["rq worker", "rqstack worker run"]
)


@WORKERS
def test_a_worker_leaves_what_rq_s_leaves(
    connection: Redis, jobs_module: ModuleType, command: Callable[[str], list[str]], tmp_path: Path
) -> None:
    port = connection.connection_pool.connection_kwargs["port"]
    runs = []
    with ExitStack() as ends:
        for database, worker in ((5, rq_worker("rq.SimpleWorker")), (6, command)):
            client = Redis(port=port, db=database)
            ids = enqueue_all(rq.Queue("keys", connection=client), jobs_module)
            runs.append((client, started(worker, client, tmp_path, ends)))
        for _, wait in runs:
            wait()
    (theirs, _), (ours, _) = runs
    wanted = flat(theirs)
    kept = {job for job in ids if ("rq:job:" + job, "status") in wanted}
    # The reference is what it should be.
    assert ids - kept == {"result-ttl-0", "result-ttl-0-none", "slot-result-ttl-0"}
    assert ("rq:rl:few:allowed", "type") not in wanted
    found = differences(wanted, flat(ours))
    assert not found, "\n".join(found)
    theirs.close()
    ours.close()


@WORKERS
def test_a_stopped_execution_leaves_what_rq_s_leaves(
    connection: Redis, jobs_module: ModuleType, command: Callable[[str], list[str]], tmp_path: Path
) -> None:
    port = connection.connection_pool.connection_kwargs["port"]
    runs = []
    with ExitStack() as ends:
        for database, worker in ((5, rq_worker("rq.Worker")), (6, command)):
            client = Redis(port=port, db=database)
            queue = rq.Queue("keys", connection=client)
            options = {"rate_limit": RateLimit("one", 1), "retry": Retry(3)}
            callback = Callback("rq_keys_jobs.on_stopped")
            queue.enqueue("rq_keys_jobs.hang", job_id="hang", on_stopped=callback, **options)
            queue.enqueue("rq_keys_jobs.give", 1, job_id="waits-for-its-slot", **options)
            queue.enqueue("rq_keys_jobs.give", 1, job_id="waits-for-ever", depends_on="hang")
            runs.append((client, started(worker, client, tmp_path, ends)))
        running = []
        for client, _ in runs:
            deadline = time.monotonic() + 60
            while client.hget("rq:job:hang", "status") != b"started":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            parts = ("rq:execution", "rq:wip:", "rq:rl", "rq:job:", "rq:worker:*:")
            running.append({where: value for where, value in flat(client).items() if where[0].startswith(parts)})
        for client, _ in runs:
            (execution,) = ExecutionRegistry("hang", client).get_execution_ids()
            send_stop_execution_command(client, "hang", execution)
        for _, wait in runs:
            wait()
        for client, _ in runs:
            RateLimitRegistry("one", client).cleanup()  # as RQ's maintenance does at its own times
    stopped = [flat(client) for client, _ in runs]
    # RQ's process that is told to stop does not know what its horse has written of the job, and writes over it.
    forgotten = [("rq:job:hang", field) for field in ("ended_at", "last_heartbeat", "worker_name")]
    for where in (*forgotten, ("rq:results:hang", "0 execution_ended_at")):
        assert stopped[0].pop(where, "none") == "none"
        assert stopped[1].pop(where) in ("a time", "its own")
    for wanted, found in (running, stopped):
        assert not differences(wanted, found), "\n".join(differences(wanted, found))
    theirs = runs[0][0]
    assert theirs.hget("rq:job:hang", "status") == b"stopped"  # the reference is what it should be
    assert theirs.hget("rq:job:waits-for-its-slot", "status") == b"finished"
    for client, _ in runs:
        client.close()
