-- Removes jobs from a registry and deletes them: one batch of rq's Job.delete for each.
--
-- KEYS[1]  the registry, a sorted set
-- ARGV[1]  the states in which a job of this registry may be, each between commas: ',failed,stopped,'
-- ARGV[2]… ids
--
-- A job in another state is somebody else's by now (put back on its queue, say): it only leaves the registry.
-- A record of another type than a hash is in no state. Returns how many were deleted.
local deleted = 0
local doomed = {}
for i = 2, #ARGV do
    local id = ARGV[i]
    local job = '<prefix>:job:' .. id
    if redis.call('ZREM', KEYS[1], id) == 1 then
        -- The ids before are deleted at the end: nothing may raise on the way.
        local known = redis.pcall('HMGET', job, 'status', 'group_id')
        if not known[1] or string.find(ARGV[1], ',' .. known[1] .. ',', 1, true) then
            if known[2] and known[2] ~= '' then
                redis.pcall('SREM', '<prefix>:group:' .. known[2], id)
            end
            doomed[#doomed + 1] = job
            doomed[#doomed + 1] = job .. ':dependents'
            doomed[#doomed + 1] = '<prefix>:job:' .. ':' .. id .. ':dependencies'
            doomed[#doomed + 1] = '<prefix>:results:' .. id
            doomed[#doomed + 1] = '<prefix>:executions:' .. id
            deleted = deleted + 1
        end
    end
end
if #doomed > 0 then
    redis.call('UNLINK', unpack(doomed))
end
return deleted
