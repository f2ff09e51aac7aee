-- Record how jobs ended, then take the next ones: one call per job on a busy queue. Follows claim.lua, whose KEYS and
-- ARGV[1..9] it shares, and settle_any.lua.
--
-- It is all that changes a job's state after it was claimed: RQ does the same in several steps, between which a worker
-- may die.
--
-- ARGV[10]  '1' to claim the next jobs too
-- ARGV[11]  seconds that a job may run whose record does not say so
-- ARGV[12]  how many outcomes follow, each of eleven values:
--             1  what: finished, failed, stopped (by a command: never retried), retry (the job returned rq.Retry),
--                snoozed (put back for later; no run is counted)
--             2  job id      3  execution id      4  queue
--             5  seconds the result is kept, if its record does not say so; -1 for no limit
--             6  finished, retry: the serialized result, base64, '' for None; else the traceback, zlib and base64
--             7  when the execution began, in Unix seconds with a fraction
--             8  seconds the job ran; '' if not known
--             9  when it ended, as RQ writes dates      10  the same, in Unix seconds with a fraction
--            11  '' or more, in MessagePack: {fields = {name, value, …} that the task has changed in its job's record,
--                limit = the key of its RateLimit, unlogged = true where RQ's default exception handler is off,
--                max, intervals, at_front: rq.Retry's; wait = seconds}
-- then pairs: field of rqstack:metrics, amount to add; added when an outcome was recorded now
--
-- Returns {outcomes, releasing, …} followed by what a claim returns. Outcomes is a list of
--   'finished', 'failed', 'stopped', 'snoozed'
--   'retried'     it is queued or scheduled again
--   'again'       this very call was recorded before (its reply was lost)
--   'fenced'      the job was given to another worker meanwhile; nothing was recorded
--   'superseded'  the job was enqueued again meanwhile: this run's result is recorded, the job waits for its next run
--   'deleted'     the job is gone
-- Releasing is 1 if jobs have more dependents than were looked at: release.lua goes on.

-- Record that one job has finished which has nothing that few jobs have: the same as settle_any, in half the time.
-- Returns whether it was such a job; if not, nothing has changed.
local function settle_plain()
  local worker, iso, now = ARGV[1], ARGV[4], ARGV[5]
  local id, execution, queue, ttl = ARGV[14], ARGV[15], ARGV[16], tonumber(ARGV[17])
  if ARGV[12] ~= '1' or ARGV[13] ~= 'finished' or ARGV[23] ~= '' or ttl == 0 then return false end
  local run, job_key, results_key = id .. ':' .. execution, '<prefix>:job:' .. id, '<prefix>:results:' .. id
  if call('HGET', KEYS[2], worker) ~= queue .. '\n' .. run then return false end
  local record = redis.pcall('HMGET', job_key, 'status', 'worker_name', 'repeats_left', 'rate_limit_key', 'dependency_ids')
  if record[1] ~= 'started' or record[2] ~= worker or record[3] or record[4] or record[5]
    or call('EXISTS', job_key .. ':dependents') == 1 or call('ZREM', '<prefix>:wip:' .. queue, run) == 0 then
    return false
  end
  call('SREM', KEYS[1] .. ':executions', run)
  call('DEL', '<prefix>:execution:' .. run)
  call('ZREM', '<prefix>:executions:' .. id, execution)
  call('HINCRBY', KEYS[1], 'successful_job_count', 1)
  call('HINCRBYFLOAT', KEYS[1], 'total_working_time', ARGV[20])
  call('HSET', job_key, 'status', 'finished', 'ended_at', ARGV[21], 'last_heartbeat', ARGV[21])
  if ARGV[18] == '' then
    call('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', worker, 'execution_id', execution,
      'execution_started_at', ARGV[19], 'execution_ended_at', ARGV[22])
  else
    call('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', worker, 'return_value', ARGV[18],
      'execution_id', execution, 'execution_started_at', ARGV[19], 'execution_ended_at', ARGV[22])
  end
  if ttl >= 0 then
    call('EXPIRE', results_key, ttl)
    call('EXPIRE', job_key, ttl)
    call('ZADD', '<prefix>:finished:' .. queue, math.floor(tonumber(now)) + ttl, id)
  else
    call('PERSIST', results_key)
    call('ZADD', '<prefix>:finished:' .. queue, '+inf', id)
  end
  return true
end

local outcomes, releasing, has_no_lease
if settle_plain() then
  outcomes, releasing, has_no_lease = {'finished'}, 0, true
  for i = 24, #ARGV, 2 do
    call('HINCRBYFLOAT', '<prefix>stack:metrics', ARGV[i], ARGV[i + 1])
  end
else
  outcomes, releasing, has_no_lease = settle_any()
end
if ARGV[10] ~= '1' then
  if has_no_lease then note_idle() end
  return {outcomes, releasing}
end
local reply = claim(has_no_lease)
table.insert(reply, 1, releasing)
table.insert(reply, 1, outcomes)
return reply
