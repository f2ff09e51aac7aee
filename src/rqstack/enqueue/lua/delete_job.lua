-- Delete the record of a job, its results and its place in a group, as rq.job.Job.delete does; not its places in queues
-- and registries.

-- id               the job's id
-- group            the group's name, or nil
-- but_dependents   whether the list of its dependents stays
local function delete_job(id, group, but_dependents)
  local job = '<prefix>:job:' .. id
  if group and group ~= '' then
    redis.pcall('SREM', '<prefix>:group:' .. group, id)
  end
  if not but_dependents then
    redis.call('UNLINK', job .. ':dependents')
  end
  redis.call('UNLINK', job, '<prefix>:job:' .. ':' .. id .. ':dependencies',
    '<prefix>:results:' .. id, '<prefix>:executions:' .. id)
end
