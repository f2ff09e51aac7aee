"""The horse: a process that runs jobs one after the other, with one call to Redis per job."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq.job import Job, Retry

from rqstack.errors import PayloadRejected
from rqstack.processes import hooks
from rqstack.security import count_rejected
from rqstack.transport import keys
from rqstack.transport.protocol import pack
from rqstack.transport.raw import Lost, RawConnection
from rqstack.transport.timestamps import format_micros, parse
from rqstack.worker.horse.claim_wait import BlockingClaim
from rqstack.worker.horse.counters import Counters
from rqstack.worker.horse.execute import Executor, result_ttl, seconds
from rqstack.worker.horse.lazy_job import touched
from rqstack.worker.horse.rq_path import Outcome, RQPath, damaged
from rqstack.worker.horse.running import RunningJob
from rqstack.worker.horse.timeout import handler_of
from rqstack.worker.limits import DONE, Limits
from rqstack.worker.scripts import CLAIM, EXECUTION_TTL, FINISH

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.scoreboard import Scoreboard

_SIGTERM = int(signal.SIGTERM)

_IDLE_LOOK = 30.0
"""Seconds after which an idle horse checks its queues anyway, and whether workers are suspended."""

_NOTHING: tuple[RunningJob, Any] = (RunningJob("", "", "", 0.0, None), None)

_CLAIM_LISTS = 5.0
"""Seconds after which a busy horse, too, checks its claim lists for jobs that Redis has moved there."""


class Horse:
    """Claims, runs and finishes jobs until it is told to stop.

    Args:
        worker: The RQ worker that it represents.
        supervisor: The id of its supervisor, and its process id.
        scoreboard: What its supervisor reads.
        index: Its place on the scoreboard.
        limits: When it ends.
        release: The name of the task code, for the jobs' meta; "" for none.
    """

    def __init__(
        self,
        worker: BaseWorker,
        supervisor: tuple[str, int],
        scoreboard: Scoreboard,
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
        self._blocking_claim = BlockingClaim(self._client, worker.name, self._queue_keys, limits.block)
        self._rq_path = RQPath(worker)
        self._counters = Counters()
        self._supervisor_pid = supervisor[1]
        self._fixed_keys = (worker.key, keys.running(supervisor[0]), keys.SUPERVISORS)
        self._names = (worker.name, supervisor[0])
        self._order: Sequence[str] = self._queue_keys
        self._stopping = False
        self._jobs = 0
        self._claims_checked = 0.0
        self._execution = ""
        self._now = 0.0
        self._executor = Executor(worker)
        self._last: tuple[RunningJob, Any] = _NOTHING
        self._uncounted: tuple[RunningJob, bytes | None, float] | None = None
        self._sent_counts: Sequence[bytes | str] = ()
        self._parent = os.getppid()
        self._wakeup, self._wake = os.pipe()
        self._on_stop = self._stop
        self._release = release
        self._meta = worker.serializer.dumps({"release": release}) if release else b""

    def open(self) -> None:
        """Connect, in the process that will fork this one; `run` connects again where that failed.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses the user.
        """
        self._connection.open(retry=False)
        self._blocking_claim.open(retry=False)

    def close_copy(self) -> None:
        """Close this process's copies of what the horse has open; the horse was forked, and keeps its own."""
        self._connection.close_copy()
        self._blocking_claim.close_copy()
        os.close(self._wakeup)
        os.close(self._wake)

    def run(self) -> int:
        """Work until told to stop, or until a limit is reached. Returns the exit code."""
        self._parent = os.getppid()
        self._install_signals()
        hooks.run(hooks.after_fork)
        random.seed()
        finished: list[Any] | None = None
        idle_since = time.monotonic()
        idle = True
        while True:
            ending = self._exit_code()
            if finished is None and ending is not None:
                return self._exit(ending)
            reply = self._finish_and_claim(finished, claim=ending is None, idle=idle)
            idle = False
            if finished is not None:
                finished = None
                self._act_on(reply.pop(0))
                if not reply:
                    continue
            status = reply[0]
            if status == b"job":
                finished = self._run(reply)
                idle_since = time.monotonic()
                continue
            if status == b"empty":
                if self._limits.burst:
                    return self._exit(DONE)
                left = None
                if self._limits.max_idle is not None:
                    left = self._limits.max_idle - (time.monotonic() - idle_since)
                    if left <= 0:
                        return self._exit(DONE)
                self._wait(left)
                idle = True
            elif status == b"suspended":
                if self._limits.burst:
                    return self._exit(DONE)
                self._pause(1.0)
            elif status == b"unregistered":
                # Redis has lost our supervisor, or another one took it for dead: it sends a heartbeat at once.
                os.kill(self._supervisor_pid, signal.SIGUSR1)
                self._pause(0.2)
            else:
                self._worker.log.error(
                    "Worker %s: its claim was rejected, since %r is still recorded as running",
                    self._worker.name,
                    reply[1:],
                )
                return 1

    # -- calls

    def _finish_and_claim(self, finished: list[Any] | None, *, claim: bool, idle: bool) -> list[Any]:
        """Finish the last job, if there is one, and claim the next; repeats the same call until Redis has answered."""
        tail = self._arguments(finished, claim=claim, idle=idle)
        wait = 0.05
        while True:
            try:
                if finished is not None:
                    return self._connection.run(FINISH, tail, meanwhile=self._count)  # type: ignore[no-any-return]
                if not claim:
                    return [b"empty"]
                if idle:
                    return self._blocking_claim.claim(self._connection, tail)  # type: ignore[no-any-return]
                return self._connection.run(CLAIM, tail)  # type: ignore[no-any-return]
            except Lost as error:
                self._worker.log.warning(
                    "Worker %s: Redis is unavailable (%s); trying again in %.1f s", self._worker.name, error, wait
                )
            except RedisError as error:
                # Loading, out of memory, a full disk: Redis is there but does not accept it now.
                self._worker.log.error("Worker %s: Redis refuses: %s; trying again", self._worker.name, error)
                wait = max(wait, 1.0)
            self._blocking_claim.close()
            if self._stopping and finished is None:
                return [b"empty"]
            self._pause(wait * random.uniform(0.5, 1.5))
            wait = min(wait * 2, 2.0)

    def _arguments(self, finished: list[Any] | None, *, claim: bool, idle: bool) -> tuple[Any, ...]:
        """Number of keys, keys and arguments of the scripts; see claim.lua and finish.lua."""
        self._now = now = time.time()
        self._execution = f"{random.getrandbits(128):032x}"
        if not idle and now - self._claims_checked > _CLAIM_LISTS:
            idle = True
        if idle:
            self._claims_checked = now
        queues = self._order
        head = (
            3 + len(queues),
            *self._fixed_keys,
            *queues,
            *self._names,
            self._execution,
            format_micros(int(now * 1e6)),
            f"{now:.6f}",
            EXECUTION_TTL,
            b"1" if idle else b"0",
            self._meta,
        )
        if finished is None:
            return head
        monotonic = time.monotonic()
        self._sent_counts = ()
        if self._counters.is_due(monotonic):
            self._count()  # else the counts of a long job would wait for the end of the next one
            self._sent_counts = self._counters.take(monotonic)
        return (*head, b"1" if claim else b"0", *finished, *self._sent_counts)

    # -- one job

    def _run(self, reply: list[Any]) -> list[Any] | None:
        """Run a claimed job. Returns finish.lua's arguments, or None if RQ's own methods have recorded it."""
        _, queue, job_id, data, timeout, ttl_text, enqueued_at, unusual, has_meta = reply
        worker = self._worker
        running = RunningJob(queue.decode(), job_id.decode(), self._execution, self._now, data)
        begun = time.monotonic()
        if worker.work_strategy != "default":
            self._reorder(running.queue)
        if hooks.before_job:
            hooks.run(hooks.before_job)
        try:
            if timeout:
                running.timeout = seconds(timeout)
            self._scoreboard.begin(self._index, begun, begun + running.timeout if running.timeout > 0 else 0.0)
            if has_meta == b"1":
                self._rq_path.note_release(running, self._release)
            if data is None:
                raise damaged(running)
            if unusual != b"0" or worker.job_class is not Job:
                self._count_rq_outcome(running, self._rq_path.run(running), begun, enqueued_at)
                return None
            ttl = worker.default_result_ttl if ttl_text is None else result_ttl(running, ttl_text)
            value = self._executor.execute(running, data)
            asks = isinstance(value, Retry)
            stored = b"" if value is None or asks else self._executor.serialize_result(value)
            if ttl == 0 or asks:
                self._count_rq_outcome(running, self._rq_path.succeed(running, value), begun, enqueued_at)
                return None
        except BaseException as error:
            # Whatever a task raises, SystemExit included, ends the job and not the horse, as in RQ.
            if isinstance(error, PayloadRejected):
                with contextlib.suppress(RedisError):
                    count_rejected(self._client, error)
            # The task may have changed its job, such as retries_left.
            ended = self._rq_path.fail(running, (type(error), error, error.__traceback__), touched(running.job))
            self._count_rq_outcome(running, ended, begun, enqueued_at)
            return None
        finally:
            self._jobs += 1
            self._scoreboard.end(self._index, self._jobs)
            if handler_of(_SIGTERM) is not self._on_stop:  # the task has replaced it, or asyncio has
                self._install_signals()
            if hooks.after_job:
                hooks.run(hooks.after_job)
        ran = time.monotonic() - begun
        self._last = running, value
        self._uncounted = running, enqueued_at, ran
        return [running.job_id, running.execution, running.queue, ttl, stored, f"{self._now:.6f}", f"{ran:.6f}"]

    def _count(self) -> None:
        """Count the last job, usually while Redis records it: then its counts are sent with a later one."""
        if self._uncounted is not None:
            running, enqueued_at, ran = self._uncounted
            self._uncounted = None
            self._counters.add(running.queue, running.name, "finished", wait=_waited(running, enqueued_at), run=ran)

    def _act_on(self, what: bytes) -> None:
        """Act on finish.lua's answer about the last job."""
        running, value = self._last
        self._last = _NOTHING
        if what in (b"unusual", b"fenced"):
            self._counters.put_back(self._sent_counts)
        log = self._worker.log
        if what == b"unusual":
            self._rq_path.succeed(running, value)
        elif what == b"fenced":
            log.warning(
                "Worker %s: job %s was given to another worker meanwhile; this result is dropped",
                self._worker.name,
                running.job_id,
            )
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("Worker %s: %s: %s (%s) %s", self._worker.name, running.queue, running.name, running.job_id, what)

    def _count_rq_outcome(self, running: RunningJob, ended: Outcome, begun: float, enqueued_at: bytes | None) -> None:
        """Count a job that was recorded by RQ's own methods."""
        if ended.status in ("finished", "failed", "retried"):
            wait, ran = _waited(running, enqueued_at), time.monotonic() - begun
            self._counters.add(running.queue, running.name, ended.status, wait=wait, run=ran)
        if ended.exception:
            self._counters.add_failure(running.queue, running.name, ended.exception)
        if self._counters.is_due(time.monotonic()):
            with contextlib.suppress(RedisError):
                self._flush()

    def _reorder(self, queue: str) -> None:
        order = list(self._order)
        if self._worker.work_strategy == "random":
            random.shuffle(order)
        elif (key := keys.QUEUE + queue) in order:
            place = order.index(key) + 1
            order = order[place:] + order[:place]
        self._order = order

    # -- waiting and ending

    def _wait(self, left: float | None) -> None:
        """Wait until Redis has moved a job here, a signal has arrived, or `left` seconds are over."""
        try:
            self._flush()
            until = time.monotonic() + min(_IDLE_LOOK, _IDLE_LOOK if left is None else left)
            while not self._stopping and (remaining := until - time.monotonic()) > 0:
                if self._blocking_claim.wait(self._wakeup, remaining):
                    return
                self._clear_wakeup()
        except RedisError as error:
            self._worker.log.warning("Worker %s: Redis is unavailable (%s)", self._worker.name, error)
            self._blocking_claim.close()
            self._pause(random.uniform(0.1, 0.5))

    def _pause(self, seconds: float) -> None:
        """Sleep; a signal ends it."""
        until = time.monotonic() + seconds
        while not self._stopping and (remaining := until - time.monotonic()) > 0:
            select.select([self._wakeup], [], [], remaining)
            self._clear_wakeup()

    def _clear_wakeup(self) -> None:
        """Discard the signals that have arrived, a job's alarm among them: `_stopping` holds what matters."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wakeup, 512):
                pass

    def _flush(self) -> None:
        if not self._counters:
            return
        pairs = self._counters.take(time.monotonic())
        commands = [pack("HINCRBYFLOAT", keys.METRICS, pairs[at], pairs[at + 1]) for at in range(0, len(pairs), 2)]
        self._connection.send(*commands)
        for _ in commands:
            self._connection.read()

    def _exit_code(self) -> int | None:
        """The exit code, if it is time to end."""
        if self._stopping or os.getppid() != self._parent:
            return DONE
        return self._limits.reached(self._jobs)

    def _exit(self, code: int) -> int:
        with contextlib.suppress(RedisError):
            self._blocking_claim.stop(self._connection)
            self._flush()
        self._connection.close()
        return code

    def _install_signals(self) -> None:
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        # A terminal sends Ctrl-C to all processes; the supervisor passes on what concerns a horse.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        # Blocked since before the fork: a horse that is stopped as it starts must not miss the signal.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._stopping = True


def _waited(running: RunningJob, enqueued_at: bytes | None) -> float | None:
    """Seconds that a job has waited; None if that is not on record."""
    enqueued = None if enqueued_at is None else parse(enqueued_at.decode(errors="replace"))
    return None if enqueued is None else max(running.started - enqueued, 0.0)
