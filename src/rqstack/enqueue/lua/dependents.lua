-- Release the jobs that have waited for a job, as rq.Queue.enqueue_dependents does in several steps. Follows
-- put_on_queue.lua.

-- How many dependents are looked at in one call, about: what is left waits in RELEASING for the next.
local MOST_DEPENDENTS = 500
-- Hash: id of a job that has ended -> '<outcome>\n<cursor>', where more dependents are to be looked at.
local RELEASING = '<prefix>stack:releasing'

-- Whether a job waits for its dependencies: one that was enqueued, canceled or ended otherwise does not.
local WAITS = {deferred = true, created = true}

-- Whether a job's dependencies are met, apart from one of them. One that is gone is met, as in RQ.
local function other_dependencies_met(id, but, allow_failure)
  for _, other in ipairs(redis.call('SMEMBERS', '<prefix>:job:' .. ':' .. id .. ':dependencies')) do
    if other ~= but then
      local status = redis.pcall('HGET', '<prefix>:job:' .. other, 'status')
      if type(status) == 'string' and status ~= 'finished' and not (allow_failure and status == 'failed') then
        return false
      end
    end
  end
  return true
end

-- Whether the keys of a dependent are of the types that RQ gives them: a script must not fail after its first write.
local function is_sound(id, queue)
  local function is(key, wanted)
    local kind = redis.call('TYPE', key).ok
    return kind == wanted or kind == 'none'
  end
  return is('<prefix>:queue:' .. queue, 'list') and is('<prefix>:deferred:' .. queue, 'zset')
    and is('<prefix>:job:' .. ':' .. id .. ':dependencies', 'set')
end

-- Release some dependents of a job.
--
-- parent    the id of the job that has ended
-- outcome   finished or failed: after a failure, only jobs that allow it are released
-- cursor    '0', or what the call before returned
-- timeout, seconds, text  as in put_on_queue
--
-- Returns a cursor; '0' when all have been looked at.
local function release_dependents(parent, outcome, cursor, timeout, seconds, text)
  local key = '<prefix>:job:' .. parent .. ':dependents'
  local found = redis.pcall('SSCAN', key, cursor, 'COUNT', MOST_DEPENDENTS)
  if found.err then
    return '0'
  end
  for _, id in ipairs(found[2]) do
    local job = '<prefix>:job:' .. id
    local fields = redis.pcall('HMGET', job, unpack(WAITING_FIELDS))
    local more = redis.pcall('HMGET', job, 'status', 'allow_dependency_failures', 'enqueue_at_front',
      'enqueue_at_front_on_retry', 'ended_at')
    local allowed = more[2] == '1'
    if fields[1] and WAITS[more[1] or 'created'] and (outcome == 'finished' or allowed)
      and is_sound(id, fields[1]) and other_dependencies_met(id, parent, allowed) then
      local at_front = more[3] == '1' or (more[4] == '1' and more[5] and more[5] ~= '')
      -- One whose rate limit is damaged stays where it is.
      if pcall(put_on_queue, id, fields, at_front, timeout, seconds, text) then
        redis.call('SREM', key, id)
        redis.call('ZREM', '<prefix>:deferred:' .. fields[1], id)
      end
    end
  end
  return found[1]
end

-- Release the dependents of a job that has just ended; what does not fit into one call is noted in RELEASING.
-- Arguments as release_dependents. Returns whether there are more.
local function begin_release(parent, outcome, timeout, seconds, text)
  local cursor = release_dependents(parent, outcome, '0', timeout, seconds, text)
  if cursor ~= '0' then
    write('HSET', RELEASING, parent, outcome .. '\n' .. cursor)
  end
  return cursor ~= '0'
end
