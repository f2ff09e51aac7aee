-- Read when the next firing and the next delayed job of each queue are due, and which queues have ready jobs, in one
-- round trip. Follows write.lua and is_name.lua of transport/lua.
--
-- KEYS[1]  next firings
-- KEYS[2]  marker that exists while the declared table is in Redis: how many entries it has at least
-- KEYS[3]  rq:queues
--
-- Returns now (seconds, microseconds), the marker (empty if entries are gone from the table, too), the next firing, a
-- list of queues with jobs that are ready to be enqueued, then pairs of a queue and the time of its first delayed job.
-- Queues whose delayed jobs RQ's own scheduler moves are left out of the pairs.

local now = redis.call('TIME')
local result = {now[1], now[2], write('GET', KEYS[2]) or '', '', {}}
local first = write('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local latest = tonumber(now[1]) + 315360000 -- ten years: no timetable has its next firing later
if last[2] and tonumber(last[2]) > latest then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], latest, '+inf')
  result[3] = ''
end
local declared = tonumber(string.match(result[3], '^%d+$') or '')
if not declared or redis.call('ZCARD', KEYS[1]) < declared then
  result[3] = ''
end
if first[2] then
  result[4] = first[2]
end
local queues, ready = {}, {}
for _, key in ipairs(write('SMEMBERS', KEYS[3])) do
  local queue = string.sub(key, #'<prefix>:queue:' + 1)
  if string.sub(key, 1, #'<prefix>:queue:') == '<prefix>:queue:' and is_name(queue) then
    queues[#queues + 1] = queue
    ready[#ready + 1] = '<prefix>:ready:' .. queue
  else
    redis.log(redis.LOG_WARNING, 'rqstack: dropped a name that is no queue from ' .. KEYS[3])
    redis.call('SREM', KEYS[3], key)
  end
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
