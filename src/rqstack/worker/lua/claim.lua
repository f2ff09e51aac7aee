-- Take the next job for a horse: all or nothing.
--
-- KEYS[1]  rq:worker:<worker>             the worker's record, RQ's
-- KEYS[2]  rqstack:running:<supervisor>   hash: worker -> its lease
-- KEYS[3]  rqstack:supervisors            sorted set: supervisor -> its last heartbeat
-- KEYS[4+] rq:queue:<queue>               the queues, in order of priority
--
-- ARGV[1]  worker name
-- ARGV[2]  supervisor id
-- ARGV[3]  id of the execution that begins if there is a job; a repeated call has the same
-- ARGV[4]  now, as RQ writes dates (2026-01-31T12:00:00.000000Z)
-- ARGV[5]  now, in Unix seconds with a fraction
-- ARGV[6]  seconds until the execution counts as abandoned, for RQ's registries
-- ARGV[7]  '1' if the horse was idle: what Redis moved to its claim lists comes first
-- ARGV[8]  serialized meta for a job that has none yet: which release of the task code runs it; '' for none
--
-- A lease is '<queue>\n<job id>:<execution id>' while a job runs, '=<execution id>' after the last one.
--
-- Returns one of:
--   {'job', queue, id, data, timeout, result_ttl, enqueued_at, unusual, meta}: unusual is '1' for a job that RQ's own
--     methods must finish; meta is '1' if the job has meta of its own, so that ARGV[8] was not written
--   {'empty'}
--   {'suspended'}
--   {'unregistered'}: the supervisor was taken for dead, so no supervisor would recover this job
--   {'unfinished', lease}: the last job is still on record

local call = redis.call

local function claim_list(queue_key)
  return '<prefix>stack:claim:' .. ARGV[1] .. ':' .. queue_key
end

local function put_back_claims()
  for i = 4, #KEYS do
    while call('LMOVE', claim_list(KEYS[i]), KEYS[i], 'RIGHT', 'LEFT') do end
  end
end

local FIELDS = {'data', 'timeout', 'result_ttl', 'enqueued_at', 'origin', 'status', 'success_callback_name', 'webhooks',
  'repeats_left', 'group_id', 'dependency_ids', 'rate_limit_key'}

local function job_reply(queue, id, f, meta)
  local unusual = '0'
  for i = 7, #FIELDS do
    if f[i] and f[i] ~= '' then unusual = '1' end
  end
  return {'job', queue, id, f[1], f[2], f[3], f[4], unusual, meta}
end

-- The fields of a job, or nil if it was deleted while it waited: it is skipped, as RQ does.
local function read_job(id)
  local f = call('HMGET', '<prefix>:job:' .. id, unpack(FIELDS))
  if f[1] or f[6] or call('EXISTS', '<prefix>:job:' .. id) == 1 then return f end
end

-- Queue key, id and fields of the next job.
local function next_job()
  if ARGV[7] == '1' then
    for i = 4, #KEYS do
      local id = call('LPOP', claim_list(KEYS[i]))
      local f = id and read_job(id)
      if f then return KEYS[i], id, f end
    end
  end
  for i = 4, #KEYS do
    local id = call('LPOP', KEYS[i])
    while id do
      local f = read_job(id)
      if f then return KEYS[i], id, f end
      id = call('LPOP', KEYS[i])
    end
  end
end

-- No job runs now; `ended` is the execution that ran last.
local function note_idle(ended)
  if ended then call('HSET', KEYS[2], ARGV[1], '=' .. ended) end
end

-- `ended` is the execution that finish.lua has just recorded; nil if there is none.
local function claim(ended)
  local worker, execution, iso, now = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
  if not ended then
    local lease = call('HGET', KEYS[2], worker)
    if lease and string.sub(lease, 1, 1) ~= '=' then
      local queue, id, held = string.match(lease, '^(.*)\n(.*):(%x+)$')
      if held == execution then return job_reply(queue, id, call('HMGET', '<prefix>:job:' .. id, unpack(FIELDS)), '0') end
      if call('ZSCORE', '<prefix>:wip:' .. queue, id .. ':' .. held) then return {'unfinished', lease} end
      ended = held
    end
  end
  if call('EXISTS', '<prefix>:suspended') == 1 then
    put_back_claims()
    note_idle(ended)
    call('HSET', KEYS[1], 'state', 'suspended')
    return {'suspended'}
  end
  if not call('ZSCORE', KEYS[3], ARGV[2]) then
    put_back_claims()
    note_idle(ended)
    return {'unregistered'}
  end
  local queue_key, id, fields = next_job()
  if ARGV[7] == '1' then put_back_claims() end
  if not id then
    note_idle(ended)
    call('HSET', KEYS[1], 'state', 'idle')
    return {'empty'}
  end

  local job_key = '<prefix>:job:' .. id
  local queue = fields[5] or string.sub(queue_key, #'<prefix>:queue:' + 1)
  -- By Redis's own clock: if the worker's were wrong, its job would look abandoned.
  local ttl, seconds = tonumber(ARGV[6]), tonumber(call('TIME')[1])
  local run = id .. ':' .. execution
  call('HSET', KEYS[2], worker, queue .. '\n' .. run)
  local execution_key = '<prefix>:execution:' .. run
  call('HSET', execution_key, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
    'worker_name', worker)
  call('EXPIRE', execution_key, ttl)
  call('ZADD', '<prefix>:executions:' .. id, seconds + ttl + 60, execution)
  call('EXPIRE', '<prefix>:executions:' .. id, ttl + 60)
  call('ZADD', '<prefix>:wip:' .. queue, seconds + ttl, run)
  call('SADD', KEYS[1] .. ':executions', run)
  call('EXPIRE', KEYS[1] .. ':executions', ttl)
  call('HSET', job_key, 'status', 'started', 'last_heartbeat', iso, 'started_at', iso, 'worker_name', worker)
  call('PERSIST', job_key)
  call('HSET', KEYS[1], 'state', 'busy', 'last_heartbeat', iso)
  local meta = ARGV[8] ~= '' and call('HSETNX', job_key, 'meta', ARGV[8]) == 0
  return job_reply(queue, id, fields, meta and '1' or '0')
end
