"""The scheduler's Lua scripts."""

from __future__ import annotations

from rqstack.transport.scripts import Script

FIRE = Script("enqueue/lua/push_job.lua", "enqueue/lua/rate_limited.lua", "scheduling/lua/fire.lua")
MOVE = Script(
    "enqueue/lua/push_job.lua",
    "enqueue/lua/rate_limited.lua",
    "enqueue/lua/put_on_queue.lua",
    "scheduling/lua/move.lua",
)
NEXT_DUE = Script("scheduling/lua/next_due.lua")
PRUNE = Script("scheduling/lua/prune.lua")
PUT = Script("scheduling/lua/put.lua")
SKIP = Script("scheduling/lua/skip.lua")
TRIM = Script("scheduling/lua/trim.lua")
