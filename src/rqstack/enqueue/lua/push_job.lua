-- Put a job that is on record on a queue, now.
--
-- id       the job's id
-- queue    the queue's key
-- command  RPUSH, or LPUSH for the front
-- text     now, as RQ writes times
local function push_job(id, queue, command, text)
  redis.call(command, queue, id)
  redis.call('HSET', '<prefix>:job:' .. id, 'status', 'queued', 'enqueued_at', text)
end
