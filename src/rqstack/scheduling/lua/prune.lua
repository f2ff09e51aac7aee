-- Remove the entries of some sources, except those to keep.
--
-- KEYS[1]  next firings
-- KEYS[2]  marker that exists while the declared table is in Redis
--
-- ARGV[1]   seconds for which the state outlives its entry
-- ARGV[2]   value of the marker; '' leaves it alone
-- ARGV[3]   number of sources
-- ARGV[4+]  the sources (a trailing * matches any suffix), then the ids to keep
--
-- Returns the ids removed.

local keep, exact, prefixes = {}, {}, {}
local sources = tonumber(ARGV[3])
for i = 4, 3 + sources do
  if string.sub(ARGV[i], -1) == '*' then
    prefixes[#prefixes + 1] = string.sub(ARGV[i], 1, -2)
  else
    exact[ARGV[i]] = true
  end
end
for i = 4 + sources, #ARGV do
  keep[ARGV[i]] = true
end
local function matches(source)
  if exact[source] then
    return true
  end
  for _, prefix in ipairs(prefixes) do
    if string.sub(source, 1, #prefix) == prefix then
      return true
    end
  end
  return false
end
local removed = {}
for _, id in ipairs(write('ZRANGE', KEYS[1], 0, -1)) do
  if not keep[id] and matches(write('HGET', '<prefix>stack:cron:entry:' .. id, 'source') or '') then
    redis.call('ZREM', KEYS[1], id)
    redis.call('DEL', '<prefix>stack:cron:entry:' .. id, '<prefix>stack:cron:job:' .. id)
    redis.call('EXPIRE', '<prefix>stack:cron:state:' .. id, ARGV[1])
    removed[#removed + 1] = id
  end
end
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[2], ARGV[2])
end
return removed
