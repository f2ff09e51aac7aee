-- Join the processes that use the data below the prefix, or learn why not. Follows schema.lua and
-- is_name.lua.
--
-- KEYS[1]  rqstack:schema
-- KEYS[2]  rqstack:supervisors
-- KEYS[3]  rqstack:schedulers
-- ARGV[1]  schema version of the caller
-- ARGV[2]  lowest version of other processes that it can share the data with
-- ARGV[3]  seconds without a heartbeat after which a supervisor is dead; '' to skip the look at other processes
-- ARGV[4+] processes that have sent no heartbeat for so long, as this script has returned them: name, then heartbeat
--
-- Returns {answer, version, oldest, damaged, processes}: as share_schema, or the answer 'older' with the processes on
-- record whose version is too low, each a name, its version and its last heartbeat. Nothing was written then.

local call = redis.call
local version, oldest = tonumber(ARGV[1]), tonumber(ARGV[2])
local silent, older = {}, {}
for i = 4, #ARGV, 2 do silent[ARGV[i]] = ARGV[i + 1] end

-- What is not UTF-8 is no process's, and the caller could not return it.
local function look(name, schema, heartbeat)
  if not is_name(name) or not is_name(heartbeat) then return end
  local theirs = tonumber(schema or '') or 1
  if theirs < oldest and silent[name] ~= heartbeat then older[#older + 1] = {name, tostring(theirs), heartbeat} end
end

-- A damaged record is for recovery and for the scheduler's heartbeat to deal with.
local function read(key, ...)
  local record = redis.pcall('HMGET', key, ...)
  return not record.err and record[1] and record
end

if ARGV[3] ~= '' then
  local time = call('TIME')
  local clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
  if call('TYPE', KEYS[2]).ok == 'zset' then
    -- Nobody sends a heartbeat in the future.
    local found = call('ZRANGEBYSCORE', KEYS[2], clock - tonumber(ARGV[3]), clock + 60, 'WITHSCORES')
    for i = 1, #found, 2 do
      local record = read('<prefix>stack:supervisor:' .. found[i], 'queues', 'schema')
      if record then look('supervisor ' .. found[i], record[2], found[i + 1]) end
    end
  end
  if call('TYPE', KEYS[3]).ok == 'set' then
    local prefix = '<prefix>stack:scheduler:'
    for _, key in ipairs(call('SMEMBERS', KEYS[3])) do
      local record = string.sub(key, 1, #prefix) == prefix and read(key, 'last_heartbeat', 'schema')
      if record then look('scheduler ' .. string.sub(key, #prefix + 1), record[2], record[1]) end
    end
  end
end

if #older > 0 then return {'older', 0, 0, '', older} end
local reply = share_schema(version, oldest)
reply[5] = {}
return reply
