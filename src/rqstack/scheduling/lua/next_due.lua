-- Read when the next firing and the next delayed job of each queue are due, and which queues have ready jobs, in one
-- round trip.
--
-- KEYS[1]  next firings
-- KEYS[2]  marker that exists while the declared table is in Redis
-- KEYS[3]  rq:queues
--
-- Returns now (seconds, microseconds), the marker, the next firing, a list of queues with jobs that are ready to be
-- enqueued, then pairs of a queue and the time of its first delayed job. Queues whose delayed jobs RQ's own scheduler
-- moves are left out of the pairs.

local now = redis.call('TIME')
local result = {now[1], now[2], redis.call('GET', KEYS[2]) or '', '', {}}
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  result[4] = first[2]
end
local queues, ready = {}, {}
for i, key in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  queues[i] = string.sub(key, #'<prefix>:queue:' + 1)
  ready[i] = '<prefix>:ready:' .. queues[i]
end
local any_ready = false
for first = 1, #ready, 1000 do -- unpack takes a few thousand values at most
  any_ready = any_ready or redis.call('EXISTS', unpack(ready, first, math.min(first + 999, #ready))) > 0
end
for i, queue in ipairs(queues) do
  if any_ready and redis.call('EXISTS', ready[i]) == 1 then
    table.insert(result[5], queue)
  end
  local head = redis.pcall('ZRANGE', '<prefix>:scheduled:' .. queue, 0, 0, 'WITHSCORES')
  if head.err then
    head = {'', '0'}  -- due at once: move.lua reports the damage
  end
  if head[2] and redis.call('EXISTS', '<prefix>:scheduler-lock:' .. queue) == 0 then
    result[#result + 1] = queue
    result[#result + 1] = head[2]
  end
end
return result
