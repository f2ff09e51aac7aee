-- What is due next, in one round trip.
-- KEYS: 1 next firings, 2 mark of the table, 3 rq:queues
-- Returns now (seconds, microseconds), the mark, the first firing, then pairs of a queue with delayed jobs and the time
-- of its first. Queues whose delayed jobs are moved by RQ's own scheduler are left out.
local now = redis.call('TIME')
local found = {now[1], now[2], redis.call('GET', KEYS[2]) or '', ''}
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
    found[4] = first[2]
end
for _, key in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    local queue = string.sub(key, #'<prefix>:queue:' + 1)
    local head = redis.pcall('ZRANGE', '<prefix>:scheduled:' .. queue, 0, 0, 'WITHSCORES')
    if head.err then
        head = {'', '0'}  -- moving meets it, and says so
    end
    if head[2] and redis.call('EXISTS', '<prefix>:scheduler-lock:' .. queue) == 0 then
        found[#found + 1] = queue
        found[#found + 1] = head[2]
    end
end
return found
