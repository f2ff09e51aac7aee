"""The worker's Lua scripts."""

from __future__ import annotations

from rqstack.transport.scripts import Script

CLAIM = Script("worker/lua/claim.lua", tail="return claim()")
FINISH = Script("worker/lua/claim.lua", "worker/lua/finish.lua")
RECOVER = Script("worker/lua/recover.lua")
HEARTBEAT = Script("worker/lua/heartbeat.lua")

EXECUTION_TTL = 90
"""Seconds until RQ's registries take an execution for abandoned, as RQ writes them; supervisors keep refreshing it."""
