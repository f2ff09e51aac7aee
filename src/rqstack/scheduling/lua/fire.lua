-- Enqueue the job of one firing, exactly once, however many schedulers run.
-- The state of the entry holds the last firing that was decided. This script compares it, advances it and enqueues the
-- job atomically, so a second scheduler finds it advanced.
-- KEYS: 1 entry, 2 job template, 3 state of the entry, 4 next firings, 5 job, 6 queue, 7 rq:queues
-- ARGV: 1 entry id, 2 its version, 3 this firing, 4 the one after it, 5 job id, 6 now in RQ's format,
--       7 now in Unix seconds
-- Returns 1 enqueued, 0 already fired, -1 the entry has changed since the caller read it, -2 the job already exists.
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then
    return -1
end
local last = tonumber(redis.call('HGET', KEYS[3], 'last') or '0') or 0
if last >= tonumber(ARGV[3]) then
    return 0
end
-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write.
local kind = redis.call('TYPE', KEYS[6]).ok
if kind ~= 'list' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[6] .. ' is not a list but a ' .. kind)
end
local template = redis.call('HGETALL', KEYS[2])
if #template == 0 then
    return redis.error_reply('ERR ' .. KEYS[2] .. ' does not exist')
end
local options = redis.call('HMGET', KEYS[2], 'ttl', 'enqueue_at_front', 'rate_limit_key', 'rate_limit_concurrency')
local slots = options[3] and tonumber(options[4] or '')
if slots then
    redis.call('ZCARD', '<prefix>:rl:' .. options[3] .. ':allowed')
    redis.call('ZCARD', '<prefix>:rl:' .. options[3] .. ':rate_limited')
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
if not slots then
    redis.call('HSET', KEYS[5], 'status', 'queued', 'enqueued_at', ARGV[6])
end
if ttl > 0 and ttl < 1e10 then  -- beyond this Redis rejects the expiry
    redis.call('EXPIRE', KEYS[5], ttl)
end
redis.call('SADD', KEYS[7], KEYS[6])
if slots then
    enqueue_rate_limited(ARGV[5], options[3], slots, tonumber(ARGV[7]), ARGV[6])
elseif options[2] == '1' then
    redis.call('LPUSH', KEYS[6], ARGV[5])
else
    redis.call('RPUSH', KEYS[6], ARGV[5])
end
return 1
