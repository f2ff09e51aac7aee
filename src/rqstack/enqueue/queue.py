"""The queue: RQ's, with jobs written in one round trip.

The result in Redis is what RQ 3.0 writes. One script writes a plain job, another one a job of any kind: with
dependencies, a rate limit, a time, or unique. Jobs that run immediately (`is_async=False`) and jobs that are added to a
caller's pipeline go through RQ's own methods.

Unlike RQ, a command whose reply was lost is sent again with a mark by which Redis detects whether the first one was
done, so that an unreliable network does not run a job twice. (If such a job has already run and its hash is gone, with
result_ttl=0, it is enqueued again: at least once, as everywhere.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime as Datetime
from typing import TYPE_CHECKING, Any

from redis import Redis
from rq import Queue as RqQueue
from rq.job import Job, JobStatus
from rq.utils import get_version

from rqstack.enqueue import any_job
from rqstack.enqueue.any_job import AnyJob, IfExists
from rqstack.enqueue.dependencies import DependencyCycle, in_order
from rqstack.enqueue.description import describe
from rqstack.enqueue.job_fields import (
    Field,
    PendingJob,
    PlainJobs,
    full_hash,
    job_hash,
    limits_in_seconds,
    sign_arguments,
)
from rqstack.security import for_jobs
from rqstack.security.webhooks import sign_webhooks
from rqstack.transport.pooled import Command, PooledSender
from rqstack.transport.protocol import pack
from rqstack.transport.rq_version import check_rq_version
from rqstack.transport.scripts import Script
from rqstack.transport.timestamps import format_datetime

if TYPE_CHECKING:
    from redis.client import Pipeline
    from rq.callbacks import Callback
    from rq.job import Retry
    from rq.queue import EnqueueData
    from rq.rate_limit import RateLimit
    from rq.repeat import Repeat
    from rq.webhook import Webhook

check_rq_version()

_PLAIN_JOB = Script("enqueue/lua/plain_job.lua")
# What RQ's Queue.parse_args takes out of the named arguments of enqueue().
_OPTIONS = frozenset(
    (
        *("job_timeout", "description", "result_ttl", "ttl", "failure_ttl", "depends_on", "job_id", "at_front"),
        *("meta", "retry", "repeat", "on_success", "on_failure", "on_stopped", "webhooks", "pipeline", "unique"),
        *("rate_limit", "args", "kwargs"),
    )
)
# A subclass of the queue or the job that overrides one of these expects it to be called.
_QUEUE_STEPS = (
    *("create_job", "enqueue_call", "enqueue_job", "schedule_job", "_enqueue_job", "_enqueue_async_job"),
    *("_enqueue_rate_limited_job", "_prepare_for_queue", "_persist_job", "push_job_id", "setup_dependencies"),
)
_JOB_STEPS = ("save", "cleanup", "set_status", "to_dict", "fetch_dependencies", "register_dependency")

_DESCRIPTION = 7  # the place of `description` in RQ's create_job

_SENDER = "_rqstack_sender"  # on the client, so that it lives as long
_versions: dict[Any, tuple[int, int, int]] = {}


class Queue(RqQueue):
    """RQ's queue, with `enqueue`, `enqueue_call`, `enqueue_job` and `enqueue_many` in one round trip."""

    _own_steps = True
    _plain: PlainJobs | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._own_steps = all(getattr(cls, step) is getattr(Queue, step) for step in _QUEUE_STEPS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serializer = for_jobs(self.serializer)

    def create_job(self, *args: Any, **kwargs: Any) -> Job:
        """Make a job, described and signed. Arguments and errors as `rq.Queue.create_job`."""
        job = super().create_job(*args, **kwargs)
        described = kwargs.get("description") or (args[_DESCRIPTION] if args[_DESCRIPTION:] else None)
        if not described and job.func_name is not None:
            job.description = describe(job.func_name, job.args, job.kwargs)
        sign_arguments(job)
        sign_webhooks(job)
        return job

    def get_redis_server_version(self) -> tuple[int, int, int]:
        """The version of Redis, asked once for each server and process, not once for each queue."""
        given = getattr(self.connection, "connection_pool", None)
        options = getattr(given, "connection_kwargs", {})
        key = (options.get("host"), options.get("port"), options.get("path"))
        if key == (None, None, None):
            return super().get_redis_server_version()
        if key not in _versions:
            _versions[key] = get_version(self.connection)
        self.redis_server_version = _versions[key]
        return _versions[key]

    def _is_direct(self) -> bool:
        """Whether jobs may be sent past the client's methods: queue and client override nothing."""
        return self._is_async and self._own_steps and _is_plain_client(self.connection)

    def _is_scripted(self, job: Job) -> bool:
        """Whether a job goes through any_job.lua: queue and job class override nothing, or keys alone."""
        own = type(job)
        if not self._is_async or not self._own_steps or (job.ttl is not None and job.ttl <= 0):
            return False
        if own is not Job and any(getattr(own, step) is not getattr(Job, step) for step in _JOB_STEPS):
            return False
        if not (job.has_rate_limit or job._dependency_ids):
            return True
        # The script knows the keys of other jobs and queues by RQ's names.
        rqs_own = (RqQueue.redis_queue_namespace_prefix, Job.redis_job_namespace_prefix)
        return (self.redis_queue_namespace_prefix, own.redis_job_namespace_prefix) == rqs_own

    def _plain_jobs(self) -> PlainJobs | None:
        """The maker of plain jobs for this queue, or None if its jobs are not RQ's own."""
        if self.job_class is not Job or not self._is_direct():
            return None
        plain = self._plain
        if plain is None or plain.connection is not self.connection or plain.serializer is not self.serializer:
            plain = self._plain = PlainJobs(self.name, self.connection, self.serializer)
        return plain

    def enqueue(self, f: Any, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a call. Arguments and errors as `rq.Queue.enqueue`."""
        if kwargs and not _OPTIONS.isdisjoint(kwargs):
            return super().enqueue(f, *args, **kwargs)
        if not isinstance(f, str) and f.__module__ == "__main__":
            raise ValueError("Functions from the __main__ module cannot be processed by workers")
        plain = self._plain_jobs()
        if plain is None:
            return super().enqueue(f, *args, **kwargs)
        return self._enqueue_pending(plain.make(f, args, kwargs, self._default_timeout), False)

    def enqueue_call(
        self,
        func: Any,
        args: tuple[Any, ...] | list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        timeout: int | None = None,
        result_ttl: int | None = None,
        ttl: int | None = None,
        failure_ttl: int | None = None,
        description: str | None = None,
        depends_on: Any = None,
        job_id: str | None = None,
        at_front: bool = False,
        meta: dict[str, Any] | None = None,
        retry: Retry | None = None,
        repeat: Repeat | None = None,
        on_success: Callback | Callable[..., Any] | None = None,
        on_failure: Callback | Callable[..., Any] | None = None,
        on_stopped: Callback | Callable[..., Any] | None = None,
        rate_limit: RateLimit | None = None,
        pipeline: Pipeline | None = None,
        unique: bool = False,
        webhooks: Sequence[Webhook] | None = None,
    ) -> Job:
        """Enqueue a call, its arguments and options by name. Arguments and errors as `rq.Queue.enqueue_call`."""
        special = depends_on or repeat or on_success or on_failure or on_stopped or rate_limit or webhooks or unique
        plain = None if special or pipeline is not None else self._plain_jobs()
        if plain is not None:
            limits = limits_in_seconds(self._default_timeout, timeout, result_ttl, ttl, failure_ttl)
            made = plain.make(func, args, kwargs, *limits, description, job_id, meta, retry or None)
            return self._enqueue_pending(made, at_front)
        if pipeline is None and self._is_async and self._own_steps and not (unique and (not job_id or depends_on)):
            job = self.create_job(
                func, args, kwargs, timeout, result_ttl, ttl, failure_ttl, description, depends_on, job_id, meta,
                JobStatus.QUEUED, retry, repeat, on_success=on_success, on_failure=on_failure, on_stopped=on_stopped,
                webhooks=webhooks, rate_limit=rate_limit,
            )  # fmt: skip
            if self._is_scripted(job) and not (unique and rate_limit):
                return self.enqueue_new(job, at_front=at_front, if_exists="refuse" if unique else "overwrite")
        # Also where RQ refuses the options.
        return super().enqueue_call(
            func, args, kwargs, timeout, result_ttl, ttl, failure_ttl, description, depends_on, job_id, at_front,
            meta, retry, repeat, on_success, on_failure, on_stopped, rate_limit, pipeline, unique, webhooks,
        )  # fmt: skip

    def enqueue_job(
        self, job: Job, pipeline: Pipeline | None = None, at_front: bool = False, unique: bool = False
    ) -> Job:
        """Enqueue a job that was made before. Arguments and errors as `rq.Queue.enqueue_job`.

        Unlike RQ, a deferred job whose dependencies have finished is enqueued; RQ leaves it as it is.
        """
        sign_arguments(job)
        sign_webhooks(job)
        is_refused = unique and (not job._id or job._dependency_ids or job.has_rate_limit)
        if pipeline is not None or is_refused or not self._is_scripted(job):
            return super().enqueue_job(job, pipeline=pipeline, at_front=at_front, unique=unique)
        return self._enqueue(job, False, "refuse" if unique else "overwrite", at_front, None)

    def enqueue_at(self, datetime: Datetime, f: Any, *args: Any, **kwargs: Any) -> Job:
        """Enqueue a call later. Arguments and errors as `rq.Queue.enqueue_at`."""
        call = self.parse_args(f, *args, **kwargs)._asdict()
        at_front, pipeline, unique = (call.pop(name) for name in ("at_front", "pipeline", "unique"))
        job: Job = self.create_job(call.pop("func"), status=JobStatus.SCHEDULED, **call)
        if at_front:
            job.enqueue_at_front = True
        is_new = pipeline is None and self._is_scripted(job) and not (unique and not job._id)
        if is_new:
            return self.enqueue_new(job, if_exists="refuse" if unique else "overwrite", when=datetime)
        return self.schedule_job(job, datetime, pipeline=pipeline, unique=unique)

    def schedule_job(self, job: Job, datetime: Datetime, pipeline: Pipeline | None = None, unique: bool = False) -> Job:
        """Enqueue a job that was made before later. Arguments and errors as `rq.Queue.schedule_job`."""
        sign_arguments(job)
        sign_webhooks(job)
        if pipeline is not None or (unique and not job._id) or not self._is_scripted(job):
            return super().schedule_job(job, datetime, pipeline=pipeline, unique=unique)
        return self._enqueue(job, False, "refuse" if unique else "overwrite", False, datetime)

    def enqueue_new(
        self, job: Job, *, at_front: bool = False, if_exists: IfExists = "overwrite", when: Datetime | None = None
    ) -> Job:
        """Enqueue a job that was made for this call, and is not in Redis: one script, safe to repeat.

        Args:
            job: From `create_job`.
            at_front: Before all others.
            if_exists: What a job in Redis with the same id means: see `AnyJob`.
            when: When it is to run; None for at once, or when its dependencies have finished.

        Returns:
            The job, or with `if_exists="replace"` the one that was there and has not ended.

        Raises:
            rq.exceptions.DuplicateJobError: `if_exists="refuse"`, and there is a job with this id.
            DependencyCycle: The job depends on itself, or on one that waits for it.
        """
        return self._enqueue(job, True, if_exists, at_front, when)

    def enqueue_new_many(self, jobs: Sequence[Job], at_front: bool = False) -> list[Job]:
        """Enqueue jobs that were made for this call in one transaction, which is safe to repeat.

        Those of them that others depend on come first.

        Args:
            jobs: From `create_job`.
            at_front: Before all others.

        Returns:
            The jobs, in the order given.

        Raises:
            DependencyCycle: A job depends on itself, or on one that waits for it.
        """
        self._enqueue_all([self._call(job, True, "overwrite", at_front, None) for job in in_order(jobs)])
        return list(jobs)

    def _enqueue(self, job: Job, is_new: bool, if_exists: IfExists, at_front: bool, when: Datetime | None) -> Job:
        call = self._call(job, is_new, if_exists, at_front, when)
        if _is_plain_client(self.connection):
            reply = self._sender().run(
                any_job.SCRIPT, call.arguments(False), lambda: call.arguments(True), lambda: None
            )
        else:
            reply = any_job.SCRIPT.run(self.connection, call.arguments(True))
        self.log.debug("Enqueued job %s to queue %s (at_front=%s)", job.id, self.name, at_front)
        return call.read(reply)

    def _call(self, job: Job, is_new: bool, if_exists: IfExists, at_front: bool, when: Datetime | None) -> AnyJob:
        if when is None:
            job.redis_server_version = self.get_redis_server_version()
            job.origin = self.name
            if job.id in job._dependency_ids:
                raise DependencyCycle(job.id, job.id)
        return AnyJob(self, job, is_new=is_new, if_exists=if_exists, at_front=at_front, when=when)

    def _enqueue_all(self, calls: Sequence[AnyJob]) -> None:
        if _is_plain_client(self.connection):
            replies = self._sender().run_all(
                any_job.SCRIPT, lambda is_again: [call.arguments(is_again) for call in calls]
            )
        else:
            with self.connection.pipeline() as pipeline:
                for call in calls:
                    pipeline.execute_command("EVAL", any_job.SCRIPT.source, *call.arguments(True))
                replies = pipeline.execute()
        self.log.debug("Enqueued %d jobs to queue %s", len(calls), self.name)
        refused: DependencyCycle | None = None
        for call, reply in zip(calls, replies, strict=True):
            try:
                call.read(reply)
            except DependencyCycle as error:  # with jobs outside the call; the others are enqueued
                refused = refused or error
        if refused is not None:
            raise refused

    def enqueue_many(
        self, job_datas: Iterable[EnqueueData], pipeline: Pipeline | None = None, group_id: str | None = None
    ) -> list[Job]:
        """Enqueue many calls in one transaction. Arguments and errors as `rq.Queue.enqueue_many`.

        Args:
            job_datas: Each from `Queue.prepare_data`.
            pipeline: A pipeline of the caller's, who executes it.
            group_id: The group the jobs belong to.
        """
        datas = list(job_datas)
        plain = None if pipeline is not None else self._plain_jobs()
        if plain is None:
            return super().enqueue_many(datas, pipeline=pipeline, group_id=group_id)
        if not datas:
            return []
        _check_ids(datas)
        if any(data.depends_on for data in datas):
            return self._enqueue_dependents(datas, group_id)
        jobs: list[Job] = []
        commands = [pack("SADD", self.redis_queues_keys, self._key)]
        front: list[str] = []
        back: list[str] = []
        for data in datas:
            job, fields = self._from_data(plain, data, group_id)
            jobs.append(job)
            commands.append(pack("HSET", job.key, *fields))
            if job.ttl:
                keys = (job.key, job.dependents_key, job.dependencies_key)
                commands += (pack("EXPIRE", key, str(job.ttl)) for key in keys)
            (front if data.at_front else back).append(job.id)
        for push, ids in (("LPUSH", front), ("RPUSH", back)):
            if ids:
                commands.append(pack(push, self._key, *ids))
        self._sender().transact(commands, lambda connection: _is_written(connection, jobs))
        self.log.debug("Enqueued %d jobs to queue %s", len(jobs), self.name)
        return jobs

    def _from_data(self, plain: PlainJobs, data: EnqueueData, group_id: str | None) -> tuple[Job, list[Field]]:
        """A job of `enqueue_many` and the fields of its hash."""
        limits = limits_in_seconds(self._default_timeout, data.timeout, data.result_ttl, data.ttl, data.failure_ttl)
        if not (data.on_success or data.on_failure or data.on_stopped or data.repeat or data.webhooks):
            pending = plain.make(
                data.func, data.args, data.kwargs, *limits, data.description, data.job_id, data.meta,
                data.retry or None, group_id,
            )  # fmt: skip
            return pending.job(), full_hash(pending.fields)
        timeout, result_ttl, ttl, failure_ttl = limits
        job = self.create_job(
            data.func, data.args, data.kwargs, timeout, result_ttl, ttl, failure_ttl, data.description, None,
            data.job_id, data.meta, JobStatus.QUEUED, data.retry, data.repeat, on_success=data.on_success,
            on_failure=data.on_failure, on_stopped=data.on_stopped, webhooks=data.webhooks, group_id=group_id,
        )  # fmt: skip
        self._prepare_for_queue(job)
        return job, job_hash(job)

    def _enqueue_dependents(self, datas: Sequence[EnqueueData], group_id: str | None) -> list[Job]:
        """Enqueue many calls of which some have dependencies; in RQ's order: those with met dependencies come last."""
        at_front = {}
        jobs = []
        for data in sorted(datas, key=lambda data: bool(data.depends_on)):
            job = self.create_job(
                data.func, data.args, data.kwargs, data.timeout, data.result_ttl, data.ttl, data.failure_ttl,
                data.description, data.depends_on, data.job_id, data.meta, JobStatus.QUEUED, data.retry, data.repeat,
                on_success=data.on_success, on_failure=data.on_failure, on_stopped=data.on_stopped,
                webhooks=data.webhooks, group_id=group_id,
            )  # fmt: skip
            jobs.append(job)
            at_front[job.id] = bool(data.at_front or job.enqueue_at_front)
        self._enqueue_all([self._call(job, True, "overwrite", at_front[job.id], None) for job in in_order(jobs)])
        return sorted(
            jobs, key=lambda job: bool(job._dependency_ids) and job.get_status(refresh=False) != JobStatus.DEFERRED
        )

    def _enqueue_pending(self, pending: PendingJob, at_front: bool) -> Job:
        job_id, ttl = pending.job_id, pending.ttl
        key = Job.key_for(job_id)
        keys: Command = ("3", key, self._key, self.redis_queues_keys)
        if ttl:
            job = pending.job()
            keys = ("6", *keys[1:], key, job.dependents_key, job.dependencies_key)
        call = (*keys, job_id, "LPUSH" if at_front else "RPUSH", str(ttl or 0))
        # The job is made while Redis works.
        self._sender().run(
            _PLAIN_JOB, (*call, "", *pending.fields), lambda: (*call, "created_at", *pending.fields), pending.job
        )
        self.log.debug("Enqueued job %s to queue %s (at_front=%s)", job_id, self.name, at_front)
        return pending.job()

    def _sender(self) -> PooledSender:
        """The connections that this queue shares with the others of its client."""
        client = self.connection
        sender: PooledSender | None = getattr(client, _SENDER, None)
        if sender is None or sender.pool is not client.connection_pool:
            sender = PooledSender(client)
            setattr(client, _SENDER, sender)
        return sender


def _check_ids(datas: Sequence[EnqueueData]) -> None:
    ids = [data.job_id for data in datas if data.job_id is not None]
    if len(set(ids)) < len(ids):
        twice = next(job_id for job_id in ids if ids.count(job_id) > 1)
        raise ValueError(f"Job ID '{twice}' appears more than once in enqueue_many()")


def _is_plain_client(connection: Any) -> bool:
    return type(connection) is Redis and connection.connection is None


def _is_written(connection: Any, jobs: list[Job]) -> bool:
    """Whether a transaction whose reply was lost was done; it is all or nothing, so any of its jobs shows it."""
    connection.send_packed_command((b"".join(pack("HGET", job.key, "created_at") for job in jobs),))
    found = [connection.read_response() for _ in jobs]
    wanted = [format_datetime(job.created_at) for job in jobs]
    return any(
        (value.decode() if isinstance(value, bytes) else value) == text
        for value, text in zip(found, wanted, strict=True)
    )
