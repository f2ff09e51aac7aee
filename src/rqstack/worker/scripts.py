"""The worker's Lua scripts."""

from __future__ import annotations

from rqstack.transport.schema import SCHEMA_LUA
from rqstack.transport.scripts import Function, Script

_WRITE = "transport/lua/write.lua"
_IS_NAME = "transport/lua/is_name.lua"
_LEASE = "worker/lua/lease.lua"
_PUT_BACK = "worker/lua/put_back.lua"
_CLAIM = (
    _WRITE,
    _IS_NAME,
    "worker/lua/executions.lua",
    Function("check_lease()", _LEASE, "worker/lua/check_lease.lua"),
    Function("set_clock(seconds, micros)", "worker/lua/clock.lua"),
    "worker/lua/claim.lua",
)
_RATE_LIMITED = ("enqueue/lua/push_job.lua", "enqueue/lua/rate_limited.lua")
_STALE_SLOT = "worker/lua/stale_slot.lua"
_RELEASE = (*_RATE_LIMITED, "enqueue/lua/put_on_queue.lua", "enqueue/lua/dependents.lua")

CLAIM = Script(*_CLAIM, tail="return claim()")
SETTLE = Script(
    *_CLAIM,
    Function(
        "settle_any(at)",
        _LEASE,
        *_RELEASE,
        "enqueue/lua/delete_job.lua",
        _STALE_SLOT,
        "worker/lua/settle_any.lua",
    ),
    Function("keep_rest(recorded, ended)", _LEASE, _PUT_BACK, "worker/lua/keep_rest.lua"),
    "worker/lua/settle.lua",
)
RELEASE = Script(_WRITE, *_RELEASE, "worker/lua/release.lua")
RECOVER = Script(
    _WRITE,
    _IS_NAME,
    _LEASE,
    _PUT_BACK,
    Function("leave_slot(id, seconds, text)", *_RATE_LIMITED, _STALE_SLOT, "worker/lua/leave_slot.lua"),
    "worker/lua/recover.lua",
)
HEARTBEAT = Script(SCHEMA_LUA, _WRITE, _IS_NAME, _LEASE, "worker/lua/heartbeat.lua")

EXECUTION_TTL = 90
"""Seconds until RQ's registries take an execution for abandoned, as RQ writes them; supervisors keep refreshing it."""

JOB_TIMEOUT = 180
"""Seconds that a job may run whose record does not say so: RQ's default."""
