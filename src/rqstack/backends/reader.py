"""A consumer's child: takes messages from the backend one by one, and runs the task of each."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, TypeVar

from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from rqstack.backends import BaseQueue, open_queue
from rqstack.backends.messages import FAILED, Message, decode, encode
from rqstack.processes import hooks
from rqstack.registry.discovery import resolve
from rqstack.settings import Settings

log = logging.getLogger("rqstack.worker")
T = TypeVar("T")

WAIT = 1.0
"""Seconds for which one claim waits in the backend: so long may an idle child take to see that it shall stop."""


class Reader:
    """Runs messages until it is told to stop, or (burst) until the queues are empty.

    Args:
        queues: Queue names, in order of priority.
        owner: This child's name in the backend.
        settings: The settings.
        burst: End when the queues are empty.
    """

    def __init__(self, queues: Sequence[str], owner: str, settings: Settings, *, burst: bool) -> None:
        self.settings = settings
        self.owner = owner
        self.burst = burst
        self.queues = [open_queue(name, settings) for name in queues]
        self.stopping = False
        self.parent = os.getppid()

    def run(self) -> None:
        """The loop. A backend that fails is tried again, with growing pauses; nothing in hand is dropped for it."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal; the parent says when to stop
        while not self.stopping and os.getppid() == self.parent:
            found = self._insist(self._claim, clean=True)
            if found is not None:
                queue, data = found
                self._handle(queue, data)
                self._insist(lambda queue=queue: queue.ack(self.owner))  # type: ignore[misc]
            elif self.burst:
                break
        for queue in self.queues:
            with contextlib.suppress(Exception):
                queue.release(self.owner)
                queue.close()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _claim(self) -> tuple[BaseQueue, bytes] | None:
        """The first message of the first queue that has one; waits a moment if none has."""
        lease = self.settings.dead_after
        for queue in self.queues:
            if (data := queue.claim(self.owner, lease, 0)) is not None:
                return queue, data
        if self.burst:
            return None
        # Only one queue can be waited on at a time; they take turns, short ones if there are several.
        turn = self.queues[:1] if len(self.queues) == 1 else self.queues
        for queue in turn:
            if self.stopping:
                return None
            if (data := queue.claim(self.owner, lease, WAIT if len(turn) == 1 else WAIT / 5)) is not None:
                return queue, data
        return None

    def _insist(self, call: Callable[[], T], *, clean: bool = False) -> T | None:
        """Message until it does not raise. `clean`: give back first what a claim with a lost answer may have taken."""
        pause = 0.1
        failed = False
        while True:
            try:
                if failed and clean:
                    for queue in self.queues:
                        queue.release(self.owner)
                return call()
            except Exception as error:
                failed = True
                if clean and self.stopping:
                    return None
                log.warning("%s Trying again in %.1f s.", error, pause)
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, 5)

    def _handle(self, queue: BaseQueue, data: bytes) -> None:
        """Run one message. Whatever its task does, this returns."""
        try:
            call = decode(data, self.settings)
            body = resolve(call.task, settings=self.settings)
        except Exception as error:
            log.error("Queue %s: a message was refused: %s", queue.name, error)
            self._keep(queue, data)
            return
        if hooks.before_job:
            hooks.run(hooks.before_job)
        began = time.monotonic()
        try:
            penalty: Any = UnixSignalDeathPenalty  # RQ has no types
            with penalty(call.timeout, JobTimeoutException, job_id=call.id):
                result = body(*call.args, **call.kwargs)
                if inspect.isawaitable(result):
                    asyncio.run(_wait(result))
            log.info("%s: %s done in %.3f s", queue.name, _title(call), time.monotonic() - began)
        except (Exception, SystemExit) as error:
            self._failed(queue, data, call, error)
        finally:
            if hooks.after_job:
                hooks.run(hooks.after_job)

    def _failed(self, queue: BaseQueue, data: bytes, call: Message, error: BaseException) -> None:
        if call.retries > 0:
            log.warning("%s: %s failed, %d more to try", queue.name, _title(call), call.retries, exc_info=error)
            again = encode(replace(call, retries=call.retries - 1), self.settings)
            self._insist(lambda: queue.write(again))
        else:
            log.error("%s: %s failed", queue.name, _title(call), exc_info=error)
            self._keep(queue, data)

    def _keep(self, queue: BaseQueue, data: bytes) -> None:
        failed = open_queue(queue.name + FAILED, self.settings)
        self._insist(lambda: failed.write(data))
        failed.close()


async def _wait(result: object) -> object:
    return await result  # type: ignore[misc]


def _title(call: Message) -> str:
    return f"{call.task} ({call.id})"
