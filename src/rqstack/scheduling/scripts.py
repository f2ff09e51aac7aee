"""The scheduler's Lua scripts."""

from __future__ import annotations

from rqstack.transport.scripts import Script

_WRITE = "transport/lua/write.lua"
_RATE_LIMITED = (_WRITE, "enqueue/lua/push_job.lua", "enqueue/lua/rate_limited.lua")

EXPIRED = Script(_WRITE, "scheduling/lua/expired.lua")
FIRE = Script(*_RATE_LIMITED, "scheduling/lua/fire.lua")
MOVE = Script(*_RATE_LIMITED, "enqueue/lua/put_on_queue.lua", "scheduling/lua/move.lua")
NEXT_DUE = Script(_WRITE, "transport/lua/is_name.lua", "scheduling/lua/next_due.lua")
PRUNE = Script(_WRITE, "scheduling/lua/prune.lua")
PUT = Script(_WRITE, "scheduling/lua/put.lua")
SKIP = Script(_WRITE, "scheduling/lua/skip.lua")
TRIM = Script(_WRITE, "scheduling/lua/trim.lua")
