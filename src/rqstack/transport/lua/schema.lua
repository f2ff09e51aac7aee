-- The schema version of the data below the prefix: the hash <prefix>stack:schema with two whole numbers,
--
--   version  the highest version of any process that has used the data
--   oldest   the lowest version that may share the data
--
-- Both only rise. A missing hash means version 1: rqstack 0.1.0 wrote none. A damaged one is replaced and reported; to
-- refuse it would keep every process from starting, and protect nothing, since who can damage it can delete it too.
--
-- share_schema(version, oldest) notes that a process of this version uses the data. Returns {answer, version, oldest,
-- damaged}: answer is 'newer' if the data is of a version that this process must not share, and nothing was written;
-- else 'ok'. damaged is what was replaced, else ''.

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
