-- Write the record of a run, as rq.executions.Execution.create does. Follows write.lua.
--
-- Runs of a batch have none, which saves a fifth of Redis's time, until one of them turns out to be long.

-- worker_key, worker   rq:worker:<worker>, and its name
-- id, execution        of the job, and of the run
-- now                  Unix seconds with a fraction, by the worker's clock
-- seconds              Unix seconds, by Redis's clock
-- ttl                  seconds until the run counts as abandoned
local function write_execution(worker_key, worker, id, execution, now, seconds, ttl)
  local run = id .. ':' .. execution
  local execution_key, executions_key = '<prefix>:execution:' .. run, '<prefix>:executions:' .. id
  write('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
    'worker_name', worker)
  redis.call('EXPIRE', execution_key, ttl)
  write('ZADD', executions_key, seconds + ttl + 60, execution)
  redis.call('EXPIRE', executions_key, ttl + 60)
  write('SADD', worker_key .. ':executions', run)
  redis.call('EXPIRE', worker_key .. ':executions', ttl)
end
