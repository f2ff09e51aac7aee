-- Puts failed jobs back on their queues: one batch of what rq's FailedJobRegistry.requeue does to each.
--
-- KEYS[1]  rq:failed:<name>
-- ARGV[1]  now, as RQ writes times
-- ARGV[2]  what RQ writes for 'no exception'
-- ARGV[3]  seconds a job may run where its hash does not say
-- ARGV[4]… ids
--
-- What a script has written stays when it fails: so whatever may be damaged is read and checked before the first write
-- for a job. A record of another type than a hash is none.
-- Returns how many were put back, and how many were in the registry without a record (expired).
local back, gone = 0, 0
for i = 4, #ARGV do
    local id = ARGV[i]
    local job = '<prefix>:job:' .. id
    if redis.call('ZSCORE', KEYS[1], id) then
        local known = redis.pcall('HMGET', job, 'origin', 'timeout', 'ttl')
        if known.err then
            if redis.call('TYPE', job).ok == 'hash' then
                return known
            end
            known = {}
        end
        local queue = '<prefix>:queue:' .. (known[1] or '')
        local kind = known[1] and redis.call('TYPE', queue).ok or 'none'
        if kind ~= 'list' and kind ~= 'none' then
            return redis.error_reply('WRONGTYPE ' .. queue .. ' is not a list but a ' .. kind)
        end
        local ttl = math.floor(tonumber(known[3] or '0') or 0)
        redis.call('ZREM', KEYS[1], id)
        if known[1] then
            redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[1], 'started_at', '', 'ended_at', '',
                'exc_info', ARGV[2], 'timeout', known[2] or ARGV[3])
            if ttl > 0 and ttl < 1e10 then  -- Redis knows no longer times
                redis.call('EXPIRE', job, ttl)
                redis.call('EXPIRE', job .. ':dependents', ttl)
                redis.call('EXPIRE', '<prefix>:job:' .. ':' .. id .. ':dependencies', ttl)
            end
            redis.call('SADD', '<prefix>:queues', queue)
            redis.call('RPUSH', queue, id)
            back = back + 1
        else
            gone = gone + 1
        end
    end
end
return {back, gone}
