-- Cancel a job: RQ's Job.cancel, all or nothing. Follows enqueue/lua/put_on_queue.lua and dependents.lua.
--
-- A job that runs goes on; how it ends is recorded then, and releases no dependents. A repeated call changes nothing,
-- but may release dependents that the first was not to release.
--
-- KEYS[1]  rq:job:<id>
--
-- ARGV[1]  the job's id
-- ARGV[2]  '1' to enqueue the jobs that wait for it, as if it had finished
-- ARGV[3]  timeout in seconds of a job without one
-- ARGV[4]  now, as RQ writes times
--
-- Returns 1; 0 if there is no such job.

local call = redis.call
local id, job = ARGV[1], KEYS[1]
local seconds = tonumber(call('TIME')[1])
local REGISTRIES = {finished = 'finished', failed = 'failed', stopped = 'failed', deferred = 'deferred',
  scheduled = 'scheduled', ready_to_enqueue = 'ready'}

local known = call('HMGET', job, 'status', 'origin', 'rate_limit_key')
local status, origin, limit = known[1] or 'created', known[2] or '', known[3]
if call('EXISTS', job) == 0 then
  return 0
end
if status ~= 'canceled' then
  -- First, as it fails where the registry is damaged.
  call('ZADD', '<prefix>:canceled:' .. origin, seconds, id)
  if status == 'queued' or status == 'created' then
    redis.pcall('LREM', '<prefix>:queue:' .. origin, 0, id)
  elseif status == 'started' then
    for _, execution in ipairs(redis.pcall('ZRANGE', '<prefix>:executions:' .. id, 0, -1)) do
      redis.pcall('ZREM', '<prefix>:wip:' .. origin, id .. ':' .. execution)
    end
  elseif REGISTRIES[status] then
    redis.pcall('ZREM', '<prefix>:' .. REGISTRIES[status] .. ':' .. origin, id)
  end
  call('HSET', job, 'status', 'canceled')
end
if ARGV[2] == '1' then
  begin_release(id, 'finished', ARGV[3], seconds, ARGV[4])
end
if limit and status ~= 'canceled' then
  redis.pcall('ZREM', '<prefix>:rl:' .. limit .. ':rate_limited', id)
  if redis.pcall('ZCOUNT', '<prefix>:executions:' .. id, '(' .. seconds, '+inf') == 0 then
    pcall(release_slot, id, limit, seconds, ARGV[4])
  end
end
return 1
