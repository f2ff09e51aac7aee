-- Puts a job with RQ's RateLimit back to work, as rq.Queue does. Comes before scripts that move jobs to queues.
--
-- Such a job waits in a sorted set for one of its limit's slots. A job that is given one is put on its queue, and keeps
-- the slot until it has ended.
--
-- id        the job's id; its record is there, with its origin
-- limit     the limit's key
-- most      how many slots it has
-- seconds   now, in Unix seconds
-- text      now, as RQ writes times
local function enqueue_rate_limited(id, limit, most, seconds, text)
    local key = '<prefix>:rl:' .. limit
    local allowed, waiting = key .. ':allowed', key .. ':rate_limited'
    -- Damaged ones fail here, before the first write.
    redis.call('ZCARD', waiting)
    local taken = redis.call('ZCARD', allowed)
    redis.call('SADD', '<prefix>:rl-keys', limit)
    redis.call('HSET', key, 'concurrency', most)
    redis.call('HSET', '<prefix>:job:' .. id, 'status', 'rate_limited')
    redis.call('ZADD', waiting, seconds, id)
    while taken < most do
        local first = redis.call('ZPOPMIN', waiting)[1]
        if not first then
            break
        end
        local job = '<prefix>:job:' .. first
        local known = redis.call('HMGET', job, 'origin', 'status', 'enqueue_at_front')
        if known[1] and known[2] == 'rate_limited' then
            redis.call('ZADD', allowed, seconds, first)
            redis.call(known[3] == '1' and 'LPUSH' or 'RPUSH', '<prefix>:queue:' .. known[1], first)
            redis.call('HSET', job, 'status', 'queued', 'enqueued_at', text)
            taken = redis.call('ZCARD', allowed)
        end
    end
end
