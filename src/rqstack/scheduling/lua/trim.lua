-- Take finished jobs that have expired out of the registries of queues on which nothing runs. Where jobs run, settle.lua
-- does it; RQ's cleaning does so every ten minutes only.
--
-- KEYS[1]  rq:queues
-- ARGV[1]  how many ids to remove at most
--
-- Returns how many were removed.

local now = redis.call('TIME')[1]
local left = tonumber(ARGV[1])
for _, queue in ipairs(write('SMEMBERS', KEYS[1])) do
  local registry = '<prefix>:finished:' .. string.sub(queue, #'<prefix>:queue:' + 1)
  local expired = redis.pcall('ZCOUNT', registry, 0, '(' .. now)
  if type(expired) == 'number' and expired > 0 and left > 0 then
    -- RQ gives jobs that never expire a score below 0, or +inf.
    local first = redis.call('ZCOUNT', registry, '-inf', '(0')
    left = left - redis.call('ZREMRANGEBYRANK', registry, first, first + math.min(expired, left) - 1)
  end
end
return tonumber(ARGV[1]) - left
