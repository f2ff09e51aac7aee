-- Record the success of a plain job, then take the next one: one call per job on a busy queue.
-- Follows claim.lua, whose KEYS and ARGV[1..8] it shares.
--
-- ARGV[9]   '1' to claim the next job too
-- ARGV[10]  job id
-- ARGV[11]  id of the execution that ended
-- ARGV[12]  queue
-- ARGV[13]  seconds the result is kept; -1 for no limit
-- ARGV[14]  the serialized result, base64; '' for None
-- ARGV[15]  when the execution began, in Unix seconds with a fraction
-- ARGV[16]  seconds the job ran
-- ARGV[17+] pairs: field of rqstack:metrics, amount to add; not added when what is 'fenced' or 'unusual'
--
-- Returns {what, ...} followed by what a claim returns. what is
--   'finished'
--   'again'     this very call was recorded before (its reply was lost)
--   'fenced'    the job was given to another worker meanwhile; nothing was recorded
--   'deleted'   the job is gone
--   'unusual'   it got dependents meanwhile; nothing was recorded

local function finish()
  local worker, iso, now = ARGV[1], ARGV[4], ARGV[5]
  local id, execution, queue, ttl = ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[13])
  local lease = call('HGET', KEYS[2], worker)
  if lease ~= queue .. '\n' .. id .. ':' .. execution then
    if lease and (lease == '=' .. execution or string.sub(lease, -#ARGV[3]) == ARGV[3]) then return 'again' end
    return 'fenced'
  end
  if call('EXISTS', '<prefix>:job:' .. id .. ':dependents') == 1 then return 'unusual' end
  local run, job_key, results_key = id .. ':' .. execution, '<prefix>:job:' .. id, '<prefix>:results:' .. id
  local status = call('HGET', job_key, 'status')
  call('SREM', KEYS[1] .. ':executions', run)
  -- A job that was canceled while it ran has left the registry; RQ records how it ended all the same.
  if call('ZREM', '<prefix>:wip:' .. queue, run) == 0 and status ~= 'canceled' then return 'fenced', execution end
  call('DEL', '<prefix>:execution:' .. run)
  call('ZREM', '<prefix>:executions:' .. id, execution)
  call('HINCRBY', KEYS[1], 'successful_job_count', 1)
  call('HINCRBYFLOAT', KEYS[1], 'total_working_time', ARGV[16])
  if not status and call('EXISTS', job_key) == 0 then return 'deleted', execution end
  call('HSET', job_key, 'status', 'finished', 'ended_at', iso, 'last_heartbeat', iso)
  if ARGV[14] == '' then
    call('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', worker, 'execution_id', execution,
      'execution_started_at', ARGV[15], 'execution_ended_at', now)
  else
    call('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', worker, 'return_value', ARGV[14],
      'execution_id', execution, 'execution_started_at', ARGV[15], 'execution_ended_at', now)
  end
  if ttl >= 0 then
    call('EXPIRE', results_key, ttl)
    call('EXPIRE', job_key, ttl)
    call('ZADD', '<prefix>:finished:' .. queue, math.floor(tonumber(now)) + ttl, id)
  else
    call('PERSIST', results_key)
    call('ZADD', '<prefix>:finished:' .. queue, '+inf', id)
  end
  return 'finished', execution
end

local what, ended = finish()
-- Otherwise a repeated call would add them twice, or the caller still has them.
if what == 'finished' or what == 'deleted' then
  for i = 17, #ARGV, 2 do
    call('HINCRBYFLOAT', '<prefix>stack:metrics', ARGV[i], ARGV[i + 1])
  end
end
if what == 'unusual' then return {what} end
if ARGV[9] ~= '1' then
  note_idle(ended)
  return {what}
end
local reply = claim(ended)
table.insert(reply, 1, what)
return reply
