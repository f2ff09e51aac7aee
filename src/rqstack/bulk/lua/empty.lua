-- Takes jobs from the head of a queue and deletes them: one batch of what rq.Queue.empty does at once.
--
-- KEYS[1]  rq:queue:<name>
-- ARGV[1]  how many jobs at most
--
-- Returns how many were removed.
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then
    return 0
end
local doomed = {}
for _, id in ipairs(ids) do
    local job = '<prefix>:job:' .. id
    doomed[#doomed + 1] = job
    doomed[#doomed + 1] = job .. ':dependents'
    doomed[#doomed + 1] = '<prefix>:job:' .. ':' .. id .. ':dependencies'
    doomed[#doomed + 1] = '<prefix>:results:' .. id
end
redis.call('UNLINK', unpack(doomed))
return #ids
