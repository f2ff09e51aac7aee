-- The line of jobs of one task that wait for their rate limit: job id -> its place, as the time it was first given.
-- KEYS: 1 line
-- ARGV: 1 'enter' or 'wait', 2 job id, 3 seconds between two starts, 4 seconds after which a place is no longer kept free,
--       5 for 'wait': seconds until the limit lets somebody start
-- Returns seconds to wait, as text; '0' from 'enter' means: try now.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local job, interval, kept = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local place = redis.call('ZSCORE', KEYS[1], job)
local last = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or '0')
if ARGV[1] == 'enter' and (place or last < now - kept) then
    -- A job that has waited tries again; so does a new one when nobody waits. Others go to the end of the line.
    return '0'
end
if place then
    -- Back too early: it keeps its place, and comes after those before it.
    local before = redis.call('ZCOUNT', KEYS[1], now - kept, '(' .. place)
    return string.format('%.3f', tonumber(ARGV[5]) + before * interval)
end
place = math.max(last + interval, now + tonumber(ARGV[5] or interval))
redis.call('ZADD', KEYS[1], string.format('%.3f', place), job)
-- Places of jobs that were deleted while they waited.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400)
redis.call('EXPIRE', KEYS[1], math.ceil(place - now) + 86400)
return string.format('%.3f', place - now)
