-- Move delayed jobs and retries that are due from a queue's scheduled registry into the queue, as RQ's scheduler does.
-- KEYS: 1 scheduled registry, 2 queue, 3 rq:queues, 4 RQ's lock of the queue's scheduler
-- ARGV: 1 now, 2 most jobs to move, 3 now in RQ's format, 4 queue name, 5 timeout of a job without one,
--       6 seconds after which an id without a job is dropped, 7 ids to pass over: those left by the call before
-- Returns jobs moved, ids dropped, ids left for later because their job is not there (yet).
-- What a script has written stays when it fails: so whatever may be damaged is read and checked before the first write.
if redis.call('EXISTS', KEYS[4]) == 1 then
    -- RQ's own scheduler (`rq worker --with-scheduler`) moves this queue's; it reads first and writes later, so two
    -- movers would enqueue a job twice.
    return {-1, 0, 0}
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'list' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is not a list but a ' .. kind)
end
local most, moved, dropped, left = tonumber(ARGV[2]), 0, 0, 0
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', ARGV[7], most)
for i = 1, #due, 2 do
    local id = due[i]
    local key = '<prefix>:job:' .. id
    local job = redis.pcall('HMGET', key, 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'ttl', 'timeout',
        'data')
    if job.err then
        if redis.call('TYPE', key).ok == 'hash' then
            return job
        end
        job = {}  -- a key of this name that holds no job
    end
    if not job[6] then
        -- RQ adds the id before it writes the job: without a job it is dropped only when that is long past.
        if tonumber(ARGV[1]) - tonumber(due[i + 1]) >= tonumber(ARGV[6]) then
            redis.call('ZREM', KEYS[1], id)
            dropped = dropped + 1
        else
            left = left + 1
        end
    else
        local ttl = math.floor(tonumber(job[4] or '0') or 0)
        redis.call('ZREM', KEYS[1], id)
        redis.call('HSET', key, 'status', 'queued', 'enqueued_at', ARGV[3], 'origin', ARGV[4])
        if not job[5] then
            redis.call('HSET', key, 'timeout', ARGV[5])
        end
        if ttl > 0 and ttl < 1e10 then  -- Redis knows no longer times
            redis.call('EXPIRE', key, ttl)
            redis.call('EXPIRE', key .. ':dependents', ttl)
            redis.call('EXPIRE', '<prefix>:job:' .. ':' .. id .. ':dependencies', ttl)
        end
        local retried = job[3] and job[3] ~= ''
        if job[1] == '1' or (job[2] == '1' and retried) then
            redis.call('LPUSH', KEYS[2], id)
        else
            redis.call('RPUSH', KEYS[2], id)
        end
        moved = moved + 1
    end
end
if moved > 0 then
    redis.call('SADD', KEYS[3], KEYS[2])
end
return {moved, dropped, left}
