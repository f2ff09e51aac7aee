"""Watches the batches of horses: if a job takes long, it records those before it and puts back those behind it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rqstack.worker.scripts import SETTLE
from rqstack.worker.settle import claim_arguments, fixed_keys, raw_settle_arguments

if TYPE_CHECKING:
    from rqstack.transport.raw import RawConnection
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.batch_board import Batch, BatchBoard

log = logging.getLogger("rq.worker")

INTERVAL = 0.003
"""Seconds between two checks while horses claim several jobs at once."""

_UNRECORDED = 0.006
"""Seconds for which an outcome may wait for its horse. With the two intervals it is on record within 10 ms."""

_WAITING = 0.010
"""Seconds that a job may take while others wait behind it."""


class BatchWatch:
    """The batches of a supervisor's horses.

    Args:
        board: Where the horses report.
        workers: The RQ workers, one per horse.
        supervisor: The supervisor's id.
        connection: The supervisor's connection.
    """

    def __init__(
        self, board: BatchBoard, workers: Sequence[BaseWorker], supervisor: str, connection: RawConnection
    ) -> None:
        self._board = board
        self._workers = workers
        self._supervisor = supervisor
        self._connection = connection
        self._taken = [""] * len(workers)

    @property
    def is_active(self) -> bool:
        """Whether any horse claims several jobs at once."""
        return self._board.is_active()

    def check(self) -> None:
        """Take over from the horses whose running job takes long. If Redis is unavailable, the horses go on."""
        now = time.monotonic()
        for index in range(len(self._workers)):
            batch = self._board.batch(index)
            if batch.size < 2 or batch.call_id == self._taken[index]:
                continue
            is_late = batch.first_ended and now - batch.first_ended > _UNRECORDED
            if is_late or (now - batch.began > _WAITING and batch.place + 1 < batch.size):
                present = self._board.take_back(index, batch)
                if present is not None:
                    self._taken[index] = present.call_id
                    try:
                        self._settle(index, present)
                    except RedisError as error:
                        self._taken[index] = ""
                        log.warning("Redis is unavailable (%s); a batch of jobs is recorded later", error)
                        return

    def settle_ended(self, index: int, keep: str = "") -> None:
        """Settle the batch of a horse that has ended: record the jobs that had ended, put back those not begun.

        Args:
            keep: An execution that is not put back, since its job is stopped; "" for none.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached. The call may be repeated.
        """
        batch = self._board.batch(index)
        if batch.size:
            self._settle(index, batch, keep)
        self._board.clear(index)

    def _settle(self, index: int, batch: Batch, keep: str = "") -> None:
        outcomes = list(self._board.outcomes(index))
        rest = [execution for execution in batch.not_begun() if execution != keep]
        if not outcomes and not rest:
            return
        names = (self._workers[index].name, self._supervisor)
        head = claim_arguments(fixed_keys(*names), (), names, time.time())
        tail = raw_settle_arguments(outcomes, claim=False, put_back=",".join(rest))
        self._connection.run(SETTLE, (*head, *tail))
