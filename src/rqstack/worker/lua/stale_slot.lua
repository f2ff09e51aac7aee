-- Give back the slot that a run still has, though its job was canceled, deleted, enqueued again, or is another's.
-- Follows enqueue/lua/rate_limited.lua.
--
-- RQ keeps the slot for as long as a run of the job is on record. A job that waits on its queue, or runs anew, has the
-- slot by itself.
--
-- id              the job's id
-- limit           the limit's key; nil if the run had none
-- seconds, text   as in fill_slots
local function release_stale_slot(id, limit, seconds, text)
  local status = limit and redis.pcall('HGET', '<prefix>:job:' .. id, 'status')
  if limit and status ~= 'queued' and status ~= 'started'
    and redis.pcall('ZCARD', '<prefix>:executions:' .. id) == 0 then
    pcall(give_back_slot, id, limit, seconds, text)
  end
end
