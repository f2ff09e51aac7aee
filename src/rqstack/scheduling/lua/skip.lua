-- Skip firings that were missed for longer than the misfire grace, or correct the next firing.
--
-- KEYS[1]  the entry
-- KEYS[2]  the state of the entry
-- KEYS[3]  next firings
--
-- ARGV[1]  the entry's id
-- ARGV[2]  its version
-- ARGV[3]  the last firing to skip
-- ARGV[4]  the next firing after it
-- ARGV[5]  increment of the counter 'skipped'
--
-- Returns 1 if this call skipped them, else 0.

if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then
  return 0
end
local last = tonumber(write('HGET', KEYS[2], 'last') or '0') or 0
if last > tonumber(ARGV[3]) then
  return 0
end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
if last == tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[2], 'last', ARGV[3])
redis.pcall('HINCRBY', KEYS[2], 'skipped', ARGV[5])
return 1
