-- Make the calls of a bulk operation repeatable.
--
-- KEYS[1]  rqstack:bulk:<id>   hash: number of the last call, what it has left, what all calls have counted
-- ARGV[1]  number of the call, from 1; a repeated call, after a lost reply, has the same
-- ARGV[2]  how many jobs it may take: 1,000 at most, as Lua passes 8,000 values to a command

-- Seconds after its last call in which an operation is still known.
local KNOWN = 3600
local operation = {}

-- Begin a call, before its first write.
--
-- total   function that returns how many jobs the operation may take; asked in the first call
--
-- Returns a reply for a call that has nothing to do.
local function begin(total)
  local known = redis.call('HMGET', KEYS[1], 'call', 'left', 'done', 'other')
  local number = tonumber(ARGV[1])
  if not known[1] and number > 1 then
    return redis.error_reply('ERR Redis has lost data, and knows this operation no more. Start it again.')
  end
  operation.left = known[1] and tonumber(known[2]) or total()
  operation.done, operation.other = tonumber(known[3] or '0'), tonumber(known[4] or '0')
  if known[1] and tonumber(known[1]) >= number then
    return {operation.left, operation.done, operation.other}
  end
end

-- How many jobs this call may take.
local function most()
  return math.min(operation.left, tonumber(ARGV[2]))
end

-- End a call. Returns its reply.
--
-- taken         how many jobs it has taken
-- done, other   what it adds to the operation's two counts
-- is_last       whether the operation ends with it
local function finish(taken, done, other, is_last)
  operation.left = is_last and 0 or operation.left - taken
  operation.done, operation.other = operation.done + done, operation.other + other
  redis.call('HSET', KEYS[1], 'call', ARGV[1], 'left', operation.left, 'done', operation.done, 'other',
    operation.other)
  redis.call('EXPIRE', KEYS[1], KNOWN)
  return {operation.left, operation.done, operation.other}
end
