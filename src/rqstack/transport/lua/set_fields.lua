-- Set fields of a job's record. A job that was deleted meanwhile must not come back as a record with few fields.
--
-- KEYS[1]  rq:job:<id>
-- ARGV[1+]  field, value, field, value, …

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], unpack(ARGV))
end
