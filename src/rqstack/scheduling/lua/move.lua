-- Move delayed jobs and retries that are due from a queue's scheduled registry into the queue, as RQ's scheduler does.
-- Follows enqueue/lua/put_on_queue.lua.
--
-- KEYS[1]  rq:scheduled:<queue>
-- KEYS[2]  rq:queue:<queue>
-- KEYS[3]  rq:queues
-- KEYS[4]  RQ's lock of the queue's scheduler
--
-- ARGV[1]  now, in Unix seconds
-- ARGV[2]  how many jobs to move at most
-- ARGV[3]  now, as RQ writes times
-- ARGV[4]  the queue's name
-- ARGV[5]  timeout of a job without one
-- ARGV[6]  seconds past its due time after which an id without a job is dropped
-- ARGV[7]  offset: ids that earlier calls left because their job does not exist yet
--
-- Returns {moved, dropped, left}: jobs moved, ids dropped, ids left because their job does not exist yet. Moved is -1
-- if RQ's scheduler has the lock.

-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write.
if redis.call('EXISTS', KEYS[4]) == 1 then
    -- RQ's own scheduler (`rq worker --with-scheduler`) moves the jobs of this queue. It reads first and writes later,
    -- so moving them here too would enqueue a job twice.
    return {-1, 0, 0}
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'list' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is not a list but a ' .. kind)
end
local moved, dropped, pending = 0, 0, 0
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', ARGV[7], ARGV[2])
for i = 1, #due, 2 do
    local id = due[i]
    local key = '<prefix>:job:' .. id
    local job = redis.pcall('HMGET', key, 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'data')
    if job.err then
        if redis.call('TYPE', key).ok == 'hash' then
            return job
        end
        job = {}  -- the key exists but is not a hash, so it is not a job
    end
    if not job[4] then
        -- RQ adds the id before it writes the job, so a missing job may still come.
        if tonumber(ARGV[1]) - tonumber(due[i + 1]) >= tonumber(ARGV[6]) then
            redis.call('ZREM', KEYS[1], id)
            dropped = dropped + 1
        else
            pending = pending + 1
        end
    else
        redis.call('ZREM', KEYS[1], id)
        redis.call('HSET', key, 'origin', ARGV[4])
        local fields = redis.call('HMGET', key, unpack(WAITING_FIELDS))
        local retried = job[3] and job[3] ~= ''
        local at_front = job[1] == '1' or (job[2] == '1' and retried)
        put_on_queue(id, fields, at_front, ARGV[5], math.floor(tonumber(ARGV[1])), ARGV[3])
        moved = moved + 1
    end
end
if moved > 0 then
    redis.call('SADD', KEYS[3], KEYS[2])
end
return {moved, dropped, pending}
