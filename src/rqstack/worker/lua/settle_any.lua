-- Record how a job of any kind ended: the function settle_any of settle.lua. Follows write.lua, lease.lua and these of
-- enqueue/lua: rate_limited.lua, put_on_queue.lua, dependents.lua and delete_job.lua; stale_slot.lua and claim.lua. The comment of each function
-- names the method of RQ's that does the same.
--
-- at   place of its outcome in ARGV
--
-- Returns what it was recorded as, and whether dependents are left to be released.

local worker_key = KEYS[1]

-- Seconds, or how often, as a record says: a whole number that Redis takes; nil if there is none, or it is damaged.
local function seconds_of(text)
  local seconds = tonumber(text or '')
  if seconds and seconds > -1e10 and seconds < 1e10 then return math.floor(seconds) end
end

local function decode_list(text)
  local is_json, list = pcall(cjson.decode, text or '')
  return is_json and type(list) == 'table' and list or {}
end

-- rq.job.Job.get_retry_interval and rq.job.Retry.get_interval: seconds, from a list.
local function interval(list, place)
  return #list > 0 and seconds_of(list[math.max(math.min(place, #list), 1)]) or 0
end

local RECORD = {'status', 'worker_name', 'result_ttl', 'failure_ttl', 'retries_left', 'repeats_left',
  'rate_limit_key', 'group_id', 'dependency_ids', 'number_of_retries'}
local RESULT_TYPES = {finished = 1, failed = 2, stopped = 2, retry = 4, exhausted = 5}

-- rq.results.Result.save.
local function add_result(o, kind, ttl)
  local key = '<prefix>:results:' .. o.id
  local values = {'type', RESULT_TYPES[kind], 'worker_name', ARGV[1]}
  if o.value ~= '' then
    values[5], values[6] = (kind == 'failed' or kind == 'stopped') and 'exc_string' or 'return_value', o.value
  end
  local n = #values
  values[n + 1], values[n + 2] = 'execution_id', o.execution
  values[n + 3], values[n + 4] = 'execution_started_at', o.began
  values[n + 5], values[n + 6] = 'execution_ended_at', o.ended_at
  write('XADD', key, 'MAXLEN', '~', 10, '*', unpack(values))
  if ttl then
    if ttl < 0 then call('PERSIST', key) else call('EXPIRE', key, ttl) end
  end
end

-- rq.job.Job.cleanup.
--
-- releases  whether dependents are left to be released: release.lua then removes their list
local function clean_up(o, record, ttl, releases)
  if ttl == 0 then
    delete_job(o.id, record[8], releases)
  elseif ttl > 0 then
    call('EXPIRE', o.key, ttl)
    if not releases then call('EXPIRE', o.key .. ':dependents', ttl) end
    if record[9] then call('EXPIRE', '<prefix>:job:' .. ':' .. o.id .. ':dependencies', ttl) end
  end
end

-- Queue the job again at once, or schedule it: rq.queue.Queue._enqueue_job and schedule_job.
local function run_again(o, wait, at_front)
  local fields = call('HMGET', o.key, unpack(WAITING_FIELDS))
  if not fields[1] or (fields[1] ~= o.queue and not is_queue(fields[1])) then fields[1] = o.queue end
  if wait > 0 then
    expire_waiting(o.id, fields[3])
    call('HSET', o.key, 'status', 'scheduled')
    write('SADD', '<prefix>:queues', '<prefix>:queue:' .. fields[1])
    write('ZADD', '<prefix>:scheduled:' .. fields[1], math.floor(o.now + wait), o.id)
    return false
  end
  write('LLEN', '<prefix>:queue:' .. fields[1])
  put_on_queue(o.id, fields, at_front, ARGV[11], o.now, ARGV[4], true)
  return true
end

-- Release the job's dependents. A job that was canceled releases none, but by rq.job.Job.cancel. Returns whether more
-- are left.
local function release(o, record, outcome)
  return record[1] ~= 'canceled' and call('EXISTS', o.key .. ':dependents') == 1
    and begin_release(o.id, outcome, ARGV[11], math.floor(o.now), ARGV[4])
end

-- Each of the following returns what the outcome was recorded as, whether the job keeps the slot of its limit, and
-- whether dependents are left to be released.

-- rq.worker.BaseWorker.handle_job_success.
local function finish(o, record)
  local ttl = seconds_of(record[3]) or seconds_of(o.ttl) or -1
  local repeats = seconds_of(record[6]) or 0
  redis.pcall('HINCRBY', worker_key, 'successful_job_count', 1)
  if ttl ~= 0 then
    add_result(o, 'finished', ttl)
    write('ZADD', '<prefix>:finished:' .. o.queue, ttl < 0 and '+inf' or math.floor(o.now) + ttl, o.id)
  end
  local releases = release(o, record, 'finished')
  if repeats > 0 and record[1] ~= 'canceled' then
    local intervals = decode_list(call('HGET', o.key, 'repeat_intervals'))
    local wait = interval(intervals, 1)
    if #intervals > 1 then
      table.remove(intervals, 1)
      for i, each in ipairs(intervals) do intervals[i] = type(each) == 'number' and each or 0 end
      call('HSET', o.key, 'repeat_intervals', '[' .. table.concat(intervals, ', ') .. ']')
    end
    call('HSET', o.key, 'ended_at', o.ended, 'last_heartbeat', o.ended, 'repeats_left', repeats - 1)
    return 'finished', run_again(o, wait, false), releases
  end
  call('HSET', o.key, 'status', 'finished', 'ended_at', o.ended, 'last_heartbeat', o.ended)
  clean_up(o, record, ttl, releases)
  return 'finished', false, releases
end

-- rq.job.Job._handle_failure, and the release of dependents after it.
local function fail(o, record, kind)
  local status = kind == 'stopped' and 'stopped' or 'failed'
  local releases = status == 'failed' and release(o, record, 'failed')
  call('HSET', o.key, 'status', status, 'ended_at', o.ended, 'last_heartbeat', o.ended)
  if not o.more.unlogged or kind == 'exhausted' then
    local ttl = seconds_of(record[4])
    local kept = ttl or 31536000 -- rq.defaults.DEFAULT_FAILURE_TTL
    if kept ~= 0 then
      write('ZADD', '<prefix>:failed:' .. o.queue, kept < 0 and kept or math.floor(o.now) + kept, o.id)
      add_result(o, kind, ttl)
    end
    clean_up(o, record, kept, releases)
  end
  return status, false, releases
end

-- rq.worker.BaseWorker.handle_job_failure.
local function fail_or_retry(o, record)
  local left = seconds_of(record[5]) or 0
  redis.pcall('HINCRBY', worker_key, 'failed_job_count', 1)
  if o.ending == 'stopped' or left <= 0 or record[1] == 'canceled' then return fail(o, record, o.ending) end
  local known = call('HMGET', o.key, 'retry_intervals', 'enqueue_at_front_on_retry')
  local intervals = decode_list(known[1])
  call('HSET', o.key, 'retries_left', left - 1, 'ended_at', o.ended, 'last_heartbeat', o.ended)
  return 'retried', run_again(o, interval(intervals, #intervals - left + 1), known[2] == '1'), false
end

-- rq.worker.BaseWorker.handle_job_retry.
local function retry(o, record)
  local done = seconds_of(record[10]) or 0
  redis.pcall('HINCRBY', worker_key, 'failed_job_count', 1)
  if (done > 0 and done >= o.more.max) or record[1] == 'canceled' then
    return fail(o, record, 'exhausted')
  end
  add_result(o, 'retry', seconds_of(record[4]))
  call('HSET', o.key, 'number_of_retries', done + 1, 'ended_at', o.ended, 'last_heartbeat', o.ended)
  local at_front = o.more.at_front or call('HGET', o.key, 'enqueue_at_front_on_retry') == '1'
  if at_front then call('HSET', o.key, 'enqueue_at_front_on_retry', 1) end
  return 'retried', run_again(o, interval(o.more.intervals or {}, done + 1), at_front), false
end

-- Neither a success nor a failure: rqstack's own.
local function snooze(o, record)
  if record[1] == 'canceled' then return 'snoozed', false, false end
  call('HSET', o.key, 'status', 'scheduled', 'ended_at', o.ended, 'last_heartbeat', o.ended)
  write('SADD', '<prefix>:queues', '<prefix>:queue:' .. o.queue)
  write('ZADD', '<prefix>:scheduled:' .. o.queue, string.format('%.3f', o.now + o.more.wait), o.id)
  return 'snoozed', false, false
end

-- Record one outcome. Returns what it was recorded as, and whether dependents are left to be released.
local function record_outcome(o)
  local record = redis.pcall('HMGET', o.key, unpack(RECORD))
  local is_damaged = record.err
  if is_damaged then record = {} end
  forget_execution(worker_key, o.id, o.execution)
  -- A job that was canceled while it ran has left the registry; how it ended is recorded all the same, as by RQ.
  local was_started = redis.pcall('ZREM', '<prefix>:wip:' .. o.queue, o.id .. ':' .. o.execution) == 1
  if not record[1] and (is_damaged or call('EXISTS', o.key) == 0) then
    release_stale_slot(o.id, o.more.limit, math.floor(o.now), ARGV[4])
    return 'deleted'
  end
  if not was_started and record[1] ~= 'canceled' then
    release_stale_slot(o.id, o.more.limit, math.floor(o.now), ARGV[4])
    return 'fenced'
  end
  if o.ran ~= '' and o.ending ~= 'snoozed' then redis.pcall('HINCRBYFLOAT', worker_key, 'total_working_time', o.ran) end
  if is_enqueued_again(record[1], record[2], ARGV[1]) then
    if o.ending == 'finished' then
      add_result(o, 'finished')
    elseif o.ending ~= 'snoozed' then
      add_result(o, o.ending)
    end
    release_stale_slot(o.id, o.more.limit, math.floor(o.now), ARGV[4])
    return 'superseded'
  end
  if o.more.fields then
    call('HSET', o.key, unpack(o.more.fields))
    record = call('HMGET', o.key, unpack(RECORD))
  end
  local what, keeps_slot, releases
  if o.ending == 'finished' then
    what, keeps_slot, releases = finish(o, record)
  elseif o.ending == 'retry' then
    what, keeps_slot, releases = retry(o, record)
  elseif o.ending == 'snoozed' then
    what, keeps_slot, releases = snooze(o, record)
  else
    what, keeps_slot, releases = fail_or_retry(o, record)
  end
  if record[7] and record[7] ~= '' and not keeps_slot then
    pcall(give_back_slot, o.id, record[7], math.floor(o.now), ARGV[4])
  end
  -- Every outcome comes by here once: an event for a durable record belongs here.
  return what, releases
end

local more = ARGV[at + 10]
return record_outcome({ending = ARGV[at], id = ARGV[at + 1], execution = ARGV[at + 2], queue = ARGV[at + 3],
  ttl = ARGV[at + 4], value = ARGV[at + 5], began = ARGV[at + 6], ran = ARGV[at + 7], ended = ARGV[at + 8],
  ended_at = ARGV[at + 9], more = more == '' and {} or cmsgpack.unpack(more), key = '<prefix>:job:' .. ARGV[at + 1],
  now = tonumber(ARGV[5])})
