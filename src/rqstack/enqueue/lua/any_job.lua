-- Enqueue a job of any kind, all or nothing: what rq.Queue does in several steps. Follows push_job.lua,
-- rate_limited.lua and delete_job.lua.
--
-- KEYS[1]  rq:job:<id>
-- KEYS[2]  rq:queue:<name>
-- KEYS[3]  rq:queues
--
-- ARGV[1]  the job's id
-- ARGV[2]  RPUSH or LPUSH (at the front)
-- ARGV[3]  seconds it may wait; 0 for no limit
-- ARGV[4], ARGV[5]  in a repeated call, after a lost reply: a field and its value that only this call writes; else ''
-- ARGV[6]  the queue's name
-- ARGV[7], ARGV[8]  now, in Unix seconds and as RQ writes times
-- ARGV[9]  if a job with this id exists: 'overwrite' its fields, 'refuse', or 'replace' it if it has ended
-- ARGV[10] when to run it, in Unix seconds; '' for at once
-- ARGV[11] its timeout if its fields have none, for jobs that are not deferred or scheduled; else ''
-- ARGV[12] '1' if the caller holds a deferred job
-- ARGV[13], ARGV[14]  key and slots of its RateLimit; '' for none
-- ARGV[15] '1' if a failed dependency counts as finished
-- ARGV[16] n, the number of its dependencies, then their n ids
-- then field, value, field, value, … of the job's hash, without its status
--
-- Returns one of:
--   {status}                       the job was written; queued, deferred, scheduled or rate_limited
--   {'again', status, enqueued_at} the first call, whose reply was lost, has written it
--   {'exists', fields}             a job with this id exists
--   {'cycle', id}                  nothing was written: this dependency waits for the job itself

local call = redis.call
local job, queue = KEYS[1], KEYS[2]
local id, ttl, name, seconds, text = ARGV[1], tonumber(ARGV[3]), ARGV[6], ARGV[7], ARGV[8]
local due, limit = ARGV[10], ARGV[13]
-- In loops, here and below: unpack takes a few thousand values at most.
local dependencies = {}
for i = 17, 16 + ARGV[16] do dependencies[#dependencies + 1] = ARGV[i] end

local function dependencies_key(of)
  return '<prefix>:job:' .. ':' .. of .. ':dependencies'
end

-- Whether a dependency has yet to finish. One that is gone is not waited for, as in RQ.
local function is_unfinished(dependency)
  local status = call('HGET', '<prefix>:job:' .. dependency, 'status')
  return status and status ~= 'finished' and not (status == 'failed' and ARGV[15] == '1')
end

-- The deferred job, among all that the dependencies wait for, that waits for this job: both would wait forever.
-- Only a job that others wait for already can close a cycle, so a new id costs nothing here.
local function cycle()
  if call('EXISTS', job .. ':dependents') == 0 then return end
  local seen, next_ids = {}, {}
  for _, dependency in ipairs(dependencies) do next_ids[#next_ids + 1] = dependency end
  while #next_ids > 0 do
    local each = table.remove(next_ids)
    if not seen[each] and call('HGET', '<prefix>:job:' .. each, 'status') == 'deferred' then
      for _, dependency in ipairs(call('SMEMBERS', dependencies_key(each))) do
        if dependency == id then return each end
        next_ids[#next_ids + 1] = dependency
      end
    end
    seen[each] = true
  end
end

-- Remove what an ended job has left, apart from those that wait for it: they get the new one's outcome.
-- pcall, because nothing may fail after the first write.
local function remove(origin, group, held)
  for _, registry in ipairs({'finished', 'failed', 'canceled'}) do
    redis.pcall('ZREM', '<prefix>:' .. registry .. ':' .. origin, id)
  end
  redis.pcall('LREM', '<prefix>:queue:' .. origin, 0, id)
  -- A job that was canceled while it ran may have one; its outcome will be dropped.
  for _, execution in ipairs(redis.pcall('ZRANGE', '<prefix>:executions:' .. id, 0, -1)) do
    local run = id .. ':' .. execution
    local worker = redis.pcall('HGET', '<prefix>:execution:' .. run, 'worker_name')
    if type(worker) == 'string' then redis.pcall('SREM', '<prefix>:worker:' .. worker .. ':executions', run) end
    redis.pcall('ZREM', '<prefix>:wip:' .. origin, run)
    call('DEL', '<prefix>:execution:' .. run)
  end
  -- One that no longer waits may still be in the list; RQ's workers would enqueue it again.
  for _, dependent in ipairs(redis.pcall('SMEMBERS', job .. ':dependents')) do
    if redis.pcall('HGET', '<prefix>:job:' .. dependent, 'status') ~= 'deferred' then
      redis.pcall('SREM', job .. ':dependents', dependent)
    end
  end
  delete_job(id, group, true)
  call('DEL', '<prefix>stack:crashes:' .. id)
  if held then pcall(release_slot, id, held, tonumber(seconds), text) end
end

-- Everything that may be damaged is read before the first write, since Redis does not roll back.
if ARGV[4] ~= '' then
  local known = call('HMGET', job, ARGV[4], 'status', 'enqueued_at')
  if known[1] == ARGV[5] then return {'again', known[2] or '', known[3] or ''} end
end
local ended
if ARGV[9] ~= 'overwrite' and call('EXISTS', job) == 1 then
  ended = call('HMGET', job, 'status', 'origin', 'group_id', 'rate_limit_key', 'data')
  local status = ended[1]
  local is_over = not (status and ended[5])  -- no job: what is left of one
    or status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled'
  if ARGV[9] == 'refuse' or not is_over then return {'exists', call('HGETALL', job)} end
end
local is_deferred = false
if due ~= '' then
  call('ZCARD', '<prefix>:scheduled:' .. name)
elseif #dependencies > 0 then
  for _, dependency in ipairs(dependencies) do
    is_deferred = is_unfinished(dependency) or is_deferred
  end
  if is_deferred then
    local waiting = cycle()
    if waiting then return {'cycle', waiting} end
    call('ZCARD', '<prefix>:deferred:' .. name)
    call('SCARD', dependencies_key(id))
    for _, dependency in ipairs(dependencies) do
      call('SCARD', '<prefix>:job:' .. dependency .. ':dependents')
    end
  end
end
if due == '' and not is_deferred then
  call('LLEN', queue)
  if limit ~= '' then
    call('HLEN', '<prefix>:rl:' .. limit)
    call('ZCARD', '<prefix>:rl:' .. limit .. ':allowed')
    call('ZCARD', '<prefix>:rl:' .. limit .. ':rate_limited')
  end
end
-- Either fails where its key is damaged, before anything that matters is written.
call('SADD', KEYS[3], queue)
if ended then remove(ended[2] or name, ended[3], ended[4]) end
call('HSET', job, unpack(ARGV, 17 + #dependencies))

local status
if due ~= '' then
  status = 'scheduled'
  call('HSET', job, 'status', status)
  call('ZADD', '<prefix>:scheduled:' .. name, due, id)
elseif is_deferred then
  status = 'deferred'
  call('HSET', job, 'status', status)
  call('ZADD', '<prefix>:deferred:' .. name, seconds, id)
  for _, dependency in ipairs(dependencies) do
    call('SADD', dependencies_key(id), dependency)
    call('SADD', '<prefix>:job:' .. dependency .. ':dependents', id)
  end
else
  if ARGV[11] ~= '' then call('HSET', job, 'timeout', ARGV[11]) end
  if ARGV[12] == '1' then redis.pcall('ZREM', '<prefix>:deferred:' .. name, id) end
  if limit == '' then
    status = 'queued'
    push_job(id, queue, ARGV[2], text)
  elseif ARGV[2] == 'LPUSH' then
    call('HSET', job, 'enqueue_at_front', 1)
  end
end
if ttl > 0 and ttl < 1e10 then  -- beyond this Redis rejects the expiry
  call('EXPIRE', job, ttl)
  call('EXPIRE', job .. ':dependents', ttl)
  call('EXPIRE', dependencies_key(id), ttl)
end
if not status then
  enqueue_rate_limited(id, limit, tonumber(ARGV[14]), tonumber(seconds), text)
  status = call('HGET', job, 'status')
end
return {status}
