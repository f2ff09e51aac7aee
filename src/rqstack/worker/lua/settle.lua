-- Record how jobs ended, then take the next ones: one call per job, or per batch, on a busy queue. Follows claim.lua,
-- whose KEYS and ARGV[1] to ARGV[9] it shares, settle_any.lua and keep_rest.lua.
--
-- What counts or is damaged must not keep an outcome from being recorded: Redis does not roll back.
--
-- Nothing else changes a job's state after it was claimed. RQ does the same in several steps, between which a worker
-- may die.
--
-- ARGV[10]  '1' to claim the next jobs too
-- ARGV[11]  seconds that a job may run whose record does not say so
-- ARGV[12]  executions of the worker's lease to be put back at the head of their queue, since they have not begun:
--           '' for none, '*' for all that are left, or their ids with commas between
-- ARGV[13]  how many outcomes follow, each of eleven values:
--             1  its ending: finished, failed, stopped (by a command: never retried), retry (the job returned
--                rq.Retry), snoozed (put back for later; no run is counted)
--             2  job id      3  execution id      4  queue
--             5  seconds the result is kept, if its record does not say so; -1 for no limit
--             6  finished, retry: the serialized result, base64, '' for None; else the traceback, zlib and base64
--             7  when the execution began, in Unix seconds with a fraction
--             8  seconds the job ran; '' if not known
--             9  when it ended, as RQ writes times      10  the same, in Unix seconds with a fraction
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

local FIRST, SIZE = 14, 11
local lease = write('HGET', KEYS[2], ARGV[1]) or ''
-- Runs of a batch have no record of their own.
local has_records = not string.find(lease, '%z[^=]')
local finished, seconds = 0, 0

-- Record that a plain job has finished, one without dependents, limit or repeats: the same as settle_any, in half the
-- time.
--
-- at   place of its outcome in ARGV
-- run  its id and execution
--
-- Returns whether it was such a job; if not, nothing has changed.
local function settle_plain(at, run)
  local ttl = tonumber(ARGV[at + 4])
  if ARGV[at] ~= 'finished' or ARGV[at + 10] ~= '' or ttl == 0 or ttl >= 1e10 then return false end
  local worker, id, execution, queue = ARGV[1], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local value, began, ended, ended_at = ARGV[at + 5], ARGV[at + 6], ARGV[at + 8], ARGV[at + 9]
  local job_key, results_key = '<prefix>:job:' .. id, '<prefix>:results:' .. id
  local record = redis.pcall('HMGET', job_key, 'status', 'worker_name', 'repeats_left', 'rate_limit_key',
    'dependency_ids')
  if record[1] ~= 'started' or record[2] ~= worker or record[3] or record[4] or record[5]
    or call('EXISTS', job_key .. ':dependents') == 1 or redis.pcall('ZREM', '<prefix>:wip:' .. queue, run) ~= 1 then
    return false
  end
  if has_records then
    redis.pcall('SREM', KEYS[1] .. ':executions', run)
    call('DEL', '<prefix>:execution:' .. run)
    redis.pcall('ZREM', '<prefix>:executions:' .. id, execution)
  end
  call('HSET', job_key, 'status', 'finished', 'ended_at', ended, 'last_heartbeat', ended)
  if value == '' then
    write('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', worker, 'execution_id', execution,
      'execution_started_at', began, 'execution_ended_at', ended_at)
  else
    write('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', 1, 'worker_name', worker, 'return_value', value,
      'execution_id', execution, 'execution_started_at', began, 'execution_ended_at', ended_at)
  end
  if ttl >= 0 then
    call('EXPIRE', results_key, ttl)
    call('EXPIRE', job_key, ttl)
    write('ZADD', '<prefix>:finished:' .. queue, math.floor(tonumber(ARGV[5])) + ttl, id)
  else
    call('PERSIST', results_key)
    write('ZADD', '<prefix>:finished:' .. queue, '+inf', id)
  end
  finished, seconds = finished + 1, seconds + ARGV[at + 7]
  return true
end

-- Take finished jobs that have expired out of RQ's registry, which RQ's cleaning does every ten minutes only.
local function trim(queue)
  local registry = '<prefix>:finished:' .. queue
  local expired = redis.pcall('ZCOUNT', registry, 0, '(' .. ARGV[5])
  if type(expired) == 'number' and expired > 0 then
    -- RQ gives jobs that never expire a score below 0, or +inf.
    local first = call('ZCOUNT', registry, '-inf', '(0')
    call('ZREMRANGEBYRANK', registry, first, first + math.min(expired, 2000) - 1)
  end
end

-- Record all outcomes, and put back what has not begun. Returns what each was recorded as, and whether dependents are
-- left to be released; then whether the worker has no job left.
local function settle()
  local count, is_repeated = tonumber(ARGV[13]), string.find(lease, string.sub(ARGV[3], 1, 30), 1, true)
  local outcomes, recorded, releasing, left = {}, false, 0, #lease + 1
  for at = FIRST, FIRST + (count - 1) * SIZE, SIZE do
    local run = ARGV[at + 1] .. ':' .. ARGV[at + 2]
    local line = ARGV[at + 3] .. '\n' .. run
    local what = is_repeated and 'again' or 'fenced'
    if not is_repeated and string.find(lease, line, 1, true) then
      left = left - #line - 1
      if settle_plain(at, run) then
        what = 'finished'
      else
        local more
        what, more = settle_any(at)
        if more then releasing = 1 end
      end
      recorded = recorded or what ~= 'fenced'
    end
    outcomes[#outcomes + 1] = what
  end
  if finished > 0 then
    redis.pcall('HINCRBY', KEYS[1], 'successful_job_count', finished)
    redis.pcall('HINCRBYFLOAT', KEYS[1], 'total_working_time', seconds)
  end
  local counts = FIRST + count * SIZE
  if recorded and ARGV[counts] then -- a repeated call would add them twice
    for i = counts, #ARGV, 2 do
      redis.pcall('HINCRBYFLOAT', '<prefix>stack:metrics', ARGV[i], ARGV[i + 1])
    end
    trim(ARGV[FIRST + 3])
  end
  if left == 0 then return outcomes, releasing, true end
  local ended = {}
  for at = FIRST, FIRST + (count - 1) * SIZE, SIZE do ended[ARGV[at + 2]] = true end
  return outcomes, releasing, keep_rest(recorded, ended)
end

local outcomes, releasing, has_no_lease = settle()
if ARGV[10] ~= '1' then
  if has_no_lease and string.find(lease, '^[^=]') then note_idle() end
  return {outcomes, releasing}
end
local reply = claim(has_no_lease)
table.insert(reply, 1, releasing)
table.insert(reply, 1, outcomes)
return reply
