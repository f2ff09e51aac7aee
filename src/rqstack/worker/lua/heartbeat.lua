-- Record the heartbeat of a supervisor, its workers and the jobs that they run. Follows schema.lua, write.lua
-- and is_name.lua of transport/lua, and lease.lua.
--
-- KEYS[1]  rqstack:supervisors           sorted set: supervisor -> last heartbeat, by Redis's own clock
-- KEYS[2]  rqstack:supervisor:<id>       hash: queues, workers (JSON), hostname, schema
-- KEYS[3]  rqstack:running:<id>          hash: worker -> lease
-- ARGV[1]  supervisor id
-- ARGV[2]  its queues, JSON
-- ARGV[3]  its workers, JSON
-- ARGV[4]  host name
-- ARGV[5]  now, as RQ writes times
-- ARGV[6]  now, in Unix seconds with a fraction
-- ARGV[7]  seconds after which a worker's record expires
-- ARGV[8]  seconds until an execution counts as abandoned, for RQ's registries
-- ARGV[9]  seconds without a heartbeat after which a supervisor is dead
-- ARGV[10] '1' to renew too what lasts for minutes, and to count the others
-- ARGV[11] '1' if a job runs: its execution is renewed
-- ARGV[12] schema version of the supervisor
-- ARGV[13] lowest version that it can share the data with
--
-- Returns {known, missing, dead, others, releasing, schema}: known is 1 if the supervisor was on record, missing are
-- workers whose record is gone, dead are up to a
-- hundred supervisors without a heartbeat for too long, others is how many other
-- supervisors there are, or nil if they were not counted, releasing is how many jobs have dependents that are still to
-- be released, schema is the answer of share_schema: if that is 'newer', nothing was done.

local call = redis.call
local schema = share_schema(tonumber(ARGV[12]), tonumber(ARGV[13]))
if schema[1] == 'newer' then return {0, {}, {}, 0, 0, schema} end
local time = call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
local known = 1 - write('ZADD', KEYS[1], clock, ARGV[1])
local thorough = ARGV[10] == '1' or known == 0
write('HSET', KEYS[2], 'queues', ARGV[2], 'workers', ARGV[3], 'hostname', ARGV[4], 'schema', ARGV[12])

local missing = {}
for _, worker in ipairs(cjson.decode(ARGV[3])) do
  local key = '<prefix>:worker:' .. worker
  -- A field that was not there yet means a record that was lost, too.
  if write('HSET', key, 'last_heartbeat', ARGV[5]) == 1 or thorough then
    if call('HEXISTS', key, 'birth') == 1 then
      call('EXPIRE', key, ARGV[7])
    else
      call('HDEL', key, 'last_heartbeat')
      missing[#missing + 1] = worker
    end
  end
end

local ttl, seconds = tonumber(ARGV[8]), math.floor(clock)
local leases = (thorough or ARGV[11] == '1') and write('HGETALL', KEYS[3]) or {}
for i = 1, #leases, 2 do
  for _, job in ipairs(jobs_of(leases[i + 1])) do
    local queue, id, execution = unpack(job)
    local run, registry, job_key = id .. ':' .. execution, '<prefix>:wip:' .. queue, '<prefix>:job:' .. id
    if write('ZSCORE', registry, run) then
      call('ZADD', registry, 'XX', seconds + ttl, run)
      if redis.pcall('HGET', job_key, 'status') == 'started' then call('HSET', job_key, 'last_heartbeat', ARGV[5]) end
    end
    -- A job that was canceled while it runs has left the registry, but keeps its slot of a rate limit by this.
    local key = '<prefix>:execution:' .. run
    if call('EXISTS', key) == 1 then
      write('HSET', key, 'last_heartbeat', ARGV[6])
      call('EXPIRE', key, ttl)
      write('ZADD', '<prefix>:executions:' .. id, seconds + ttl + 60, execution)
      call('EXPIRE', '<prefix>:executions:' .. id, ttl + 60)
      -- RQ's workers write this set once; here it comes back if it was lost.
      local index = '<prefix>:worker:' .. leases[i] .. ':executions'
      write('SADD', index, run)
      call('EXPIRE', index, ttl)
    end
  end
end
if thorough then
  -- A heartbeat in the future would hide a dead supervisor for ever.
  for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[1], '(' .. clock + 60, '+inf', 'LIMIT', 0, 100)) do
    call('ZADD', KEYS[1], clock, id)
  end
end
return {known, missing, call('ZRANGEBYSCORE', KEYS[1], '-inf', clock - tonumber(ARGV[9]), 'LIMIT', 0, 100),
  thorough and call('ZCARD', KEYS[1]) - 1, write('HLEN', '<prefix>stack:releasing'), schema}
