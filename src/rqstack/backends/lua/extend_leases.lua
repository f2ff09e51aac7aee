-- Extend the leases of owners, by Redis's clock. XX: a lease that expired and was removed must not come back.
--
-- KEYS[1]   leases
-- ARGV[1]   lease in seconds
-- ARGV[2+]  owners

local clock = redis.call('TIME')
local expires = clock[1] + clock[2] / 1000000 + ARGV[1]
for i = 2, #ARGV do write('ZADD', KEYS[1], 'XX', expires, ARGV[i]) end
