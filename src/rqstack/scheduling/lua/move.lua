-- Move jobs from one of a queue's registries into the queue: delayed jobs and retries that are due, as RQ's scheduler
-- does; or jobs whose dependencies are met, which a RQ worker left there when it died. Follows
-- enqueue/lua/put_on_queue.lua.
--
-- A job with another status was queued, canceled or run in another way: its id is only removed.
--
-- KEYS[1]  rq:scheduled:<queue> or rq:ready:<queue>
-- KEYS[2]  rq:queue:<queue>
-- KEYS[3]  rq:queues
-- KEYS[4]  RQ's lock of the queue's scheduler
--
-- ARGV[1]  now, in Unix seconds
-- ARGV[2]  how many jobs to move at most
-- ARGV[3]  now, as RQ writes times
-- ARGV[4]  the queue's name
-- ARGV[5]  timeout in seconds of a job without one
-- ARGV[6]  seconds past its due time after which an id without a job is dropped
-- ARGV[7]  offset: ids that earlier calls left because their job does not exist yet
-- ARGV[8]  the status that jobs of this registry have: scheduled or ready_to_enqueue
--
-- Returns {moved, dropped, left}: jobs moved, ids dropped, ids left because their job does not exist yet. Moved is -1
-- if RQ's scheduler has the lock.

-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write.
local now, is_delayed = tonumber(ARGV[1]), ARGV[8] == 'scheduled'
if is_delayed and redis.call('EXISTS', KEYS[4]) == 1 then
  -- RQ's own scheduler (`rq worker --with-scheduler`) moves the jobs of this queue. It reads first and writes later,
  -- so moving them here too would enqueue a job twice. RQ's workers move ready jobs only if nobody else has.
  return {-1, 0, 0}
end
write('LLEN', KEYS[2])
write('SCARD', KEYS[3])
local moved, dropped, pending = 0, 0, 0
local due = write('ZRANGEBYSCORE', KEYS[1], '-inf', is_delayed and ARGV[1] or '+inf', 'WITHSCORES', 'LIMIT',
  ARGV[7], ARGV[2])
for i = 1, #due, 2 do
  local id = due[i]
  local key = '<prefix>:job:' .. id
  local fields = redis.pcall('HMGET', key, unpack(WAITING_FIELDS))
  if fields.err and redis.call('TYPE', key).ok == 'hash' then
    return fields
  end
  local more = fields.err and {} -- the key exists but is not a hash, so it is not a job
    or redis.call('HMGET', key, 'data', 'status', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at')
  if not more[1] then
    -- RQ 2 added the id before it wrote the job, so a missing job may still come.
    if not is_delayed or now - tonumber(due[i + 1]) >= tonumber(ARGV[6]) then
      redis.call('ZREM', KEYS[1], id)
      dropped = dropped + 1
    else
      pending = pending + 1
    end
  elseif more[2] == ARGV[8] or (is_delayed and (more[2] or 'created') == 'created') then
    local limit = limit_of(fields)
    if limit then
      write('HLEN', '<prefix>:rl:' .. limit)
      write('ZCARD', '<prefix>:rl:' .. limit .. ':allowed')
      write('ZCARD', '<prefix>:rl:' .. limit .. ':rate_limited')
    end
    local retried = more[5] and more[5] ~= ''
    redis.call('ZREM', KEYS[1], id)
    redis.call('HSET', key, 'origin', ARGV[4])
    fields[1] = ARGV[4]
    put_on_queue(id, fields, more[3] == '1' or (more[4] == '1' and retried), ARGV[5], math.floor(now), ARGV[3])
    moved = moved + 1
  else
    redis.call('ZREM', KEYS[1], id)
    dropped = dropped + 1
  end
end
if moved > 0 then
  redis.call('SADD', KEYS[3], KEYS[2])
end
return {moved, dropped, pending}
