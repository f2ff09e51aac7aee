-- Puts failed jobs back on their queues: one batch of what rq's FailedJobRegistry.requeue does to each.
--
-- KEYS[1]  rq:failed:<name>
-- ARGV[1]  rq:job:
-- ARGV[2]  now, as RQ writes times
-- ARGV[3]  what RQ writes for 'no exception'
-- ARGV[4]  seconds a job may run where its hash does not say
-- ARGV[5]… ids
--
-- Returns how many were put back, and how many were in the registry without a record (expired).
local back, gone = 0, 0
for i = 5, #ARGV do
    local id = ARGV[i]
    local job = ARGV[1] .. id
    if redis.call('ZREM', KEYS[1], id) == 1 then
        local known = redis.call('HMGET', job, 'origin', 'timeout', 'ttl')
        if known[1] then
            local queue = 'rq:queue:' .. known[1]
            redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[2], 'started_at', '', 'ended_at', '',
                'exc_info', ARGV[3], 'timeout', known[2] or ARGV[4])
            if known[3] and tonumber(known[3]) > 0 then
                redis.call('EXPIRE', job, known[3])
                redis.call('EXPIRE', job .. ':dependents', known[3])
                redis.call('EXPIRE', ARGV[1] .. ':' .. id .. ':dependencies', known[3])
            end
            redis.call('SADD', 'rq:queues', queue)
            redis.call('RPUSH', queue, id)
            back = back + 1
        else
            gone = gone + 1
        end
    end
end
return {back, gone}
