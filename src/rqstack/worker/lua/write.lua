-- Write to a key of a job, or of a queue. A key of another type was damaged by somebody: it is replaced, since a script
-- must not fail after its first write. (A queue that only a job's record names is checked before: is_queue in claim.lua,
-- run_again in settle_any.lua.)
local function write(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
    redis.call('DEL', key)
    reply = redis.call(command, key, ...)
  end
  return reply
end
