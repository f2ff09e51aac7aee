-- Deletes the records of jobs.

-- Add the keys of a job's record, its results and its runs to a list; not that of its dependents.
local function add_keys_of(id, keys)
    local job = '<prefix>:job:'
    local n = #keys
    keys[n + 1], keys[n + 2] = job .. id, job .. ':' .. id .. ':dependencies'
    keys[n + 3], keys[n + 4] = '<prefix>:results:' .. id, '<prefix>:executions:' .. id
end

-- Delete the record of a job, its results and its place in a group, as rq.job.Job.delete does; not its places in
-- queues and registries.
--
-- group            the group's name, or nil
-- but_dependents   whether the list of its dependents stays
local function delete_job(id, group, but_dependents)
    if group and group ~= '' then
        redis.pcall('SREM', '<prefix>:group:' .. group, id)
    end
    local keys = {}
    add_keys_of(id, keys)
    if not but_dependents then
        keys[#keys + 1] = '<prefix>:job:' .. id .. ':dependents'
    end
    redis.call('UNLINK', unpack(keys))
end
