-- Requeue failed jobs: RQ's FailedJobRegistry.requeue for one batch.
--
-- KEYS[1]  rq:failed:<name>
-- ARGV[1]  now in RQ's format
-- ARGV[2]  RQ's value for 'no exception'
-- ARGV[3]  timeout in seconds of a job without one
-- ARGV[4]  now in Unix seconds
-- ARGV[5]… ids
--
-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write for
-- a job. A key that is not a hash is not a job.
-- Returns the number of jobs requeued, and of ids whose job no longer exists (expired).
local requeued, expired = 0, 0
for i = 5, #ARGV do
    local id = ARGV[i]
    local job = '<prefix>:job:' .. id
    if redis.call('ZSCORE', KEYS[1], id) then
        local job_fields = redis.pcall('HMGET', job, 'origin', 'timeout', 'ttl', 'rate_limit_key',
            'rate_limit_concurrency')
        if job_fields.err then
            if redis.call('TYPE', job).ok == 'hash' then
                return job_fields
            end
            job_fields = {}
        end
        local queue = '<prefix>:queue:' .. (job_fields[1] or '')
        local kind = job_fields[1] and redis.call('TYPE', queue).ok or 'none'
        if kind ~= 'list' and kind ~= 'none' then
            return redis.error_reply('WRONGTYPE ' .. queue .. ' is not a list but a ' .. kind)
        end
        local ttl = math.floor(tonumber(job_fields[3] or '0') or 0)
        local slots = job_fields[4] and tonumber(job_fields[5] or '')
        redis.call('ZREM', KEYS[1], id)
        if job_fields[1] then
            redis.call('HSET', job, 'started_at', '', 'ended_at', '', 'exc_info', ARGV[2], 'timeout',
                job_fields[2] or ARGV[3])
            if ttl > 0 and ttl < 1e10 then  -- beyond this Redis rejects the expiry
                redis.call('EXPIRE', job, ttl)
                redis.call('EXPIRE', job .. ':dependents', ttl)
                redis.call('EXPIRE', '<prefix>:job:' .. ':' .. id .. ':dependencies', ttl)
            end
            redis.call('SADD', '<prefix>:queues', queue)
            if slots then
                redis.call('HSET', job, 'enqueue_at_front', 0)
                enqueue_rate_limited(id, job_fields[4], slots, tonumber(ARGV[4]), ARGV[1])
            else
                redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[1])
                redis.call('RPUSH', queue, id)
            end
            requeued = requeued + 1
        else
            expired = expired + 1
        end
    end
end
return {requeued, expired}
