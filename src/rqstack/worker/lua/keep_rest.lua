-- What is left of a worker's lease after its outcomes were recorded: the function keep_rest(recorded) of settle.lua,
-- which see. Follows lease.lua, put_back.lua and executions.lua.
--
-- recorded   whether this call has recorded an outcome
--
-- Puts back what ARGV[12] says. Returns whether nothing is left.

local jobs = jobs_of(redis.call('HGET', KEYS[2], ARGV[1]))
local ended, kept, changed = {}, {}, recorded
for at = 14, 13 + tonumber(ARGV[13]) * 11, 11 do ended[ARGV[at + 2]] = true end
-- The last one first, so that they are in their order at the head of the queue.
for place = #jobs, 1, -1 do
  local queue, id, execution = unpack(jobs[place])
  if not ended[execution] then
    if ARGV[12] == '*' or string.find(ARGV[12], execution, 1, true) then
      put_back(KEYS[1], queue, id, execution, false)
      changed = true
    else
      table.insert(kept, 1, jobs[place])
    end
  end
end
if #kept > 0 and changed then
  for _, job in ipairs(kept) do
    write_execution(KEYS[1], ARGV[1], job[2], job[3], ARGV[5], tonumber(redis.call('TIME')[1]), tonumber(ARGV[6]))
  end
  redis.call('HSET', KEYS[2], ARGV[1], lease_of(kept) .. '\0=' .. ARGV[3])
end
return #kept == 0
