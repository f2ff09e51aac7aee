-- Put a running job back at the head of its queue. Follows transport/lua/write.lua and lease.lua.

-- worker_key      rq:worker:<worker>
-- queue           the queue's name
-- id, execution   of the job, and of its run
-- runs_alone      whether it keeps the time at which it was started: it then runs alone, not in a batch
--
-- Returns whether it is back; if not, it was deleted, canceled, or enqueued again, meanwhile.
local function put_back(worker_key, queue, id, execution, runs_alone)
  local job_key = '<prefix>:job:' .. id
  write('ZREM', '<prefix>:wip:' .. queue, id .. ':' .. execution)
  forget_execution(worker_key, id, execution)
  local record = redis.pcall('HMGET', job_key, 'status', 'ttl', 'worker_name')
  local worker = string.sub(worker_key, #'<prefix>:worker:' + 1)
  local status = record[1]
  if not status or status == 'canceled' or is_enqueued_again(status, record[3], worker) then return false end
  redis.call('HSET', job_key, 'status', 'queued', 'worker_name', '')
  if not runs_alone then redis.call('HSET', job_key, 'started_at', '') end
  local ttl = math.floor(tonumber(record[2] or '') or 0)
  if ttl > 0 and ttl < 1e10 then redis.call('EXPIRE', job_key, ttl) end
  write('LPUSH', '<prefix>:queue:' .. queue, id)
  return true
end
