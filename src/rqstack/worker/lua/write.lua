-- Write to a key that a job's record names. A key of another type was damaged by somebody: it is replaced, since a
-- script must not fail after its first write.
local function write(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
    redis.call('DEL', key)
    reply = redis.call(command, key, ...)
  end
  return reply
end
