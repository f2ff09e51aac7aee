-- Requeue failed jobs: RQ's FailedJobRegistry.requeue for many. Follows operation.lua and enqueue/lua/put_on_queue.lua.
--
-- A job with a status other than those of FAILED is in use again, for example because it was requeued: it is only taken
-- out. One that this operation has requeued, and that has failed again, stays.
--
-- Redis does not roll back a script that fails. So everything that may be damaged is checked before the first write.
--
-- KEYS[1]  as in operation.lua
-- KEYS[2]  rq:failed:<name>
--
-- ARGV[1], ARGV[2]  as in operation.lua
-- ARGV[3]   when the operation began, as RQ writes times; the jobs get it as the time at which they were enqueued
-- ARGV[4]   RQ's value for 'no exception'
-- ARGV[5]   timeout in seconds of a job without one
-- ARGV[6+]  ids; without any, all jobs of the registry, the first to expire first
--
-- Returns {left, requeued, expired}: how many jobs are left, were requeued, and no longer exist, by all calls of the
-- operation.

local FAILED = {failed = true, stopped = true, canceled = true}
local call = redis.call
local seconds, text = tonumber(call('TIME')[1]), ARGV[3]

-- An error if a key is of another type.
local function damage(key, wanted)
  local kind = call('TYPE', key).ok
  if kind ~= wanted and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is not a ' .. wanted .. ' but a ' .. kind)
  end
end

-- The jobs of some ids, each {id, fields}, without fields where there is no job, but for those that have failed again;
-- or nil and an error.
local function read(ids)
  local jobs, types = {}, {}
  for _, id in ipairs(ids) do
    local key = '<prefix>:job:' .. id
    local fields = redis.pcall('HMGET', key, 'origin', 'timeout', 'ttl', 'rate_limit_key', 'rate_limit_concurrency',
      'status', 'enqueued_at')
    if fields.err and call('TYPE', key).ok == 'hash' then
      return nil, fields
    end
    -- What is not a hash is no job.
    local is_job = not fields.err and fields[1]
    if not is_job then
      jobs[#jobs + 1] = {id}
    elseif fields[7] ~= text then
      jobs[#jobs + 1] = {id, fields}
      types['<prefix>:queue:' .. fields[1]] = 'list'
      local limit = limit_of(fields)
      if limit then
        types['<prefix>:rl:' .. limit] = 'hash'
        types['<prefix>:rl:' .. limit .. ':allowed'] = 'zset'
        types['<prefix>:rl:' .. limit .. ':rate_limited'] = 'zset'
      end
    end
  end
  for key, wanted in pairs(types) do
    local err = damage(key, wanted)
    if err then
      return nil, err
    end
  end
  return jobs
end

-- Put jobs on their queues, those without a limit with one command for each queue. Returns how many were put there, and
-- how many do not exist.
local function put_back(jobs)
  local requeued, expired = 0, 0
  local crashes, ids_of = {}, {}
  for _, job in ipairs(jobs) do
    local id, fields = job[1], job[2]
    if not fields then
      expired = expired + 1
    elseif FAILED[fields[6] or 'failed'] then
      local key = '<prefix>:job:' .. id
      requeued = requeued + 1
      crashes[requeued] = '<prefix>stack:crashes:' .. id
      if fields[6] == 'canceled' then
        redis.pcall('ZREM', '<prefix>:canceled:' .. fields[1], id)
      end
      if limit_of(fields) then
        call('HSET', key, 'started_at', '', 'ended_at', '', 'exc_info', ARGV[4], 'enqueue_at_front', 0)
        put_on_queue(id, fields, false, ARGV[5], seconds, text)
      else
        call('HSET', key, 'started_at', '', 'ended_at', '', 'exc_info', ARGV[4], 'status', 'queued',
          'enqueued_at', text, 'timeout', fields[2] or ARGV[5])
        if fields[3] then
          expire_waiting(id, fields[3])
        end
        local ids = ids_of[fields[1]] or {}
        ids[#ids + 1] = id
        ids_of[fields[1]] = ids
      end
    end
  end
  for queue, ids in pairs(ids_of) do
    call('SADD', '<prefix>:queues', '<prefix>:queue:' .. queue)
    call('RPUSH', '<prefix>:queue:' .. queue, unpack(ids))
  end
  if requeued > 0 then
    call('UNLINK', unpack(crashes))
  end
  return requeued, expired
end

-- Those of the given ids that are in the registry, each once.
local function given_ids()
  local found, seen = {}, {}
  for place = 6, #ARGV do
    local id = ARGV[place]
    if not seen[id] and call('ZSCORE', KEYS[2], id) then
      seen[id] = true
      found[#found + 1] = id
    end
  end
  return found
end

local reply = begin(function()
  return ARGV[6] and 0 or call('ZCARD', KEYS[2])
end)
if reply then
  return reply
end
local again = tonumber(call('HGET', KEYS[1], 'again') or '0')
local ids = {}
if ARGV[6] then
  ids = given_ids()
elseif operation.left > 0 then
  ids = call('ZRANGE', KEYS[2], again, again + most() - 1)
end
local jobs, err = read(ids)
if err then
  return err
end
local requeued, expired = put_back(jobs)
if #jobs > 0 then
  local taken = {}
  for place, job in ipairs(jobs) do
    taken[place] = job[1]
  end
  call('ZREM', KEYS[2], unpack(taken))
end
if #jobs < #ids then
  call('HSET', KEYS[1], 'again', again + #ids - #jobs)
end
return finish(#jobs, requeued, expired, ARGV[6] or #ids == 0)
