-- Put a job that is on record on its queue, as rq.Queue does. Follows push_job.lua and rate_limited.lua.

-- The fields of a job's record that put_on_queue takes, in this order.
local WAITING_FIELDS = {'origin', 'timeout', 'ttl', 'rate_limit_key', 'rate_limit_concurrency'}

-- The limit of a job and its number of slots, from WAITING_FIELDS; nil if it has none.
local function limit_of(fields)
  local most = fields[4] and tonumber(fields[5] or '')
  if most then
    return fields[4], most
  end
end

-- Let a waiting job end with its time to live, if it has one.
local function expire_waiting(id, ttl)
  local seconds = math.floor(tonumber(ttl or '') or 0)
  if seconds > 0 and seconds < 1e10 then -- beyond this Redis rejects the expiry
    local job = '<prefix>:job:' .. id
    redis.call('EXPIRE', job, seconds)
    redis.call('EXPIRE', job .. ':dependents', seconds)
    redis.call('EXPIRE', '<prefix>:job:' .. ':' .. id .. ':dependencies', seconds)
  end
end

-- Let a job wait on its queue, or for a slot of its limit.
--
-- id         the job's id
-- fields     its WAITING_FIELDS, which have an origin
-- at_front   whether it comes before the others
-- timeout    seconds it may run, if that is not on record
-- seconds    now, in Unix seconds
-- text       now, as RQ writes times
-- has_slot   whether it keeps the slot of its limit
local function put_on_queue(id, fields, at_front, timeout, seconds, text, has_slot)
  local job = '<prefix>:job:' .. id
  if not fields[2] then
    redis.call('HSET', job, 'timeout', timeout)
  end
  expire_waiting(id, fields[3])
  local limit, most = limit_of(fields)
  if limit and not has_slot then
    if at_front then
      redis.call('HSET', job, 'enqueue_at_front', 1)
    end
    enqueue_rate_limited(id, limit, most, seconds, text)
  else
    push_job(id, '<prefix>:queue:' .. fields[1], at_front and 'LPUSH' or 'RPUSH', text)
  end
end
