-- Reserve a turn for a job that waits for the rate limit of its task.
--
-- KEYS[1]  turns of the task: sorted set, job id -> the time that it was first given
--
-- ARGV[1]  'enter' or 'wait'
-- ARGV[2]  the job's id
-- ARGV[3]  seconds between two starts
-- ARGV[4]  seconds for which a turn that was not taken keeps new jobs behind it
-- ARGV[5]  for 'wait': seconds until the limit allows a start
--
-- Returns seconds to wait, as text; '0' from 'enter' means: try now.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local job, interval, kept = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local turn = write('ZSCORE', KEYS[1], job)
local function last_turn() return tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2] or '0') end
local last = last_turn()
if last > now + 31622400 then -- in more than a year: nobody was given such a turn
  redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 31622400, '+inf')
  turn, last = redis.call('ZSCORE', KEYS[1], job), last_turn()
end
if ARGV[1] == 'enter' and (turn or last < now - kept) then
  -- A job that has waited tries again; so does a new one when none waits. Others go to the end.
  return '0'
end
if turn then
  -- Too early: it keeps its turn, after those before it.
  local before = redis.call('ZCOUNT', KEYS[1], now - kept, '(' .. turn)
  return string.format('%.3f', tonumber(ARGV[5]) + before * interval)
end
turn = math.max(last + interval, now + tonumber(ARGV[5] or interval))
redis.call('ZADD', KEYS[1], string.format('%.3f', turn), job)
-- Turns of jobs that were deleted while they waited.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400)
redis.call('EXPIRE', KEYS[1], math.ceil(turn - now) + 86400)
return string.format('%.3f', turn - now)
