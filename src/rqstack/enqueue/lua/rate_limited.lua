-- Give out the slots of RQ's RateLimit, as rq.rate_limit does. Follows transport/lua/write.lua
-- and push_job.lua.
--
-- A job with a limit waits in a sorted set for one of the limit's slots. A job that is given one is put on its queue,
-- and keeps the slot until it has ended.

-- Give the free slots of a limit to the jobs that have waited longest.
--
-- limit     the limit's key
-- most      how many slots it has
-- seconds   now, in Unix seconds
-- text      now, as RQ writes times
local function fill_slots(limit, most, seconds, text)
  local key = '<prefix>:rl:' .. limit
  local allowed, waiting = key .. ':allowed', key .. ':rate_limited'
  local taken = write('ZCARD', allowed)
  while taken < most do
    local first = write('ZPOPMIN', waiting)[1]
    if not first then
      break
    end
    local job = '<prefix>:job:' .. first
    local known = redis.pcall('HMGET', job, 'origin', 'status', 'enqueue_at_front')
    if known[1] and known[2] == 'rate_limited' then
      redis.call('ZADD', allowed, seconds, first)
      write('LLEN', '<prefix>:queue:' .. known[1])
      push_job(first, '<prefix>:queue:' .. known[1], known[3] == '1' and 'LPUSH' or 'RPUSH', text)
      taken = redis.call('ZCARD', allowed)
    end
  end
end

-- Let a job wait for a slot, and give it one if one is free. Arguments as fill_slots, and
--
-- id        the job's id; its record is there, with its origin
local function enqueue_rate_limited(id, limit, most, seconds, text)
  local key = '<prefix>:rl:' .. limit
  write('SADD', '<prefix>:rl-keys', limit)
  write('HSET', key, 'concurrency', most)
  redis.call('HSET', '<prefix>:job:' .. id, 'status', 'rate_limited')
  write('ZADD', key .. ':rate_limited', seconds, id)
  fill_slots(limit, most, seconds, text)
end

-- Give the slot of a run that has ended to the next job. The job may wait for a slot anew: it was enqueued again while
-- it ran. Arguments as fill_slots, and
--
-- id        the job's id
local function give_back_slot(id, limit, seconds, text)
  local key = '<prefix>:rl:' .. limit
  if write('ZREM', key .. ':allowed', id) == 1 then
    fill_slots(limit, tonumber(write('HGET', key, 'concurrency') or '') or 0, seconds, text)
  end
end

-- Take a job out of its limit altogether. Arguments as give_back_slot.
local function release_slot(id, limit, seconds, text)
  write('ZREM', '<prefix>:rl:' .. limit .. ':rate_limited', id)
  give_back_slot(id, limit, seconds, text)
end
