"""Any interleaving of what can happen to a job keeps it in exactly one place, and is recorded once.

The real horse, scripts and recovery against a real Redis; only the processes are missing, so that every order of
events can be had: a horse that stops between any two calls, a reply that is lost, a supervisor that is taken for dead
and comes back.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import DefaultSerializer
from rq.suspension import resume, suspend

from rqstack.settings import get_settings
from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.worker import Worker
from rqstack.worker.batch_board import BatchBoard
from rqstack.worker.horse.horse import Horse
from rqstack.worker.lease import Lease
from rqstack.worker.limits import Limits
from rqstack.worker.outcome import Outcome
from rqstack.worker.scoreboard import Scoreboard
from rqstack.worker.scripts import CLAIM, SETTLE
from rqstack.worker.settle import settle
from rqstack.worker.supervisor.recovery import Recovery

QUEUES = ("high", "low: 1")
MAX_CRASHES = 3
KINDS = {"good": ("operator.neg", (1,)), "bad": ("operator.truediv", (1, 0)), "again": ("operator.truediv", (1, 0))}

supervisors = st.integers(0, 1)
horses = st.integers(0, 3)


class Rider:
    """A horse without a process, and what it is about.

    Args:
        client: Its Redis.
        name: Its worker's name.
        supervisor: Its supervisor's id.
    """

    def __init__(self, client: Redis, name: str, supervisor: str) -> None:
        queues = [Queue(queue, connection=client) for queue in QUEUES]
        self.worker = Worker(queues, name=name, connection=client, serializer=DefaultSerializer)
        self.horse = Horse(self.worker, (supervisor, os.getpid()), Scoreboard(1), BatchBoard(1), 0, Limits())
        self.horse._signals._on_stop = signal.getsignal(signal.SIGTERM)  # type: ignore[assignment]  # the test keeps its own
        self.supervisor = supervisor
        self.claimed: list[Any] | None = None
        """A claimed job that has not run yet, as claim.lua gives it."""

    @property
    def job_id(self) -> str | None:
        """The running job."""
        if self.claimed is not None:
            return str(self.claimed[1].decode())
        return self.ended.job_id if self.ended is not None else None

    @property
    def ended(self) -> Outcome | None:
        """How a job ended that has run, and is not recorded yet."""
        return self.horse._ended[0][1] if self.horse._ended else None

    def forget(self) -> None:
        """What a horse knows is lost when it dies."""
        self.claimed = None
        self.horse._ended.clear()

    def close(self) -> None:
        self.horse._connection.close()
        self.horse._signals.close()


class Jobs(RuleBasedStateMachine):
    """Two supervisors of two horses each, two queues, and a person."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.queues = [Queue(name, connection=client) for name in QUEUES]
        self.kinds: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.cancelled: set[str] = set()
        self.crashes: Counter[str] = Counter()
        self.successes: Counter[str] = Counter()
        self.names = ("sup-a", "sup-b")
        self.channels = [RawConnection(client) for _ in self.names]
        self.recoveries = [
            Recovery(
                channel,
                name,
                hostname="here",
                queues=QUEUES,
                dead_after=60,
                worker_ttl=75,
                max_crashes=MAX_CRASHES,
            )
            for channel, name in zip(self.channels, self.names, strict=True)
        ]
        self.riders = [Rider(client, f"w{number}", self.names[number // 2]) for number in range(4)]
        for rider in self.riders:
            rider.worker.register_birth()
        for number in range(2):
            self.heartbeat(number)

    def teardown(self) -> None:
        """Let everything come to its end: no job may be left over."""
        resume(self.client)
        for number, recovery in enumerate(self.recoveries):
            self.heartbeat(number)
            for rider in self.riders[number * 2 : number * 2 + 2]:
                rider.forget()
                self.settle(rider, recovery.put_back([rider.worker.name], crashed=False))
        rider = self.riders[0]
        for _ in range(1000):
            self.claim(0, idle=True)
            if rider.claimed is None:
                break
            self.run_job(0)
            self.finish(0, claim_next=False)
        self.every_job_is_in_one_place()
        for name in self.kinds:
            if name not in self.deleted | self.cancelled:
                assert self.status(name) in ("finished", "failed"), (name, self.status(name))
        assert not self.client.keys("rq:wip:*") + self.client.keys("rqstack:claim:*")
        # Executions of jobs that were deleted or cancelled, and whose horse was lost, expire.
        for key in self.client.keys("rq:execution*"):
            assert self.client.ttl(key) > 0, key
            assert key.decode().split(":")[2] in self.deleted | self.cancelled, key
        for rider in self.riders:
            rider.close()
        for channel in self.channels:
            channel.close()

    # -- a person

    @rule(queue=st.integers(0, 1), kind=st.sampled_from(sorted(KINDS)), front=st.booleans())
    def enqueue(self, queue: int, kind: str, front: bool) -> None:
        name = f"job-{len(self.kinds)}"
        function, arguments = KINDS[kind]
        retry = Retry(1) if kind == "again" else None
        self.queues[queue].enqueue(
            function, args=arguments, job_id=name, retry=retry, at_front=front, job_timeout=-1, result_ttl=-1
        )
        self.kinds[name] = kind

    @rule(number=st.integers(0, 5))
    def add_dependent(self, number: int) -> None:
        parent = f"job-{number}"
        if parent in self.kinds and parent not in self.deleted | self.cancelled and self.kinds[parent] == "good":
            name = f"job-{len(self.kinds)}"
            function, arguments = KINDS["good"]
            self.queues[0].enqueue(
                function, args=arguments, job_id=name, depends_on=parent, job_timeout=-1, result_ttl=-1
            )
            self.kinds[name] = "good"

    @rule(number=st.integers(0, 5))
    def cancel(self, number: int) -> None:
        name = f"job-{number}"
        if name in self.kinds and self.status(name) in ("queued", "started") and not self.is_claimed_idly(name):
            if self.client.exists(f"rq:job:{name}:dependents"):
                return
            Job.fetch(name, connection=self.client).cancel()
            self.cancelled.add(name)

    @rule(number=st.integers(0, 5))
    def delete(self, number: int) -> None:
        name = f"job-{number}"
        if name in self.kinds and name not in self.deleted and not self.client.exists(f"rq:job:{name}:dependents"):
            if self.status(name) == "deferred":
                return
            Job.fetch(name, connection=self.client).delete()
            self.deleted.add(name)

    @rule(number=st.integers(0, 5))
    def requeue(self, number: int) -> None:
        name = f"job-{number}"
        if name in self.kinds and self.status(name) == "failed":
            Job.fetch(name, connection=self.client).requeue()

    @rule()
    def suspend(self) -> None:
        suspend(self.client)

    @rule()
    def resume(self) -> None:
        resume(self.client)

    # -- horses

    @rule(horse=horses, idle=st.booleans())
    def claim(self, horse: int, idle: bool) -> None:
        rider = self.riders[horse]
        if rider.job_id is None:
            tail = rider.horse._arguments(None if idle else time.time(), claim=True, idle=idle)
            self.note_claim(rider, rider.horse._connection.run(CLAIM, tail), CLAIM, tail, resent=idle)

    @rule(horse=horses, queue=st.integers(0, 1))
    def wake(self, horse: int, queue: int) -> None:
        """Redis moves a job to an idle horse, or to one that is cut off by now."""
        rider = self.riders[horse]
        key = f"rq:queue:{QUEUES[queue]}"
        if rider.job_id is None:
            self.client.lmove(key, keys.claim(rider.worker.name, key), "LEFT", "RIGHT")
            rider.horse._claims_checked = 0.0

    @rule(horse=horses)
    def run_job(self, horse: int) -> None:
        rider = self.riders[horse]
        if rider.claimed is not None:
            entry, rider.claimed = rider.claimed, None
            rider.horse._run(entry, 0.0)

    @rule(horse=horses, claim_next=st.booleans(), lost=st.booleans())
    def finish(self, horse: int, claim_next: bool, lost: bool = False) -> None:
        rider = self.riders[horse]
        outcome = rider.ended
        if outcome is None:
            return
        name = outcome.job_id
        owner = self.owner(name, rider)
        tail = rider.horse._arguments(time.time(), claim=claim_next, idle=False)
        (what,), _, *reply = rider.horse._connection.run(SETTLE, tail)
        if owner:
            assert what == (b"finished" if outcome.ending == "finished" else what)
            assert what in (b"finished", b"failed", b"retried"), what
        else:
            assert what in (b"fenced", b"deleted"), what
        if what == b"finished":
            self.successes[name] += 1
        if lost and owner:
            (again,), _, *same = rider.horse._connection.run(SETTLE, tail)
            assert again == b"again"
            assert same[:1] == reply[:1] or reply[:1] == [b"suspended"]
            assert [job[:3] for job in same[1:]] == [job[:3] for job in reply[1:]]
        rider.horse._ended.clear()
        if reply:
            self.note_claim(rider, reply, SETTLE, tail, resent=False)

    def note_claim(self, rider: Rider, reply: list[Any], script: Any, tail: Any, *, resent: bool) -> None:
        assert reply[0] in (b"jobs", b"empty", b"suspended", b"unregistered"), reply
        if reply[0] == b"jobs":
            if resent:  # its reply was lost: the same call again brings the same job
                assert rider.horse._connection.run(script, tail)[1][:4] == reply[1][:4]
            (rider.claimed,) = reply[1:]
        elif reply[0] == b"unregistered":
            self.heartbeat(self.names.index(rider.supervisor))

    # -- supervisors

    @rule(supervisor=supervisors)
    def heartbeat(self, supervisor: int) -> None:
        riders = self.riders[supervisor * 2 : supervisor * 2 + 2]
        reply = self.recoveries[supervisor].heartbeat([rider.worker.name for rider in riders])
        for rider in riders:
            if rider.worker.name in reply.missing:
                rider.worker.register_again(busy=False)

    @rule(horse=horses, crashed=st.booleans())
    def lose_horse(self, horse: int, crashed: bool) -> None:
        """It dies, or is stopped, at whatever it was about; its supervisor gives back what it held."""
        rider = self.riders[horse]
        if crashed:
            self.note_crash(rider)
        rider.forget()
        held = self.recoveries[horse // 2].put_back([rider.worker.name], crashed=crashed)
        assert all(job.action == "requeued" or self.crashes[job.job_id] >= MAX_CRASHES for job in held)
        self.settle(rider, held)

    @rule(supervisor=supervisors, come_back=st.booleans())
    def die(self, supervisor: int, come_back: bool) -> None:
        """A supervisor is not heard of for too long, and another takes over. Its horses may still be there."""
        name = self.names[supervisor]
        riders = self.riders[supervisor * 2 : supervisor * 2 + 2]
        other = self.recoveries[1 - supervisor]
        assert other.take_over(name) == [], "it was alive"
        self.client.zadd(keys.SUPERVISORS, {name: 1})
        for rider in riders:
            self.note_crash(rider)
        self.settle(self.riders[2 - supervisor * 2], other.take_over(name))
        if not come_back:
            for rider in riders:
                rider.forget()

    @rule(supervisor=supervisors)
    def check_dead_again(self, supervisor: int) -> None:
        for name in self.client.zrange(keys.DEAD_SUPERVISORS, 0, -1):
            self.client.zadd(keys.DEAD_SUPERVISORS, {name: 1})
        self.settle(self.riders[supervisor * 2], self.recoveries[supervisor].check_dead_again())

    def note_crash(self, rider: Rider) -> None:
        """The job on record as this horse's, if there is one, has crashed."""
        if found := re.fullmatch("(.*)\n(job-[0-9]+):[0-9a-f]+", self.lease(rider)):
            member = self.member(rider, found[2])
            if found[2] not in self.deleted and self.client.zscore(f"rq:wip:{found[1]}", member) is not None:
                self.crashes[found[2]] += 1

    def settle(self, rider: Rider, held: list[Lease]) -> None:
        for job in held:
            if job.action == "abandon":
                outcome = Outcome("failed", job.job_id, job.execution, job.queue, ended=1e9)
                assert settle(rider.horse._connection, job, outcome) in ("failed", "retried")

    # -- what is so at any time

    def status(self, name: str) -> str:
        return (self.client.hget(f"rq:job:{name}", "status") or b"gone").decode()

    def queue_of(self, name: str) -> str:
        return (self.client.hget(f"rq:job:{name}", "origin") or QUEUES[0].encode()).decode()

    def lease(self, rider: Rider) -> str:
        return (self.client.hget(keys.running(rider.supervisor), rider.worker.name) or b"").decode()

    def holds(self, rider: Rider, name: str) -> bool:
        return f"\n{name}:" in self.lease(rider)

    def member(self, rider: Rider, name: str) -> str:
        return self.lease(rider).rpartition("\n")[2]

    def owner(self, name: str, rider: Rider) -> bool:
        """Whether this run of a job is the one on record."""
        if name in self.deleted or not self.holds(rider, name):
            return False
        on_record = self.client.zscore(f"rq:wip:{self.queue_of(name)}", self.member(rider, name)) is not None
        return on_record or self.status(name) == "canceled"

    def is_claimed_idly(self, name: str) -> bool:
        lists = self.client.keys("rqstack:claim:*")
        return any(name.encode() in self.client.lrange(key, 0, -1) for key in lists)

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        places: dict[str, list[str]] = {name: [] for name in self.kinds}
        wip: Counter[str] = Counter()
        for raw in self.client.scan_iter(count=1000):
            key = raw.decode()
            if key.startswith(("rq:queue:", "rqstack:claim:")):
                for member in self.client.lrange(raw, 0, -1):
                    places[member.decode()].append("queued")
            elif found := re.match("rq:(wip|finished|failed|deferred|canceled):", key):
                for member in self.client.zrange(raw, 0, -1):
                    name = member.decode().partition(":")[0]
                    places[name].append({"wip": "started"}.get(found[1], found[1]))
                    if found[1] == "wip":
                        wip[member.decode()] += 1
        for name, where in places.items():
            if name in self.deleted:
                assert "started" not in where, (name, where)
            elif name in self.cancelled:
                assert set(where) <= {"canceled", "finished", "failed"}, (name, where)
            else:
                assert where == [self.status(name)], (name, where, self.status(name))
        leases: Counter[str] = Counter()
        for key in self.client.keys("rqstack:running:*"):
            for value in self.client.hvals(key):
                if not value.startswith(b"="):
                    leases[value.decode().rpartition("\n")[2]] += 1
        assert wip <= leases, (wip, leases)
        assert not leases or max(leases.values()) == 1, leases
        for member in leases - wip:
            name = member.partition(":")[0]
            assert name in self.deleted | self.cancelled or self.status(name) in ("failed", "queued"), member

    @invariant()
    def every_success_is_recorded_once(self) -> None:
        for name in self.kinds.keys() - self.deleted:
            recorded = [fields for _, fields in self.client.xrange(f"rq:results:{name}") if fields[b"type"] == b"1"]
            assert len(recorded) == self.successes[name], (name, recorded)
            assert name in self.cancelled or len(recorded) == (self.status(name) == JobStatus.FINISHED), name

    @invariant()
    def crashes_are_counted_once(self) -> None:
        for name in self.kinds.keys() - self.deleted:
            counted = int(self.client.hget(f"rqstack:crashes:{name}", "count") or 0)
            assert counted == self.crashes[name], (name, counted, self.crashes[name])


def run(connection: Redis, monkeypatch: pytest.MonkeyPatch, examples: int, steps: int) -> None:
    monkeypatch.setenv("RQSTACK_ALLOW_UNREGISTERED", "1")
    get_settings.cache_clear()
    logging.getLogger("rq.worker").setLevel(logging.CRITICAL)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Jobs(connection),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_events_keeps_every_job(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    run(connection, monkeypatch, examples=60, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_more_orders_of_events(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    run(connection, monkeypatch, examples=1000, steps=60)
