-- Remove jobs from a registry and delete them: RQ's Job.delete for one batch.
--
-- A job with another status is in use again, for example because it was requeued: it is only removed from the registry.
--
-- KEYS[1]   registry, a sorted set
-- ARGV[1]   statuses that a job of this registry may have, each between commas: ',failed,stopped,'
-- ARGV[2+]  ids
--
-- Returns the number of jobs deleted.

local deleted = 0
local to_delete = {}
for i = 2, #ARGV do
    local id = ARGV[i]
    local job = '<prefix>:job:' .. id
    if redis.call('ZREM', KEYS[1], id) == 1 then
        -- pcall, because an error here would skip the UNLINK below for the ids already removed from the registry.
        local job_fields = redis.pcall('HMGET', job, 'status', 'group_id')
        if not job_fields[1] or string.find(ARGV[1], ',' .. job_fields[1] .. ',', 1, true) then
            if job_fields[2] and job_fields[2] ~= '' then
                redis.pcall('SREM', '<prefix>:group:' .. job_fields[2], id)
            end
            to_delete[#to_delete + 1] = job
            to_delete[#to_delete + 1] = job .. ':dependents'
            to_delete[#to_delete + 1] = '<prefix>:job:' .. ':' .. id .. ':dependencies'
            to_delete[#to_delete + 1] = '<prefix>:results:' .. id
            to_delete[#to_delete + 1] = '<prefix>:executions:' .. id
            deleted = deleted + 1
        end
    end
end
if #to_delete > 0 then
    redis.call('UNLINK', unpack(to_delete))
end
return deleted
