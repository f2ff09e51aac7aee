-- Drop keys of another type than they have when nobody has damaged them.
--
-- KEYS  the keys
-- ARGV  their types, as TYPE names them
--
-- Returns the keys that were dropped.

local dropped = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= ARGV[i] then
    redis.call('DEL', key)
    dropped[#dropped + 1] = key
  end
end
return dropped
