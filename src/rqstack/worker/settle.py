"""Calls settle.lua: one call records how jobs ended, and may claim the next ones."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rqstack.security.bounded import max_payload
from rqstack.transport import keys
from rqstack.transport.timestamps import format_micros
from rqstack.worker.scripts import EXECUTION_TTL, JOB_TIMEOUT, RELEASE, SETTLE

if TYPE_CHECKING:
    from rqstack.transport.raw import RawConnection
    from rqstack.worker.lease import Lease
    from rqstack.worker.outcome import Outcome


def new_call_id() -> str:
    """A random id for a call of claim.lua or settle.lua, and for the first execution that begins with it."""
    return os.urandom(15).hex() + "01"  # not from `random`, which a task may have seeded


def fixed_keys(worker: str, supervisor: str) -> tuple[str, str, str]:
    """The first three keys of claim.lua and settle.lua.

    Args:
        worker: The worker's name.
        supervisor: The supervisor's id.
    """
    return keys.WORKER + worker, keys.running(supervisor), keys.SUPERVISORS


def claim_arguments(
    first_keys: Sequence[str],
    queue_keys: Sequence[str],
    names: tuple[str, str],
    now: float | None,
    *,
    idle: bool = False,
    meta: bytes = b"",
    max_jobs: int = 1,
    call_id: str = "",
) -> tuple[Any, ...]:
    """Number of keys, keys and arguments of claim.lua, which settle.lua begins with too.

    Args:
        first_keys: From `fixed_keys`.
        queue_keys: The queues, in order of priority.
        names: The worker's name, and the id of its supervisor.
        now: Unix seconds; None for Redis's clock, by a call that waits in Redis for a job.
        idle: The horse was idle.
        meta: Serialized meta for jobs that have none.
        max_jobs: How many jobs to claim at most.
        call_id: From `new_call_id`, for a call that is repeated. Default: a new one.
    """
    return (
        3 + len(queue_keys),
        *first_keys,
        *queue_keys,
        *names,
        call_id or new_call_id(),
        *(("", "") if now is None else (format_micros(int(now * 1e6)), f"{now:.6f}")),
        EXECUTION_TTL,
        b"1" if idle else b"0",
        meta,
        f"{max_jobs}:{max_payload()}",
    )


def settle_arguments(outcomes: Sequence[Outcome], *, claim: bool, put_back: str = "") -> list[Any]:
    """The arguments of settle.lua after those of claim.lua; pairs of counts may follow.

    Args:
        outcomes: How jobs ended.
        claim: Claim the next ones.
        put_back: Executions to be put back, with commas between; * for all that are left.
    """
    return raw_settle_arguments([outcome.arguments() for outcome in outcomes], claim=claim, put_back=put_back)


def call_id_of(head: Sequence[Any]) -> str:
    """The id of a call, from what `claim_arguments` has returned."""
    return str(head[3 + int(head[0])])


def raw_settle_arguments(outcomes: Sequence[Sequence[Any]], *, claim: bool, put_back: str = "") -> list[Any]:
    """As `settle_arguments`, of outcomes as `Outcome.arguments` returns them."""
    values = [value for outcome in outcomes for value in outcome]
    return [b"1" if claim else b"0", JOB_TIMEOUT, put_back, len(outcomes), *values]


def settle(connection: RawConnection, lease: Lease, outcome: Outcome, call_id: str = "") -> str:
    """Record the outcome of a job whose horse is gone, in the name of its worker.

    Args:
        lease: The lease that the worker held.
        call_id: As for `claim_arguments`.

    Returns:
        What settle.lua has recorded it as.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached. The call may have been done; it may be repeated.
    """
    names = (lease.worker, lease.supervisor)
    head = claim_arguments(fixed_keys(*names), (), names, time.time(), call_id=call_id)
    outcomes, releasing = connection.run(SETTLE, (*head, *settle_arguments([outcome], claim=False)))
    if releasing:
        release_dependents(connection)
    return str(outcomes[0].decode())


def release_dependents(connection: RawConnection) -> None:
    """Release the dependents of jobs that have ended, where there were more than settle.lua looks at in one call.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached; the supervisors go on with it.
    """
    now = int(time.time())
    while connection.run(RELEASE, (0, JOB_TIMEOUT, now, format_micros(now * 1_000_000))):
        pass
