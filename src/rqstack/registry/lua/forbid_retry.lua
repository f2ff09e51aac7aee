-- Let a job not be retried. A job that was deleted while it ran must not come back as a record with one field.
--
-- KEYS[1]  rq:job:<id>
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'retries_left', 0) end
