-- Take the next jobs for a horse: all or nothing. Follows write.lua, is_name.lua, executions.lua,
-- check_lease.lua and clock.lua.
--
-- KEYS[1]  rq:worker:<worker>             the worker's record, RQ's
-- KEYS[2]  rqstack:running:<supervisor>   hash: worker -> its lease
-- KEYS[3]  rqstack:supervisors            sorted set: supervisor -> its last heartbeat
-- KEYS[4+] rq:queue:<queue>               the queues, in order of priority
--
-- ARGV[1]  worker name
-- ARGV[2]  supervisor id
-- ARGV[3]  id of this call: 32 hexadecimal digits, the last two 01; a repeated call has the same. The executions that
--          begin have it too, the last two digits being their number
-- ARGV[4]  now, as RQ writes times (2026-01-31T12:00:00.000000Z); '' for Redis's clock, where the call has waited in
--          Redis, behind a BLMOVE
-- ARGV[5]  now, in Unix seconds with a fraction; '' as well
-- ARGV[6]  seconds until the execution counts as abandoned, for RQ's registries
-- ARGV[7]  '1' if the horse was idle: Redis may have moved jobs to its claim lists
-- ARGV[8]  serialized meta for a job that has none yet: which release of the task code runs it; '' for none
-- ARGV[9]  how many jobs at most; above one only plain jobs of the first queue that have not run before. Then a colon and
--          the size in bytes above which a job's data is not read
--
-- Returns one of:
--   {'jobs', job, …}, each {queue, id, execution id, data, timeout, result_ttl, enqueued_at, meta, extras}: data is its
--     size, a number, if it is too large; meta is '1'
--     if the job has other meta than ARGV[8], which was not written then; extras is '' for a plain job, else a list of
--     the fields that make it another kind (see job_reply). If the origin is not to be used, meta is 'origin' and data
--     is missing: the job fails, on the queue where it was found
--   {'empty'}
--   {'suspended'}
--   {'unregistered'}: the supervisor was taken for dead, so no supervisor would recover this job
--   {'unfinished', lease}: the last jobs are still on record

local call = redis.call
local max_jobs, max_bytes = string.match(ARGV[9], '^(%d+):(%d+)$')
max_jobs, max_bytes = tonumber(max_jobs), tonumber(max_bytes)

-- The lists to which Redis moves jobs for idle horses, and their queues. It moves one to a horse only while that is idle;
-- and to its supervisor only if there are several queues.
local function claim_lists(was_idle)
  local from, to = {}, {}
  for owner = was_idle and 1 or 2, #KEYS == 4 and 1 or 2 do
    for i = 4, #KEYS do
      from[#from + 1] = '<prefix>stack:claim:' .. ARGV[owner] .. ':' .. KEYS[i]
      to[#to + 1] = KEYS[i]
    end
  end
  return from, to
end

-- What was moved goes back to the head of its queue, so that priority between queues is strict.
local function put_back_claims(was_idle)
  if not was_idle and #KEYS == 4 then return end
  local from, to = claim_lists(was_idle)
  if call('EXISTS', unpack(from)) == 0 then return end
  for i = 1, #from do
    while move(from[i], to[i]) do end
  end
end

local function read_fields(id)
  return redis.pcall('HMGET', '<prefix>:job:' .. id, 'data', 'timeout', 'result_ttl', 'enqueued_at', 'origin', 'status',
    'started_at', 'success_callback_name', 'failure_callback_name', 'webhooks', 'rate_limit_key', 'meta')
end

-- Whether a job has no callbacks, webhooks and limit, as most jobs.
local function is_plain(f)
  return (f[8] or '') == '' and (f[9] or '') == '' and not f[10] and not f[11]
end

-- Whether a job may be one of several that are claimed at once. One that has run before may have ended its process.
local function may_share(f)
  return is_plain(f) and (f[7] or '') == ''
end

local function job_reply(queue, id, execution, f, meta)
  local extras = is_plain(f) and '' or call('HMGET', '<prefix>:job:' .. id, 'success_callback_name',
    'success_callback_timeout', 'failure_callback_name', 'failure_callback_timeout', 'webhooks', 'rate_limit_key',
    'rqstack_webhooks_signature')
  local data = f[1] or false
  if data and #data > max_bytes then data = #data end
  return {queue, id, execution, data, f[2] or false, f[3] or false, f[4] or false, meta, extras}
end

-- The id and fields of the first job of a list. One that was deleted or canceled while it waited is skipped, as in RQ;
-- so is one whose record is not a hash.
local function pop(list)
  local id = write('LPOP', list)
  while id do
    local f = read_fields(id)
    local exists = f[1] or f[6] or (not f.err and call('EXISTS', '<prefix>:job:' .. id) == 1)
    -- RQ accepts no id with a zero byte or a new line; a lease could not hold it.
    if exists and f[6] ~= 'canceled' and not string.find(id, '\n', 1, true) and is_name(id) then return id, f end
    if exists and f[6] ~= 'canceled' then
      redis.log(redis.LOG_WARNING, 'rqstack: dropped an id that is none from ' .. list)
    end
    id = call('LPOP', list)
  end
end

-- Queue key, id and fields of the next job.
local function next_job(was_idle)
  put_back_claims(was_idle)
  -- An idle horse usually finds nothing: one command shows that, however many queues there are.
  if was_idle and call('EXISTS', unpack(KEYS, 4)) == 0 then return end
  for i = 4, #KEYS do
    local id, f = pop(KEYS[i])
    if id then return KEYS[i], id, f end
  end
end

-- Whether the keys of a queue that a job's record names are of RQ's types. write.lua and recover.lua would replace, or
-- fail at, what somebody else keeps there.
local TYPES = {wip = 'zset', finished = 'zset', failed = 'zset', scheduled = 'zset', queue = 'list'}
local function is_queue(name)
  for kind, wanted in pairs(TYPES) do
    local found = call('TYPE', '<prefix>:' .. kind .. ':' .. name).ok
    if found ~= wanted and found ~= 'none' then return false end
  end
  return true
end

-- Record that a job runs. Returns its part of the reply.
--
-- is_refused  whether it is to fail at once, since its origin is no queue
local function start(queue, id, execution, f, seconds, is_refused)
  local worker, iso, job_key = ARGV[1], ARGV[4], '<prefix>:job:' .. id
  write('ZADD', '<prefix>:wip:' .. queue, seconds + ARGV[6], id .. ':' .. execution)
  if ARGV[8] ~= '' and not f[12] then
    call('HSET', job_key, 'status', 'started', 'last_heartbeat', iso, 'started_at', iso, 'worker_name', worker, 'meta',
      ARGV[8])
  else
    call('HSET', job_key, 'status', 'started', 'last_heartbeat', iso, 'started_at', iso, 'worker_name', worker)
  end
  call('PERSIST', job_key)
  if is_refused then
    f[1] = false
    return job_reply(queue, id, execution, f, 'origin')
  end
  -- A run before this one has usually written the same.
  local has_other_meta = ARGV[8] ~= '' and f[12] and f[12] ~= ARGV[8]
  return job_reply(queue, id, execution, f, has_other_meta and '1' or '0')
end

-- The worker has no job.
local function note_idle(state)
  write('HSET', KEYS[2], ARGV[1], '=' .. ARGV[3])
  if state then write('HSET', KEYS[1], 'state', state) end
end

-- `has_no_lease`: settle.lua has just recorded how the worker's last job ended.
local function claim(has_no_lease)
  local reply, was_idle = {'jobs'}, ARGV[7] == '1'
  if not has_no_lease then
    local jobs, lease = check_lease()
    -- A wait on a connection that was lost may end late: nobody takes what Redis has moved for it.
    if lease or #jobs > 0 then put_back_claims(was_idle) end
    if lease then return {'unfinished', lease} end
    for _, job in ipairs(jobs) do -- the reply of this very call was lost
      local f, meta = read_fields(job[2]), '0'
      if f[5] and f[5] ~= '' and f[5] ~= job[1] and is_name(f[5]) then f[1], meta = false, 'origin' end
      reply[#reply + 1] = job_reply(job[1], job[2], job[3], f, meta)
    end
    if #reply > 1 then return reply end
  end
  if ARGV[5] == '' then
    -- Most waits end without a job, and one command shows that.
    local places = claim_lists(true)
    for i = 4, #KEYS do places[#places + 1] = KEYS[i] end
    if call('EXISTS', unpack(places)) == 0 then return {'empty'} end
    put_back_claims(true)
    was_idle = false
    local time = call('TIME')
    set_clock(tonumber(time[1]), tonumber(time[2]))
  end
  if call('EXISTS', '<prefix>:suspended') == 1 then
    put_back_claims(true)
    note_idle('suspended')
    return {'suspended'}
  end
  if not write('ZSCORE', KEYS[3], ARGV[2]) then
    put_back_claims(true)
    note_idle()
    return {'unregistered'}
  end
  local queue_key, id, f = next_job(was_idle)
  if not id then
    note_idle('idle')
    return {'empty'}
  end

  -- By Redis's own clock: if the worker's were wrong, its job would look abandoned.
  local seconds = tonumber(call('TIME')[1])
  local execution, lease = ARGV[3], nil
  while id do
    local queue, own, is_refused = f[5] or '', string.sub(queue_key, #'<prefix>:queue:' + 1), false
    if queue == '' or not is_name(queue) then
      queue = own
    elseif queue ~= own and not is_queue(queue) then
      queue, is_refused = own, true
    end
    reply[#reply + 1] = start(queue, id, execution, f, seconds, is_refused)
    local line = queue .. '\n' .. id .. ':' .. execution
    lease = lease and lease .. '\0' .. line or line
    -- One queue only, the first: a job of it that comes later must not wait for several of a lower priority.
    if #reply > max_jobs or queue_key ~= KEYS[4] or not may_share(f) then break end
    id, f = pop(queue_key)
    if id and not may_share(f) then
      call('LPUSH', queue_key, id)
      break
    end
    execution = string.sub(ARGV[3], 1, 30) .. string.format('%02x', #reply)
  end
  if #reply == 2 then
    write_execution(KEYS[1], ARGV[1], reply[2][2], reply[2][3], ARGV[5], seconds, tonumber(ARGV[6]))
  end
  write('HSET', KEYS[2], ARGV[1], lease)
  write('HSET', KEYS[1], 'state', 'busy', 'last_heartbeat', ARGV[4])
  return reply
end
