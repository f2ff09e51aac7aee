-- Insert or update an entry of the cron table.
--
-- KEYS[1]  the entry
-- KEYS[2]  the template of its jobs
-- KEYS[3]  the state of the entry
-- KEYS[4]  next firings
--
-- ARGV[1]   the entry's id
-- ARGV[2]   now, in Unix seconds
-- ARGV[3]   the next firing
-- ARGV[4]   number of fields of the entry
-- ARGV[5+]  those fields with their values, then the fields of the template with theirs
--
-- Returns 0 if it is unchanged, 1 if it has changed, 2 if it is new.

local fields = tonumber(ARGV[4]) * 2
local entry = {}
for i = 5, 4 + fields, 2 do
  entry[ARGV[i]] = ARGV[i + 1]
end
local old = write('HMGET', KEYS[1], 'version', 'timetable', 'zone')
-- Whether the template is as it was written: its version is no proof of that.
local function is_template_sound()
  local stored = write('HGETALL', KEYS[2])
  if #stored ~= #ARGV - 4 - fields then return false end
  local values = {}
  for i = 1, #stored, 2 do values[stored[i]] = stored[i + 1] end
  for i = 5 + fields, #ARGV, 2 do
    if values[ARGV[i]] ~= ARGV[i + 1] then return false end
  end
  return true
end
if old[1] == entry['version'] and write('ZSCORE', KEYS[4], ARGV[1]) and is_template_sound() then
  redis.call('HSET', KEYS[1], 'source', entry['source'])
  -- No scheduler writes a time later than the next firing.
  redis.call('ZADD', KEYS[4], 'XX', 'LT', ARGV[3], ARGV[1])
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 5, 4 + fields))
redis.call('HSET', KEYS[2], unpack(ARGV, 5 + fields))
local last = tonumber(write('HGET', KEYS[3], 'last') or '-1') or -1
local same_times = (not old[2]) or (old[2] == entry['timetable'] and old[3] == entry['zone'])
if last >= 0 and same_times then
  -- Its times are the same, or it was removed a moment ago (a deploy in several steps): continue from its last
  -- firing, so that none is lost or repeated.
  redis.call('PERSIST', KEYS[3])
  write('ZADD', KEYS[4], ARGV[2], ARGV[1])
else
  -- Firings of the new timetable before now were never due.
  if last < tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[3], 'last', ARGV[2])
  end
  redis.call('PERSIST', KEYS[3])
  write('ZADD', KEYS[4], ARGV[3], ARGV[1])
end
if old[1] then
  return 1
end
return 2
