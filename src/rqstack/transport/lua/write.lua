-- Access a key that is of one type only. A key of another type was damaged by somebody: it is dropped, since a script
-- must not fail after its first write, and no record may stop a process. Redis's log names what was dropped. (A queue that
-- only a job's record names is checked before: is_queue in claim.lua, run_again in settle_any.lua.)
local function write(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
    redis.log(redis.LOG_WARNING, 'rqstack: dropped a key of the wrong type: ' .. string.gsub(key, '[^%w_.:{}-]', '?'))
    redis.call('DEL', key)
    reply = redis.call(command, key, ...)
  end
  return reply
end

-- LMOVE from the tail of one list to the head of another, either of which may be damaged.
local function move(from, to)
  local moved = redis.pcall('LMOVE', from, to, 'RIGHT', 'LEFT')
  if type(moved) == 'table' and moved.err then
    write('LLEN', from)
    write('LLEN', to)
    moved = redis.call('LMOVE', from, to, 'RIGHT', 'LEFT')
  end
  return moved
end
