"""The horse: a process that runs jobs one after the other, with one call to Redis per job or batch."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from rqstack.processes import hooks
from rqstack.security import for_purpose
from rqstack.transport import keys
from rqstack.transport.protocol import pack
from rqstack.transport.raw import Lost, RawConnection
from rqstack.transport.timestamps import parse
from rqstack.worker.horse.batching import Batching
from rqstack.worker.horse.counters import Counters
from rqstack.worker.horse.horse_signals import HorseSignals
from rqstack.worker.horse.release_meta import note_release
from rqstack.worker.horse.run_job import JobRunner
from rqstack.worker.horse.running import Extras, RunningJob
from rqstack.worker.horse.waiting_claim import WaitingClaim
from rqstack.worker.limits import DONE, RECYCLE, Limits
from rqstack.worker.outcome import Outcome
from rqstack.worker.scripts import CLAIM, SETTLE
from rqstack.worker.settle import call_id_of, claim_arguments, fixed_keys, release_dependents, settle_arguments

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.batch_board import BatchBoard
    from rqstack.worker.scoreboard import Scoreboard

_IDLE_LOOK = 30.0
"""Seconds after which an idle horse checks its queues anyway, and whether workers are suspended. With many queues it
is longer; see `Limits.block`."""

_CLAIM_LISTS = 5.0
"""Seconds after which a busy horse, too, checks its claim lists for jobs that Redis has moved there."""


class Horse:
    """Claims, runs and finishes jobs until it is told to stop.

    Args:
        worker: The RQ worker that it represents.
        supervisor: The id of its supervisor, and its process id.
        scoreboard: Tells its supervisor which job it runs.
        board: Tells its supervisor how far a batch is.
        index: Its place on the scoreboard.
        limits: When it ends.
        release: The name of the task code, for the jobs' meta; "" for none.
    """

    def __init__(
        self,
        worker: BaseWorker,
        supervisor: tuple[str, int],
        scoreboard: Scoreboard,
        board: BatchBoard,
        index: int,
        limits: Limits,
        release: str = "",
    ) -> None:
        self._worker = worker
        self._scoreboard = scoreboard
        self._index = index
        self._limits = limits
        self._client = worker.connection
        self._connection = RawConnection(self._client)
        self._queue_keys: list[str] = worker.queue_keys()
        # Its supervisor waits on the other queues, for all of its horses.
        self._waiting = WaitingClaim(self._client, worker.name, self._queue_keys[0], limits.block)
        self._runner = JobRunner(worker, self._begin)
        # A batch is of one queue; with another strategy the next job may be of another one.
        is_allowed = worker.work_strategy == "default"
        self._batching = Batching(board, index, limits, supervisor[1], is_allowed=is_allowed)
        self._signals = HorseSignals()
        self._counters = Counters()
        self._supervisor_pid = supervisor[1]
        self._names = (worker.name, supervisor[0])
        self._fixed_keys = fixed_keys(*self._names)
        self._order: Sequence[str] = self._queue_keys
        self._jobs = 0
        self._claims_checked = 0.0
        self._now = 0.0
        self._ended: list[tuple[RunningJob, Outcome]] = []
        self._call_id = ""
        self._rest_left = False
        self._counted = 0
        self._sent_counts: Sequence[bytes | str] = ()
        self._parent = os.getppid()
        self._release = release
        self._meta = for_purpose(worker.serializer, "meta").dumps({"release": release}) if release else b""

    def open(self) -> None:
        """Connect, in the process that will fork this one; `run` connects again where that failed.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses the user.
        """
        self._connection.open(retry=False)
        self._waiting.open(retry=False)

    def close_copy(self) -> None:
        """Close this process's copies of what the horse has open; the horse was forked, and keeps its own."""
        self._connection.close_copy()
        self._waiting.close_copy()
        self._signals.close()

    def run(self) -> int:
        """Work until told to stop, or until a limit is reached. Returns the exit code."""
        self._parent = os.getppid()
        self._runner.pid = os.getpid()
        self._signals.install()
        hooks.run(hooks.after_fork)
        random.seed()
        idle_since = time.monotonic()
        idle = True
        claimed: list[Any] | None = None
        while True:
            if claimed is None:
                ending = self._exit_code()
                if not self._ended and ending is not None:
                    return self._exit(ending)
                claimed = self._settle_and_claim(claim=ending is None and not self._has_webhooks(), idle=idle)
            status, *jobs = claimed
            claimed, idle = None, False
            if status == b"jobs":
                self._run_all(jobs)
                idle_since = time.monotonic()
            elif status == b"empty":
                if self._limits.burst:
                    return self._exit(DONE)
                left = None
                if self._limits.max_idle is not None:
                    left = self._limits.max_idle - (time.monotonic() - idle_since)
                    if left <= 0:
                        return self._exit(DONE)
                claimed = self._wait(left)
                idle = claimed is None
            elif status == b"suspended":
                if self._limits.burst:
                    return self._exit(DONE)
                self._signals.pause(1.0)
            elif status == b"unregistered":
                # Redis has lost our supervisor, or another one took it for dead: it sends a heartbeat at once.
                os.kill(self._supervisor_pid, signal.SIGUSR1)
                self._signals.pause(0.2)
            elif status == b"unfinished":
                self._worker.log.error(
                    "Worker %s: its claim was rejected, since %r is still recorded as running", self._worker.name, jobs
                )
                return 1

    # -- calls

    def _settle_and_claim(self, *, claim: bool, idle: bool) -> list[Any]:
        """Record how the last jobs ended, if there are any, and claim the next.

        Returns:
            What claim.lua returns, or a list of b"" if it was not to claim.
        """
        ended = self._ended
        self._now = time.time()
        reply = self._call(self._arguments(self._now, claim=claim, idle=idle))
        if not ended:
            return reply
        outcomes, releasing, *claimed = reply
        self._ended, self._counted, self._rest_left = [], 0, False
        if self._sent_counts and all(recorded == b"fenced" for recorded in outcomes):
            self._counters.put_back(self._sent_counts)
        if self._batching.is_taken_back():
            outcomes = [b"again" if recorded == b"fenced" else recorded for recorded in outcomes]
        for (running, outcome), recorded in zip(ended, outcomes, strict=True):
            self._note(running, outcome, recorded.decode())
        if releasing:
            with contextlib.suppress(RedisError):
                release_dependents(self._connection)
        return claimed or [b""]

    def _call(self, tail: tuple[Any, ...]) -> list[Any]:
        """Call settle.lua, or claim.lua if no job has ended; repeats the same call until Redis has answered."""
        wait = 0.05
        while True:
            try:
                if self._ended:
                    return self._connection.run(SETTLE, tail, meanwhile=self._count)  # type: ignore[no-any-return]
                self._waiting.end(self._connection)
                return self._connection.run(CLAIM, tail)  # type: ignore[no-any-return]
            except Lost as error:
                if _is_closed_here(error) and not self._signals.lost_files:
                    # So nothing was sent. The outcome goes on record, and then this process ends.
                    self._replace_files()
                    if not self._ended:
                        return [b"empty"]
                    tail = self._arguments(time.time(), claim=False, idle=False)
                    continue
                self._worker.log.warning(
                    "Worker %s: Redis is unavailable (%s); trying again in %.1f s", self._worker.name, error, wait
                )
            except RedisError as error:
                # Loading, out of memory, a full disk: Redis is there but does not accept it now.
                self._worker.log.error("Worker %s: Redis refuses: %s; trying again", self._worker.name, error)
                wait = max(wait, 1.0)
            if self._signals.stopping and not self._ended:
                return [b"empty"]
            pause = wait * random.uniform(0.5, 1.5)
            if self._signals.stopping:
                time.sleep(min(pause, 0.2))
            else:
                self._signals.pause(pause)
            wait = min(wait * 2, 2.0)

    def _replace_files(self) -> None:
        """Open anew what a task has closed."""
        self._log_lost_files()
        self._connection.forget()
        self._waiting.forget()
        self._signals.renew()
        self._counters.put_back(self._sent_counts)

    def _log_lost_files(self) -> None:
        ended = f" (job {self._ended[-1][0].job_id} ended last)" if self._ended else ""
        self._worker.log.error(
            "Worker %s: a job has closed files of its worker%s; another process takes its place",
            *(self._worker.name, ended),
        )

    def _arguments(self, now: float | None, *, claim: bool, idle: bool) -> tuple[Any, ...]:
        """Number of keys, keys and arguments of the scripts; see claim.lua and settle.lua."""
        monotonic = time.monotonic()
        if not idle and monotonic - self._claims_checked > _CLAIM_LISTS:
            idle = True
        if idle:
            self._claims_checked = monotonic
        head = claim_arguments(
            self._fixed_keys,
            self._order,
            self._names,
            now,
            idle=idle,
            meta=self._meta,
            max_jobs=self._batching.size(self._jobs),
        )
        self._call_id = call_id_of(head)
        self._sent_counts = ()
        if not self._ended:
            return head
        if self._counters.is_due(monotonic):
            self._count()  # else the counts of a long job would wait for the end of the next one
            self._sent_counts = self._counters.take(monotonic)
        outcomes = [outcome for _, outcome in self._ended]
        put_back = "*" if self._rest_left else ""
        return (*head, *settle_arguments(outcomes, claim=claim, put_back=put_back), *self._sent_counts)

    # -- jobs

    def _run_all(self, jobs: Sequence[Any]) -> None:
        """Run claimed jobs; the next call puts back those that may not begin any more."""
        batching = self._batching
        batching.start(self._call_id, len(jobs))
        for place, entry in enumerate(jobs):
            if place and (self._exit_code() is not None or not batching.may_begin(place, self._ended[-1][1])):
                self._rest_left = True
                break
            self._run(entry, self._now if place == 0 else time.time())
            batching.note_end()
        batching.adapt()

    def _run(self, entry: Sequence[Any], began: float) -> None:
        """Run a claimed job, and note how it ended.

        Args:
            entry: As claim.lua gives it.
            began: Now, in Unix seconds.
        """
        queue, job_id, execution, data, timeout, ttl_text, enqueued_at, has_meta, extras = entry
        worker = self._worker
        running = RunningJob(
            queue.decode(),
            job_id.decode(),
            execution.decode(),
            data,
            enqueued_at,
            Extras(*extras) if extras else None,
            began,
        )
        if worker.work_strategy != "default":
            self._reorder(running.queue)
        if hooks.before_job:
            hooks.run(hooks.before_job)
        try:
            if has_meta == b"origin":
                running.damage = "its origin is no queue: Redis has other data under the keys of that name"
            elif has_meta == b"1":
                note_release(worker, running.job_id, self._release)
            self._ended.append((running, self._runner.run(running, timeout, ttl_text)))
        finally:
            self._jobs += 1
            self._scoreboard.end(self._index, self._jobs)
            self._signals.install_again()
            if hooks.after_job:
                hooks.run(hooks.after_job)

    def _begin(self, running: RunningJob) -> None:
        now = time.monotonic()
        deadline = now + running.timeout if running.timeout > 0 else 0.0
        self._scoreboard.begin(self._index, now, deadline, running.execution)

    def _has_webhooks(self) -> bool:
        """Whether the last jobs have webhooks: they are sent after the record, before the next job is claimed."""
        return any(running.extras is not None and running.extras.webhooks for running, _ in self._ended)

    def _count(self) -> None:
        """Count the jobs that have finished. Usually this happens while Redis records them; a later call sends it."""
        for running, outcome in self._ended[self._counted :]:
            if outcome.ending == "finished":
                self._add_count(running, outcome, "finished")
        self._counted = len(self._ended)

    def _add_count(self, running: RunningJob, outcome: Outcome, status: str) -> None:
        wait = _waited(running)
        self._counters.add(running.queue, running.name, status, wait=wait, run=outcome.ran)
        if outcome.exception:
            self._counters.add_failure(running.queue, running.name, outcome.exception)

    def _note(self, running: RunningJob, outcome: Outcome, recorded: str) -> None:
        """Count, announce and log what settle.lua has recorded a job as."""
        log = self._worker.log
        if outcome.ending != "finished" and recorded in ("failed", "retried", "again", "deleted", "superseded"):
            self._add_count(running, outcome, "retried" if recorded == "retried" else "failed")
        if recorded == "fenced":
            log.warning(
                "Worker %s: job %s was given to another worker meanwhile; this result is dropped",
                self._worker.name,
                running.job_id,
            )
        elif log.isEnabledFor(logging.DEBUG):
            log.debug(
                "Worker %s: %s: %s (%s) %s", self._worker.name, running.queue, running.name, running.job_id, recorded
            )
        self._runner.announce(running, outcome, outcome.ending if recorded == "again" else recorded)

    def _reorder(self, queue: str) -> None:
        order = list(self._order)
        if self._worker.work_strategy == "random":
            random.shuffle(order)
        elif (key := keys.QUEUE + queue) in order:
            place = order.index(key) + 1
            order = order[place:] + order[:place]
        self._order = order

    # -- waiting and ending

    def _wait(self, left: float | None) -> list[Any] | None:
        """Wait for a job, a signal, or `left` seconds.

        Returns:
            What claim.lua returns; None if there is no job.
        """
        waiting = self._waiting
        look = max(_IDLE_LOOK, 4 * self._limits.block)
        self._batching.reset()
        if not self._signals.check_files():
            self._log_lost_files()
            return None
        tail = None
        try:
            self._flush()
            until = time.monotonic() + min(look, look if left is None else left)
            claimed = None
            while claimed is None and not self._signals.stopping and (remaining := until - time.monotonic()) > 0:
                if not waiting.is_waiting:
                    tail = self._arguments(None, claim=True, idle=True)
                    waiting.begin(tail)
                    self._scoreboard.wait(self._index, waiting.client_id)
                claimed = _job_or_none(waiting.wait(self._signals.wakeup, remaining))
                if claimed is None:
                    self._signals.clear()
            claimed = claimed or _job_or_none(waiting.end(self._connection))
        except RedisError as error:
            waiting.close()
            self._scoreboard.leave(self._index)  # the supervisor cannot wake it
            if not isinstance(error, NoScriptError):
                self._worker.log.warning("Worker %s: Redis is unavailable (%s)", self._worker.name, error)
                self._signals.pause(random.uniform(0.1, 0.5))
            # Redis may have claimed a job: the same call again tells.
            claimed = None if tail is None else _job_or_none(self._call(tail))
        finally:
            self._scoreboard.leave(self._index)
        self._now = time.time()
        return claimed

    def _flush(self) -> None:
        if not self._counters:
            return
        pairs = self._counters.take(time.monotonic())
        commands = [pack("HINCRBYFLOAT", keys.METRICS, pairs[at], pairs[at + 1]) for at in range(0, len(pairs), 2)]
        self._connection.send(*commands)
        is_damaged = False
        for _ in commands:
            try:
                self._connection.read()
            except ResponseError as error:  # each reply is read, or the next call would take one for its own
                is_damaged = is_damaged or str(error).startswith("WRONGTYPE")
        if is_damaged:
            self._worker.log.error("%s is of the wrong type in Redis, and is dropped.", keys.METRICS)
            self._connection.call("DEL", keys.METRICS)

    def _exit_code(self) -> int | None:
        """The exit code, if it is time to end."""
        if self._signals.stopping or os.getppid() != self._parent:
            return DONE
        return RECYCLE if self._signals.lost_files else self._limits.reached(self._jobs)

    def _exit(self, code: int) -> int:
        with contextlib.suppress(RedisError):
            self._flush()
        self._waiting.close()
        self._connection.close()
        return code


def _job_or_none(reply: list[Any] | None) -> list[Any] | None:
    """A reply of claim.lua; None for one that says there is no job."""
    return None if reply is None or reply[0] == b"empty" else reply


def _is_closed_here(error: BaseException) -> bool:
    """Whether a connection was lost since this process has closed it, or has another file of its number."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EBADF, errno.ENOTSOCK)


def _waited(running: RunningJob) -> float | None:
    """Seconds that a job has waited; None if that is not on record."""
    enqueued = None if running.enqueued_at is None else parse(running.enqueued_at.decode(errors="replace"))
    return None if enqueued is None else max(running.started - enqueued, 0.0)
