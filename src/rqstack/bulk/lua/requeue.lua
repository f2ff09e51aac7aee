-- Requeue failed jobs: RQ's FailedJobRegistry.requeue for one batch. Follows enqueue/lua/put_on_queue.lua.
--
-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write for
-- a job. A key that is not a hash is not a job.
--
-- KEYS[1]   rq:failed:<name>
-- ARGV[1]   now, as RQ writes times
-- ARGV[2]   RQ's value for 'no exception'
-- ARGV[3]   timeout in seconds of a job without one
-- ARGV[4]   now, in Unix seconds
-- ARGV[5+]  ids
--
-- Returns the number of jobs requeued, and of ids whose job no longer exists (expired).

local requeued, expired = 0, 0
for i = 5, #ARGV do
    local id = ARGV[i]
    local job = '<prefix>:job:' .. id
    if redis.call('ZSCORE', KEYS[1], id) then
        local job_fields = redis.pcall('HMGET', job, unpack(WAITING_FIELDS))
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
        redis.call('ZREM', KEYS[1], id)
        if job_fields[1] then
            redis.call('HSET', job, 'started_at', '', 'ended_at', '', 'exc_info', ARGV[2])
            if limit_of(job_fields) then
                redis.call('HSET', job, 'enqueue_at_front', 0)
            end
            redis.call('SADD', '<prefix>:queues', queue)
            put_on_queue(id, job_fields, false, ARGV[3], tonumber(ARGV[4]), ARGV[1])
            requeued = requeued + 1
        else
            expired = expired + 1
        end
    end
end
return {requeued, expired}
