-- Delete jobs from the head of a queue: one batch of RQ's Queue.empty.
--
-- KEYS[1]  rq:queue:<name>
-- ARGV[1]  maximum number of jobs
--
-- Returns the number of jobs removed.

local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then
    return 0
end
local to_delete = {}
for _, id in ipairs(ids) do
    local job = '<prefix>:job:' .. id
    to_delete[#to_delete + 1] = job
    to_delete[#to_delete + 1] = job .. ':dependents'
    to_delete[#to_delete + 1] = '<prefix>:job:' .. ':' .. id .. ':dependencies'
    to_delete[#to_delete + 1] = '<prefix>:results:' .. id
end
redis.call('UNLINK', unpack(to_delete))
return #ids
