-- Note which version of the data below the prefix a process uses, or learn that it must not.
--
-- The hash rqstack:schema has two whole numbers: version, the highest version of any process that has used the data,
-- and oldest, the lowest version that may share it. Both only rise. A missing hash means version 1: rqstack 0.1.0 wrote
-- none. A damaged one is replaced and reported; to refuse it would keep every process from starting, and protect
-- nothing, since whoever can damage it can delete it too.

-- version  of the process
-- oldest   the lowest version of other processes that it can share the data with
--
-- Returns {answer, version, oldest, damaged}: answer is 'newer' if the process must not share the data, and then
-- nothing was written; else 'ok'. damaged describes what was replaced, else ''.
local function share_schema(version, oldest)
  local key, damaged = '<prefix>stack:schema', ''
  local function number(text) return text and string.match(text, '^%d%d?%d?%d?%d?%d?$') and tonumber(text) end
  local stored = redis.pcall('HMGET', key, 'version', 'oldest')
  local found, minimum = number(stored[1]), number(stored[2])
  if stored.err and not string.find(stored.err, 'WRONGTYPE', 1, true) then error(stored.err) end
  if not found or not minimum or minimum < 1 or minimum > found then
    if stored.err then
      damaged = 'a ' .. redis.call('TYPE', key).ok .. ' in place of a hash'
    elseif stored[1] or stored[2] then
      damaged = string.sub('version=' .. tostring(stored[1]) .. ' oldest=' .. tostring(stored[2]), 1, 100)
    end
    found, minimum = 0, 0
  end
  if minimum > version then return {'newer', found, minimum, damaged} end
  if damaged ~= '' then redis.call('DEL', key) end
  if version > found or oldest > minimum then
    found, minimum = math.max(found, version), math.max(minimum, oldest)
    redis.call('HSET', key, 'version', found, 'oldest', minimum)
  end
  return {'ok', found, minimum, damaged}
end
