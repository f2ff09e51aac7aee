-- Read what a worker's lease says when it claims: the function check_lease of claim.lua. Follows write.lua and
-- lease.lua.
--
-- Returns the jobs that this very call has claimed, if its reply was lost, else an empty list; and the lease, if its
-- jobs are still on record.

local lease = write('HGET', KEYS[2], ARGV[1])
local jobs = jobs_of(lease)
if #jobs > 0 and jobs[1][3] == ARGV[3] then return jobs end
for _, job in ipairs(jobs) do
  if write('ZSCORE', '<prefix>:wip:' .. job[1], job[2] .. ':' .. job[3]) then return {}, lease end
end
return {}
