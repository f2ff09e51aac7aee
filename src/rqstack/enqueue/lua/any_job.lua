-- Puts any job on a queue: what rq.Queue writes in two round trips, in one.
--
-- KEYS[1]  rq:job:<id>      KEYS[2]  rq:queue:<name>      KEYS[3]  rq:queues
-- KEYS[4]… the job's keys that end with it, where it may wait for a limited time only
-- ARGV[1]  the job's id
-- ARGV[2]  RPUSH or LPUSH (at the front)
-- ARGV[3]  seconds it may wait, where there are such keys
-- ARGV[4], ARGV[5]  in a repeated call, after a lost reply: a field and its value that only this call writes; else ''
-- ARGV[6]… field, value, field, value, … of the job's hash
--
-- Returns 1 if the job was written, 0 if the first call, whose reply was lost, has written it.
if ARGV[4] ~= '' and redis.call('HGET', KEYS[1], ARGV[4]) == ARGV[5] then
    return 0
end
redis.call('SADD', KEYS[3], KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
for i = 4, #KEYS do
    redis.call('EXPIRE', KEYS[i], ARGV[3])
end
redis.call(ARGV[2], KEYS[2], ARGV[1])
return 1
