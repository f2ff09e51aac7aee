-- Take jobs from a queue or a registry and delete them: RQ's Job.delete for many. Follows operation.lua and
-- enqueue/lua/rate_limited.lua.
--
-- A job with another status is in use again, for example because it was requeued: it is only taken out. Jobs that wait
-- for a deleted one go on waiting, as in RQ.
--
-- KEYS[1]  as in operation.lua
-- KEYS[2]  the queue, a list, or the registry, a sorted set
--
-- ARGV[1], ARGV[2]  as in operation.lua
-- ARGV[3]  statuses that these jobs may have, each between commas: ',failed,stopped,'
-- ARGV[4]  now, as RQ writes times
--
-- Returns {left, deleted, taken out}: how many jobs are left, were deleted, and were only taken out, by all calls of the
-- operation.

local call = redis.call
local key = KEYS[2]
local is_list = call('TYPE', key).ok == 'list'
local seconds = tonumber(call('TIME')[1])

local function read(most)
  if is_list then
    return call('LRANGE', key, 0, most - 1)
  end
  return call('ZRANGE', key, 0, most - 1)
end

local function take_out(count)
  if is_list then
    call('LTRIM', key, count, -1)
  else
    call('ZREMRANGEBYRANK', key, 0, count - 1)
  end
end

-- Note which job of the queue is the last: those that come later stay. Returns how many there are.
local function note_last()
  local last = call('LINDEX', key, -1)
  if last and redis.pcall('HGET', '<prefix>:job:' .. last, 'status') == 'queued' then
    call('HSET', KEYS[1], 'last', last)
  end
  return call('LLEN', key)
end

-- Whether the last job has been claimed: then so have all before it, and those that are there now came later.
local function is_overtaken(last)
  local status = last and redis.pcall('HGET', '<prefix>:job:' .. last, 'status')
  return type(status) == 'string' and status ~= 'queued'
end

-- Ids without those that came after the last job.
local function up_to(last, ids)
  for place, id in ipairs(ids) do
    -- Its id may be there twice. What comes after the second was not there, so LPOS is quick.
    if id == last and call('LPOS', key, id, 'RANK', -1) == place - 1 then
      operation.left = place
      for beyond = #ids, place + 1, -1 do
        ids[beyond] = nil
      end
      break
    end
  end
  return ids
end

-- Take jobs out, and delete those that are not in use again: delete_job.lua with one command for all. Returns how many.
--
-- Half of the time goes into looking up keys, so those are left out that most jobs lack, or that expire soon by
-- themselves: the registry of its runs, which a run that has not ended needs, and its count of crashes.
local function delete(ids)
  local keys, limited, groups, canceled, deleted = {}, {}, {}, {}, 0
  for _, id in ipairs(ids) do
    local job = '<prefix>:job:' .. id
    local fields = redis.pcall('HMGET', job, 'status', 'group_id', 'rate_limit_key', 'dependency_ids')
    -- What is not a hash is no job, and in the way of the others.
    if not fields[1] or string.find(ARGV[3], ',' .. fields[1] .. ',', 1, true) then
      local n = #keys
      keys[n + 1], keys[n + 2], keys[n + 3] = job, job .. ':dependents', '<prefix>:results:' .. id
      if fields[4] or not fields[1] then
        keys[n + 4] = '<prefix>:job:' .. ':' .. id .. ':dependencies'
      end
      if fields[2] and fields[2] ~= '' then
        groups[#groups + 1] = {fields[2], id}
      end
      -- A job that was canceled and then requeued may still run; its slot is given back when that ends.
      if fields[3] and redis.pcall('ZCOUNT', '<prefix>:executions:' .. id, '(' .. seconds, '+inf') == 0 then
        limited[#limited + 1] = {id, fields[3]}
      end
      if fields[1] == 'canceled' then
        canceled[#canceled + 1] = {call('HGET', job, 'origin') or '', id}
      end
      deleted = deleted + 1
    end
  end
  take_out(#ids)
  if #keys > 0 then
    call('UNLINK', unpack(keys))
  end
  for _, job in ipairs(canceled) do
    redis.pcall('ZREM', '<prefix>:canceled:' .. job[1], job[2])
  end
  for _, group in ipairs(groups) do
    redis.pcall('SREM', '<prefix>:group:' .. group[1], group[2])
  end
  for _, job in ipairs(limited) do
    pcall(release_slot, job[1], job[2], seconds, ARGV[4])
  end
  return deleted
end

local reply = begin(function()
  return is_list and note_last() or call('ZCARD', key)
end)
if reply then
  return reply
end
local last = is_list and call('HGET', KEYS[1], 'last')
if operation.left == 0 or is_overtaken(last) then
  return finish(0, 0, 0, true)
end
local ids = last and up_to(last, read(most())) or read(most())
local deleted = delete(ids)
return finish(#ids, deleted, #ids - deleted, #ids == 0)
