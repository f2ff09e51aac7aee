-- Return the messages of owners whose lease has expired to the queue, then open the lease of this owner. By Redis's
-- clock: the clocks of the machines may differ.
--
-- KEYS[1]  queue
-- KEYS[2]  leases
-- ARGV[1]  prefix of the lists of owners
-- ARGV[2]  owner
-- ARGV[3]  lease in seconds

local clock = redis.call('TIME')
write('LLEN', KEYS[1])
write('LLEN', ARGV[1] .. ARGV[2])
local now = clock[1] + clock[2] / 1000000
for _, owner in ipairs(write('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  if owner ~= ARGV[2] then
    write('LLEN', ARGV[1] .. owner)
    while redis.call('LMOVE', ARGV[1] .. owner, KEYS[1], 'LEFT', 'LEFT') do end
    redis.call('ZREM', KEYS[2], owner)
  end
end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
