-- Enqueue the job of one firing, exactly once, however many schedulers run. Follows enqueue/lua/push_job.lua and
-- enqueue/lua/rate_limited.lua.
--
-- The state of the entry holds the last firing that was decided. This script compares it, advances it and enqueues the
-- job atomically, so a second scheduler finds it advanced.
--
-- KEYS[1]  the entry
-- KEYS[2]  the template of its jobs
-- KEYS[3]  the state of the entry
-- KEYS[4]  next firings
-- KEYS[5]  the job
-- KEYS[6]  the queue
-- KEYS[7]  rq:queues
--
-- ARGV[1]  the entry's id
-- ARGV[2]  its version
-- ARGV[3]  this firing
-- ARGV[4]  the one after it
-- ARGV[5]  the job's id
-- ARGV[6]  now, as RQ writes times
-- ARGV[7]  now, in Unix seconds
--
-- Returns 1 if the job was enqueued, 0 if the firing was decided before, -1 if the entry has changed since the caller
-- read it, -2 if the job exists already.

if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then
  return -1
end
local last = tonumber(write('HGET', KEYS[3], 'last') or '0') or 0
if last >= tonumber(ARGV[3]) then
  return 0
end
-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write.
write('LLEN', KEYS[6])
write('SCARD', KEYS[7])
local template = redis.call('HGETALL', KEYS[2])
if #template == 0 then
  return redis.error_reply('ERR ' .. KEYS[2] .. ' does not exist')
end
local options = redis.call('HMGET', KEYS[2], 'ttl', 'enqueue_at_front', 'rate_limit_key', 'rate_limit_concurrency')
local slots = options[3] and tonumber(options[4] or '')
if slots then
  write('ZCARD', '<prefix>:rl:' .. options[3] .. ':allowed')
  write('ZCARD', '<prefix>:rl:' .. options[3] .. ':rate_limited')
end
local ttl = math.floor(tonumber(options[1] or '0') or 0)
redis.call('HSET', KEYS[3], 'last', ARGV[3])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
-- A state restored from an older backup must not repeat a job that still exists.
if redis.call('EXISTS', KEYS[5]) == 1 then
  return -2
end
redis.call('HSET', KEYS[3], 'last_job', ARGV[5])
redis.pcall('HINCRBY', KEYS[3], 'fired', 1)
redis.call('HSET', KEYS[5], unpack(template))
redis.call('HSET', KEYS[5], 'created_at', ARGV[6])
if ttl > 0 and ttl < 1e10 then  -- beyond this Redis rejects the expiry
  redis.call('EXPIRE', KEYS[5], ttl)
end
redis.call('SADD', KEYS[7], KEYS[6])
if slots then
  enqueue_rate_limited(ARGV[5], options[3], slots, tonumber(ARGV[7]), ARGV[6])
else
  push_job(ARGV[5], KEYS[6], options[2] == '1' and 'LPUSH' or 'RPUSH', ARGV[6])
end
return 1
