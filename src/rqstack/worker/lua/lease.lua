-- Read and write the lease of a worker. Follows transport/lua/is_name.lua.
--
-- A lease is the value of the worker's field in rqstack:running:<supervisor>: two lines for each of its jobs,
-- '<queue>\n<job id>:<execution id>', in the order in which they run, with a zero byte between two jobs; then, or
-- alone, '=<call id>': the call of settle.lua or claim.lua that has changed it last. (A queue's name may have several
-- lines.)

-- The jobs of a lease: a list of {queue, job id, execution id}. What no worker has written is left out.
local function jobs_of(lease)
  local jobs = {}
  for part in string.gmatch(lease or '', '[^%z]+') do
    local queue, id, execution = string.match(part, '^(.*)\n(.*):(%x+)$')
    if queue and is_name(queue) and is_name(id) then jobs[#jobs + 1] = {queue, id, execution} end
  end
  return jobs
end

-- The lease of a list of jobs.
local function lease_of(jobs)
  local lines = {}
  for i, job in ipairs(jobs) do lines[i] = job[1] .. '\n' .. job[2] .. ':' .. job[3] end
  return table.concat(lines, '\0')
end

-- Whether a job of these fields, status and worker_name, is not the worker's any more though its run is on record: it was
-- enqueued again meanwhile, and may run elsewhere. (Users' code that saves the job may have written how it ended.)
local AGAIN = {queued = true, scheduled = true, deferred = true, rate_limited = true, ready_to_enqueue = true}
local function is_enqueued_again(status, runs_at, worker)
  return AGAIN[status] or (status == 'started' and runs_at ~= worker)
end

-- Remove the record of a run that has ended, but for the registry of started jobs. A key of another type was damaged by
-- somebody, and has none.
local function forget_execution(worker_key, id, execution)
  redis.call('DEL', '<prefix>:execution:' .. id .. ':' .. execution)
  redis.pcall('ZREM', '<prefix>:executions:' .. id, execution)
  redis.pcall('SREM', worker_key .. ':executions', id .. ':' .. execution)
end
