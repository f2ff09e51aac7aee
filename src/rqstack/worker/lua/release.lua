-- Go on releasing the dependents of a job that has ended, where there are more than one call of settle.lua looks at.
-- Follows enqueue/lua/dependents.lua.
--
-- ARGV[1]  seconds that a job may run whose record does not say so
-- ARGV[2]  now, in Unix seconds
-- ARGV[3]  now, as RQ writes times
--
-- Returns how many jobs there are whose dependents are still to be released.

local parent = write('HRANDFIELD', RELEASING)
if parent then
  local outcome, cursor = string.match(redis.call('HGET', RELEASING, parent), '^(%a+)\n(%d+)$')
  if outcome then
    cursor = release_dependents(parent, outcome, cursor, ARGV[1], tonumber(ARGV[2]), ARGV[3])
  end
  if outcome and cursor ~= '0' then
    redis.call('HSET', RELEASING, parent, outcome .. '\n' .. cursor)
  else
    redis.call('HDEL', RELEASING, parent)
    local job = '<prefix>:job:' .. parent
    local ttl = redis.call('TTL', job)
    if ttl == -2 then
      redis.call('UNLINK', job .. ':dependents')
    elseif ttl >= 0 then
      redis.call('EXPIRE', job .. ':dependents', ttl)
    end
  end
end
return write('HLEN', RELEASING)
