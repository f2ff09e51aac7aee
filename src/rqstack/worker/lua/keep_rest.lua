-- Put back the jobs that ARGV[12] names, and write the rest of the worker's lease: the function keep_rest of
-- settle.lua. Follows executions.lua, lease.lua and put_back.lua.
--
-- recorded  whether this call has recorded an outcome
-- ended     set of the executions whose outcomes this call has
--
-- Returns whether nothing is left of the lease.

local jobs = jobs_of(write('HGET', KEYS[2], ARGV[1]))
local kept, changed = {}, recorded
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
  write('HSET', KEYS[2], ARGV[1], lease_of(kept) .. '\0=' .. ARGV[3])
end
return #kept == 0
