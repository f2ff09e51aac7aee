"""A consumer's child process: claims messages one by one and runs their tasks."""

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

CLAIM_TIMEOUT = 1.0
"""Seconds for which a claim waits. An idle reader notices a stop only after this time."""


class Reader:
    """Runs messages until it is stopped.

    Args:
        queues: Queue names in order of priority.
        owner: The unique name under which it claims messages.
        burst: Return when the queues are empty.
    """

    def __init__(self, queues: Sequence[str], owner: str, settings: Settings, *, burst: bool) -> None:
        self.settings = settings
        self.owner = owner
        self.burst = burst
        self.queues = [open_queue(name, settings) for name in queues]
        self.stopping = False
        self.parent = os.getppid()

    def run(self) -> None:
        """Run messages until stopped. If the backend fails, retry with backoff and keep the claimed message."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the consumer stops this one
        while not self.stopping and os.getppid() == self.parent:
            claimed = self._retry(self._claim, is_claim=True)
            if claimed is not None:
                queue, data = claimed
                self._process(queue, data)
                self._retry(lambda queue=queue: queue.ack(self.owner))  # type: ignore[misc]
            elif self.burst:
                break
        for queue in self.queues:
            with contextlib.suppress(Exception):
                queue.release(self.owner)
                queue.close()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _claim(self) -> tuple[BaseQueue, bytes] | None:
        """The first message of the first queue that has one. Waits up to `CLAIM_TIMEOUT` if all are empty."""
        lease = self.settings.dead_after
        for queue in self.queues:
            if (data := queue.claim(self.owner, lease, 0)) is not None:
                return queue, data
        if self.burst:
            return None
        # Only one queue can be waited on at a time, so several take turns with a shorter timeout.
        timeout = CLAIM_TIMEOUT if len(self.queues) == 1 else CLAIM_TIMEOUT / 5
        for queue in self.queues:
            if self.stopping:
                return None
            if (data := queue.claim(self.owner, lease, timeout)) is not None:
                return queue, data
        return None

    def _retry(self, call: Callable[[], T], *, is_claim: bool = False) -> T | None:
        """Call until it does not raise.

        Args:
            is_claim: Before each retry, release a message that a claim with a lost reply may have claimed. Return None
                if the reader is stopped meanwhile.
        """
        pause = 0.1
        failed = False
        while True:
            try:
                if failed and is_claim:
                    for queue in self.queues:
                        queue.release(self.owner)
                return call()
            except Exception as error:
                failed = True
                if is_claim and self.stopping:
                    return None
                log.warning("%s Trying again in %.1f s.", error, pause)
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, 5)

    def _process(self, queue: BaseQueue, data: bytes) -> None:
        """Run one message. Does not raise, whatever the task does."""
        try:
            message = decode(data, self.settings)
            function = resolve(message.task, settings=self.settings)
        except Exception as error:
            log.error("Queue %s: rejected a message: %s", queue.name, error)
            self._move_to_failed(queue, data)
            return
        if hooks.before_job:
            hooks.run(hooks.before_job)
        started = time.monotonic()
        try:
            penalty: Any = UnixSignalDeathPenalty  # RQ has no types
            with penalty(message.timeout, JobTimeoutException, job_id=message.id):
                result = function(*message.args, **message.kwargs)
                if inspect.isawaitable(result):
                    asyncio.run(_as_coroutine(result))
            log.info("%s: %s done in %.3f s", queue.name, _describe(message), time.monotonic() - started)
        except (Exception, SystemExit) as error:
            self._handle_failure(queue, data, message, error)
        finally:
            if hooks.after_job:
                hooks.run(hooks.after_job)

    def _handle_failure(self, queue: BaseQueue, data: bytes, message: Message, error: BaseException) -> None:
        if message.retries > 0:
            log.warning(
                "%s: %s failed, retries left: %d", queue.name, _describe(message), message.retries, exc_info=error
            )
            retry = encode(replace(message, retries=message.retries - 1), self.settings)
            self._retry(lambda: queue.write(retry))
        else:
            log.error("%s: %s failed", queue.name, _describe(message), exc_info=error)
            self._move_to_failed(queue, data)

    def _move_to_failed(self, queue: BaseQueue, data: bytes) -> None:
        failed = open_queue(queue.name + FAILED, self.settings)
        self._retry(lambda: failed.write(data))
        failed.close()


async def _as_coroutine(result: object) -> object:
    return await result  # type: ignore[misc]


def _describe(message: Message) -> str:
    return f"{message.task} ({message.id})"
