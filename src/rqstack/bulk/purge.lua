-- Removes jobs from a registry and deletes them: one batch of rq's Job.delete for each.
--
-- KEYS[1]  the registry, a sorted set
-- ARGV[1]  rq:job:
-- ARGV[2]  the states in which a job of this registry may be, each between commas: ',failed,stopped,'
-- ARGV[3]… ids
--
-- A job in another state is somebody else's by now (put back on its queue, say): it only leaves the registry.
-- A record of another type than a hash is in no state. Returns how many were deleted.
local deleted = 0
local doomed = {}
for i = 3, #ARGV do
    local id = ARGV[i]
    local job = ARGV[1] .. id
    if redis.call('ZREM', KEYS[1], id) == 1 then
        -- The ids before are deleted at the end: nothing may raise on the way.
        local known = redis.pcall('HMGET', job, 'status', 'group_id')
        if not known[1] or string.find(ARGV[2], ',' .. known[1] .. ',', 1, true) then
            if known[2] and known[2] ~= '' then
                redis.pcall('SREM', 'rq:group:' .. known[2], id)
            end
            doomed[#doomed + 1] = job
            doomed[#doomed + 1] = job .. ':dependents'
            doomed[#doomed + 1] = ARGV[1] .. ':' .. id .. ':dependencies'
            doomed[#doomed + 1] = 'rq:results:' .. id
            doomed[#doomed + 1] = 'rq:executions:' .. id
            deleted = deleted + 1
        end
    end
end
if #doomed > 0 then
    redis.call('UNLINK', unpack(doomed))
end
return deleted
